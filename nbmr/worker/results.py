"""Results of other jobs that a worker's tasks take as their data."""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from nbmr import resultfile
from nbmr.broker import Broker
from nbmr.errors import ProtocolError
from nbmr.resultfile import Layout
from nbmr.signing import Signer

#: Results that a worker keeps for a while, since several tasks may take parts of one; and the largest.
_KEPT, _KEPT_BYTES = 4, 8 << 20


class Results:
    """A worker's copies of results.

    Parameters
    ----------
    broker, signer
        Where they come from, and what verifies them.
    on_rejected
        Called with the error for each message that isn't genuine.
    """

    def __init__(self, broker: Broker, signer: Signer, on_rejected: Callable[[ProtocolError], None]) -> None:
        self._broker, self._signer, self._on_rejected = broker, signer, on_rejected
        self._kept: OrderedDict[tuple[str, int], tuple[BinaryIO, Layout]] = OrderedDict()
        self._lock = threading.Lock()

    def open(
        self, references: Sequence[dict[str, Any]], cancelled: Callable[[], bool]
    ) -> list[tuple[int, Layout]]:
        """Open results of one job.

        Parameters
        ----------
        references
            What the task says of them.
        cancelled
            Asked now and then whether they are still wanted.

        Returns
        -------
        list of (int, list)
            For each, a file descriptor of its encoded values, which the caller closes, and their places.

        Raises
        ------
        ResultGone
            If its job is gone.
        BlobGone
            If they aren't wanted any more.
        BrokerError
            If one doesn't arrive.
        """
        opened: dict[int, tuple[BinaryIO, Layout]] = {}
        try:
            with self._lock:
                for reference in references:
                    if known := self._kept.get((reference["job"], reference["task"])):
                        self._kept.move_to_end((reference["job"], reference["task"]))
                        opened[reference["task"]] = _again(known[0]), known[1]
            wanted = {reference["task"]: reference for reference in references}
            missing = [reference for task, reference in wanted.items() if task not in opened]
            read = resultfile.read_all(self._broker, self._signer, missing, self._on_rejected, cancelled)
            for reference, (file, layout) in zip(missing, read, strict=True):
                opened[reference["task"]] = file, layout
                self._keep((reference["job"], reference["task"]), file, layout)
            return _handed_over(references, opened)
        finally:
            for file, _ in opened.values():
                file.close()

    def _keep(self, key: tuple[str, int], file: BinaryIO, layout: Layout) -> None:
        """Keep a small result for a while, and let the oldest one go."""
        if os.fstat(file.fileno()).st_size > _KEPT_BYTES:
            return
        with self._lock:
            if key not in self._kept:
                self._kept[key] = _again(file), layout
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)[1][0].close()


def _handed_over(
    references: Sequence[dict[str, Any]], opened: dict[int, tuple[BinaryIO, Layout]]
) -> list[tuple[int, Layout]]:
    """Return file descriptors, and close the files: there may be hundreds, and never twice as many."""
    uses = Counter(reference["task"] for reference in references)
    given: list[tuple[int, Layout]] = []
    try:
        for reference in references:
            file, layout = opened[reference["task"]]
            given.append((os.dup(file.fileno()), layout))
            uses[reference["task"]] -= 1
            if not uses[reference["task"]]:
                file.close()
    except OSError:
        for number, _ in given:
            os.close(number)
        raise
    return given


def _again(file: BinaryIO) -> BinaryIO:
    """Open a file once more."""
    return os.fdopen(os.dup(file.fileno()), "rb")
