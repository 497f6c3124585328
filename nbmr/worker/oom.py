"""Whether the system's out-of-memory killer was at work: the kernel counts what it kills."""

from __future__ import annotations

import time
from pathlib import Path

#: Where Linux counts them, since 4.13, those in containers and other control groups included.
_COUNTS = Path("/proc/vmstat")
#: Seconds for which a count is taken as that of now: reading it takes a tenth of a millisecond.
_FRESH = 1.0


def kills(counts: Path = _COUNTS) -> int | None:
    """Return how many processes the out-of-memory killer has killed since the start; None if unknown."""
    try:
        for line in counts.read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    except (OSError, ValueError):
        pass  # another system, or a container that hides it: unknown
    return None


class Kills:
    """Tells afterwards whether a SIGKILL was the out-of-memory killer's.

    Parameters
    ----------
    counts
        The file in which the kernel counts.
    """

    def __init__(self, counts: Path = _COUNTS) -> None:
        self._counts = counts
        self._before: int | None = None
        self._at = -_FRESH

    def note(self) -> None:
        """Take the count before a task begins."""
        now = time.monotonic()
        if now - self._at >= _FRESH:
            self._at, self._before = now, kills(self._counts)

    def verdict(self) -> str:
        """Return what is to be said behind ``SIGKILL``; empty if it was somebody else's."""
        self._at, before = -_FRESH, self._before
        after = kills(self._counts)
        if before is None or after is None:
            return " (perhaps by the system's out-of-memory killer)"
        return " by the system's out-of-memory killer: too little memory" if after > before else ""
