"""A job on the broker, as this kernel holds it: followed, kept as long as somebody wants it, and ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

from nbmr import message, registry, shared, topology
from nbmr.arrivals import LOOK_SECONDS
from nbmr.broker import NotFound
from nbmr.errors import BrokerError, JobCancelled
from nbmr.failures import Failures
from nbmr.hearing import Hearing
from nbmr.inputs import Inputs
from nbmr.joblog import JobLog
from nbmr.logstreams import LogStream
from nbmr.printed import Printed
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


class JobHandle:
    """A job without its results: `nbmr.job.Job` adds these.

    The job is its log: this object only follows a stream on the broker, so the work goes on without it.

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
        look: Callable[[Any], str] = lambda _job: "",
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
        #: Jobs whose results are its data: their logs have to be there until it is done.
        self.sources: list[JobHandle] = []
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

    # ---------------------------------------------------------------- waiting

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

    def __repr__(self) -> str:
        p = self.progress
        total = "?" if p.total is None else p.total
        failed = f", {p.failed} failed" if p.failed else ""
        rejected = f", {self.rejected} messages rejected" if self.rejected else ""
        return f"<Job {self.name or self.id}: {self.status}, {p.done} of {total} done{failed}{rejected}>"
