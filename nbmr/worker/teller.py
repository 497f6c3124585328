"""Tells viewers of this worker: what it does, and what it takes. Where nobody looks, nothing is sent.

Nothing of it is worth waiting for: what can't be sent at once, since RabbitMQ is out of reach or takes
nothing, is left out, and the worker goes on without.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

from nbmr import message, topology, versions
from nbmr.broker import Delivery
from nbmr.errors import BrokerError, ProtocolError
from nbmr.worker.usage import Usage

if TYPE_CHECKING:
    from nbmr.worker.worker import Worker

#: Seconds for which a worker tells of itself after it was asked, and how often. Viewers ask in between.
TELL_SECONDS, TELL_EVERY = 10.0, 1.0
#: Fewest seconds between two times, however often it is asked.
LEAST_SECONDS = 0.1
#: Age in seconds of a measurement from which on it says nothing of the processor time that is taken now.
STALE_SECONDS = 3.0

_log = logging.getLogger(__name__)


class Teller(threading.Thread):
    """A thread that answers those who look at the workers.

    Parameters
    ----------
    worker
        Whom to tell of.
    """

    def __init__(self, worker: Worker) -> None:
        super().__init__(name="tells of the worker", daemon=True)
        self._worker = worker
        self._asked, self._ended = threading.Event(), threading.Event()
        self._until = 0.0
        self._born = time.time()
        self._usage = Usage()
        self._taken = (0, 0.0)
        #: What was sent last.
        self._sent: Future[bool] | None = None

    def start(self) -> None:
        """Listen to viewers."""
        worker = self._worker
        self._inbox = worker.broker.consume(
            topology.inbox(worker.id, worker.queue), self._on_ask, on_lost=self._on_lost
        )
        super().start()

    @property
    def listening(self) -> threading.Event:
        """Set while it can be asked."""
        return self._inbox.subscribed

    def stop(self) -> None:
        """Tell whoever looks that the worker is gone."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._asked.set()
        if self.ident is None:  # never started
            return
        self.join()
        self._tell("gone")
        self._inbox.close()

    def again(self) -> None:
        """Tell at once that something has changed, if somebody looks. Safe in any thread."""
        if self._looked_at:
            self._asked.set()

    def run(self) -> None:
        """Tell when asked, and for a while after that."""
        while self._asked.wait() and not self._ended.is_set():
            self._asked.clear()
            try:
                self._measure()
                self._tell("ending" if self._worker.ending else "here")
                while not self._asked.wait(TELL_EVERY) and self._looked_at:
                    self._measure()
                    self._tell("ending" if self._worker.ending else "here")
            except Exception:  # noqa: BLE001 - a worker works, whatever there is to tell of it
                _log.exception("this worker can't tell of itself")
            self._ended.wait(LEAST_SECONDS)

    @property
    def _looked_at(self) -> bool:
        return time.monotonic() < self._until

    def _measure(self) -> None:
        if self._usage.age > STALE_SECONDS:
            self._usage.measure()
            self._ended.wait(LEAST_SECONDS)
        self._taken = self._usage.measure()

    def _on_ask(self, delivery: Delivery) -> None:
        worker = self._worker
        try:
            message.unseal(worker.signer, delivery.body).expect("ask")
        except ProtocolError as exc:
            worker.rejects.note(exc)
        else:
            self._until = time.monotonic() + TELL_SECONDS
            self._asked.set()
        delivery.ack()

    def _on_lost(self, error: BrokerError) -> None:
        _log.warning("viewers can't ask this worker any more: %s", error)

    def _tell(self, state: str) -> None:
        worker = self._worker
        under_way = self._sent is not None and not self._sent.done()
        if (
            not self._looked_at or under_way or not self._inbox.subscribed.is_set()
        ):  # the exchange may be gone
            return
        memory, cpu = self._taken
        body = message.seal_raw(
            worker.signer,
            "worker",
            id=worker.id,
            state=state,
            **worker.identity | {"pid": worker.pid},
            queue=worker.queue,
            memory=memory,
            memory_limit=worker.memory_limit,
            cpu=round(cpu, 1),
            versions=versions.local_versions(),
            started=self._born,
            done=sum(slot.done for slot in worker.slots),
            failed=sum(slot.failed for slot in worker.slots),
            slots=[slot.facts() for slot in worker.slots],
        )
        with contextlib.suppress(BrokerError):
            key = topology.tell_key(worker.queue)
            self._sent = worker.broker.publish(topology.EVENTS_EXCHANGE, key, body, urgent=True)
