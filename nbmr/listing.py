"""Jobs as they are found on a broker, whoever started them: listed, and attached to."""

from __future__ import annotations

import difflib
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from nbmr import message, topology
from nbmr.broker import Broker, Delivery
from nbmr.errors import BrokerError, ConfigError, JobIncomplete, JobNotFound
from nbmr.job import Job
from nbmr.joblog import JobLog
from nbmr.registry import Entry, Registry
from nbmr.signing import Signer

#: Seconds without a word from a kernel on another host after which it is taken for dead: it tells every 5 s.
SILENCE_SECONDS = 60.0
#: Seconds that reading the log of a listed job may take; without a message at its end; and at its beginning,
#: where there is none if its kernel died just then.
_READ_SECONDS, _QUIET, _EMPTY = 30.0, 0.1, 5.0
#: Seconds that it may take to attach; what is not read by then is read later.
_PATIENCE = 5.0
#: Logs that are read at the same time.
_AT_ONCE = 50
_COLUMNS = ["id", "name", "state", "done", "failed", "total", "queue", "submitted", "host", "note"]


def table(broker: Broker, signer: Signer) -> Any:
    """Return the jobs on a broker as a DataFrame, oldest first; see `nbmr.jobs`."""
    import pandas as pd  # noqa: PLC0415 - slow to import

    rows = [_row(glance) for glance in _glances(broker, signer) if not glance.gone]
    frame = pd.DataFrame(rows, columns=_COLUMNS)
    frame["submitted"] = pd.to_datetime(frame["submitted"], unit="s").dt.floor("s")
    return frame.astype({"done": int, "failed": int, "total": "Int64"})


def attach(broker: Broker, signer: Signer, id_or_name: str, look: Callable[[Job], str]) -> Job:
    """Return a job that follows a log which another process began; see `nbmr.attach`.

    Parameters
    ----------
    broker, signer
        Where it is, and what verifies it.
    id_or_name
        What to look for.
    look
        As for `Job`: what may keep it from going on.

    Raises
    ------
    JobNotFound
        If there is no such job.
    ConfigError
        If there are several of that name.
    """
    with Registry(broker, signer) as known:
        entry = _find(known.catch_up().jobs(), id_or_name, lambda e: broker.exists(topology.job_log(e.job)))
    log = JobLog(entry.job, signer, about={"name": entry.name, "queue": entry.queue})
    from_afar = _LookFromAfar(entry, log, broker, signer, look)
    job = Job(log, broker, signer, from_afar)
    job.blobs = entry.streams()[1:]
    job.shared = entry.shared
    job.follow()
    from_afar.catch_up()
    return job


def _find(entries: dict[str, Entry], id_or_name: str, is_there: Callable[[Entry], bool]) -> Entry:
    found = [entries[id_or_name]] if id_or_name in entries else []
    found = found or [entry for entry in entries.values() if entry.name == id_or_name]
    found = [entry for entry in found if is_there(entry)]
    if len(found) > 1:
        which = ", ".join(f"{entry.job} ({_clock(entry.submitted)})" for entry in found)
        raise ConfigError(f"Several jobs are called {id_or_name!r}. Give an id: {which}.")
    if not found:
        names = [*entries, *{entry.name for entry in entries.values()}]
        near = difflib.get_close_matches(str(id_or_name), names, 3)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise JobNotFound(
            f"There is no job {id_or_name!r} on this broker; nbmr.jobs() shows those that are there.{hint}"
            " A job goes when map has gathered it, when it is cancelled or forgotten, or after its time."
        )
    return found[0]


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


class _LookFromAfar:
    """What may keep a job from going on that another process sends: that process has died, say."""

    def __init__(
        self, entry: Entry, log: JobLog, broker: Broker, signer: Signer, look: Callable[[Job], str]
    ) -> None:
        self._entry, self._log, self._broker, self._signer, self._look = entry, log, broker, signer, look
        self._last_word = ""

    def __call__(self, job: Job) -> str:
        log = self._log
        if not log.sealed and not log.ended and abandoned(self._entry, log):
            if not self._last_word:  # which may still be on its way
                self._last_word = self._mark()
            elif self._last_word in log.marks:
                raise JobIncomplete(self._story(log))
        return self._look(job)

    def catch_up(self) -> None:
        """Wait a little until everything is read that is in the log by now."""
        mark = self._mark()
        with self._log.changed:
            self._log.changed.wait_for(lambda: mark in self._log.marks or self._log.ended, _PATIENCE)

    def _mark(self) -> str:
        """Leave a mark in the log: when we read it, we have read all that was written before."""
        mark = secrets.token_hex(8)
        body = message.seal(self._signer, "kept", job=self._log.job, mark=mark)
        self._broker.append(topology.job_log(self._log.job), body, urgent=True)
        return mark

    def _story(self, log: JobLog) -> str:
        entry, progress = self._entry, log.progress()
        total = "an unknown number" if progress.total is None else str(progress.total)
        return (
            f"Job {entry.name} was still being sent when its kernel died (process {entry.pid} on"
            f" {entry.host}): {progress.done} of {total} are done. partial() gives what there is; to have all"
            " of it, start the job again."
        )


def abandoned(entry: Entry, log: JobLog) -> bool:
    """Whether the kernel that sends a job has died."""
    lives = entry.sender_lives()
    if lives is None:
        return time.time() - max(entry.submitted, log.sender_heard_at) > SILENCE_SECONDS
    return not lives


class _Glance:
    """Reads a job's log from its beginning to its present end, without keeping any result."""

    def __init__(self, broker: Broker, signer: Signer, entry: Entry) -> None:
        self.entry, self.gone = entry, False
        self.log = JobLog(entry.job, signer, counts_only=True)
        self._offset, self._end, self._at = -1, -1, time.monotonic()
        self._changed = threading.Condition()
        stream = topology.job_log(entry.job)
        self._consumers = [
            broker.consume(stream, self._read, offset="first", on_lost=self._lost),
            broker.consume(stream, self._read_end, offset="last", on_lost=self._lost),
        ]

    def finish(self) -> _Glance:
        """Wait until it is read."""
        until = time.monotonic() + _READ_SECONDS
        with self._changed:
            while not (self.gone or self.log.ended):
                now = time.monotonic()
                at_end = self._offset >= self._end >= 0
                quiet = _QUIET if at_end else _EMPTY if self._end < 0 else _READ_SECONDS
                if now > until or now - self._at > quiet:
                    break
                self._changed.wait(_QUIET)
        for consumer in self._consumers:
            consumer.close()
        return self

    def _read(self, delivery: Delivery) -> None:
        self.log.read(delivery)
        delivery.ack()
        with self._changed:
            self._offset, self._at = delivery.offset, time.monotonic()
            self._changed.notify_all()

    def _read_end(self, delivery: Delivery) -> None:
        with self._changed:
            self._end = max(self._end, delivery.offset)
            self._changed.notify_all()
        delivery.ack()

    def _lost(self, _error: BrokerError) -> None:
        with self._changed:
            self.gone = True
            self._changed.notify_all()


def _glances(broker: Broker, signer: Signer) -> Iterable[_Glance]:
    with Registry(broker, signer) as known:
        entries = known.catch_up().jobs()
    waiting = list(entries.values())
    while waiting:
        some, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
        for glance in [_Glance(broker, signer, entry) for entry in some]:
            yield glance.finish()


def _row(glance: _Glance) -> dict[str, Any]:
    entry, log = glance.entry, glance.log
    progress = log.progress()
    state, note = str(log.status), ""
    if not log.sealed and not log.ended and abandoned(entry, log):
        state, note = "failed", "its kernel died while it was being sent; partial() gives what there is"
    elif log.failed:
        note = log.failures()[0].summary
    return {
        "id": entry.job, "name": entry.name, "state": state, "done": progress.done,
        "failed": progress.failed, "total": progress.total, "queue": entry.queue,
        "submitted": entry.submitted, "host": entry.host, "note": note,
    }  # fmt: skip
