"""Whether what a job sends is compressed: where a network lies between, if all of its workers can read it."""

from __future__ import annotations

import time
from collections.abc import Callable

from nbmr import compression
from nbmr.broker import Broker
from nbmr.compression import Compressor
from nbmr.config import Settings
from nbmr.errors import BrokerError
from nbmr.roster import Roster

#: Seconds that workers have to tell what they can read, and for which that is good.
_ASK_SECONDS, _READ_SECONDS = 1.0, 10.0


class Compressors:
    """Gives each job of a session what compresses its payloads.

    Parameters
    ----------
    settings, broker
        The session's.
    roster
        Returns what knows the workers; called when that is first needed.
    slots
        Tells how many slots of workers listen to a queue.
    """

    def __init__(
        self, settings: Settings, broker: Broker, roster: Callable[[], Roster], slots: Callable[[str], int]
    ) -> None:
        self._settings, self._broker, self._roster, self._slots = settings, broker, roster, slots
        #: For each queue, when its workers were asked, and whether they can read what is compressed.
        self._readers: dict[str, tuple[float, bool]] = {}

    def of(self, queue: str) -> Compressor | None:
        """Return what compresses the payloads of a job for a queue; None where nothing does."""
        mode = self._settings.compression
        if self._settings.node or mode == "none" or compression.library() is None:
            return None
        if mode == "auto" and self._broker.is_local:
            return None
        return Compressor(
            always=mode == "zstd", rate=lambda: self._broker.rate, readable=lambda: self._can_read(queue)
        )

    def _can_read(self, queue: str) -> bool:
        """Whether all workers of a queue, as far as they answer, can read what is compressed."""
        known = self._readers.get(queue)
        if known and time.monotonic() - known[0] < _READ_SECONDS:
            return known[1]
        try:
            seen = self._roster().look(_ASK_SECONDS, expected=self._slots(queue) or 1, queue=queue)
        except BrokerError:
            return False
        can = bool(seen) and all("zstandard" in worker.versions for worker in seen)
        self._readers[queue] = time.monotonic(), can
        return can
