"""The results of one job as the data of another: sent by reference, as they arrive."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from nbmr import frames
from nbmr.errors import ConfigError, JobCancelled, JobNotFound
from nbmr.job import Job
from nbmr.joblog import JobLog
from nbmr.outcome import Outcome
from nbmr.standing import Status
from nbmr.tasks import Source, Task

#: Seconds between two looks at what may keep the first job from going on.
_LOOK_SECONDS = 1.0
#: Answers that came at once make tasks of this share of those that are left, if they are small.
_BURST = 16
#: Bytes and results of a chunk that is folded by one call; for results of unknown number, and partitions.
_CHUNK_BYTES, _CHUNK_ITEMS, _CHUNK_PARTITIONS = 1 << 20, 1_000, 2
#: Chunks that results of known number are cut into; and answers that one may be read from, each an open file
#: that is handed on.
_CHUNKS, _CHUNK_FILES = 64, 100
#: Map tasks whose results a reduce task reads: so many files are open at a time, of 1,024 that systems allow.
MOST_MAP_TASKS = 400
#: Answers before a map task reads several: their number through this, so that 200,000 make 400 map tasks.
_GROWS_AFTER = 40


class JobSource(Source):
    """A job's results, a task for what each of its tasks gave, or some of them; what failed is left out.

    Units have the numbers that they have in that job.

    Parameters
    ----------
    job
        Whose results.
    partitions
        None: the first job has cut the data.
    singly
        Whether every result has to be a task of its own.

    Raises
    ------
    ConfigError
        If `partitions` is given.
    JobNotFound, JobCancelled
        If the job was forgotten, or cancelled.
    """

    def __init__(self, job: Job, partitions: int | None = None, *, singly: bool = False) -> None:
        if partitions is not None:
            raise ConfigError(
                f"partitions={partitions!r}: the data is a job's results, which come as it has cut them. Say"
                " partitions=… where that job is submitted."
            )
        if job.status == Status.CANCELLED:
            raise JobCancelled(f"Job {job.name or job.id} was cancelled, so it has no results to go on with.")
        if job.forgotten:
            raise JobNotFound(
                f"Job {job.name or job.id} was forgotten, so workers can't read its results. Pass its"
                " result() as data, or forget it later."
            )
        self.job, self._singly = job, singly
        self.of_frame = bool(job.log.about.get("of_frame"))
        self.library = job.log.about.get("library", "pandas")
        self.units = job.log.total
        self._sent: list[Task] = []

    def tasks(self, seconds_per_unit: Callable[[], float | None]) -> Iterator[Task | None]:  # noqa: ARG002
        """Give a task for each answer of the job's log, as it arrives.

        Raises
        ------
        TaskError, JobCancelled
            What has ended the job before it was done.
        """
        for arrived in self._arrivals():
            for task in self._cut(arrived) if arrived else [None]:
                if task is not None:
                    self._sent.append(task)
                yield task
        for task in self._rest():
            self._sent.append(task)
            yield task
        name = self._frames_of()
        self.of_frame, self.library = bool(name), name or self.library

    def again(self, number: int, start: int, count: int) -> Task:  # noqa: ARG002 - it is kept
        """Give one task again."""
        return self._sent[number]

    def _cut(self, arrived: list[tuple[int, Outcome]]) -> Iterator[Task]:
        """Make tasks of what tasks gave: one of each, or of some neighbours where many came at once."""
        group: list[dict[str, Any]] = []
        begin = end = size = 0
        for behind, (number, outcome) in enumerate(sorted(arrived, key=lambda one: one[1].start)):
            most = 1 if self._singly else min(-(-(len(arrived) - behind) // _BURST), _CHUNK_FILES)
            for task in self._runs(number, outcome):
                heavy = size + outcome.size > _CHUNK_BYTES
                if group and (heavy or task.start != end or len(group) >= most):
                    yield Task(begin, [], results=tuple(group))
                    group, size = [], 0
                begin = begin if group else task.start
                group += task.results
                end, size = task.start + task.count, size + outcome.size
        if group:
            yield Task(begin, [], results=tuple(group))

    def _runs(self, number: int, outcome: Outcome) -> Iterator[Task]:
        """Cut what a task gave into what follows one another without a failure in between."""
        first = 0
        for unit in range(outcome.count + 1):
            ends = unit == outcome.count or unit in outcome.failures
            if ends or (self._singly and unit > first):
                if unit > first:
                    reference = self._reference(number, outcome, first, unit - first)
                    yield Task(outcome.start + first, [], results=(reference,))
                first = unit + 1 if ends else unit

    def _rest(self) -> Iterator[Task]:
        """Give what is left when all has arrived."""
        yield from ()

    def _reference(self, number: int, outcome: Outcome, first: int, count: int) -> dict[str, Any]:
        return {
            "job": self.job.id, "task": number, "offset": outcome.offset, "first": first, "count": count,
        }  # fmt: skip

    def _arrivals(self) -> Iterator[list[tuple[int, Outcome]] | None]:
        """Yield each answer once, as they come; None while there are none, about once a second."""
        given: set[int] = set()
        log: JobLog | None = None
        seen = 0
        looked = time.monotonic()
        while True:
            if self.job.log is not log:  # read again from its beginning
                log, seen = self.job.log, 0
            with log.changed:
                over = log.ended
                arrived = log.arrived(seen)
                if not arrived and not over:
                    log.changed.wait(_LOOK_SECONDS)
            if over:
                self._check()
            seen += len(arrived)
            if fresh := [one for one in arrived if one[0] not in given]:
                given.update(number for number, _ in fresh)
                yield fresh
            if over and self.job.log is log:
                return
            if time.monotonic() - looked >= _LOOK_SECONDS:
                looked = time.monotonic()
                self._check()
                self.job.look()
                yield None

    def _check(self) -> None:
        """Raise why there will be no results, if there won't."""
        name = self.job.name or self.job.id
        try:
            self.job.raise_why_it_failed()
        except JobCancelled:
            raise JobCancelled(f"Job {name}, whose results this job takes, was cancelled.") from None
        if self.job.forgotten:
            raise JobNotFound(f"Job {name}, whose results this job takes, was forgotten.")

    def _frames_of(self) -> str:
        """Return the library whose frames or series the job gave, as far as the first result tells."""
        if self.job.target:  # that is what its files are read as
            return "pandas"
        if self.job.gave_frames_of is not None:
            return self.job.gave_frames_of
        with self.job.log.changed:
            outcomes = sorted(self.job.log.outcomes.values(), key=lambda outcome: outcome.start)
        with contextlib.suppress(Exception):  # what this process can't decode
            for outcome in outcomes:
                for unit, value in enumerate(outcome.values()):
                    if value is not None and unit not in outcome.failures:
                        name, kind = frames.kind_of(value)
                        return name if kind in frames.FRAMES else ""
        return self.job.gave_frames_of or (self.library if self.of_frame else "")


class InOrderSource(JobSource):
    """A job's results in their order, some neighbours to a task; parameters as for `JobSource`."""

    def __init__(self, job: Job, partitions: int | None = None) -> None:
        super().__init__(job, partitions)
        #: Answers that came before those in front of them, by their first unit.
        self._early: dict[int, tuple[int, Outcome]] = {}
        self._next = 0
        #: Where those neighbours are that are still to be sent.
        self._group: list[dict[str, Any]] = []

    def _cut(self, arrived: list[tuple[int, Outcome]]) -> Iterator[Task]:
        for number, outcome in arrived:
            self._early[outcome.start] = number, outcome
            while self._next in self._early:
                yield from self._advance(self._next)

    def _rest(self) -> Iterator[Task]:
        for start in sorted(self._early):  # numbers are missing where that job's own data had failures
            yield from self._advance(start)
        if self._group:
            yield self._close()

    def _advance(self, start: int) -> Iterator[Task]:
        number, outcome = self._early.pop(start)
        self._next = start + outcome.count
        yield from self._take(number, outcome)

    def _take(self, number: int, outcome: Outcome) -> Iterator[Task]:
        """Add an answer's results to the group, and give the tasks that are full."""
        raise NotImplementedError

    def _close(self) -> Task:
        """Make a task of the group."""
        raise NotImplementedError


class MergedSource(InOrderSource):
    """A job's results for a shuffle: of very many answers, some neighbours make one map task.

    Parameters
    ----------
    job, partitions
        As for `JobSource`.
    """

    def __init__(self, job: Job, partitions: int | None = None) -> None:
        super().__init__(job, partitions)
        #: How many answers there were, and the units between which the group lies.
        self._answers = self._begin = self._end = 0

    def _take(self, number: int, outcome: Outcome) -> Iterator[Task]:
        for task in self._runs(number, outcome):
            if self._group and task.start != self._end:  # something has failed in between
                yield self._close()
            if not self._group:
                self._begin = task.start
            self._group += task.results
            self._end = task.start + task.count
            self._answers += 1
            if len(self._group) >= min(max(1, self._answers // _GROWS_AFTER), _CHUNK_FILES):
                yield self._close()

    def _close(self) -> Task:
        task = Task(self._begin, [], results=tuple(self._group))
        self._group = []
        return task


class TogetherSource(JobSource):
    """All results of a job as one unit, a list; and one task.

    Parameters
    ----------
    job
        Whose results.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.units = 1
        self._given: list[tuple[int, dict[str, Any]]] = []

    def _cut(self, arrived: list[tuple[int, Outcome]]) -> Iterator[Task]:
        for number, outcome in arrived:
            if outcome.count:
                self._given.append((outcome.start, self._reference(number, outcome, 0, outcome.count)))
        yield from ()

    def _rest(self) -> Iterator[Task]:
        check_map_tasks(len(self._given))
        results = tuple(reference for _, reference in sorted(self._given, key=lambda given: given[0]))
        for number in range(self.units or 0):
            yield Task(number, [], results=results, together=True)

    def _frames_of(self) -> str:
        return ""


class ShuffleSource(TogetherSource):
    """The buckets that all results of a job hold: one task, and one unit, for each bucket, of all results.

    Parameters
    ----------
    job
        Whose results.
    count
        How many buckets there are.
    """

    def __init__(self, job: Job, count: int) -> None:
        super().__init__(job)
        self.units = count
        self.about = {"shuffled": job.log.told | {"buckets": count}}


def check_map_tasks(count: int) -> None:
    """Refuse more map tasks than a reduce task can read from.

    Raises
    ------
    ConfigError
        If there are more than `MOST_MAP_TASKS`.
    """
    if count > MOST_MAP_TASKS:
        raise ConfigError(
            f"A reduce task can read from {MOST_MAP_TASKS:,} map tasks at most, and here there are {count:,}:"
            " one for each task of the job that is its data, or for each partition. Use fewer partitions."
        )


class FoldSource(InOrderSource):
    """A job's results in chunks of neighbours, each of which is one unit: for `nbmr.reduce`.

    Where the chunks begin depends on the results alone, and not on which task gave them (but for chunks that
    would be made of more than `_CHUNK_FILES` answers).

    Parameters
    ----------
    job, partitions
        As for `JobSource`.
    """

    def __init__(self, job: Job, partitions: int | None = None) -> None:
        super().__init__(job, partitions)
        about, self.units = job.log.about, None
        known = about.get("units") or 0
        self._most = max(-(-known // _CHUNKS), 2) if known else _CHUNK_ITEMS
        if self.of_frame:
            self._most = _CHUNK_PARTITIONS
        self._count, self._bytes = 0, 0.0
        self._chunks = 0

    def _take(self, number: int, outcome: Outcome) -> Iterator[Task]:
        for unit in range(outcome.count):
            if unit not in outcome.failures:
                self._add(number, outcome, unit)
                if self._full:
                    yield self._close()

    @property
    def _full(self) -> bool:
        heavy = self._count > 1 and self._bytes >= _CHUNK_BYTES
        return heavy or self._count >= self._most or len(self._group) >= _CHUNK_FILES

    def _add(self, number: int, outcome: Outcome, unit: int) -> None:
        last = self._group[-1] if self._group else None
        if last and last["task"] == number and last["first"] + last["count"] == unit:
            last["count"] += 1
        else:
            self._group.append(self._reference(number, outcome, unit, 1))
        self._count += 1
        self._bytes += outcome.size / outcome.count

    def _close(self) -> Task:
        task = Task(self._chunks, [], results=tuple(self._group), together=True)
        self._group, self._count, self._bytes = [], 0, 0.0
        self._chunks += 1
        return task
