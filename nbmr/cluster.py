"""Workers from a cell: the handle that `nbmr.workers` returns."""

from __future__ import annotations

from typing import Any, Self

from nbmr import pools
from nbmr.config import Settings
from nbmr.environment import Environment
from nbmr.errors import ConfigError


class Workers:
    """Local workers that were started together. They outlive the kernel.

    Parameters
    ----------
    settings
        The broker that they work for.
    count
        How many; each runs one task at a time.
    queue
        The queue that they take tasks from.
    memory_limit
        Bytes that a task's process may hold, such as ``"2GB"``; None for no limit.
    environment
        What they run in; by default, as this process does.

    Raises
    ------
    WorkerError
        If they can't be started, with the reason.

    Examples
    --------
    >>> workers = nbmr.workers(4)  # doctest: +SKIP
    >>> workers.scale(8)  # doctest: +SKIP
    >>> len(workers)  # doctest: +SKIP
    8
    >>> workers.stop()  # doctest: +SKIP
    """

    def __init__(
        self,
        settings: Settings,
        count: int,
        queue: str = "default",
        memory_limit: int | str | None = None,
        environment: Environment | None = None,
    ) -> None:
        self.queue = queue
        self._pool, process = pools.start(settings, _count(count, 1), queue, memory_limit, environment)
        try:
            self._pool.wait(count, process)
        except BaseException:
            self._pool.stop(now=True)
            raise

    def __len__(self) -> int:
        return len(self._pool.state().get("workers", ()))

    def __bool__(self) -> bool:
        return True

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers' supervisors."""
        return list(self._pool.state().get("workers", ()))

    def scale(self, count: int) -> Workers:
        """Have so many workers; those that go finish their task first. Waits for those that come."""
        if _count(count, 0) == 0:
            self.stop()
            return self
        self._pool.scale(count)
        self._pool.wait(count)
        return self

    def stop(self, *, now: bool = False) -> None:
        """Let the workers finish their tasks and end; with ``now=True`` their tasks go back to the queue."""
        self._pool.stop(now=now)

    def __repr__(self) -> str:
        count = len(self)
        what = f"{count} workers" if count != 1 else "1 worker"
        return f"<{what} on this machine, queue {self.queue!r}>" if count else "<Workers: stopped>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def overview(settings: Settings) -> Any:
    """Return a DataFrame of the workers that this user's nbmr started on this machine."""
    import pandas as pd  # noqa: PLC0415 - slow to import
    import psutil  # noqa: PLC0415 - likewise

    rows = []
    for pool in pools.living(settings):
        state = pool.state()
        for pid in state.get("workers", ()):
            try:
                processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
                memory = sum(process.memory_info().rss for process in processes) / 1e6
            except psutil.Error:
                continue
            ready = "ready" if pid in state["ready"] else "starting"
            rows.append({"pid": pid, "queue": state["queue"], "state": ready, "memory_mb": round(memory, 1)})
    return pd.DataFrame(rows, columns=["pid", "queue", "state", "memory_mb"])


def _count(count: object, least: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        raise ConfigError(f"{count!r} workers: pass a whole number of at least {least}.")
    return count
