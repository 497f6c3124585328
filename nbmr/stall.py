"""Notices that tasks of a job are with nobody: sent, but neither queued, nor running, nor answered.

A task that was begun counts as running until it is answered. Where a server of a cluster dies, RabbitMQ can
lose what it has confirmed, that answer among it (3.10.8, seen under load). So if nothing comes for a while,
the workers are asked what they are at.

RabbitMQ hardly ever loses tasks or their results: if it is killed at a bad moment. And whoever can log in to
it can take them away or change them, and a message that was changed is dropped by the worker that gets it:
unsigned as it is, nothing in it can be trusted, its job's name included. So it is the client that has to find
out, by what it misses. If it still has the data, it sends these tasks again, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

from nbmr import message, topology
from nbmr.errors import BrokerError
from nbmr.joblog import JobLog

if TYPE_CHECKING:
    from nbmr.broker import Broker
    from nbmr.roster import WorkerFacts
    from nbmr.signing import Signer

#: Seconds for which tasks have to be with nobody until that is an error: longer than it takes RabbitMQ to
#: notice a dead connection, and to give its tasks to another worker.
PATIENCE = 60.0
#: Seconds until they are sent again, where that can be done: at worst, they run twice.
SEND_AGAIN_AFTER = 30.0
#: Seconds after which who waits is told.
TOLD_AFTER = 15.0
#: Seconds without any answer after which the workers are asked for the tasks that they have begun; and the
#: most until they are asked again, where they are at all of them: a task may take hours, and workers be many.
QUIET_SECONDS, LONGEST_SECONDS = 20.0, 640.0
#: How often they have to be looked for in vain at least, however long it took.
_LOOKS = 3
#: Seconds that RabbitMQ may take to store a message.
_STORE_SECONDS = 2.0


class Stall:
    """What was seen of a job's tasks that are with nobody.

    Parameters
    ----------
    log
        The job's log, as it is read.
    broker, signer
        Where it is, and what signs.
    roster
        Tells what the workers are at; asks them.
    """

    def __init__(
        self,
        log: JobLog,
        broker: Broker,
        signer: Signer,
        roster: Callable[[], list[WorkerFacts]],
    ) -> None:
        self._log, self._broker, self._signer, self._roster = log, broker, signer, roster
        #: What has been answered; when the workers are asked if no more is, and how long that is to wait.
        self._answered: Any = None
        self._ask_at, self._pause = 0.0, QUIET_SECONDS
        #: Sends the tasks of these numbers once more; None if their data isn't here.
        self.send_again: Callable[[list[int]], None] | None = None
        self._sent_again: set[int] = set()
        self._seen: Any = None
        self._since = 0.0
        self._looks = 0

    def check(self, queued: int, slots: int) -> str:
        """Make sure that the job's tasks are somewhere; to be called about once a second.

        Parameters
        ----------
        queued
            How many tasks wait in the job's queue, of whatever job.
        slots
            How many slots of workers listen to it.

        Returns
        -------
        str
            What to tell who waits, once some have been nowhere for a while.

        Raises
        ------
        BrokerError
            If some have been nowhere for long enough.
        """
        if self._log.about.get("everywhere"):  # its tasks wait elsewhere
            return ""
        gone = self._gone(queued, slots)
        if not gone:
            return ""
        again = [] if self.send_again is None else [task for task in gone if task not in self._sent_again]
        patience = SEND_AGAIN_AFTER if again else PATIENCE
        many = f"{len(gone)} tasks" if len(gone) > 1 else "1 task"
        if self._looks <= _LOOKS or time.monotonic() - self._since <= patience:
            what = "are" if len(gone) > 1 else "is"
            return f"{many} {what} neither queued nor running, but perhaps with a worker that died just now."
        # While RabbitMQ takes nothing (an alarm), workers can't tell that they are at work: see if it does.
        log = self._log
        note = message.seal(self._signer, "kept", job=log.job)
        stored = self._broker.append(topology.job_log(log.job), note, urgent=True)
        if not wait([stored], _STORE_SECONDS).done:
            self._reset()
            return ""
        if again and self.send_again is not None:
            self._sent_again.update(again)
            self._reset()  # before all that follows: it may take a while, and look again meanwhile
            self.send_again(again)
            return f"{many} got lost on RabbitMQ; sent again."
        raise BrokerError(
            f"{many} of job {log.about.get('name') or log.job} got lost: neither queued nor with a worker,"
            " and nothing came of them. Somebody took or changed them on RabbitMQ, or workers reject them"
            " (see their logs). job.partial() has what is done; start the job again."
        )

    def _gone(self, queued: int, slots: int) -> list[int]:
        """Return the tasks that are with nobody; none unless that has been so for a while."""
        answered = self._log.done, self._log.failed, self._log.bytes_received
        if answered != self._answered:
            self._answered, self._pause = answered, QUIET_SECONDS
            self._ask_at = time.monotonic() + self._pause
        gone = [] if queued else self._log.astray or self._forsaken(slots)
        seen = (len(gone), *answered)
        if not gone or seen != self._seen:
            self._seen = seen
            self._reset()
        self._looks += 1
        return gone if time.monotonic() - self._since > TOLD_AFTER else []

    def _forsaken(self, slots: int) -> list[int]:
        """Return the tasks that were begun, and that no worker is at: all of them have to say so."""
        begun, now = self._log.begun, time.monotonic()
        if not begun or now < self._ask_at:
            return []
        queue = self._log.about.get("queue")
        told = [slot for worker in self._roster() if worker.queue == queue for slot in worker.slots]
        if len(told) < slots:
            return []
        at = {slot.task for slot in told if slot.job == self._log.job}
        forsaken = [task for task in begun if task not in at]
        if not forsaken:
            self._pause = min(2 * self._pause, LONGEST_SECONDS)
            self._ask_at = now + self._pause
        return forsaken

    def _reset(self) -> None:
        self._since, self._looks = time.monotonic(), 0
