"""A job as its user holds it: wait, gather, iterate, cancel, forget."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from nbmr import frames, message, registry, shared, topology
from nbmr.arrivals import LOOK_SECONDS, Arrivals, read_again, until
from nbmr.broker import NotFound
from nbmr.errors import BrokerError, JobCancelled, JobNotFound, JobTimeout
from nbmr.failures import Failure, Failures
from nbmr.filelist import Files
from nbmr.hearing import Hearing
from nbmr.inputs import Inputs
from nbmr.joblog import JobLog
from nbmr.logstreams import LogStream
from nbmr.outcome import values_of, warn_of
from nbmr.printed import Printed
from nbmr.reading import Read
from nbmr.roster import WorkerFacts
from nbmr.sending import Sending
from nbmr.stall import Stall
from nbmr.standing import Member, Progress, Status
from nbmr.written import Target

if TYPE_CHECKING:
    from nbmr.broker import Broker
    from nbmr.signing import Signer

#: Seconds to wait for RabbitMQ when a job is deleted; it is deleted anyway, as soon as RabbitMQ can.
_PATIENCE = 2.0


class Job:
    """One call of `submit` or `map`.

    It is its log: this object only follows a stream on the broker, so the work goes on without it.

    Parameters
    ----------
    log
        What is known of it.
    broker, signer
        Where its log is.
    look
        Called about once a second while somebody waits: raises if waiting is in vain, otherwise returns a
        hint for the person who waits, or an empty text.
    stream
        What its log is read from; None to make a subscription of its own.
    keep
        Keeps that stream for another job, if possible, once this one has ended well and is forgotten; None if
        somebody else may read it.
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
        self._log, self._broker, self._signer, self._look = log, broker, signer, look
        #: What was made on the broker for this job, besides its log.
        self.blobs: list[topology.Queue] = []
        #: The folder of its payloads in shared memory; empty if it has none.
        self.shared = ""
        self._stream, self._keep = stream or LogStream(broker, log.job), keep
        self._sending: Sending | None = None
        #: Why its log can't be read any more.
        self._unreadable: BrokerError | None = None
        #: What shows the job while it is awaited.
        self.following: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        self._gathered: list[Any] = []
        #: The library whose frames or series its results are, empty for none; None until they were gathered.
        self.gave_frames_of: str | None = None
        #: Jobs whose results are its data: their logs have to be there until it is done.
        self.sources: list[Job] = []
        #: Held while the results are gathered.
        self._gathering = threading.RLock()
        self._forgotten = False
        self._hint = ""
        self._stopping: Any = None
        #: What shows it and follows it to its end.
        self.followers: set[Any] = set()
        #: Called about once a second in the thread that waits for it.
        self.while_waiting: Callable[[], None] = lambda: None
        #: Tells of the workers that live, while somebody looks.
        self.roster: Callable[[], list[WorkerFacts]] = list
        log.on_end = self._on_end
        log.inputs = self._inputs = Inputs(broker, signer, log.job)
        #: Whether its tasks are lost.
        self.stall = Stall(log, broker, signer, self._workers)
        self._hearing = Hearing(self._note, self._read_on, broker.consume_elsewhere)

    @property
    def id(self) -> str:
        """The job's id, unique on its broker."""
        return self._log.job

    @property
    def name(self) -> str:
        """The job's name: given by the caller, or that of the function."""
        return str(self._log.about.get("name", ""))

    @property
    def queue(self) -> str:
        """The queue that its tasks went to."""
        return str(self._log.about.get("queue", "default"))

    @property
    def log(self) -> JobLog:
        """Its log as it is read; another object where results had to be read again."""
        return self._log

    @property
    def forgotten(self) -> bool:
        """Whether it was deleted from the broker by this kernel."""
        return self._forgotten

    @property
    def broker(self) -> Broker:
        """Where its log is."""
        return self._broker

    @property
    def target(self) -> Target | None:
        """Where its results are written to, if they are."""
        to = self._log.about.get("to")
        return Target(**to) if to else None

    @property
    def status(self) -> Status:
        """``pending``, ``running``, ``done``, ``failed`` or ``cancelled``."""
        return self._log.status

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self._log.progress()

    @property
    def failures(self) -> Failures:
        """What failed so far: a list that is shown as a table; each can be run again by its ``replay()``."""
        return Failures(self._log.failures())

    @property
    def output(self) -> str:
        """What its tasks printed, logged and warned of so far, in order: the last 1,000 lines.

        Where a task prints more than 200 lines or 32 KiB a second, the latest are here, and a line says how
        many were left out.
        """
        return "".join(f"{line.text}\n" for line in self.printed.lines())

    @property
    def printed(self) -> Printed:
        """The same for who shows it: lines with their tasks, and how many there were in all."""
        return self._log.printed

    def crew(self) -> dict[str, Member]:
        """Return what each worker did for this job so far and is at now, by its name."""
        return self._log.crew()

    @property
    def rejected(self) -> int:
        """How many messages in its log were not signed with the key, or made no sense, and were ignored."""
        return self._log.rejected

    @property
    def hint(self) -> str:
        """What keeps the job from going on, for a person to read; empty if nothing does."""
        if self._log.ended:
            return ""
        trouble = self._broker.trouble
        return f"RabbitMQ: {trouble}" if trouble else self._hint

    def look(self) -> None:
        """Find out what keeps the job from going on.

        Raises
        ------
        NbmrError
            If nothing will make it go on.
        """
        self.while_waiting()
        self._hint = self._look(self) or self._waits_for()
        if not self._broker.trouble and not self._log.ended:
            self._hint = self._hearing.check(self._log.read_at) or self._hint
        for job in (self, *self.sources):
            job.stay()

    def _workers(self) -> list[WorkerFacts]:
        return self.roster()

    def _waits_for(self) -> str:
        """Say which job's results it waits for, if it has nothing else to do."""
        if self._log.sealed or self.progress.running:
            return ""
        for job in self.sources:
            if not job.log.ended:
                known = job.progress
                total = "" if known.total is None else f" of {known.total:,}"
                return f"It waits for the results of job {job.name or job.id}: {known.done:,}{total} done."
        return ""

    def stay(self) -> None:
        """Note in its log, now and then, that somebody still wants it: or else a worker will delete it."""
        if self._forgotten:
            return
        heard = self._log.heard_at
        if heard and time.time() - heard > self._log.about.get("ttl", 0.0) / 4 and not self._broker.trouble:
            self._log.heard_at = time.time()
            self._note()

    def _note(self) -> Future[bool]:
        """Write into its log that somebody waits for it."""
        body = message.seal(self._signer, "kept", job=self.id)
        return self._broker.append(topology.job_log(self.id), body, urgent=True)

    # ---------------------------------------------------------------- following the log

    def follow(self) -> None:
        """Start to read the log."""
        self._stream.follow(self._read, self._on_lost)

    def _read(self, delivery: Any) -> None:
        self._log.read(delivery)
        delivery.ack()

    def _read_on(self) -> None:
        """Read its log by another subscription: from this one nothing comes any more."""
        self._stream.renew()

    def _on_lost(self, error: BrokerError) -> None:
        if isinstance(error, NotFound):  # somebody deleted it
            self._log.end(Status.CANCELLED)
            return
        if not self._log.ended:
            self._unreadable = BrokerError(f"Job {self.name or self.id} can't be followed any more: {error}")
        self._log.end(Status.FAILED)

    def _on_end(self, _status: Status) -> None:
        if not self._leaves_stream:
            self._stream.close()
        if not self._log.complete:
            self._stop_workers()

    @property
    def _leaves_stream(self) -> bool:
        """Whether another job can be logged behind it."""
        return self._keep is not None and self.status is Status.DONE and not self.blobs

    def _stop_workers(self) -> None:
        """Tell every worker that nobody wants this job's results any more."""
        body = message.seal(self._signer, "cancel", job=self.id)
        with contextlib.suppress(BrokerError):
            self._stopping = self._broker.append(topology.control_stream(), body, urgent=True)

    # ---------------------------------------------------------------- sending

    def send(self, run: Callable[[], None]) -> None:
        """Send the tasks, in this thread; whatever goes wrong ends the job."""
        self._sending = Sending(self._log, run, self.look)
        self._sending.now()

    def send_in_background(self, run: Callable[[], None]) -> None:
        """Send the tasks in a thread; an error is raised by `result`."""
        self._sending = Sending(self._log, run, self.look)
        self._sending.start()

    def finish_sending(self) -> None:
        """Wait until the thread that sends the job has done so, and say so if it takes long."""
        if self._sending is not None:
            self._sending.finish()

    # ---------------------------------------------------------------- waiting and gathering

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; return whether it has come.

        Parameters
        ----------
        timeout
            Seconds; None to wait as long as it takes.

        Raises
        ------
        NbmrError
            If waiting is in vain: the workers can't be started, say.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        next_look = time.monotonic() + LOOK_SECONDS
        while True:
            with self._log.changed:
                if self._log.ended:
                    return True
                now = time.monotonic()
                if deadline is not None and now >= deadline:
                    return False
                patience = next_look - now if deadline is None else min(next_look, deadline) - now
                self._log.changed.wait(max(patience, 0.0))
            if time.monotonic() >= next_look:
                self.look()
                next_look = time.monotonic() + LOOK_SECONDS

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

    def raise_why_it_failed(self) -> None:
        """Raise what ended the job before its time, if anything did."""
        __tracebackhide__ = True
        if error := self._unreadable or (self._sending and self._sending.error):
            raise error
        if self.status == Status.CANCELLED:
            raise JobCancelled(f"Job {self.name or self.id} was cancelled.")
        if self.failures and self._log.about.get("on_error") != "keep":
            failure = min(self.failures, key=lambda f: f.number)
            raise failure.error() from failure.exception

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

    # ---------------------------------------------------------------- ending

    def cancel(self) -> None:
        """End the job: running tasks are interrupted, queued ones never run. No harm if it has ended."""
        if self._log.end(Status.CANCELLED):
            self.forget()

    def drop(self, task: int) -> None:
        """Have one task never run, or end it where it runs; there will be no result of it."""
        body = message.seal(self._signer, "cancel", job=self.id, task=task)
        with contextlib.suppress(BrokerError):
            self._broker.append(topology.control_stream(), body, urgent=True)
        self._log.drop(task)

    def forget(self) -> None:
        """Delete the job from the broker; what was gathered stays."""
        if self._forgotten:
            return
        try:
            self._let_go(_PATIENCE)
        except BaseException:  # interrupted, wherever that was: all of it again, without waiting
            self._let_go(0.0)
            raise

    def _let_go(self, patience: float) -> None:
        """End the job, if it hasn't, and delete it; no harm if that was begun before."""
        self._log.end(Status.CANCELLED)
        if self._stopping is None and not self._log.complete:
            self._stop_workers()
        deadline = time.monotonic() + patience
        if self._stopping is not None and not self._broker.trouble:
            wait([self._stopping], patience)  # or else it would be lost if this process ended now
        handed_on = self._stream.job != self.id
        if not handed_on and not (self._leaves_stream and self._keep and self._keep(self._stream)):
            self._delete(max(0.0, deadline - time.monotonic()))
        shared.remove_folder(self.shared)
        self._forgotten = True
        if self.target:
            self.target.sweep(self.id)

    def _delete(self, patience: float) -> None:
        """Delete what is on the broker of it."""
        self._stream.close()
        kind = "unwanted"  # if this connection ends before it is gone, a worker's janitor deletes it
        with contextlib.suppress(BrokerError):
            if self._broker.delete(topology.job_log(self.id), *self.blobs, timeout=patience):
                kind = "forgotten"
        with contextlib.suppress(BrokerError):
            registry.append(self._broker, self._signer, kind, job=self.id)

    def _ipython_display_(self) -> None:
        from nbmr import widgets  # noqa: PLC0415 - only where a job is displayed

        widgets.show(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:  # noqa: ARG002
        from nbmr import widgets  # noqa: PLC0415 - only where a job is displayed

        return widgets.mimebundle(self)

    def __repr__(self) -> str:
        p = self.progress
        total = "?" if p.total is None else p.total
        failed = f", {p.failed} failed" if p.failed else ""
        rejected = f", {self.rejected} messages rejected" if self.rejected else ""
        return f"<Job {self.name or self.id}: {self.status}, {p.done} of {total} done{failed}{rejected}>"
