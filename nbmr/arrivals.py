"""A job's results as they arrive, and how an event loop waits for them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from nbmr import topology
from nbmr.broker import Broker, Delivery
from nbmr.errors import BrokerError
from nbmr.joblog import JobLog
from nbmr.signing import Signer
from nbmr.standing import Status

#: Seconds between two looks at what may keep a job from going on.
LOOK_SECONDS = 1.0


class Arrivals:
    """What one loop over a job has been given, and what it still gets; each result once.

    Parameters
    ----------
    log
        The job's log, as it is read.
    read_again
        Returns a log that is read from its beginning, for this loop alone: called if the results were let go
        because somebody gathered them.
    """

    def __init__(self, log: JobLog, read_again: Callable[[], JobLog]) -> None:
        self.log, self._read_again = log, read_again
        self._again: JobLog | None = None
        self._seen = 0
        self._given: set[int] = set()

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.log.ended and not self.log.given_away and self._seen >= len(self.log.outcomes)

    @property
    def ready(self) -> bool:
        """Whether `take` has something to give, or nothing ever again."""
        return self.log.ended or self.log.given_away or self._seen < len(self.log.outcomes)

    @property
    def deleted(self) -> bool:
        """Whether the job was deleted while its log was read again."""
        return self._again is not None and self._again.status is Status.CANCELLED

    def take(self) -> Iterator[tuple[int, Any]]:
        """Yield ``(number, result)`` for what is there and was not given yet; what failed is left out."""
        arrived = self.log.arrived(self._seen)
        if self.log.given_away:  # meanwhile, perhaps: then what was just returned may have no values
            self.log = self._again = self._read_again()
            self._seen, arrived = 0, self.log.arrived(0)
        for task, outcome in arrived:
            self._seen += 1
            if task in self._given:
                continue
            self._given.add(task)
            for unit, value in enumerate(outcome.values(writable=True)):
                if unit not in outcome.failures:
                    yield outcome.start + unit, value

    def close(self) -> None:
        """Read the log no longer, if it was read for this loop."""
        if self._again is not None:
            self._again.end(Status.CANCELLED)


def read_again(broker: Broker, signer: Signer, job: str) -> JobLog:
    """Return a job's log that is read from its beginning; it ends as cancelled if the job is deleted."""
    log = JobLog(job, signer)

    def read(delivery: Delivery) -> None:
        log.read(delivery)
        delivery.ack()

    def lose(_error: BrokerError) -> None:
        log.end(Status.CANCELLED)

    consumer = broker.consume(topology.job_log(job), read, offset="first", on_lost=lose)
    log.on_end = lambda _status: consumer.close()
    if log.ended:  # before it could know
        consumer.close()
    return log


async def until(log: JobLog, condition: Callable[[], bool], look: Callable[[], None]) -> None:
    """Wait for something to become true of a job, without a thread; a task that is cancelled leaves nothing.

    Parameters
    ----------
    log
        The job's log, as it is read.
    condition
        Asked whenever something has come.
    look
        Called in a thread about once a second; raises if waiting is in vain.
    """
    loop, changed, waking = asyncio.get_running_loop(), asyncio.Event(), [False]

    def woken() -> None:
        waking[0] = False
        changed.set()

    def wake() -> None:
        if not waking[0]:  # one call at a time, however many messages come
            waking[0] = True
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(woken)

    next_look = time.monotonic() + LOOK_SECONDS
    with log.telling(wake):
        while not condition():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_look - time.monotonic())):
                    await changed.wait()
            changed.clear()
            if time.monotonic() >= next_look:
                await asyncio.to_thread(look)
                next_look = time.monotonic() + LOOK_SECONDS
