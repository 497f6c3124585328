"""A job that runs once in every process that runs tasks: its tasks go to each worker's slots by name.

Such a task waits in a queue that is its slot's own, and goes with it. So nobody else takes it when the worker
goes: whoever waits for the job looks after the workers, and notes in its log what will not be answered.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbmr import message, topology
from nbmr.broker import Body, Broker
from nbmr.failures import Failure
from nbmr.joblog import JobLog
from nbmr.roster import Roster, WorkerFacts
from nbmr.sender import Sender
from nbmr.signing import Signer

if TYPE_CHECKING:
    from nbmr.job import Job

#: Seconds after which a worker that is not heard of counts as gone, and after which one that said that it
#: ends has no more to say.
SILENCE_SECONDS, GONE_SECONDS = 15.0, 2.0
#: Seconds for which a slot may be idle while its task is not there: longer than a task is under way.
IDLE_SECONDS = 15.0


@dataclass(frozen=True)
class Place:
    """A slot of a worker."""

    worker: WorkerFacts
    slot: int

    @property
    def name(self) -> str:
        """What it is called: as its worker, where that has no other slot."""
        return f"{self.worker.worker} slot {self.slot}" if len(self.worker.slots) > 1 else self.worker.worker

    @property
    def queue(self) -> topology.Queue:
        """The slot's own queue."""
        return topology.own_queue(self.worker.id, self.slot)


def places(workers: list[WorkerFacts]) -> list[Place]:
    """Return every slot of the workers that stay."""
    return [
        Place(worker, slot)
        for worker in workers
        if worker.state == "here"
        for slot in range(len(worker.slots))
    ]


@dataclass
class PlacedSender(Sender):
    """Sends a job whose tasks are each for one place."""

    places: tuple[Place, ...] = ()

    def publish(self, number: int, body: Body) -> Future[bool]:
        """Send one task to its place; one that is gone by now will be noticed by who waits."""
        return self.broker.append(self.places[number].queue, body)


class Watch:
    """Looks after the workers that a job's tasks were sent to.

    Parameters
    ----------
    broker, signer, log
        The job's log, as it is read, and where it is.
    roster
        Who is there.
    places
        Where the tasks were sent to, by their numbers.
    """

    def __init__(
        self, broker: Broker, signer: Signer, log: JobLog, roster: Roster, places: tuple[Place, ...]
    ) -> None:
        self._broker, self._signer, self._log = broker, signer, log
        self._roster, self._places = roster, places
        #: Since when something is wrong with a task's place, and what.
        self._since: dict[tuple[int, str], float] = {}

    def look(self) -> str:
        """Note in the job's log which of its tasks will not be answered; say what it waits for."""
        here = {worker.id: worker for worker in self._roster.facts()}
        waiting, seen = 0, self._since
        self._since = {}
        for number, began in self._log.unanswered(len(self._places)).items():
            place = self._places[number]
            worker = here.get(place.worker.id)
            if worker is None and self._roster.gone(place.worker.id):
                what, seconds, why = "gone", GONE_SECONDS, "ended before it had answered"
            elif worker is None:
                what, seconds = "silent", SILENCE_SECONDS
                why = "was killed, or lost its connection to RabbitMQ, before it had answered"
            elif not began and worker.slots[place.slot].state == "idle":
                what, seconds = "idle", IDLE_SECONDS
                why = "lost its connection to RabbitMQ, and the task with it"
            else:
                waiting += not began
                continue
            since = self._since[number, what] = seen.get((number, what), time.monotonic())
            if time.monotonic() - since > seconds:
                self._note_lost(number, place, f"worker {place.name} {why}")
        if not waiting:
            return ""
        return (
            "1 slot is busy with another task."
            if waiting == 1
            else f"{waiting} slots are busy with other tasks."
        )

    def _note_lost(self, number: int, place: Place, why: str) -> None:
        worker = place.worker
        body = message.seal_raw(
            self._signer,
            "result",
            job=self._log.job,
            task=number,
            worker=worker.worker,
            host=worker.host,
            pid=worker.pid,
            run="",
            start=number,
            count=1,
            all_failed={"reason": "lost", "summary": why, "attempts": 1},
        )
        self._broker.append(topology.job_log(self._log.job), body, urgent=True)


@dataclass(frozen=True)
class Answer:
    """What came of it in one place."""

    #: The worker's name, and the slot's where there are several.
    place: str
    #: What was printed there.
    output: str
    #: What the function returned, or the text of the value of a cell's last line; None if there is none.
    value: Any
    #: Why it failed; None if it didn't.
    failure: Failure | None


def answers(job: Job, places: tuple[Place, ...]) -> list[Answer]:
    """Wait for the job's end, and return what came of it in each place."""
    values = dict(job)
    failures = {failure.number: failure for failure in job.failures}
    printed: dict[int, list[str]] = {}
    for line in job.printed.lines():
        printed.setdefault(line.task, []).append(f"{line.text}\n")
    return [
        Answer(place.name, "".join(printed.get(number, ())), values.get(number), failures.get(number))
        for number, place in enumerate(places)
    ]


def raise_failure(answers: list[Answer]) -> None:
    """Raise what failed, if anything did: the first failure, with a note of the others."""
    failures = [answer.failure for answer in answers if answer.failure]
    if not failures:
        return
    error = failures[0].error()
    if len(failures) > 1:
        error.add_note(f"It failed in {len(failures)} of {len(answers)} places.")
    raise error from failures[0].exception
