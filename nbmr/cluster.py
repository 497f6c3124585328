"""Workers from a cell: the handle that `nbmr.workers` returns."""

from __future__ import annotations

from typing import Any, Self

from nbmr import crew, pools
from nbmr.environment import Environment
from nbmr.errors import ConfigError
from nbmr.session import Session
from nbmr.widgets import in_notebook
from nbmr.workers_panel import View, WorkersPanel, view


class Workers:
    """Local workers that were started together. They outlive the kernel.

    Parameters
    ----------
    session
        A session of the broker that they work for.
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
        session: Session,
        count: int,
        queue: str = "default",
        memory_limit: int | str | None = None,
        environment: Environment | None = None,
    ) -> None:
        self.queue = queue
        self._session = session
        self._panel = WorkersPanel(self._view, self.scale, lambda now: self.stop(now=now))
        self._pool, process = pools.start(
            session.settings, _count(count, 1), queue, memory_limit, environment
        )
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

    def _view(self) -> View:
        return view(self._session, self._pool, self.queue)

    def _ipython_display_(self) -> None:
        if not in_notebook() or not len(self):
            raise NotImplementedError  # then IPython shows the following
        self._panel.show()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        del include, exclude
        return self._view().bundle()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def overview(session: Session) -> Any:
    """Return a DataFrame of all workers of a broker, on every host; see `nbmr.workers`."""
    from nbmr.overview import Overview  # noqa: PLC0415 - pandas is slow to import

    return Overview(crew.look(session))


def _count(count: object, least: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        raise ConfigError(f"{count!r} workers: pass a whole number of at least {least}.")
    return count
