"""A job as its log tells it.

A `JobLog` is a fold over the messages of the job's stream: whoever reads the stream from its beginning, in
this kernel or another, comes to the same state. Results are told apart by task number, so a task that was
delivered twice counts once.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from typing import Any

from nbmr import codec, message, schema, tracebacks
from nbmr.broker import Delivery
from nbmr.errors import Failure, ProtocolError
from nbmr.message import Message
from nbmr.signing import Signer


class Status(StrEnum):
    """The state of a job."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Progress:
    """How far a job is. Counts are of units: partitions of a frame, or items of a list."""

    done: int
    failed: int
    running: int
    #: How many there are; None while an iterable is still being read.
    total: int | None
    #: Seconds since the job was submitted, until it ended.
    seconds: float
    #: Bytes of encoded results received so far.
    bytes_received: int
    #: Names of the workers that have answered or taken a task.
    workers: frozenset[str]

    @property
    def rate(self) -> float:
        """Units done per second."""
        return (self.done + self.failed) / self.seconds if self.seconds else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated time to the end; None while nothing can be said."""
        finished = self.done + self.failed
        if self.total is None or not finished or not self.rate:
            return None
        return (self.total - finished) / self.rate


@dataclass
class Outcome:
    """What a task gave: encoded values, and failures by their place in the task."""

    start: int
    count: int
    payload: memoryview | None
    layout: list[tuple[int, int]]
    failures: dict[int, dict[str, Any]]
    writable: bool = False

    def values(self, *, writable: bool = False) -> list[Any]:
        """Decode the values; those of failed units are None.

        Parameters
        ----------
        writable
            Whether arrays must be writable, which may cost a copy.
        """
        if self.payload is None:
            return [None] * self.count
        payload = self.payload
        if writable and not self.writable:
            payload = memoryview(bytearray(payload))
        values: list[Any] = codec.decode(codec.slices(payload, self.layout))
        return values


@dataclass
class JobLog:
    """The state of one job, folded from its log.

    Parameters
    ----------
    job
        Its id.
    signer
        What verifies the log's messages.
    """

    job: str
    signer: Signer = field(repr=False)
    changed: threading.Condition = field(default_factory=threading.Condition, repr=False)
    status: Status = Status.PENDING
    #: What the log's first message says: name, queue, and how to gather.
    about: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict, repr=False)
    total: int | None = None
    sealed: bool = False
    done: int = 0
    failed: int = 0
    bytes_received: int = 0
    rejected: int = 0
    started_at: float = field(default_factory=time.monotonic)
    ended_at: float | None = None
    #: Called without the lock, once, when the job has come to its end.
    on_end: Callable[[Status], None] = field(default=lambda _status: None, repr=False)
    _tasks: int | None = None
    _running: dict[int, str] = field(default_factory=dict, repr=False)
    _workers: set[str] = field(default_factory=set, repr=False)
    #: Large results on their way, by their run: what has come of them, in order.
    _chunks: dict[str, bytearray] = field(default_factory=dict, repr=False)
    _failed: list[tuple[int, dict[str, Any], dict[str, Any], list[str]]] = field(
        default_factory=list, repr=False
    )
    _failures: list[Failure] = field(default_factory=list, repr=False)
    _decoding: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _work_seconds: float = 0.0
    _deaths: dict[int, list[str]] = field(default_factory=dict, repr=False)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status in (Status.DONE, Status.FAILED, Status.CANCELLED)

    @property
    def complete(self) -> bool:
        """Whether every task was sent and has an outcome, so that no worker is at it any more."""
        return self.sealed and self._tasks is not None and len(self.outcomes) >= self._tasks

    @property
    def astray(self) -> int:
        """How many tasks were sent and are neither running nor answered: queued, it is to be hoped."""
        with self.changed:
            if self._tasks is None or self.ended:
                return 0
            return self._tasks - len(self.outcomes.keys() | self._running.keys())

    def progress(self) -> Progress:
        """Return how far it is."""
        with self.changed:
            end = self.ended_at or time.monotonic()
            return Progress(
                self.done,
                self.failed,
                len(self._running),
                self.total,
                end - self.started_at,
                self.bytes_received,
                frozenset(self._workers),
            )

    def failures(self) -> list[Failure]:
        """Return what failed so far, in the order of arrival."""
        # decoded here and not in the I/O thread: unpickling an exception may import the user's modules
        with self._decoding:
            self._failures += [_failure(*args) for args in self._failed[len(self._failures) :]]
            return list(self._failures)

    def end(self, status: Status) -> bool:
        """Come to an end, if it hasn't yet; return whether this call did it."""
        with self.changed:
            if self.ended:
                return False
            self.status = status
            self.ended_at = time.monotonic()
            self._running.clear()
            self._chunks.clear()
            self.changed.notify_all()
        self.on_end(status)
        return True

    def read(self, delivery: Delivery) -> None:
        """Take one message of the log; what is not genuine is counted, and otherwise ignored."""
        try:
            entry = message.unseal(self.signer, delivery.body).expect(
                "opened", "started", "result", "chunk", "died", "sealed", job=self.job
            )
        except ProtocolError:
            with self.changed:
                self.rejected += 1
            return
        if self.ended:
            return
        with self.changed:
            try:
                getattr(self, f"_on_{entry.kind}")(entry)
            except (ProtocolError, KeyError, ValueError, TypeError):  # signed, but of another version of nbmr
                self.rejected += 1
            status = self._ending()
            self.changed.notify_all()
        if status:
            self.end(status)

    def _ending(self) -> Status | None:
        if self.failed and self.about.get("on_error", "raise") == "raise":
            return Status.FAILED
        if self.complete:
            return Status.FAILED if self.failed else Status.DONE
        return None

    def _on_opened(self, entry: Message) -> None:
        self.about = entry.fields
        if not self.sealed:
            self.total = entry.fields["units"]

    def _on_sealed(self, entry: Message) -> None:
        self.sealed, self._tasks, self.total = True, entry.fields["tasks"], entry.fields["units"]

    def _on_started(self, entry: Message) -> None:
        self._workers.add(entry.fields["worker"])
        if entry.task not in self.outcomes:
            self.status = Status.RUNNING
            self._running[entry.task] = entry.fields["worker"]

    def _on_died(self, entry: Message) -> None:
        self._running.pop(entry.task, None)
        fields = entry.fields
        story = f"attempt {fields['attempt']}: {fields['cause']}, on {fields['host']} (pid {fields['pid']})"
        stories = self._deaths.setdefault(entry.task, [])
        if story not in stories:  # else: sent twice
            stories.append(story)

    def _on_chunk(self, entry: Message) -> None:
        if entry.task in self.outcomes:
            return
        # grows with what has come, and not by what the chunk says of its result's length
        body = self._chunks.setdefault(entry.fields["run"], bytearray())
        if entry.fields["offset"] == len(body):  # else: sent twice
            body += entry.payload
            self.bytes_received += len(entry.payload)

    def _on_result(self, entry: Message) -> None:
        fields = entry.fields
        self._workers.add(fields["worker"])
        self._running.pop(entry.task, None)
        chunks = self._chunks.pop(fields["run"], None)
        if entry.task in self.outcomes:
            return
        payload = entry.payload if fields.get("layout") else None
        writable = False
        if "chunked" in fields:
            if chunks is None or len(chunks) != fields["chunked"]:
                self.rejected += 1  # its chunks are not all there; it will come again
                return
            payload, writable = memoryview(chunks), True
        else:
            self.bytes_received += len(entry.payload)
        layout = fields.get("layout", [])
        _check_layout(payload, layout)
        failed = list(fields.get("failures", ()))
        if "all_failed" in fields:
            failed = [fields["all_failed"] | {"unit": unit} for unit in range(fields["count"])]
        if fields.get("failures_encoded") and payload is not None:
            failed += _decode_failures(payload, layout[-1:])
            layout = layout[:-1]
        if any(failure["unit"] >= fields["count"] for failure in failed):
            raise ProtocolError("a failure of a unit that its task doesn't have")
        failures = {failure["unit"]: failure for failure in failed}
        self.outcomes[entry.task] = Outcome(
            fields["start"], fields["count"], payload, layout, failures, writable
        )
        self.done += fields["count"] - len(failures)
        self.failed += len(failures)
        self._work_seconds += fields.get("seconds", 0.0)
        deaths = self._deaths.get(entry.task, [])
        for unit, failure in failures.items():
            self._failed.append((fields["start"] + unit, failure, fields, deaths))

    def seconds_per_unit(self) -> float | None:
        """Return how long a unit takes a worker on average; None before the first result."""
        with self.changed:
            finished = self.done + self.failed
            return self._work_seconds / finished if finished else None

    def arrived(self, after: int) -> list[Outcome]:
        """Return the outcomes that came since the first `after` ones."""
        with self.changed:
            return list(islice(self.outcomes.values(), after, None))


def _check_layout(payload: memoryview | None, layout: list[tuple[int, int]]) -> None:
    try:
        codec.slices(payload or memoryview(b""), layout)
    except ValueError as exc:
        raise ProtocolError(f"a result that isn't laid out as it says: {exc}") from exc


def _decode_failures(payload: memoryview, place: list[tuple[int, int]]) -> list[dict[str, Any]]:
    try:
        failures: list[dict[str, Any]] = json.loads(bytes(codec.slices(payload, place)[0]))
    except (ValueError, RecursionError, IndexError) as exc:
        raise ProtocolError("failures that can't be read") from exc
    if not isinstance(failures, list) or not all(map(schema.failure, failures)):
        raise ProtocolError("failures that make no sense")
    return failures


def _failure(number: int, failure: dict[str, Any], fields: dict[str, Any], deaths: list[str]) -> Failure:
    encoded = failure.get("exception")
    return Failure(
        reason=failure["reason"],
        partition=number,
        summary=failure["summary"],
        traceback=failure.get("traceback", "") or "\n".join(deaths),
        rows=tuple(fields.get("rows", ())),
        host=fields["host"],
        pid=fields["pid"],
        attempts=max(failure["attempts"], fields.get("attempt", 1)),
        output=failure.get("output", fields.get("output", "")),
        exception=tracebacks.decode_exception(base64.b64decode(encoded)) if encoded else None,
    )
