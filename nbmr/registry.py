"""The registry: which jobs there are on a broker, for every kernel and worker to know.

It is a stream, and a `Registry` is a fold over it. A job is registered before anything of it is made on the
broker, so whoever dies when, what the job left there can be found, attached to, and deleted when its time to
live is over.
"""

from __future__ import annotations

import functools
import os
import platform
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self

from nbmr import message, topology
from nbmr.broker import Broker, Delivery
from nbmr.errors import BrokerError, BrokerUnreachable, ProtocolError
from nbmr.message import Message
from nbmr.node import living, start_time
from nbmr.signing import Signer

#: Seconds that the registry may take to be read.
READ_SECONDS = 30.0


@dataclass
class Entry:
    """A job as it was registered."""

    job: str
    name: str
    queue: str
    #: When, in seconds since 1970.
    submitted: float
    #: Seconds without a sign of life after which it is deleted.
    ttl: float
    #: Host name, process id and start time of the kernel that sends it.
    host: str
    pid: int
    started: float
    #: Names of the blobs that were made for it.
    blobs: list[str] = field(default_factory=list)
    #: The folder of its payloads in shared memory; empty if it has none.
    shared: str = ""
    #: Whether there is no such job yet, but a stream for its log.
    spare: bool = False
    #: The id of a job that is forgotten since this one is there; empty for none.
    replaces: str = ""
    #: Where its registration stands in the stream.
    offset: int = 0

    def streams(self) -> list[topology.Queue]:
        """Return all that the job may have on the broker."""
        return [topology.job_log(self.job), *(topology.blob(self.job, name) for name in self.blobs)]

    def sender_lives(self) -> bool | None:
        """Whether the kernel that sends the job still runs; None if that was another host."""
        if self.host != platform.node():
            return None
        return living(self.pid, self.started) is not None


class Registry:
    """The jobs that are registered on a broker and not forgotten; follows the stream until closed.

    Parameters
    ----------
    broker, signer
        Where it is, and what verifies it.
    """

    def __init__(self, broker: Broker, signer: Signer) -> None:
        self._broker, self._signer = broker, signer
        self._entries: dict[str, Entry] = {}
        self._marks: set[str] = set()
        self._changed = threading.Condition()
        #: How many messages were not genuine.
        self.rejected = 0
        #: Where the stream ends, as far as it was read.
        self.offset = 0
        #: Why it can't be followed any more, if somebody deleted it, say.
        self.lost: BrokerError | None = None
        stream = topology.jobs_stream()
        if not broker.exists(stream):
            broker.declare(stream)
        self._consumer = broker.consume(stream, self._read, offset="first", on_lost=self._on_lost)

    def entries(self) -> dict[str, Entry]:
        """Return all that is registered now, by job, oldest first."""
        with self._changed:
            return dict(self._entries)

    def jobs(self) -> dict[str, Entry]:
        """Return the jobs that are known now, by id, oldest first."""
        return {job: entry for job, entry in self.entries().items() if not entry.spare}

    def catch_up(self, timeout: float = READ_SECONDS) -> Self:
        """Wait until everything is read that was registered before now.

        Raises
        ------
        BrokerUnreachable
            If that takes longer than `timeout` seconds.
        BrokerError
            If the registry can't be followed any more.
        """
        mark = secrets.token_hex(8)
        append(self._broker, self._signer, "mark", mark=mark)
        with self._changed:
            caught_up = self._changed.wait_for(lambda: mark in self._marks or self.lost, timeout)
            if self.lost:
                raise self.lost
            if not caught_up:
                raise BrokerUnreachable(
                    f"The list of jobs wasn't read within {timeout:g} s. {self._broker.trouble}".rstrip()
                )
            self._marks.discard(mark)
        return self

    def close(self) -> None:
        """Follow it no longer."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, delivery: Delivery) -> None:
        try:
            entry = message.unseal(self._signer, delivery.body).expect(
                "job", "made", "unwanted", "forgotten", "mark"
            )
        except ProtocolError:
            self.rejected += 1
        else:
            with self._changed:
                self.offset = delivery.offset
                self._take(entry, delivery.offset)
                self._changed.notify_all()
        delivery.ack()

    def _on_lost(self, error: BrokerError) -> None:
        with self._changed:
            self.lost = error
            self._changed.notify_all()

    def _take(self, entry: Message, offset: int) -> None:
        fields = entry.fields
        match entry.kind:
            case "job":
                self._entries[entry.job] = Entry(
                    entry.job, fields["name"], fields["queue"], fields["submitted"], fields["ttl"],
                    fields["host"], fields["pid"], fields["started"], list(fields["blobs"]),
                    fields.get("shared", ""), fields.get("spare", False), fields.get("replaces", ""), offset,
                )  # fmt: skip
                self._entries.pop(self._entries[entry.job].replaces, None)
            case "made" if entry.job in self._entries:
                self._entries[entry.job].blobs.append(fields["name"])
            case "unwanted" if entry.job in self._entries:
                self._entries[entry.job].ttl = 0.0
            case "forgotten":
                self._entries.pop(entry.job, None)
            case "mark":
                self._marks.add(fields["mark"])


def registration(job: str, name: str, queue: str, ttl: float, **more: Any) -> Entry:
    """Return the entry of a job that this process is about to send."""
    pid = os.getpid()
    return Entry(job, name, queue, time.time(), ttl, platform.node(), pid, _started(pid), **more)


@functools.cache
def _started(pid: int) -> float:
    return start_time(pid)


def register(broker: Broker, signer: Signer, entry: Entry) -> Any:
    """Register a job, or once more before its first registration goes; done when the future is."""
    fields = {name: value for name, value in vars(entry).items() if name not in {"job", "offset"}}
    return append(broker, signer, "job", job=entry.job, **fields)


def append(broker: Broker, signer: Signer, kind: str, **fields: Any) -> Any:
    """Append a message to the registry; done when the future is."""
    return broker.append(topology.jobs_stream(), message.seal(signer, kind, **fields), urgent=True)
