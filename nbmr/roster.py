"""The workers that live, on every host: asked for while somebody looks, and told by themselves."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from nbmr import message, topology, versions
from nbmr.broker import Broker, Consumer, Delivery
from nbmr.errors import BrokerError, ProtocolError
from nbmr.message import Message
from nbmr.signing import Signer

#: Seconds after which the workers are asked again while somebody looks, and after which nobody does.
ASK_SECONDS, USED_SECONDS = 5.0, 10.0
#: Seconds for which what a worker tells is good.
GOOD_SECONDS = 5.0
#: Seconds of silence after which no further worker is expected to answer.
QUIET_SECONDS = 0.3
#: Seconds without an answer after which who waits for one asks once more.
AGAIN_SECONDS = 0.5
#: Seconds after which what a worker told last is forgotten.
_FORGOTTEN_SECONDS = 60.0


@dataclass(frozen=True)
class SlotFacts:
    """What a slot of a worker is doing."""

    #: ``"idle"`` or ``"running"``.
    state: str
    #: Id and name of the task's job; empty if it has none.
    job: str = ""
    name: str = ""
    #: The task's number within its job, -1 for none, and which attempt at it this is.
    task: int = -1
    attempt: int = 0
    #: Seconds for which the task has run.
    seconds: float = 0.0
    #: Process id of the child that runs the tasks.
    pid: int = 0


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker told of itself."""

    #: ``host:pid``, as in jobs' logs.
    worker: str
    host: str
    #: Process id of its supervisor.
    pid: int
    #: The queue that it takes tasks from.
    queue: str
    #: Drawn at its start.
    id: str = field(repr=False)
    #: ``"here"``, or ``"ending"`` while it finishes its last tasks.
    state: str = "here"
    #: Bytes that its processes hold, and how many a task's process may hold (None for no limit).
    memory: int = 0
    memory_limit: int | None = None
    #: Percent of one core that its processes computed, over the last second or so.
    cpu: float = 0.0
    #: Its Python and packages, as `nbmr.versions.local_versions` gives them.
    versions: dict[str, str] = field(default_factory=dict, repr=False)
    #: When it started, in seconds since 1970, by its own clock.
    started: float = 0.0
    #: How many tasks it has done, and how many gave a failure.
    done: int = 0
    failed: int = 0
    slots: tuple[SlotFacts, ...] = ()
    #: Seconds by which its clock is ahead of ours, less the message's time on the way.
    ahead: float = field(default=0.0, compare=False)

    @property
    def mismatch(self) -> str:
        """Why it could not run this kernel's functions; empty if it can."""
        return versions.mismatch(versions.local_versions(), self.versions) or ""


@dataclass
class _Heard:
    """What was heard of a worker."""

    #: When: first since it was last looked for, and last.
    first: float
    last: float
    #: When it said that, by its own clock.
    said: float
    #: None if it is gone.
    facts: WorkerFacts | None

    @property
    def slots(self) -> int:
        """How many slots it has."""
        return len(self.facts.slots) if self.facts else 0

    def of(self, queue: str | None) -> bool:
        """Whether it takes tasks from that queue, or from any."""
        return queue is None or (self.facts is not None and self.facts.queue == queue)


class Roster:
    """Who works for a broker.

    Parameters
    ----------
    broker, signer
        Whose workers, and what signs the questions and verifies the answers.

    Examples
    --------
    >>> roster = Roster(broker, signer)  # doctest: +SKIP
    >>> [facts.worker for facts in roster.look()]  # doctest: +SKIP
    ['example:4711']
    """

    def __init__(self, broker: Broker, signer: Signer) -> None:
        self._broker, self._signer = broker, signer
        #: How many messages were not genuine, or made no sense.
        self.rejected = 0
        self._changed = threading.Condition()
        #: By the workers' ids.
        self._heard: dict[str, _Heard] = {}
        self._used = 0.0
        self._needed, self._closed = threading.Event(), threading.Event()
        self._asked: Future[bool] | None = None
        self._lost: BrokerError | None = None
        self._consumer = self._subscribe()
        threading.Thread(target=self._run, name="nbmr asks the workers", daemon=True).start()

    def facts(self) -> list[WorkerFacts]:
        """Return what the workers have told in the last seconds, sorted by queue, host and process.

        As long as this is called again and again, they are asked to tell more. It doesn't wait: at first
        nothing is known.
        """
        self._use()
        since = time.monotonic() - GOOD_SECONDS
        with self._changed:
            heard = [known.facts for known in self._heard.values() if known.facts and known.last >= since]
        return sorted(heard, key=lambda facts: (facts.queue, facts.host, facts.pid))

    def gone(self, worker: str) -> bool:
        """Whether the worker of that id has said that it ends."""
        with self._changed:
            known = self._heard.get(worker)
            return known is not None and known.facts is None

    def look(
        self, timeout: float = 1.5, expected: int | None = None, queue: str | None = None
    ) -> list[WorkerFacts]:
        """Ask the workers, and wait for their answers.

        Parameters
        ----------
        timeout
            Most seconds to wait.
        expected
            How many slots are to be heard of; None if that isn't known: then it is enough that nobody has
            answered anew for a moment.
        queue
            Whose workers; None for all.

        Returns
        -------
        list of WorkerFacts
            Those that have answered, as `facts` gives them.

        Raises
        ------
        BrokerError
            If RabbitMQ refuses to let the workers be asked.
        """
        deadline = time.monotonic() + timeout
        self._use()
        self._consumer.subscribed.wait(timeout)
        if self._lost:
            raise self._lost
        with self._changed:
            began = time.monotonic()
            for known in self._heard.values():
                known.first = 0.0
            asked = 0.0
            while True:
                new = [known for known in self._heard.values() if known.first >= began and known.of(queue)]
                now, until = time.monotonic(), deadline
                if expected is not None and sum(known.slots for known in new) >= expected:
                    break
                if expected is None and new:
                    until = min(until, max(known.first for known in new) + QUIET_SECONDS)
                if now >= until:
                    break
                if now - asked >= AGAIN_SECONDS and not self._broker.trouble:
                    self._ask(queue, wait=False)  # whatever became of a question before this one
                    asked = now
                self._changed.wait(min(until - now, AGAIN_SECONDS))
        return [facts for facts in self.facts() if queue is None or facts.queue == queue]

    def close(self) -> None:
        """Listen no more."""
        self._closed.set()
        self._needed.set()
        self._consumer.close()

    def _use(self) -> None:
        """Note that somebody looks."""
        if self._lost and not self._closed.is_set():  # perhaps RabbitMQ lets us now
            self._lost = None
            self._consumer = self._subscribe()
        self._used = time.monotonic()
        self._needed.set()

    def _subscribe(self) -> Consumer:
        viewer = topology.viewer(secrets.token_hex(8))
        return self._broker.consume(viewer, self._read, on_lost=self._on_lost)

    def _on_lost(self, error: BrokerError) -> None:
        self._lost = error

    def _run(self) -> None:
        while self._needed.wait() and not self._closed.is_set():
            self._needed.clear()
            while not self._closed.is_set() and time.monotonic() - self._used < USED_SECONDS:
                self._consumer.subscribed.wait(1.0)
                with self._changed:
                    self._ask(None)
                self._closed.wait(ASK_SECONDS)

    def _ask(self, queue: str | None, *, wait: bool = True) -> None:
        """Ask, unless RabbitMQ can't be asked, or has not taken the last question yet and is waited for."""
        under_way = wait and self._asked is not None and not self._asked.done()
        if under_way or not self._consumer.subscribed.is_set():  # there may be no exchange
            return
        body = message.seal(self._signer, "ask")
        with contextlib.suppress(BrokerError):
            key = topology.ask_key(queue)
            self._asked = self._broker.publish(topology.EVENTS_EXCHANGE, key, body, urgent=True)

    def _read(self, delivery: Delivery) -> None:
        try:
            entry = message.unseal(self._signer, delivery.body).expect("worker")
        except ProtocolError:
            self.rejected += 1
        else:
            with self._changed:
                self._note(entry)
                self._changed.notify_all()
        delivery.ack()

    def _note(self, entry: Message) -> None:
        now, fields = time.monotonic(), entry.fields
        known = self._heard.setdefault(fields["id"], _Heard(now, now, entry.time, None))
        if entry.time < known.said:  # an old message, sent again
            return
        known.first, known.last, known.said = known.first or now, now, entry.time
        ahead = entry.time - time.time()
        known.facts = None if fields["state"] == "gone" else _read_facts(fields, ahead)
        for worker in [id_ for id_, other in self._heard.items() if now - other.last > _FORGOTTEN_SECONDS]:
            del self._heard[worker]


def _read_facts(fields: dict[str, Any], ahead: float) -> WorkerFacts:
    slots = tuple(SlotFacts(**{name: slot[name] for name in _SLOT_FIELDS}) for slot in fields["slots"])
    return WorkerFacts(**{name: fields[name] for name in _WORKER_FIELDS}, slots=slots, ahead=ahead)


_SLOT_FIELDS = tuple(SlotFacts.__dataclass_fields__)
_WORKER_FIELDS = tuple(name for name in WorkerFacts.__dataclass_fields__ if name not in ("slots", "ahead"))
