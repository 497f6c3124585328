"""A job as its user holds it: what `nbmr.handle` has, and its results: gathered, as they arrive, awaited."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from nbmr import frames
from nbmr.arrivals import LOOK_SECONDS, Arrivals, read_again, until
from nbmr.errors import JobNotFound, JobTimeout
from nbmr.failures import Failure
from nbmr.filelist import Files
from nbmr.handle import JobHandle
from nbmr.joblog import JobLog
from nbmr.outcome import values_of, warn_of
from nbmr.reading import Read
from nbmr.stall import Stall
from nbmr.standing import Status

if TYPE_CHECKING:
    from nbmr.broker import Broker
    from nbmr.logstreams import LogStream
    from nbmr.signing import Signer


class Job(JobHandle):
    """One call of `submit` or `map`: how it stands, and its results.

    `nbmr.submit` and `nbmr.attach` give one. The job is its log on the broker, so the work goes on without
    this object. Parameters are those of `nbmr.handle.JobHandle`.

    Examples
    --------
    >>> job = nbmr.submit(range(3), lambda x: x + 1)  # doctest: +SKIP
    >>> job.result(), str(job.status)  # doctest: +SKIP
    ([1, 2, 3], 'done')
    """

    def __init__(
        self,
        log: JobLog,
        broker: Broker,
        signer: Signer,
        look: Callable[[Job], str] = lambda _job: "",
        *,
        stream: LogStream | None = None,
        keep: Callable[[LogStream], bool] | None = None,
    ) -> None:
        super().__init__(log, broker, signer, look, stream=stream, keep=keep)
        #: What shows the job while it is awaited.
        self.following: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        self._gathered: list[Any] = []
        #: Held while the results are gathered.
        self._gathering = threading.RLock()
        #: The library whose frames or series its results are, empty for none; None until they were gathered.
        self.gave_frames_of: str | None = None

    # ---------------------------------------------------------------- gathering

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the end and gather.

        Parameters
        ----------
        timeout
            Seconds to wait; the job goes on when they are over.

        Returns
        -------
        DataFrame, Series or list
            By the rules of ``gather``, see `nbmr.map`.

        Raises
        ------
        TaskError
            If the function raised, with the original exception as its cause; `TaskTimeout` or `TaskLost` if
            the task took too long or lost its worker too often.
        JobCancelled
            If somebody cancelled it.
        JobTimeout
            If it isn't done in time.

        Examples
        --------
        >>> job = nbmr.submit(range(3), lambda x: x + 1)  # doctest: +SKIP
        >>> job.result()  # doctest: +SKIP
        [1, 2, 3]
        """
        __tracebackhide__ = True
        if self._gathered:
            return self._gathered[0]
        if not self.wait(timeout):
            name = self.name or self.id
            raise JobTimeout(f"Job {name} is not done after {timeout:g} s; it goes on. {self.hint}".rstrip())
        for follower in list(self.followers):
            follower.stop()  # so that the last state is there when the cell ends, and is saved with it
        self.raise_why_it_failed()
        for job in (*self.sources, self):
            if job.failures:
                warn_of(job.failures, job.progress.total, job.name or job.id)
        with self._gathering:  # one thread does; the others that wait here get the same
            if not self._gathered:
                self._gathered = [self._gather(consume=True)]
                if self.target:
                    self.target.sweep(self.id)
            return self._gathered[0]

    def take(self) -> Any:
        """Wait, gather as `result` does, and keep nothing of it: for who forgets the job."""
        __tracebackhide__ = True
        found = self.result()
        self._gathered.clear()
        return found

    def partial(self) -> Any:
        """Gather what is done so far, in order.

        Partitions that are not done yet are left out. What failed is left out of a frame too, and stands as a
        `Failure` in a list.
        """
        with self._gathering:
            return self._gathered[0] if self._gathered else self._gather(consume=False)

    def keep_inputs(self) -> None:
        """Read what the first failures need for their ``replay()``, so that they need the job no longer."""
        if self._log.failed and self.status == Status.FAILED:
            self._inputs.load(self._log.failed_tasks())

    def _gather(self, *, consume: bool) -> Any:
        how = self._log.about.get("gather", "auto")
        of_frame = bool(self._log.about.get("of_frame"))
        library = self._log.about.get("library", "pandas")
        with self._log.changed:
            outcomes = [self._log.outcomes[task] for task in sorted(self._log.outcomes)]
        outcomes.sort(key=lambda outcome: outcome.start)  # stable, and mostly in order
        standing = {} if of_frame or not self._log.failed else {f.number: f for f in self.failures}
        # what gather() copies from need not be writable; what it hands on as it is must be
        as_they_are = how == "list"
        values = values_of(outcomes, standing, writable=as_they_are, last=consume)
        if not as_they_are and any(len(outcome.layout) > 1 for outcome in outcomes):
            copied = frames.are_frames(values) and sum(value is not None for value in values) > 1
            if not copied:
                values = values_of(outcomes, standing, writable=True, last=consume)
        found = (value for value in values if value is not None and not isinstance(value, Failure))
        if (first := next(found, None)) is not None:
            name, kind = frames.kind_of(first)
            self.gave_frames_of = name if kind in frames.FRAMES else ""
        if self.target:
            return Files([path for path in values if isinstance(path, str)], Read(None, {}))
        if not consume:
            return frames.gather(values, of_frame=of_frame, how=how, library=library)
        self._log.let_go()  # the messages go one by one, as they are copied
        outcomes.clear()
        try:
            return frames.gather(values, of_frame=of_frame, how=how, library=library)
        except BaseException:
            self._start_over()
            raise

    def _start_over(self) -> None:
        """Read the log again from its beginning, since what had been read of it is gone."""
        if not self._forgotten:
            self._log = JobLog(self.id, self._signer, on_end=self._on_end, inputs=self._inputs)
            send_again, self.stall = (
                self.stall.send_again,
                Stall(self._log, self._broker, self._signer, self._workers),
            )
            self.stall.send_again = send_again
            self._stream.close()
            self.follow()

    # ---------------------------------------------------------------- as they arrive

    def _read_again(self) -> JobLog:
        """Return a log that is read from its beginning, for a loop: what was gathered was given away."""
        if self._forgotten:
            raise JobNotFound(f"Job {self.name or self.id} was forgotten; its result() is still here.")
        return read_again(self._broker, self._signer, self.id)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Yield ``(number, result)`` as results arrive; the number is the partition's or the item's.

        What failed is left out. If it ends the job, its error is raised behind the results that there are. A
        loop that is left early leaves the job as it is.
        """
        arrivals = Arrivals(self._log, self._read_again)
        next_look = time.monotonic() + LOOK_SECONDS
        try:
            while not arrivals.over:
                yield from arrivals.take()
                with arrivals.log.changed:
                    if not arrivals.ready:
                        arrivals.log.changed.wait(max(0.0, next_look - time.monotonic()))
                if time.monotonic() >= next_look:
                    self.look()
                    next_look = time.monotonic() + LOOK_SECONDS
        finally:
            arrivals.close()
        self._end_loop(arrivals)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Any]]:
        """Like iterating, without blocking the event loop."""
        arrivals = Arrivals(self._log, self._read_again)
        try:
            while not arrivals.over:
                for item in arrivals.take():
                    yield item
                await until(arrivals.log, lambda: arrivals.ready, self.look)
        finally:
            arrivals.close()
        self._end_loop(arrivals)

    def _end_loop(self, arrivals: Arrivals) -> None:
        """Raise why a loop has ended before its time, if it has."""
        __tracebackhide__ = True
        if arrivals.deleted:
            raise JobNotFound(f"Job {self.name or self.id} was forgotten; its result() is still here.")
        self.raise_why_it_failed()

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait for `result` without blocking the event loop; in a notebook, show the job meanwhile.

        Cancelling the task that waits (the stop button of an async cell does) ends the waiting, as an
        interrupt ends `result`: the job goes on until it is done or `cancel` is called.
        """
        return self._awaited().__await__()

    async def _awaited(self) -> Any:
        __tracebackhide__ = True
        with self.following() if not self._log.ended else contextlib.nullcontext():
            await until(self._log, lambda: self._log.ended, self.look)
            return await asyncio.to_thread(self.result)

    # ---------------------------------------------------------------- showing

    def _ipython_display_(self) -> None:
        from nbmr import widgets  # noqa: PLC0415 - only where a job is displayed

        widgets.show(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002
        from nbmr import widgets  # noqa: PLC0415 - only where a job is displayed

        return widgets.mimebundle(self)
