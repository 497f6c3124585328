"""What a job's tasks printed: the last lines of it, in the order of the job's log."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from itertools import islice

#: Lines that are kept.
KEPT_LINES = 1000


@dataclass(frozen=True)
class OutputLine:
    """A line that a task printed, or a note that some were left out."""

    #: The task's number.
    task: int
    #: ``host:pid`` of the worker.
    worker: str
    text: str
    #: How many lines were left out in this place, which is what `text` says then; 0 for one that was printed.
    dropped: int = 0


@dataclass(frozen=True)
class Output:
    """The last lines that a job's tasks printed, at one moment."""

    lines: tuple[OutputLine, ...] = ()
    #: How many lines they printed in all.
    total: int = 0
    #: Another number means that something changed.
    version: int = 0

    def before(self, shown: tuple[OutputLine, ...]) -> int:
        """Return how many lines there were before these last ones."""
        return max(0, self.total - sum(line.dropped or 1 for line in shown))


class Printed:
    r"""Collects what tasks printed; from any thread.

    Examples
    --------
    >>> printed = Printed()
    >>> printed.add(0, "node1:42", "one\ntwo\n")
    >>> [line.text for line in printed.lines()]
    ['one', 'two']
    """

    def __init__(self) -> None:
        #: How many lines were left out of the log.
        self.dropped = 0
        #: Grows with each change.
        self.version = 0
        self._lines: deque[OutputLine] = deque(maxlen=KEPT_LINES)
        self._total = 0
        #: By run: how many entries told what it printed.
        self._told: dict[str, int] = {}
        self._lock = threading.Lock()

    def is_new(self, run: str, number: int) -> bool:
        """Tell whether an entry of a run comes for the first time; it does only once."""
        with self._lock:
            if number < self._told.get(run, 0):
                return False
            self._told[run] = number + 1
            return True

    def end(self, run: str) -> None:
        """Take note that a run has no more to tell."""
        with self._lock:
            self._told.pop(run, None)

    def add(self, task: int, worker: str, text: str, dropped: int = 0) -> None:
        """Add lines, and before them a note of those that were left out."""
        if not (text or dropped):
            return
        with self._lock:
            if dropped:
                last = self._lines[-1] if self._lines else None
                before = self._lines.pop().dropped if last and last.dropped and last.task == task else 0
                note = f"… {before + dropped:,} lines left out"
                self._lines.append(OutputLine(task, worker, note, before + dropped))
                self.dropped += dropped
                self._total += dropped
            if text:
                lines = text.removesuffix("\n").split("\n")
                self._lines.extend(OutputLine(task, worker, line) for line in lines)
                self._total += len(lines)
            self.version += 1

    def lines(self) -> list[OutputLine]:
        """Return the last lines, in order."""
        with self._lock:
            return list(self._lines)

    def latest(self, count: int, known: Output) -> Output:
        """Return the last lines and how many there were; what is known already if nothing has changed."""
        with self._lock:
            if self.version == known.version:
                return known
            lines = tuple(islice(reversed(self._lines), count))[::-1]
            return Output(lines, self._total, self.version)
