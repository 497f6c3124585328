"""What tasks print: all of it goes into the worker's own log, and what can be read into their jobs' logs.

A task may print a million lines. They must not hold it up, fill the job's log, or drown who reads it: so what
is sent goes in batches, and where a task prints more than a reader can take, the latest lines are sent and
the others are counted.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable

#: Lines and characters of a task's output that are kept for whoever asks why it failed.
OUTPUT_LINES, OUTPUT_CHARACTERS = 20, 4000
#: Seconds between two batches, and seconds after which a line is sent though its end is still missing.
BATCH_SECONDS, PARTIAL_SECONDS = 0.2, 0.5
#: Lines and bytes that are sent a second, and at once at most.
RATE_LINES, RATE_BYTES = 200, 32 << 10
#: Bytes to take before looking at something else: more than a pipe holds.
_READ_BYTES, _READS = 64 << 10, 16

#: Sends lines, each with its end, and how many were left out before them; returns whether it could.
Tell = Callable[[str, int], bool]


class Output:
    """What the tasks of one slot print: the latest lines, and what is to be sent of them."""

    def __init__(self) -> None:
        self._last: deque[str] = deque(maxlen=OUTPUT_LINES)
        self._partial = b""
        #: When the partial line began to come, and how much of it was sent.
        self._partial_at = 0.0
        self._partial_told = 0
        self._tell: Tell | None = None
        #: Lines that wait to be sent, and how many more there were.
        self._waiting: deque[str] = deque()
        self._dropped = 0
        self._told_at = 0.0
        #: What may be sent at the moment.
        self._lines_left, self._bytes_left, self._filled_at = float(RATE_LINES), float(RATE_BYTES), 0.0

    def read(self, file: int) -> bool:
        """Take what was printed so far from a pipe; return whether it is still open."""
        for _ in range(_READS):
            try:
                data = os.read(file, _READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._take(data)
        return True

    def forget(self) -> None:
        """Forget what was printed so far."""
        self._last.clear()
        self._partial, self._partial_told = b"", 0
        self._waiting.clear()
        self._dropped = 0

    @property
    def last(self) -> str:
        """The last lines that were printed."""
        lines = [*self._last, self._partial.decode(errors="replace")] if self._partial else list(self._last)
        return "\n".join(lines)[-OUTPUT_CHARACTERS:]

    # ---------------------------------------------------------------- what is sent

    def begin(self, tell: Tell) -> None:
        """Send what is printed from now on, after a while: short tasks send nothing before their end."""
        self._tell, self._told_at = tell, time.monotonic()

    def due(self) -> float | None:
        """Return in how many seconds there is something to be sent; None if nothing is printed."""
        if self._tell is None:
            return None
        if self._waiting or self._dropped:
            at = self._told_at + BATCH_SECONDS
        elif len(self._partial) > self._partial_told:
            at = max(self._partial_at + PARTIAL_SECONDS, self._told_at + BATCH_SECONDS)
        else:
            return None
        return max(0.0, at - time.monotonic())

    def send(self) -> None:
        """Send what is due."""
        if self._tell is None or self.due() != 0:
            return
        now = time.monotonic()
        if now >= self._partial_at + PARTIAL_SECONDS:
            self._finish_line()
        self._told_at = now
        lines, dropped = self._batch(now)
        if not self._tell(_text(lines), dropped):  # not now: what the limits allow of it then
            self._waiting.extendleft(reversed(lines))
            self._dropped = dropped

    def end(self) -> tuple[str, int]:
        """Send no more; return what was not sent yet, and how many lines were left out before it."""
        if self._tell is None:
            return "", 0
        self._finish_line()
        self._tell = None
        lines, dropped = self._batch(time.monotonic())
        return _text(lines), dropped

    def _take(self, data: bytes) -> None:
        begun, told = bool(self._partial), self._partial_told
        *lines, partial = (self._partial + data).split(b"\n")
        if lines:
            texts = [line.decode(errors="replace") for line in lines]
            self._last.extend(text[:OUTPUT_CHARACTERS] for text in texts[-OUTPUT_LINES:])
            with contextlib.suppress(OSError):  # the disk is full: the task goes on without this log
                sys.stderr.write("\n".join(texts) + "\n")  # the worker's own log
            if self._tell is not None:
                self._wait(lines, told)
            begun, told = False, 0
        cut = max(0, len(partial) - OUTPUT_CHARACTERS)
        self._partial, self._partial_told = partial[cut:], max(0, told - cut)
        if partial and not begun:
            self._partial_at = time.monotonic()

    def _finish_line(self) -> None:
        """Let what there is of a line be sent as one."""
        if len(self._partial) > self._partial_told:
            self._wait([self._partial], self._partial_told)
            self._partial_told = len(self._partial)

    def _wait(self, lines: list[bytes], told: int) -> None:
        """Have lines wait to be sent; of the first, so many bytes were sent."""
        if told:
            rest = lines[0][told:]
            lines = [rest, *lines[1:]] if rest else lines[1:]
        surplus = max(0, len(self._waiting) + len(lines) - RATE_LINES)
        for _ in range(min(surplus, len(self._waiting))):
            self._waiting.popleft()
        self._dropped += surplus
        self._waiting.extend(_shown(line) for line in lines[-RATE_LINES:])

    def _batch(self, now: float) -> tuple[list[str], int]:
        """Take what may be sent now: the latest lines; and how many others there were."""
        seconds, self._filled_at = now - self._filled_at, now
        self._lines_left = min(RATE_LINES, self._lines_left + RATE_LINES * seconds)
        self._bytes_left = min(RATE_BYTES, self._bytes_left + RATE_BYTES * seconds)
        lines: deque[str] = deque()
        while self._waiting:
            size = len(self._waiting[-1].encode(errors="replace")) + 1
            if self._lines_left < 1 or self._bytes_left < size:
                break
            lines.appendleft(self._waiting.pop())
            self._lines_left -= 1
            self._bytes_left -= size
        dropped = self._dropped + len(self._waiting)
        self._waiting.clear()
        self._dropped = 0
        return list(lines), dropped


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _shown(line: bytes) -> str:
    """Return a line as a terminal leaves it: a progress bar writes itself over and over."""
    text = line.decode(errors="replace").rstrip("\r")
    return text.rpartition("\r")[2][:OUTPUT_CHARACTERS]
