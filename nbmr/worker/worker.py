"""The supervisor: owns the connection, its slots, and what it knows of jobs that are over."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import queue
import secrets
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbmr import compression, message, topology
from nbmr.broker import SETTLE_SECONDS, Broker, Delivery, connect
from nbmr.compression import Compressor
from nbmr.errors import BrokerError, BrokerUnreachable, ConfigError, ProtocolError, WorkerError
from nbmr.keycheck import check_key
from nbmr.message import Message
from nbmr.node import Presence, abandoned, living
from nbmr.signing import Signer
from nbmr.worker.blobs import Blobs
from nbmr.worker.inputs import Inputs
from nbmr.worker.janitor import Janitor
from nbmr.worker.rejects import Rejects
from nbmr.worker.results import Results
from nbmr.worker.slot import SUBSCRIBE_SECONDS, Slot
from nbmr.worker.teller import Teller

#: Jobs that a worker remembers as over, or as alive.
_REMEMBERED = 10_000
#: Seconds for which a job that was found alive is not looked for again.
_TRUSTED = 10.0
#: Seconds for which a worker waits for a private node whose keeper is dead.
_ABANDONED = 60.0
#: Seconds for which a worker that is to end waits for a broker that is out of reach, or takes nothing.
GIVE_UP_SECONDS = 30.0
#: Seconds between two looks for slots that get nothing although tasks wait: twice, and they are deaf.
DEAF_SECONDS = 10.0
#: Seconds that RabbitMQ has for an answer which is asked for again later.
ANSWER_SECONDS = 2.0
#: Seconds that a slot which was told to end at once has for it: a broker that is out of reach may hold it up.
KILL_SECONDS = 5.0

_log = logging.getLogger(__name__)


class SubscriptionLost(WorkerError):
    """RabbitMQ ended one of the worker's subscriptions; a new worker declares everything anew."""


@dataclass(frozen=True)
class Options:
    """What a worker is started with."""

    url: str
    key: str
    queue: str = "default"
    slots: int = 1
    #: Bytes that a task's process may hold; None for no limit.
    memory_limit: int | None = None
    #: Seconds without a task after which the worker ends; None to stay.
    max_idle: float | None = None
    #: Process id and start time of the kernel that wants this worker: while it lives, the worker stays.
    client: tuple[int, float] | None = None
    #: Data folder of the private node, if the broker is one.
    node: str = ""

    def __post_init__(self) -> None:
        topology.check_queue(self.queue)
        if self.slots < 1:
            raise ConfigError(f"slots={self.slots} has to be at least 1.")

    def __reduce__(self) -> str:
        raise TypeError("a signing key doesn't travel, nor does what holds it")

    def __repr__(self) -> str:
        return f"Options(queue={self.queue!r}, slots={self.slots})"


class Worker:
    """Connects, takes tasks from one queue, and answers into their jobs' logs.

    Parameters
    ----------
    options
        Where to connect and what to take.
    on_ready
        Called once, when every slot can take tasks.

    Raises
    ------
    BrokerError
        If the broker can't be reached, or its key is another one.
    """

    def __init__(self, options: Options, on_ready: Callable[[], None] = lambda: None) -> None:
        self.queue, self.memory_limit = options.queue, options.memory_limit
        self.signer = Signer(options.key)
        #: Drawn anew for each worker: process ids come again.
        self.id, self.pid = secrets.token_hex(8), os.getpid()
        self.identity: dict[str, Any] = {
            "host": platform.node(),
            "worker": f"{platform.node()}:{os.getpid()}",
        }
        self._options, self._on_ready = options, on_ready
        #: When it last looked for slots that get nothing, by the monotonic clock, and whether tasks waited.
        self._looked, self._waited = time.monotonic(), False
        #: Jobs and tasks that are over; a job as a whole has task -1.
        self._over: OrderedDict[tuple[str, int], None] = OrderedDict()
        #: When jobs' logs were found to be there, by the monotonic clock.
        self._alive: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()
        #: Woken by `stop`; a queue, since a signal handler may put into it, whatever it has interrupted.
        self._orders: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = False
        self._killed = False
        self._failure: WorkerError | None = None
        self._at_work = 0
        self._last_work = time.monotonic()
        self._presence = Presence(Path(options.node), "jobs") if options.node else None
        self._abandoned_since: float | None = None
        self.broker: Broker = connect(options.url, self._hopes)
        if not options.node:
            check_key(self.broker, self.signer)
        #: Messages that are not genuine.
        self.rejects = Rejects(self.broker, self.signer, None if options.node else self.fail)
        self.blobs = Blobs(self.broker, self.signer, self.rejects.note)
        self.results = Results(self.broker, self.signer, self.rejects.note)
        self.inputs = Inputs(self.broker, self.signer)
        self._compressor: Compressor | None = None
        mode = "none" if options.node else compression.mode()
        if mode == "zstd" or (mode == "auto" and not self.broker.is_local):
            self._compressor = Compressor(always=mode == "zstd", rate=lambda: self.broker.rate)
        self._janitor = Janitor(self.broker, self.signer, options.node, self.blobs.keep_of)
        self.slots = [Slot(self, number) for number in range(options.slots)]
        self._teller = Teller(self)

    def run(self) -> None:
        """Work until `stop` is called, or for long enough without a task.

        Raises
        ------
        WorkerError
            If its child processes can't be started, or RabbitMQ ended one of its subscriptions.
        """
        tasks, dead = topology.task_queue(self.queue), topology.dead_queue(self.queue)
        control = topology.control_stream()
        self.broker.declare(tasks, dead, control)
        self._read_control(control)
        self._janitor.start()
        self._dead = self.broker.consume(dead, self._on_dead, prefetch=1, on_lost=self.lose)
        try:
            self._teller.start()
            for slot in self.slots:
                slot.start()
            for slot in self.slots:
                while not slot.ready.wait(0.2) and not self._stopping:
                    pass
            self._teller.listening.wait(SUBSCRIBE_SECONDS)
            if not self._stopping:
                self._on_ready()
            settled = time.monotonic() + SETTLE_SECONDS
            while not self._stopping:
                with contextlib.suppress(queue.Empty):
                    self._orders.get(timeout=1.0)
                if time.monotonic() > settled and not self.broker.trouble:
                    with contextlib.suppress(BrokerUnreachable):  # just now: then once it is back
                        self.broker.settle(tasks, dead, control, timeout=ANSWER_SECONDS)
                self._renew_deaf()
                if self.broker.closed:
                    self._failure = WorkerError(f"RabbitMQ is gone. {self.broker.reason}".strip())
                    break
                if self._idle_for_long():
                    _log.warning("no task for %g s: this worker ends", self._options.max_idle)
                    break
        finally:
            self._drain()
        if self._failure:
            raise self._failure

    def _hopes(self) -> bool:
        """Whether a broker that is out of reach may come back; asked each time that it was not reached."""
        node = self._options.node
        if not node:
            return True
        if not abandoned(node):
            self._abandoned_since = None
            return Path(node).exists()
        # clients bring it back as long as there are any
        self._abandoned_since = self._abandoned_since or time.monotonic()
        return time.monotonic() - self._abandoned_since < _ABANDONED

    def _renew_deaf(self) -> None:
        """Have slots subscribe anew that get nothing although tasks wait; looks for that now and then.

        Where a server of a cluster dies, RabbitMQ can go on to count a subscription that it sends nothing to.
        """
        now = time.monotonic()
        if self.broker.trouble:
            self._looked, self._waited = now, False
        if now - self._looked < DEAF_SECONDS:
            return
        since, self._looked = now - self._looked, now
        deaf = [slot for slot in self.slots if slot.idle_seconds() > since]
        waiting = 0
        if deaf:
            with contextlib.suppress(BrokerError):  # out of reach, or the queue is: its consumers will tell
                waiting, _ = self.broker.count(topology.task_queue(self.queue), ANSWER_SECONDS)
        if waiting and self._waited:
            _log.warning("%d tasks wait, and %d slots get none: they subscribe anew", waiting, len(deaf))
            for slot in deaf:
                slot.renew()
        self._waited = waiting > 0

    def _idle_for_long(self) -> bool:
        longest, client = self._options.max_idle, self._options.client
        if longest is None or self._at_work or time.monotonic() - self._last_work <= longest:
            return False
        return client is None or living(*client) is None

    def stop(self, *, now: bool = False) -> None:
        """Finish running tasks, then end; or end at once. Safe in a signal handler."""
        self._killed = self._killed or now
        self._stopping = True
        self._orders.put(None)

    @property
    def ending(self) -> bool:
        """Whether it takes no more tasks."""
        return self._stopping

    def handle_signals(self) -> None:
        """Drain on SIGTERM and Ctrl-C; end at once on the second one."""

        def on_signal(_number: int, _frame: object) -> None:
            self.stop(now=self._stopping)

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)

    def fail(self, why: str) -> None:
        """End, since something is wrong that retrying won't mend."""
        self._failure = WorkerError(why)
        self.stop()

    def lose(self, error: BrokerError) -> None:
        """End after the running tasks, since RabbitMQ ended a subscription; the pool starts another one."""
        self._failure = SubscriptionLost(f"RabbitMQ ended a subscription: {error}")
        self.stop()

    def _drain(self) -> None:
        self._stopping = True
        self._teller.again()
        for slot in self.slots:
            slot.drain()
        troubled_since = None
        while alive := [slot for slot in self.slots if slot.is_alive()]:
            now = time.monotonic()
            troubled_since = (troubled_since or now) if self.broker.trouble else None
            if troubled_since and now - troubled_since > GIVE_UP_SECONDS:
                _log.warning("RabbitMQ takes no results (%s): this worker ends", self.broker.trouble)
                self._killed = True
            if self._killed:
                for slot in alive:
                    slot.kill()
                for slot in alive:
                    slot.join(max(0.0, now + KILL_SECONDS - time.monotonic()))
                break
            alive[0].join(0.1)
        self._janitor.stop()
        self._teller.stop()
        self._dead.close()
        self.rejects.close()
        self.broker.release()
        if self._presence:
            self._presence.release()

    # ---------------------------------------------------------------- jobs that are over

    def _read_control(self, control: topology.Queue) -> None:
        """Follow cancellations, those included that were made before this worker came."""
        self.broker.consume(control, self._on_control, offset="first", on_lost=self.lose)

    def _on_control(self, delivery: Delivery) -> None:
        try:
            order = message.unseal(self.signer, delivery.body).expect("cancel")
        except ProtocolError as exc:
            self.rejects.note(exc)
        else:
            self.forget(order.job, order.task)
        delivery.ack()

    def forget(self, job: str, task: int = -1) -> None:
        """Drop a job's tasks from now on, or one of them, and end those that run."""
        with self._lock:
            self._over[job, task] = None
            if len(self._over) > _REMEMBERED:
                self._over.popitem(last=False)
        for slot in self.slots:
            slot.cancel(job)

    def forget_everywhere(self, task: Message) -> None:
        """Have every worker drop a task that has its outcome and is delivered again."""
        self.forget(task.job, task.task)
        body = message.seal_raw(self.signer, "cancel", job=task.job, task=task.task)
        self.broker.append(topology.control_stream(), body, urgent=True)

    def wanted(self, task: Message, *, look: bool = False) -> bool:
        """Whether a task's result is still wanted: it wasn't cancelled, and its job's log is there."""
        job, log = task.job, topology.job_log(task.job)
        with self._lock:
            if (job, -1) in self._over or (job, task.task) in self._over:
                return False
            known = self._alive.get(log.name, 0.0)
            if known and (not look or time.monotonic() - known < _TRUSTED):
                return True
        if not self.broker.exists(log):
            self.forget(job)
            return False
        with self._lock:
            self._alive[log.name] = time.monotonic()
            if len(self._alive) > _REMEMBERED:
                self._alive.popitem(last=False)
        return True

    def compressor(self, task: Message) -> Compressor | None:
        """Return what compresses the results of a task; None if they travel as they are."""
        return self._compressor if "zstandard" in task.fields["versions"] else None

    def log(self, task: Message, kind: str, **fields: Any) -> None:
        """Note something about a task in its job's log; not worth waiting for."""
        body = message.seal_raw(self.signer, kind, job=task.job, task=task.task, **fields)
        self.broker.append(topology.job_log(task.job), body, urgent=True)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Note that a task runs, so that neither this worker nor the private node ends meanwhile."""
        with self._lock:
            self._at_work += 1
            if self._presence and self._at_work == 1:
                self._presence.hold()
        try:
            yield
        finally:
            with self._lock:
                self._at_work -= 1
                self._last_work = time.monotonic()
                if self._presence and not self._at_work:
                    self._presence.release()

    def task(self, delivery: Delivery) -> Message:
        """Open a task.

        Raises
        ------
        ProtocolError
            If it isn't genuine, not for this worker, or makes no sense.
        """
        return message.unseal(self.signer, delivery.body).expect("task", queue=self.queue)

    # ---------------------------------------------------------------- tasks that were given back too often

    def _on_dead(self, delivery: Delivery) -> None:
        """Note in its job's log that a task was given back too often."""
        try:
            task = self.task(delivery)
        except ProtocolError as exc:
            self.rejects.drop(delivery, exc)
            return
        why = {
            "reason": "lost",
            "summary": (
                f"{topology.ATTEMPTS} workers took it and never answered:"
                " they were killed, or lost their connection to RabbitMQ"
            ),
            "attempts": topology.ATTEMPTS,
        }
        fields: dict[str, Any] = self.identity | {
            "start": task.fields["start"],
            "count": task.fields["count"],
            "all_failed": why,
            "given_back_too_often": True,
            "input": self.inputs.log(task, urgent=True),  # this is an I/O thread, which must not wait
            "rows": task.fields["rows"],
            "run": "",
            "pid": 0,
        }
        body = message.seal_raw(self.signer, "result", job=task.job, task=task.task, **fields)
        stored = self.broker.append(topology.job_log(task.job), body, urgent=True)
        stored.add_done_callback(
            lambda future: delivery.give_back() if future.exception() else delivery.ack()
        )
