"""The job that an executor's calls are tasks of: its start, and how futures get what their calls gave."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import sys
import threading
import time
import weakref
from concurrent.futures import BrokenExecutor, Future, InvalidStateError
from typing import TYPE_CHECKING, Any

from nbmr import api
from nbmr.calling import CallEncoded, Encoded, InitializerFailed
from nbmr.calls import Call, Calls
from nbmr.errors import BrokerError, NbmrError

if TYPE_CHECKING:
    from nbmr.client import Client
    from nbmr.failures import Failure
    from nbmr.job import Job
    from nbmr.outcome import Outcome

#: Seconds between two looks at what may keep calls from being made, and after which it is said.
_LOOK_SECONDS, _SAY_SECONDS = 1.0, 10.0
#: Where the executors of the standard library say that an initializer failed.
_log = logging.getLogger("concurrent.futures")

_begun: weakref.WeakSet[CallsJob] = weakref.WeakSet()
#: Set when the main thread has ended: no thread can be started then.
_ending = threading.Event()
# As the executors of the standard library do; there is no public way to be told before others clean up.
threading._register_atexit(_ending.set)  # type: ignore[attr-defined]  # noqa: SLF001


@atexit.register
def _finish_all() -> None:
    """Wait for all calls at the end of the process, as the executors of the standard library do."""
    for job in list(_begun):
        job.close()
        job.join()


class CallsJob:
    """Has calls made by one job, which begins with the first of them, in a thread of its own.

    Parameters
    ----------
    calls
        Where its calls are put.
    client
        Whose workers make them; the default client's if None.
    fn
        What makes them.
    options
        Those of the job, as for `nbmr.map`.
    lock
        Held by whoever puts calls here, from the `check` on.
    """

    def __init__(
        self,
        calls: Calls,
        client: Client | None,
        fn: CallEncoded,
        options: dict[str, Any],
        lock: threading.Lock,
    ) -> None:
        self.calls, self._lock = calls, lock
        self._client, self._fn, self._options = client, fn, options
        #: The job, once it has begun; and what tells that it has, or why it could not.
        self.job: Job | None = None
        self._started: Future[None] = Future()
        #: Whether it could not begin. No call was made then, and another one may be begun in its place.
        self.failed = False
        #: Why no call is taken any more, if something has gone wrong.
        self.broken: BaseException | None = None
        self._closed = self._abandoned = False
        #: What keeps the calls from being made, since when, and whether it was said.
        self._trouble = ("", 0.0, True)
        self._thread = threading.Thread(target=self._work, name="nbmr executor", daemon=True)

    def check(self) -> None:
        """Raise why no call can be made any more, if so."""
        if self.broken is not None:
            raise BrokenExecutor(str(self.broken)) from self.broken
        if _ending.is_set():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    def put(self, encoded: Encoded) -> Call:
        """Have a call made."""
        call = Call(self, encoded)
        if self._thread.ident is None:
            self._thread.start()
            _begun.add(self)
        self.calls.put(call)
        return call

    def wait_for_begin(self) -> None:
        """Wait until the job has begun, but not where an event loop runs in this thread; raise why not."""
        if not self._started.done() and not _in_event_loop():
            self._started.result()

    def close(self) -> None:
        """Take no more calls; the job is over when all that are there are done."""
        self._closed = True
        self.calls.close()
        if self.job is not None:
            self.job.log.wake()

    def abandon(self) -> None:
        """Close it soon. Takes no lock: called wherever Python finds that its executor is gone."""
        self._abandoned = True

    def join(self) -> None:
        """Wait until all calls are done, and nothing of the job is left."""
        if self._thread.ident is not None:
            self._thread.join()

    def cancel_waiting(self) -> None:
        """Cancel all calls but those that workers are at: as many tasks, the first ones, as there are slots.

        What a worker has just got it hasn't told of yet, and it is not to be ended in the middle.
        """
        slots = 0
        if self.job is not None and self._client is not None:  # or else no worker has any
            with contextlib.suppress(BrokerError):  # out of reach: then only what is known to run goes on
                slots = self._client.slots(self._options["queue"])
        first: set[object] = set()
        for call in self.calls.unfinished():
            task = call if call.task < 0 else call.task
            if len(first) < slots:
                first.add(task)
            if task not in first and not call.running():
                call.cancel()

    def drop(self, call: Call) -> None:
        """Have a call that was cancelled never be made, or end it where it runs."""
        task = self.calls.drop(call)
        if task is not None and self.job is not None:
            self.job.drop(task)

    def runs(self, call: Call) -> bool:
        """Whether a worker is at a call."""
        return self.job is not None and self.job.log.runs(call.task)

    # ---------------------------------------------------------------- in its thread

    def _work(self) -> None:
        """Begin the job, and give each future what its call gave, until all have it."""
        try:
            self._client = self._client or api.client(progress=False)
            job, send = self._client.start(self.calls, self._fn, (), self._options)
            self.job = job
            job.send_in_background(send)
        except BaseException as exc:  # noqa: BLE001 - whoever waits for a call is told
            with self._lock:
                left, self.failed = self.calls.take_all(), True
            self._started.set_exception(exc)
            _fail(left, exc)
            return
        self._started.set_result(None)
        try:
            while not self.calls.over:
                if self._abandoned:
                    self.close()
                outcomes, failures = job.log.take(_LOOK_SECONDS)
                if outcomes:
                    self._hand_out(outcomes, failures)
                elif job.log.ended:
                    break
                else:
                    job.look()
                    self._say(job.hint if self.calls.unfinished() else "")
        except NbmrError as exc:
            self._break(BrokenExecutor(str(exc)))
        finally:
            self._break(BrokenExecutor(f"The executor's job {job.id} was {job.status} from elsewhere."))
            job.forget()

    def _hand_out(self, outcomes: list[Outcome], failures: dict[int, Failure]) -> None:
        """Give futures what their calls gave; who waits for others keeps no result then."""
        for outcome in outcomes:
            values = outcome.values(writable=True, last=True)
            for number in range(outcome.start, outcome.start + len(values)):
                self._settle(number, values.pop(0), failures.get(number))
        outcomes.clear()

    def _settle(self, number: int, value: Any, failure: Failure | None) -> None:
        """Give one future what its call gave."""
        call = self.calls.take(number)
        if call is None:  # cancelled
            return
        error: BaseException | None = None
        if failure is not None:
            error = failure.error()
            if isinstance(failure.exception, InitializerFailed):
                _log.critical("Exception in initializer:", exc_info=failure.exception)
                self.broken = error = BrokenExecutor(f"The initializer failed: {failure.exception}")
                self.calls.close()
            elif failure.exception is not None:
                failure.exception.__cause__ = error  # which has the remote traceback
                error = failure.exception
        with contextlib.suppress(InvalidStateError):  # cancelled just now
            if error is not None:
                call.set_exception(error)
            else:
                call.set_result(value)

    def _say(self, hint: str) -> None:
        """Say what keeps the calls from being made, once, if it does so for long: nobody shows the job."""
        known, since, said = self._trouble
        if hint != known:
            self._trouble = hint, time.monotonic(), not hint
        elif not said and time.monotonic() - since > _SAY_SECONDS:
            self._trouble = hint, since, True
            print(f"nbmr: {self._options['name']} waits. {hint}", file=sys.stderr)  # noqa: T201 - there is no view

    def _break(self, error: BaseException) -> None:
        """Fail every call that has no outcome, if there is one, and take no more."""
        with self._lock:
            left = self.calls.take_all()
            if left or not self._closed:
                self.broken = self.broken or error
        _fail(left, error)


def _fail(calls: list[Call], error: BaseException) -> None:
    for call in calls:
        with contextlib.suppress(InvalidStateError):  # cancelled just now
            call.set_exception(error)


def _in_event_loop() -> bool:
    """Whether this thread runs an event loop, which must not be kept waiting."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
