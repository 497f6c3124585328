"""A session: one broker, one key, and the jobs that are started with them."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import wait
from types import TracebackType
from typing import Any, Self

from nbmr import config, listing, node, pools, queue_counts, registry, shared, topology
from nbmr.broker import Broker, connect
from nbmr.cell import Cell, Once
from nbmr.chaining import JobSource
from nbmr.compressors import Compressors
from nbmr.errors import BrokerError, BrokerUnreachable, ConfigError, JobNotFound, NodeError, WorkerError
from nbmr.job import Job
from nbmr.joblog import JobLog
from nbmr.keycheck import KeyWatch, check_key
from nbmr.logstreams import LogStream, LogStreams
from nbmr.node import Presence
from nbmr.options import OPTIONS, check_options, check_spelling, encode_call, target_of
from nbmr.placed import Place, PlacedSender, Watch, places
from nbmr.queue_counts import QueueCounts
from nbmr.roster import Roster, WorkerFacts
from nbmr.sender import Sender
from nbmr.signing import Signer
from nbmr.tasks import Call, Source, source_of

#: Seconds that workers have to answer which are known to be there.
_LOOK_SECONDS = 5.0
#: Seconds that RabbitMQ has to answer while a job is waited for.
_ANSWER_SECONDS = 3.0
#: Slots to cut for where no worker is seen yet.
_GUESSED_SLOTS = os.cpu_count() or 1


class Session:
    """A connection to one broker, and what starts jobs on it; `nbmr.Client` adds the verbs that show.

    Parameters and errors are those of `nbmr.Client`.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        key_file: str | os.PathLike[str] | None = None,
        on_progress: Callable[[str], None] | None = None,
    ) -> None:
        self.settings = config.resolve(url, key, key_file, on_progress)
        self._signer = Signer(self.settings.key)
        self._presence = Presence(self.settings.node, "clients").hold() if self.settings.node else None
        self._key_watch: KeyWatch | None = None
        self._closed = False
        self._roster: Roster | None = None
        self._lock = threading.Lock()
        try:
            self._broker = self._connect(on_progress)
            self._counts = QueueCounts(self._broker)
            self._streams = LogStreams(self._broker, self._signer)
            self._compressors = Compressors(self.settings, self._broker, lambda: self.roster, self.slots)
            if not self.settings.node:
                check_key(self._broker, self._signer)
                self._key_watch = KeyWatch(self._broker, self._signer)
        except BaseException:
            self.close()
            raise

    def _connect(self, on_progress: Callable[[str], None] | None) -> Broker:
        """Connect; once more where the private node was killed just now, and comes back by itself."""
        try:
            return connect(self.settings.url, self.settings.alive)
        except BrokerUnreachable:
            if not self.settings.node:
                raise
        node.ensure(on_progress)
        return connect(self.settings.url, self.settings.alive)

    @property
    def usable(self) -> bool:
        """Whether it is open, and its private node still the one it was made for."""
        if self._closed or self._broker.closed:
            return False
        return self.settings.alive()

    @property
    def broker_version(self) -> str:
        """Version of RabbitMQ, as it told last."""
        return self._broker.version

    @property
    def broker_trouble(self) -> str:
        """What is wrong with the connection to RabbitMQ, as far as is known; empty if nothing is."""
        return self._broker.trouble

    def start(
        self,
        data: Any,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        given: dict[str, Any],
        *,
        brief: bool = False,
        merges: bool = False,
    ) -> tuple[Job, Callable[[], None]]:
        """Make a job, and return beside it what sends its tasks.

        Parameters
        ----------
        data, fn, args
            As for `nbmr.map`.
        given
            The options of `nbmr.map`, and the keyword arguments of `fn`.
        brief
            Whether the job will be forgotten as soon as it has ended.
        merges
            As for `nbmr.tasks.source_of`.
        """
        kwargs = dict(given)
        options = check_options(fn, **{name: kwargs.pop(name) for name in OPTIONS if name in kwargs})
        partitions, queue = kwargs.pop("partitions", None), options["queue"]
        target = target_of(kwargs.pop("to", None), options)
        check_spelling(fn, kwargs)
        self._prepare(queue)
        slots = self.slots(queue) or _GUESSED_SLOTS
        singly = options["timeout"] is not None
        source = self._source(data, partitions, slots, singly=singly, merges=merges)
        stream = self._streams.new(brief=brief)
        log = self._new_log(stream, options, source)
        try:
            call = encode_call(fn, data, target, log.job, args, kwargs)
        except BaseException:
            self._streams.drop(stream)
            raise
        keep = self._streams.keep if brief else None
        job = Job(log, self._broker, self._signer, self._look, stream=stream, keep=keep)
        if isinstance(source, JobSource):
            job.sources.append(source.job)
        sender = Sender(self._broker, self._signer, log, source, call, options, slots, job.look, job.blobs)
        sender.compressor = self._compressors.of(queue)
        if not source.lazy:
            job.stall.send_again = sender.send_again
        self._begin(job, stream, sender)
        return job, sender.run

    def _source(self, data: Any, partitions: int | None, slots: int, *, singly: bool, merges: bool) -> Source:
        """Return the data of a call; as for `source_of`, or a job, or what is made of one."""
        if isinstance(data, Job):
            data = JobSource(data, partitions, singly=singly)
        elif isinstance(data, Source):
            return data
        if not isinstance(data, JobSource):
            return source_of(data, partitions, slots, singly=singly, merges=merges)
        if data.job.broker is not self._broker:
            raise ConfigError(
                f"Job {data.job.name or data.job.id} is on another broker, or the client that started it was"
                " closed. Pass its result() as data, or that of nbmr.attach(id)."
            )
        if not self._broker.exists(topology.job_log(data.job.id)):
            raise JobNotFound(
                f"Job {data.job.name or data.job.id} was forgotten elsewhere, or its time was over: its"
                " results are not on the broker any more."
            )
        return data

    def start_everywhere(
        self, what: str | Callable[[], Any], queue: str = "default", name: str | None = None
    ) -> tuple[Job, Callable[[], None], tuple[Place, ...]]:
        """Make a job that runs once in every slot of every worker; return what sends it, and the slots.

        Parameters
        ----------
        what, queue
            As for `nbmr.everywhere`.
        name
            What to call the job.

        Raises
        ------
        WorkerError
            If there is no worker.
        """
        if isinstance(what, str):
            what = Cell(what)
        if not callable(what):
            raise ConfigError(f"What to run has to be source or a function; got {type(what).__name__}.")
        fn = what if isinstance(what, Cell) else Once(what)
        label = what.label if isinstance(what, Cell) else name
        options = check_options(what, queue, on_error="keep", gather="list", name=name or label)
        options["everywhere"] = True
        call = Call.encode(fn, (), {})
        self._prepare(queue)
        targets = self._places(queue)
        source = source_of(range(len(targets)), len(targets), len(targets))
        stream = self._streams.new(brief=False)
        log = self._new_log(stream, options, source)
        watch = Watch(self._broker, self._signer, log, self.roster, targets)

        def look(_job: Job) -> str:
            if self._broker.trouble:
                self._revive()
                return ""
            self._broker.knock()
            return watch.look()

        job = Job(log, self._broker, self._signer, look, stream=stream)
        sender = PlacedSender(
            self._broker, self._signer, log, source, call, options, len(targets), job.look, job.blobs,
            places=targets,
        )  # fmt: skip
        self._begin(job, stream, sender)
        return job, sender.run, targets

    def _places(self, queue: str) -> tuple[Place, ...]:
        """Return every slot of a queue's workers; a private node's are started if there are none."""
        self._counts.forget(queue)  # all that are there now
        while not (listening := self.slots(queue)):
            hint = pools.call_for(self.settings, queue)
            if not self.settings.node:
                raise WorkerError(hint)
            time.sleep(queue_counts.FRESH_SECONDS / 2)
        found = places(self.roster.look(_LOOK_SECONDS, expected=listening, queue=queue))
        if not found:
            raise WorkerError(
                f"{listening} slots of workers listen to queue {queue!r}, and none has answered within"
                f" {_LOOK_SECONDS:g} s. They may be of another version of nbmr, or too busy; see their logs."
            )
        if len(found) < listening:
            warnings.warn(
                f"{listening - len(found)} of {listening} slots on queue {queue!r} did not answer, and are"
                " left out.", RuntimeWarning, stacklevel=2,
            )  # fmt: skip
        return tuple(found)

    def _prepare(self, queue: str) -> None:
        """See to it that what all jobs of a queue need is there."""
        if self._broker.trouble:
            self._revive()
        self._broker.declare(
            topology.task_queue(queue), topology.dead_queue(queue), topology.control_stream(),
            topology.jobs_stream(),
        )  # fmt: skip

    def _new_log(self, stream: LogStream, options: dict[str, Any], source: Source) -> JobLog:
        log = JobLog(stream.job, self._signer)
        options["ttl"] = self.settings.job_ttl
        log.about, log.total = options | source.gathering, source.units
        return log

    def _begin(self, job: Job, stream: LogStream, sender: Sender) -> None:
        """Register a job, open its log, and follow that."""
        job.shared = sender.shared = shared.make_folder(self.settings.node, job.id)
        entry = registry.registration(job.id, job.name, job.queue, self.settings.job_ttl, shared=job.shared)
        registered = registry.register(self._broker, self._signer, entry)
        job.roster = self._facts
        try:
            if not stream.kept:
                self._broker.declare(topology.job_log(job.id))
                while not self._broker.trouble and not wait([registered], 0.1).done:
                    pass  # what is registered can be found and deleted, whatever happens to this process
            job.follow()  # before anything is written: a stream that was kept is being read already
            sender.open()
            if self.settings.node and not self.slots(job.queue):
                pools.ensure(self.settings, job.queue)
        except BaseException:
            job.forget()
            raise

    def attach(self, id_or_name: str) -> Job:
        """Return a job that was started here or elsewhere; see `nbmr.attach`."""
        job = listing.attach(self._broker, self._signer, id_or_name, self._look)
        job.roster = self._facts
        return job

    def jobs(self) -> Any:
        """Return the jobs on this broker as a DataFrame; see `nbmr.jobs`."""
        return listing.table(self._broker, self._signer)

    @property
    def roster(self) -> Roster:
        """Who works for this broker; made when first needed.

        Raises
        ------
        BrokerUnreachable
            If this client was closed.
        """
        with self._lock:
            if self._closed:
                raise BrokerUnreachable("This client was closed. Make a new one.")
            if self._roster is None:
                self._roster = Roster(self._broker, self._signer)
            return self._roster

    def _facts(self) -> list[WorkerFacts]:
        """Tell what the workers say of themselves, for views; nothing where they can't be heard."""
        try:
            return self.roster.facts()
        except BrokerError:
            return []

    def workers_seen(self, queue: str | None = None) -> list[WorkerFacts]:
        """Return what the workers tell of themselves, on every host; asks them, and waits for a moment.

        Parameters
        ----------
        queue
            Whose workers; None for all.

        Returns
        -------
        list of WorkerFacts
            Each has a `mismatch`: why it could not run this kernel's functions, or an empty text.
        """
        self._counts.forget(str(queue))  # all that are there now
        listening = self.slots(queue) if queue is not None else 0
        if listening:
            return self.roster.look(_LOOK_SECONDS, expected=listening, queue=queue)
        return self.roster.look(queue=queue)

    def slots(self, queue: str) -> int:
        """Return how many slots of workers listen to a queue; asked of the broker at most once a second."""
        return self._counts.of(queue)[1]

    def _look(self, job: Job) -> str:
        """Tell what keeps a job from going on; raise if it never will."""
        if self._broker.trouble:
            self._revive()
            return ""
        if self._key_watch:
            self._key_watch.confirm()
        queue = job.queue
        try:
            self._broker.knock()
            queued, slots = self._counts.of(queue, _ANSWER_SECONDS)
        except BrokerUnreachable:  # not now; if that lasts, the broker's trouble tells
            return ""
        if slots:
            return job.stall.check(queued, slots)
        return pools.call_for(self.settings, queue)

    def _revive(self) -> None:
        """See to it that a private node which is out of reach comes back.

        Raises
        ------
        NodeError
            If it doesn't.
        """
        if self._closed:
            raise BrokerUnreachable("This client was closed. Make a new one.")
        if not self.usable:
            if not self.settings.node:
                raise BrokerUnreachable("The connections to RabbitMQ were closed. Make a new client.")
            why = node.last_failure(self.settings.node)
            raise NodeError(
                f"The private RabbitMQ node has ended. {why or 'It was stopped.'} Run the cell again: that"
                " starts a new one."
            )
        if self.settings.node:
            node.revive(self.settings.node)

    def close(self) -> None:
        """Give up the connection; jobs go on without it."""
        if self._closed:
            return
        with self._lock:
            self._closed = True
        if self._roster:
            self._roster.close()
        if self._key_watch:
            self._key_watch.close()
        if hasattr(self, "_streams"):
            self._streams.close()
        if hasattr(self, "_broker"):
            self._broker.release()
        if self._presence:
            self._presence.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = "private node" if self.settings.node else "named broker"
        return f"<{type(self).__name__} of a {where}{', closed' if self._closed else ''}>"
