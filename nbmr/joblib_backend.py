"""joblib's backend ``"nbmr"``: each call of a ``joblib.Parallel`` is a job, and each of its batches a task.

Large arguments that several batches have are sent once for each call, see `nbmr.apart`.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    ThreadingBackend,
    register_parallel_backend,
)

from nbmr import api, pools, topology, unit
from nbmr.executor import Executor
from nbmr.packing import pack

if TYPE_CHECKING:
    from nbmr.client import Client

#: What `joblib.parallel_config` may be given for this backend.
_OPTIONS = ("queue", "client", "name", "initializer", "initargs")


class NbmrBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Runs joblib's batches on nbmr's workers.

    Made by joblib: ``joblib.parallel_config(backend="nbmr", queue="gpu")``. A context's backend serves all
    ``Parallel`` objects that are made in it, of which several may be at work at once (generators); so it is a
    pattern only, and each of them gets a copy of its own.

    Parameters
    ----------
    queue
        Which workers.
    client
        Whose workers; the default client's if None.
    name
        What to call the jobs.
    initializer, initargs
        Called once in each process of a worker, for each call of a ``Parallel``.
    nesting_level
        Between joblib and its backends.

    Raises
    ------
    ConfigError
        If there can be no such queue.

    Examples
    --------
    >>> with joblib.parallel_config(backend="nbmr"):  # doctest: +SKIP
    ...     GridSearchCV(SVC(), grid).fit(X, y)
    """

    supports_retrieve_callback = True
    supports_sharedmem = False
    uses_threads = False
    default_n_jobs = -1

    def __init__(
        self,
        queue: str = "default",
        client: Client | None = None,
        name: str = "joblib",
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        nesting_level: int | None = None,
    ) -> None:
        super().__init__(nesting_level=nesting_level)
        self.options: dict[str, Any] = {
            "queue": topology.check_queue(queue), "client": client, "name": name,
            "initializer": initializer, "initargs": initargs,
        }  # fmt: skip
        #: Whose backend this is; None for a pattern.
        self.parallel: Any = None
        self._executor: _Executor | None = None
        #: What is known of the next call: how many batches may run at once, and from which size on arrays
        #: are sent once.
        self._most: int | None = None
        self._shares_from: int | None = None

    # ---------------------------------------------------------------- what joblib asks, and tells

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many batches run at once: as many as asked for, or as there are slots of workers."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if unit.number() is not None:
            return int(ThreadingBackend().effective_n_jobs(n_jobs))
        if n_jobs is not None and n_jobs > 0:
            return n_jobs
        slots = self._slots()
        count = slots if n_jobs is None else max(slots + 1 + n_jobs, 1)
        # one worker alone is to do the work, too: for a single job joblib asks nobody, and works in here
        return max(count, 2) if self.parallel is not None and slots == 1 else count

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,  # noqa: ARG002 - joblib hands it over
        require: str | None = None,  # noqa: ARG002 - joblib hands it over
        max_nbytes: int | None = None,
        **others: Any,
    ) -> int:
        """Get ready for a ``Parallel``; return how many batches run at once."""
        if unit.number() is not None:  # in a task: all slots might wait for tasks that have none
            raise FallbackToBackend(self.get_nested_backend()[0])
        if self.parallel is not parallel:
            given = {name: others[name] for name in _OPTIONS if name in others}
            own = NbmrBackend(**(self.options | given), nesting_level=self.nesting_level)
            own.parallel = parallel
            raise FallbackToBackend(own)
        count = self.effective_n_jobs(n_jobs)
        self._most = count if n_jobs is not None and count < self._slots() else None
        self._shares_from = max_nbytes
        return count

    def _slots(self) -> int:
        client = self.options["client"] or api.client()
        # a first job has as many workers started as there are cores
        return int(client.slots(self.options["queue"])) or pools.cores()

    def start_call(self) -> None:
        """Begin a call of the ``Parallel``."""
        self._executor = _Executor(self._shares_from, max_workers=self._most, **self.options)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None) -> Future[Any]:
        """Have a batch run; whatever goes wrong is told by its future.

        joblib also calls this when a batch is done, in our thread, where nobody would see an error.
        """
        assert self._executor is not None  # noqa: S101 - for the type checker
        try:
            future = self._executor.submit(func if self._shares_from is None else pack(func))
        except Exception as exc:  # noqa: BLE001 - see above
            future = Future()
            future.set_exception(exc)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    #: What joblib up to 1.4 calls it.
    apply_async = submit

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return what a batch gave, or raise what was raised in it."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: ARG002 - each call has its own
        """End what runs, and what waits."""
        if self._executor is not None:
            self._executor.abort()

    def stop_call(self) -> None:
        """End a call of the ``Parallel``: nothing of it stays on the broker."""
        if self._executor is not None:
            self._executor.shutdown()

    def terminate(self) -> None:
        """Let go of what the ``Parallel`` had."""
        self.stop_call()
        self.reset_batch_stats()


class _Executor(Executor):
    """The executor of one call of a ``Parallel``.

    Parameters
    ----------
    shares_from
        Bytes from which on an argument is sent once; None to send all with their batches.
    **options
        As for `nbmr.Executor`.
    """

    def __init__(self, shares_from: int | None, **options: Any) -> None:
        self._shares_from = shares_from
        super().__init__(**options)

    def abort(self) -> None:
        """Take no more calls, and cancel all, those that run included."""
        self.shutdown(wait=False)
        for call in self._job.calls.unfinished():
            call.cancel()


register_parallel_backend("nbmr", NbmrBackend)  # in place of what has imported this
