"""``concurrent.futures``' interface: an executor whose calls are tasks of one job, sent as they are made."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import itertools
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from concurrent.futures import BrokenExecutor, InvalidStateError
from typing import TYPE_CHECKING, Any

from nbmr import api, codec, pools
from nbmr.calling import CallEncoded, Encoded, InitializerFailed, call_each
from nbmr.calls import Call, Calls
from nbmr.errors import ConfigError, NbmrError

if TYPE_CHECKING:
    from nbmr.client import Client
    from nbmr.failures import Failure
    from nbmr.job import Job
    from nbmr.outcome import Outcome

#: Seconds between two looks at what may keep calls from being made, and after which it is said.
_LOOK_SECONDS, _SAY_SECONDS = 1.0, 10.0

_open: weakref.WeakSet[Executor] = weakref.WeakSet()
#: Set when the main thread has ended: no thread can be started then.
_ending = threading.Event()
# As the executors of the standard library do; there is no public way to be told before others clean up.
threading._register_atexit(_ending.set)  # type: ignore[attr-defined]  # noqa: SLF001


@atexit.register
def _finish_all() -> None:
    """Wait for all calls at the end of the process, as the executors of the standard library do."""
    for executor in list(_open):
        executor.shutdown()


class Executor(futures.Executor):
    """Calls functions on workers, by the interface of ``concurrent.futures`` (PEP 3148).

    Unlike the executors of the standard library it can also cancel calls that run. A worker that dies is
    replaced, and what it was at is called again; a call that kills its worker three times fails with
    `nbmr.TaskLost`, and the others go on.

    Parameters
    ----------
    queue
        Which workers.
    client
        Whose workers; the default client's if None.
    initializer, initargs
        Called once in each process of a worker, before the first call of this executor's there. If it raises,
        the executor is broken: all calls fail with ``concurrent.futures.BrokenExecutor``.
    timeout
        Seconds that each call may run; None for no limit.
    name
        What to call its job.
    max_workers
        How many calls may be with the workers at once; None for as many as there are workers.

    Raises
    ------
    ConfigError
        If an argument makes no sense.

    Examples
    --------
    >>> with nbmr.Executor() as executor:  # doctest: +SKIP
    ...     executor.submit(pow, 2, 3).result()
    8
    """

    #: Bytes from which on what several calls have is sent once; None to send each call by itself.
    _shares_from: int | None = None

    def __init__(
        self,
        queue: str = "default",
        *,
        client: Client | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        timeout: float | None = None,
        name: str = "executor",
        max_workers: int | None = None,
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise ConfigError(f"initializer has to be callable; got {type(initializer).__name__}.")
        if max_workers is not None and max_workers < 1:
            raise ConfigError("max_workers must be greater than 0.")
        self._queue, self._client, self._name, self._timeout = queue, client, name, timeout
        self._most = max_workers
        self._fn = CallEncoded(secrets.token_hex(8), initializer, tuple(initargs))
        self._lock = threading.Lock()
        self._job: Job | None = None
        #: Starts the job, and gives each call its outcome.
        self._collector: threading.Thread | None = None
        self._reset()
        #: What keeps the calls from being made, since when, and whether it was said.
        self._trouble = ("", 0.0, True)
        self._closed = False
        self._broken: BaseException | None = None

    def _reset(self) -> None:
        """Be as one that nobody has called yet."""
        self._calls = Calls(singly=self._timeout is not None, most=self._most, shares_from=self._shares_from)
        self._begun = False
        self._started: futures.Future[None] = futures.Future()

    # ---------------------------------------------------------------- concurrent.futures' interface

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Have ``fn(*args, **kwargs)`` called on a worker; return its future.

        What can't be pickled is told by the future: a `nbmr.PickleError`. The first call starts the job, and
        what else has to be there. Where an event loop runs in this thread, that isn't waited for, and what
        goes wrong with it is told by the futures. All calls that waited for it fail then, and the next one
        tries again.

        Raises
        ------
        RuntimeError
            After `shutdown`.
        BrokenExecutor
            If the initializer failed, or the job was cancelled from elsewhere.
        NbmrError
            If the job can't be started: no broker, or a wrong setting.
        """
        call = Call(self)
        with self._lock:
            self._check()
        try:
            call.encoded = Encoded(codec.encode_function(fn, args, kwargs))
        except NbmrError as exc:
            call.set_exception(exc)
            return call
        with self._lock:
            self._check()
            if not self._begun:
                collector = threading.Thread(target=self._work, name="nbmr executor", daemon=True)
                collector.start()
                self._collector, self._begun = collector, True
                _open.add(self)
            self._calls.put(call)
            started = self._started
        if not started.done() and not _in_event_loop():
            started.result()
        return call

    def _check(self) -> None:
        """Raise why no call is taken any more, if so."""
        if self._broken is not None:
            raise BrokenExecutor(str(self._broken)) from self._broken
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if _ending.is_set():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    @property
    def _max_workers(self) -> int:
        """How many calls run at once: Dask asks for it, since the standard library's executors have it."""
        if self._most is not None:
            return self._most
        client = self._client or api.client(progress=False)
        return client.slots(self._queue) or pools.cores()

    def map(
        self,
        fn: Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **options: Any,
    ) -> Iterator[Any]:
        """Call a function on the items of iterables; see ``concurrent.futures.Executor.map``.

        Parameters
        ----------
        fn, *iterables
            As for the built-in ``map``.
        timeout
            Seconds that the results may take, from now.
        chunksize
            How many items one call of a worker gets; more than one for very short functions.
        **options
            What newer Pythons know besides: ``buffersize``, from 3.14 on.

        Returns
        -------
        iterator
            The results, in order.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout, **options)
        rows = zip(*iterables, strict=False)
        chunks = iter(lambda: list(itertools.islice(rows, chunksize)), [])
        results = super().map(functools.partial(call_each, fn), chunks, timeout=timeout, **options)
        return itertools.chain.from_iterable(results)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and free what belongs to the executor.

        Parameters
        ----------
        wait
            Whether to wait until all calls are done. If not, they are done in the background.
        cancel_futures
            Whether to cancel the calls that no worker has begun.
        """
        with self._lock:
            self._closed = True
            collector = self._collector
        if cancel_futures:
            for call in self._calls.unfinished():
                if not call.running():
                    call.cancel()
        self._calls.close()
        if self._job is not None:
            self._job.log.wake()
        if wait and collector is not None:
            collector.join()

    # ---------------------------------------------------------------- its job

    def _work(self) -> None:
        """Start the job, and give each future what its call gave, until all have it; in a thread."""
        try:
            job = self._job = self._start()
        except BaseException as exc:  # noqa: BLE001 - whoever waits for a call is told
            self._give_up(exc)
            return
        self._started.set_result(None)
        self._collect(job)

    def _give_up(self, error: BaseException) -> None:
        """Fail the calls that waited for the start. Nothing has begun: the next one tries again."""
        with self._lock:
            left, started = self._calls.take_all(), self._started
            _open.discard(self)
            if not self._closed:
                self._reset()
        started.set_exception(error)
        _fail(left, error)

    def _start(self) -> Job:
        """Begin the job that all calls are tasks of."""
        client = self._client or api.client(progress=False)
        options = {
            "queue": self._queue, "on_error": "keep", "gather": "list", "name": self._name,
            "timeout": self._timeout,
        }  # fmt: skip
        job, send = client.start(self._calls, self._fn, (), options)
        job.send_in_background(send)
        return job

    def _collect(self, job: Job) -> None:
        """Give each future what its call gave, until all have it."""
        try:
            while not self._calls.over:
                outcomes, failures = job.log.take(_LOOK_SECONDS)
                if outcomes:
                    self._hand_out(outcomes, failures)
                elif job.log.ended:
                    break
                else:
                    job.look()
                    self._say(job.hint if self._calls.unfinished() else "")
        except NbmrError as exc:
            self._break(BrokenExecutor(str(exc)))
        finally:
            self._break(BrokenExecutor(f"The executor's job {job.id} was {job.status} from elsewhere."))
            job.forget()
            _open.discard(self)

    def _hand_out(self, outcomes: list[Outcome], failures: dict[int, Failure]) -> None:
        """Give futures what their calls gave; who waits for others keeps no result then."""
        for outcome in outcomes:
            values = outcome.values(writable=True, last=True)
            for number in range(outcome.start, outcome.start + len(values)):
                self._settle(number, values.pop(0), failures.get(number))
        outcomes.clear()

    def _say(self, hint: str) -> None:
        """Say what keeps the calls from being made, once, if it does so for long: nobody shows the job."""
        known, since, said = self._trouble
        if hint != known:
            self._trouble = hint, time.monotonic(), not hint
        elif not said and time.monotonic() - since > _SAY_SECONDS:
            self._trouble = hint, since, True
            print(f"nbmr: {self._name} waits. {hint}", file=sys.stderr)  # noqa: T201 - there is no view

    def _settle(self, number: int, value: Any, failure: Failure | None) -> None:
        """Give one future what its call gave."""
        call = self._calls.take(number)
        if call is None:  # cancelled
            return
        error: BaseException | None = None
        if failure is not None:
            error = failure.error()
            if isinstance(failure.exception, InitializerFailed):
                self._broken = error = BrokenExecutor(f"The initializer failed: {failure.exception}")
                self._calls.close()
            elif failure.exception is not None:
                failure.exception.__cause__ = error  # which has the remote traceback
                error = failure.exception
        with contextlib.suppress(InvalidStateError):  # cancelled just now
            if error is not None:
                call.set_exception(error)
            else:
                call.set_result(value)

    def _break(self, error: BaseException) -> None:
        """Fail every call that has no outcome, if there is one, and take no more."""
        with self._lock:
            left = self._calls.take_all()
            if left or not self._closed:
                self._broken = self._broken or error
        _fail(left, error)

    def drop(self, call: Call) -> None:
        """Have a call that was cancelled never be made, or end it where it runs."""
        task = self._calls.drop(call)
        if task is not None and self._job is not None:
            self._job.drop(task)

    def runs(self, task: int) -> bool:
        """Whether a worker is at a task."""
        return self._job is not None and self._job.log.runs(task)


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
