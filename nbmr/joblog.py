"""A job as its log tells it.

A `JobLog` is a fold over the messages of the job's stream: whoever reads the stream from its beginning, in
this kernel or another, comes to the same state. Results are told apart by task number, so a task that was
delivered twice counts once.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nbmr import compression, message, topology
from nbmr.attempts import Attempts
from nbmr.broker import Delivery
from nbmr.errors import ProtocolError
from nbmr.failures import Failure
from nbmr.inputs import Given, Inputs
from nbmr.message import Message
from nbmr.outcome import Chunks, Outcome, failure, lost, stored
from nbmr.printed import Printed
from nbmr.signing import Signer
from nbmr.standing import Member, Progress, Status
from nbmr.unit import add

#: The kinds of messages in a job's log.
_KINDS = ("opened", "sending", "started", "output", "input", "result", "chunk", "died", "sealed", "kept")
#: Stands for what was given away.
_TAKEN = Outcome(0, 0, None, (), {})


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
    bytes_sent: int = 0
    rejected: int = 0
    #: What tasks told of their units: counts, and which keys have many rows; see `nbmr.schema`.
    told: dict[str, Any] = field(default_factory=dict, repr=False)
    #: What tasks printed.
    printed: Printed = field(default_factory=Printed, repr=False)
    #: Who made which attempts at its tasks.
    attempts: Attempts = field(default_factory=Attempts, repr=False)
    #: Whether the results were let go, since they were gathered.
    given_away: bool = False
    #: Whether results are let go as soon as they are counted.
    counts_only: bool = False
    #: What failed tasks were given; None if nobody will ask.
    inputs: Inputs | None = field(default=None, repr=False)
    #: What readers of the log left there to find again.
    marks: set[str] = field(default_factory=set, repr=False)
    #: When the job was opened, when its sender last said that it is at it, and when anybody wrote into its
    #: log: seconds since 1970, by the writers' clocks.
    opened_at: float = 0.0
    sender_heard_at: float = 0.0
    heard_at: float = 0.0
    started_at: float = field(default_factory=time.monotonic)
    #: When something was read last, by the monotonic clock.
    read_at: float = field(default_factory=time.monotonic)
    ended_at: float | None = None
    #: Called without the lock, once, when the job has come to its end.
    on_end: Callable[[Status], None] = field(default=lambda _status: None, repr=False)
    _tasks: int | None = None
    #: The tasks that have answered, in the order in which they did; and how many of them `take` has given.
    _order: list[int] = field(default_factory=list, repr=False)
    _given: int = 0
    #: The place in the log of what is being read.
    _offset: int = 0
    #: Runs whose results can't be read here.
    _unreadable: set[str] = field(default_factory=set, repr=False)
    #: Large results on their way, by their run.
    _chunks: dict[str, Chunks] = field(default_factory=dict, repr=False)
    _failed: list[tuple[int, dict[str, Any], dict[str, Any], list[str], Given | None]] = field(
        default_factory=list, repr=False
    )
    _failures: list[Failure] = field(default_factory=list, repr=False)
    _decoding: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _work_seconds: float = 0.0
    _listeners: list[Callable[[], None]] = field(default_factory=list, repr=False)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status in (Status.DONE, Status.FAILED, Status.CANCELLED)

    @property
    def complete(self) -> bool:
        """Whether every task was sent and has an outcome, so that no worker is at it any more."""
        return self.sealed and self._tasks is not None and len(self.outcomes) >= self._tasks

    @property
    def astray(self) -> list[int]:
        """Numbers of tasks that were sent and are neither running nor answered: queued, it is to be hoped."""
        with self.changed:
            if self._tasks is None or self.ended:
                return []
            seen = self.outcomes.keys() | self.attempts.running.keys()
            return [] if len(seen) == self._tasks else [n for n in range(self._tasks) if n not in seen]

    @property
    def begun(self) -> list[int]:
        """Numbers of the tasks that a worker has begun, and that have no answer yet."""
        with self.changed:
            return [] if self.ended else list(self.attempts.running)

    def unanswered(self, count: int) -> dict[int, bool]:
        """Return which of the first so many tasks have no answer yet, and whether each was begun."""
        with self.changed:
            return {task: self.runs(task) for task in range(count) if task not in self.outcomes}

    def progress(self) -> Progress:
        """Return how far it is."""
        with self.changed:
            end = self.ended_at or time.monotonic()
            return Progress(
                self.done,
                self.failed,
                len(self.attempts.running),
                self.total,
                end - self.started_at,
                self.bytes_received,
                self.attempts.workers,
                self.bytes_sent,
            )

    def crew(self) -> dict[str, Member]:
        """Return what each worker did so far and is at now, by its name, in the order in which they came."""
        with self.changed:
            return self.attempts.crew()

    def failures(self) -> list[Failure]:
        """Return what failed so far, in the order of arrival."""
        # decoded here and not in the I/O thread: unpickling an exception may import the user's modules
        with self._decoding:
            self._failures += [failure(*args) for args in self._failed[len(self._failures) :]]
            return list(self._failures)

    @contextlib.contextmanager
    def telling(self, wake: Callable[[], None]) -> Iterator[None]:
        """Have a function called whenever something has changed, until the block ends; it must be quick."""
        with self.changed:
            self._listeners.append(wake)
        try:
            yield
        finally:
            with self.changed:
                self._listeners.remove(wake)

    def _tell(self) -> None:
        """Wake everybody who waits for something new; with `changed` held."""
        self.changed.notify_all()
        for wake in self._listeners:
            wake()

    def failed_tasks(self) -> list[int]:
        """Return the tasks in which something failed and whose inputs are in the log, by their units."""
        with self.changed:
            given = [given for *_, given in sorted(self._failed, key=lambda failed: failed[0])]
        return list(dict.fromkeys(one.task for one in given if one is not None and one.logged))

    def end(self, status: Status) -> bool:
        """Come to an end, if it hasn't yet; return whether this call did it."""
        with self.changed:
            if self.ended:
                return False
            self.status = status
            self.ended_at = time.monotonic()
            # it may have ended long before this was read
            if self.opened_at and status is not Status.CANCELLED:
                self.ended_at = min(self.ended_at, self.started_at + max(0.0, self.heard_at - self.opened_at))
            self.attempts.running.clear()
            self._chunks.clear()
            self._tell()
        self.on_end(status)
        return True

    def read(self, delivery: Delivery) -> None:
        """Take one message of the log; what is not genuine is counted, and otherwise ignored."""
        self.read_at = time.monotonic()
        try:
            entry = message.unseal(self.signer, delivery.body)
            if topology.share_log(entry.job, self.job):
                return
            entry.expect(*_KINDS, job=self.job)
        except ProtocolError:
            with self.changed:
                self.rejected += 1
            return
        if self.ended:
            return
        with self.changed:
            try:
                self.heard_at = max(self.heard_at, entry.time)
                if entry.kind == "input":
                    if self.inputs is not None:
                        self.inputs.note(entry, delivery.offset)
                else:
                    self._offset = delivery.offset
                    getattr(self, f"_on_{entry.kind}")(entry)
            except (ProtocolError, KeyError, ValueError, TypeError):  # signed, but of another version of nbmr
                self.rejected += 1
            status = self._ending()
            self._tell()
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
        self.opened_at = self.sender_heard_at = entry.time
        self.started_at = time.monotonic() - max(0.0, time.time() - self.opened_at)

    def _on_sending(self, entry: Message) -> None:
        self.sender_heard_at = max(self.sender_heard_at, entry.time)

    def _on_kept(self, entry: Message) -> None:
        """Take note that somebody waits for the job; `heard_at` says when."""
        if mark := entry.fields.get("mark"):
            self.marks.add(mark)

    def _on_sealed(self, entry: Message) -> None:
        self.sealed, self._tasks, self.total = True, entry.fields["tasks"], entry.fields["units"]
        if "of_frame" in entry.fields:  # known only now, if the data are a job's results
            self.about = self.about | {
                name: entry.fields[name] for name in ("of_frame", "library") if name in entry.fields
            }

    def _on_started(self, entry: Message) -> None:
        answered = entry.task in self.outcomes
        if not answered:
            self.status = Status.RUNNING
        self.attempts.start(entry.task, entry.fields, entry.time, answered=answered)

    def _on_died(self, entry: Message) -> None:
        self.attempts.die(entry.task, entry.fields, entry.fields["cause"])

    def _on_output(self, entry: Message) -> None:
        fields = entry.fields
        if self.printed.is_new(fields["run"], fields["number"]) and not self.counts_only:
            self.printed.add(entry.task, fields["worker"], fields["text"], fields["dropped"])

    def _on_chunk(self, entry: Message) -> None:
        if entry.task in self.outcomes:
            return
        if not entry.readable:
            self._unreadable.add(entry.fields["run"])
            return
        chunks = self._chunks.setdefault(entry.fields["run"], Chunks(self._offset))
        if chunks.add(entry.fields["offset"], entry.payload):
            self.bytes_received += len(entry.payload)

    def _on_result(self, entry: Message) -> None:
        fields = entry.fields
        if fields.get("given_back_too_often"):  # another worker tells; say who had it last
            last = self.attempts.fall_silent(entry.task)
            fields = fields | {name: last[name] for name in ("host", "pid") if name in last}
        self.attempts.running.pop(entry.task, None)
        chunks = self._chunks.pop(fields["run"], None)
        self.printed.end(fields["run"])
        if entry.task in self.outcomes:
            return
        found = self._payload_of(entry, fields, chunks)
        if found is None:
            self.rejected += 1  # its chunks are not all there; it will come again
            return
        fields, payload, offset = found
        outcome = self.outcomes[entry.task] = Outcome.read(fields, payload, offset)
        self._order.append(entry.task)
        self.status = Status.RUNNING  # of a short task nothing else is told
        if self.counts_only:
            outcome.payload = None
        else:
            text, dropped = fields.get("printed", ""), fields.get("dropped", 0)
            self.printed.add(entry.task, fields["worker"], text, dropped)
        failures = outcome.failures
        self.attempts.answer(fields, clean=not failures)
        self.done += fields["count"] - len(failures)
        self.failed += len(failures)
        self._work_seconds += fields.get("seconds", 0.0)
        if "told" in fields:
            told = copy.deepcopy(self.told)  # another object, since views read the one that there is
            add(told, fields["told"])
            self.told = told
        for unit, why in failures.items():
            story = self.attempts.stories(entry.task, unit)
            given = None
            if self.inputs is not None and "input" in fields:
                given = self.inputs.of(entry.task, unit, logged=fields["input"])
            self._failed.append((fields["start"] + unit, why, fields, story, given))

    def _payload_of(
        self, entry: Message, fields: dict[str, Any], chunks: Chunks | None
    ) -> tuple[dict[str, Any], memoryview, int] | None:
        """Return what a result says, its payload, and where that begins; None if it isn't all there."""
        if not entry.readable or fields["run"] in self._unreadable:
            return lost(fields, compression.NEEDED), memoryview(b""), self._offset
        payload = entry.payload
        if "stored" in fields:
            fields, payload = stored(fields, failures_only=self.counts_only)
        if "chunked" not in fields:
            self.bytes_received += len(payload)
            return fields, payload, self._offset
        if chunks is not None and chunks.whole(fields["chunked"]):
            return fields, memoryview(chunks.body), chunks.begin
        return None

    def seconds_per_unit(self) -> float | None:
        """Return how long a unit takes a worker on average; None before the first result."""
        with self.changed:
            finished = self.done + self.failed
            return self._work_seconds / finished if finished else None

    def arrived(self, after: int) -> list[tuple[int, Outcome]]:
        """Return the tasks that answered after the first `after` ones, without values if they were let go."""
        with self.changed:
            return [(task, self.outcomes[task]) for task in self._order[after:]]

    def take(self, timeout: float) -> tuple[list[Outcome], dict[int, Failure]]:
        """Take the results that came since the last call, and let them go.

        Parameters
        ----------
        timeout
            Seconds to wait where there are none.

        Returns
        -------
        outcomes, failures
            What came, in its order; and what failed of it, by its number.
        """
        with self.changed:
            if self._given == len(self._order) and not self.ended:
                self.changed.wait(timeout)
            fresh = self.arrived(self._given)
            self._given += len(fresh)
            outcomes = [outcome for _, outcome in fresh]
            self.outcomes.update((task, _TAKEN) for task, _ in fresh)
            failed, self._failed = self._failed, []
        return outcomes, {args[0]: failure(*args) for args in failed}

    def drop(self, task: int) -> None:
        """Count a task as answered: it was cancelled, and nobody will answer."""
        with self.changed:
            if task not in self.outcomes:
                self.outcomes[task] = _TAKEN
                self.attempts.running.pop(task, None)
            status = self._ending()
            self._tell()
        if status:
            self.end(status)

    def runs(self, task: int) -> bool:
        """Whether a worker is at a task, as far as is known."""
        return task in self.attempts.running

    def wake(self) -> None:
        """Have everybody who waits for something new look again."""
        with self.changed:
            self._tell()

    def let_go(self) -> None:
        """Let all results go: whoever gathers them has them. The counts stay."""
        with self.changed:
            self.given_away = True
            self._tell()
            self.outcomes = {task: outcome.without_values() for task, outcome in self.outcomes.items()}
