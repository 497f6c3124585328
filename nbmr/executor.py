"""``concurrent.futures``' interface: an executor whose calls are tasks of one job, sent as they are made."""

from __future__ import annotations

import functools
import itertools
import secrets
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TYPE_CHECKING, Any

from nbmr import api, codec, pools
from nbmr.calling import CallEncoded, Encoded, call_each
from nbmr.calls import Calls
from nbmr.calls_job import CallsJob
from nbmr.errors import ConfigError, NbmrError
from nbmr.options import check_options

if TYPE_CHECKING:
    from nbmr.client import Client


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
        if isinstance(queue, int):
            raise ConfigError(f"The first argument is a queue's name. Say max_workers={queue} for a number.")
        if initializer is not None and not callable(initializer):
            raise ConfigError(f"initializer has to be callable; got {type(initializer).__name__}.")
        if max_workers is not None and max_workers < 1:
            raise ConfigError("max_workers must be greater than 0.")
        self._options = check_options(
            call_each, queue, timeout=timeout, on_error="keep", gather="list", name=name
        )
        self._client, self._most = client, max_workers
        self._fn = CallEncoded(secrets.token_hex(8), initializer, tuple(initargs))
        self._lock = threading.Lock()
        self._closed = False
        self._job = self._new_job()

    # ---------------------------------------------------------------- concurrent.futures' interface

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        """Have ``fn(*args, **kwargs)`` called on a worker; return its future.

        What can't be pickled the future tells, by a `nbmr.PickleError`. The first call starts the job; where
        an event loop runs in this thread, that isn't waited for, and what goes wrong with it is told by the
        futures. All calls that waited for it fail then, and the next one tries again.

        Raises
        ------
        RuntimeError
            After `shutdown`.
        BrokenExecutor
            If the initializer failed, or the job was cancelled from elsewhere.
        NbmrError
            If the job can't be started: no broker, or a wrong setting.
        """
        with self._lock:
            self._check()
        try:
            encoded = Encoded(codec.encode_function(fn, args, kwargs))
        except NbmrError as exc:
            failed: futures.Future[Any] = futures.Future()
            failed.set_exception(exc)
            return failed
        with self._lock:
            self._check()
            if self._job.failed:
                self._job = self._new_job()
            job = self._job
            call = job.put(encoded)
        job.wait_for_begin()
        return call

    def _check(self) -> None:
        """Raise why no call is taken any more, if so."""
        self._job.check()
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")

    @property
    def _max_workers(self) -> int:
        """How many calls run at once: Dask asks for it, since the standard library's executors have it."""
        if self._most is not None:
            return self._most
        client = self._client or api.client(progress=False)
        return client.slots(self._options["queue"]) or pools.cores()

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
            Whether to wait until all calls are done; if not, that happens in the background.
        cancel_futures
            Whether to cancel the calls that wait: all but those that workers are at, and that are next. One
            that a worker took within the last hundredth of a second may count as waiting, and is ended.
        """
        with self._lock:
            self._closed = True
            job = self._job
        if cancel_futures:
            job.cancel_waiting()
        job.close()
        if wait:
            job.join()

    def _new_job(self) -> CallsJob:
        """Return what nobody has called yet."""
        singly = self._options["timeout"] is not None
        calls = Calls(singly=singly, most=self._most, shares_from=self._shares_from)
        job = CallsJob(calls, self._client, self._fn, self._options, self._lock)
        weakref.finalize(self, job.abandon).atexit = False  # who drops an executor still gets all results
        return job
