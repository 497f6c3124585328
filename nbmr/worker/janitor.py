"""Deletes jobs whose time to live is over: finished ones that nobody forgot, and abandoned ones.

Every worker has a janitor, so it doesn't matter which of them lives. Deleting twice does no harm.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Container
from pathlib import Path

from nbmr import message, registry, shared, topology
from nbmr.broker import Broker, Delivery
from nbmr.errors import BrokerError, ProtocolError
from nbmr.node import Presence
from nbmr.registry import Entry, Registry
from nbmr.signing import Signer

#: Seconds between two looks at the registry; less if a job is due before.
_LOOK_SECONDS, _LEAST_SECONDS = 5.0, 0.5
#: Seconds that a job's last entry may take to come, and to be followed by others.
_FIRST, _QUIET = 2.0, 0.2
#: Entries of the registry after which a job that is still there is registered again, lest it be trimmed.
_FRESH = 4_000

_log = logging.getLogger(__name__)


class Janitor(threading.Thread):
    """A thread that looks after the registry.

    Parameters
    ----------
    broker, signer
        Where the registry is, and what verifies it.
    node
        Data folder of the private node, if the broker is one: it must not end while there are jobs.
    on_jobs
        Told, now and then, of all jobs that are there.
    """

    def __init__(
        self,
        broker: Broker,
        signer: Signer,
        node: str = "",
        on_jobs: Callable[[Container[str]], None] = lambda _jobs: None,
    ) -> None:
        super().__init__(name="janitor", daemon=True)
        self._broker, self._signer, self._node, self._on_jobs = broker, signer, node, on_jobs
        self._presence = Presence(Path(node), "jobs") if node else None
        #: When a job is to be looked at again; seconds since 1970.
        self._due: dict[str, float] = {}
        #: When jobs were seen first that came while we looked, by our monotonic clock.
        self._came: dict[str, float] = {}
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End soon."""
        self._stopped.set()

    def run(self) -> None:
        """Look again and again, and begin anew where RabbitMQ doesn't let us."""
        try:
            while not self._stopped.is_set() and not self._broker.closed:
                try:
                    with Registry(self._broker, self._signer) as known:
                        self._follow(known)
                except BrokerError as exc:
                    _log.warning("old jobs can't be looked for: %s", exc)
                    self._stopped.wait(_LOOK_SECONDS)
        finally:
            if self._presence:
                self._presence.release()

    def _follow(self, known: Registry) -> None:
        old = set(known.catch_up().entries()) - self._came.keys()
        pause = _LEAST_SECONDS
        while not self._stopped.wait(pause) and not self._broker.closed and not known.lost:
            shared.sweep(self._node)
            if not self._broker.trouble:
                self._sweep(known, old)
            soonest = min((self._due_time(entry) for entry in known.entries().values()), default=0.0)
            pause = min(max(soonest - time.time(), _LEAST_SECONDS), _LOOK_SECONDS)

    def _due_time(self, entry: Entry) -> float:
        # one without any time is unwanted, whenever it was looked at
        return self._due.get(entry.job, entry.submitted + entry.ttl) if entry.ttl else 0.0

    def _sweep(self, known: Registry, old: set[str]) -> None:
        entries, now = known.entries(), time.monotonic()
        self._came = {job: self._came.get(job, now) for job in entries.keys() - old}
        if self._presence:
            self._presence.hold() if entries else self._presence.release()
        self._on_jobs(entries)
        for entry in entries.values():
            # a clock that is wrong, ours or the sender's, makes no old job of a new one
            young = now - self._came.get(entry.job, -math.inf) < entry.ttl
            if time.time() >= self._due_time(entry) and not young:
                self._look_at(entry)
            if known.offset - entry.offset > _FRESH:
                registry.register(self._broker, self._signer, entry)
        self._due = {job: due for job, due in self._due.items() if job in entries}

    def _look_at(self, entry: Entry) -> None:
        """Delete a job, if nothing was heard of it for as long as its time to live."""
        heard = last_heard(self._broker, self._signer, entry.job)
        if max(heard, entry.submitted) + entry.ttl > time.time():
            self._due[entry.job] = heard + entry.ttl
            return
        if not self._broker.delete(*entry.streams()):
            return  # at the next look
        shared.remove_folder(entry.shared)
        registry.append(self._broker, self._signer, "forgotten", job=entry.job)
        _log.warning(
            "job %s (%s) was deleted: nobody wants it, or its time to live is over", entry.job, entry.name
        )


def last_heard(broker: Broker, signer: Signer, job: str) -> float:
    """Return when a job's log was last written to, in seconds since 1970; 0 if there is nothing."""
    log = topology.job_log(job)
    if not broker.exists(log):
        return 0.0
    seen: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    consumer = broker.consume(log, seen.put, offset="last")
    heard = 0.0
    try:
        with contextlib.suppress(queue.Empty):
            delivery = seen.get(timeout=_FIRST)
            while True:
                delivery.ack()
                with contextlib.suppress(ProtocolError):
                    heard = max(heard, message.unseal(signer, delivery.body).time)
                delivery = seen.get(timeout=_QUIET)
    finally:
        consumer.close()
    return heard
