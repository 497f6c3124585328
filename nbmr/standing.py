"""How a job stands: its status, how far it is, and what each worker did for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


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
    #: Bytes of encoded tasks and functions sent so far; 0 if another kernel sent them.
    bytes_sent: int = 0

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


@dataclass(frozen=True)
class Member:
    """What a worker did for a job. Counts are of tasks, which may cover several units each."""

    host: str
    done: int = 0
    #: How many of its tasks had a failure.
    failed: int = 0
    #: The tasks that it is at, by their numbers, and since when each: seconds since 1970, by its own clock.
    tasks: dict[int, float] = field(default_factory=dict)
