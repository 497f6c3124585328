"""Calls that wait to be sent, and those that are: the data of an executor's job."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from nbmr.calling import Encoded
from nbmr.tasks import Source, Task

if TYPE_CHECKING:
    from nbmr.calls_job import CallsJob

#: Seconds of work that calls which are sent together should take; the most of them, and most bytes.
_BATCH_SECONDS, _BATCH_CALLS, _BATCH_BYTES = 0.02, 500, 1 << 20
#: What is left waiting for each call that is sent, lest one worker gets all.
_SHARE = 8
#: Seconds between two looks at what may keep calls from being sent.
_LOOK_SECONDS = 1.0


class Call(Future[Any]):
    """The future of one call; `cancel` works while it runs, too.

    Parameters
    ----------
    job
        What has it made.
    encoded
        The function with its arguments, until it was sent.
    """

    def __init__(self, job: CallsJob, encoded: Encoded) -> None:
        super().__init__()
        self._job = job
        self.encoded: Encoded | None = encoded
        #: Its number in the job, and that of its task; -1 before it was sent.
        self.number = self.task = -1

    def cancel(self) -> bool:
        """Cancel the call, also where it runs; return whether it will have no result."""
        if self.cancelled():
            return True
        if not super().cancel():
            return False
        self.set_running_or_notify_cancel()  # tells those that wait for it
        self._job.drop(self)
        return True

    def running(self) -> bool:
        """Whether a worker is at it."""
        return not self.done() and self._job.runs(self)


class Calls(Source):
    """An executor's calls, which become tasks as they are made.

    Parameters
    ----------
    singly
        Whether each call has to be a task of its own.
    most
        How many calls may be with the workers at once; None for no limit.
    shares_from
        Bytes from which on a buffer that several calls have is sent once; None if none are looked for.
    """

    lazy = True
    begun_after = 0.01  # as a future's `running` tells

    def __init__(self, *, singly: bool, most: int | None = None, shares_from: int | None = None) -> None:
        self._singly, self._most, self.shares_from = singly, most, shares_from
        self._changed = threading.Condition(threading.RLock())
        self._waiting: deque[Call] = deque()
        self._closed = False
        #: Those that were sent and have no outcome yet, by their numbers; and how many each task has of them.
        self._sent: dict[int, Call] = {}
        self._left: dict[int, int] = {}
        self._numbers = self._tasks = 0

    def put(self, call: Call) -> None:
        """Take a call, to be sent soon."""
        with self._changed:
            self._waiting.append(call)
            self._changed.notify_all()

    def close(self) -> None:
        """Take no more; those that wait are still sent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def over(self) -> bool:
        """Whether it is closed, and every call has its outcome."""
        with self._changed:
            return self._closed and not self._waiting and not self._sent

    def unfinished(self) -> list[Call]:
        """Return the calls that have no outcome yet."""
        with self._changed:
            return [*self._sent.values(), *self._waiting]

    def take(self, number: int) -> Call | None:
        """Return a call that was sent, now that it has its outcome; None if it was cancelled."""
        with self._changed:
            call = self._sent.pop(number, None)
            if call is not None:
                self._count(call)
            self._tell_of_room()
            return call

    def take_all(self) -> list[Call]:
        """Return all calls that have no outcome yet: nothing more is to be sent."""
        with self._changed:
            calls = self.unfinished()
            self._waiting.clear()
            self._sent.clear()
            self._left.clear()
            self._closed = True
            self._changed.notify_all()
            return calls

    def drop(self, call: Call) -> int | None:
        """Forget a call that was cancelled; return its task if there is nothing else in it to be done."""
        with self._changed:
            if self._sent.pop(call.number, None) is None:
                return None  # it waits, and will be left out
            self._tell_of_room()
            return call.task if self._count(call) else None

    def _count(self, call: Call) -> bool:
        """Note that a call of a task is over; return whether it was the last one."""
        self._left[call.task] -= 1
        if self._left[call.task]:
            return False
        del self._left[call.task]
        return True

    # ---------------------------------------------------------------- Source

    def tasks(self, seconds_per_unit: Callable[[], float | None]) -> Iterator[Task | None]:
        """Put calls into tasks as they are made: short ones together, where many wait."""
        while True:
            task, woken = None, True
            with self._changed:
                if self._waiting and self._room:
                    task = self._next(seconds_per_unit())
                elif self._closed and not self._waiting:
                    return
                else:
                    woken = self._changed.wait(_LOOK_SECONDS)
            if task is not None or not woken:
                yield task

    @property
    def _room(self) -> int:
        """How many more calls may be sent now."""
        return _BATCH_CALLS if self._most is None else self._most - len(self._sent)

    def _tell_of_room(self) -> None:
        """Wake who sends, if that waits for calls to be over."""
        if self._most is not None:
            self._changed.notify_all()

    def _next(self, seconds: float | None) -> Task | None:
        most = 1
        if not self._singly and seconds is not None:
            by_time = int(_BATCH_SECONDS / max(seconds, 1e-6))
            most = max(1, min(by_time, len(self._waiting) // _SHARE, self._room))
        first, units, size = self._numbers, list[Encoded](), 0
        while self._waiting and len(units) < most and size < _BATCH_BYTES:
            call = self._waiting.popleft()
            if call.encoded is None or call.cancelled():
                continue
            call.number, call.task = self._numbers, self._tasks
            self._sent[call.number] = call
            self._numbers += 1
            units.append(call.encoded)
            size += call.encoded.nbytes
            call.encoded = None
        if not units:
            return None
        self._left[self._tasks] = len(units)
        self._tasks += 1
        return Task(first, units)
