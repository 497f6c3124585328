"""Notices that tasks of a job are with nobody: sent, but neither queued, nor running, nor answered.

RabbitMQ doesn't lose tasks. But whoever can log in to it can take them away or change them, and a message
that was changed is dropped by the worker that gets it: unsigned as it is, nothing in it can be trusted, its
job's name included. So it is the client that has to find out, by what it misses.
"""

from __future__ import annotations

import time
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

from nbmr import message, topology
from nbmr.errors import BrokerError
from nbmr.joblog import JobLog

if TYPE_CHECKING:
    from nbmr.broker import Broker
    from nbmr.signing import Signer

#: Seconds for which tasks have to be with nobody until that is an error: longer than it takes RabbitMQ to
#: notice a dead connection, and to give its tasks to another worker.
PATIENCE = 60.0
#: Seconds after which who waits is told.
TOLD_AFTER = 15.0
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
    """

    def __init__(self, log: JobLog, broker: Broker, signer: Signer) -> None:
        self._log, self._broker, self._signer = log, broker, signer
        self._seen: Any = None
        self._since = 0.0
        self._looks = 0

    def check(self, queued: int) -> str:
        """Make sure that the job's tasks are somewhere; to be called about once a second.

        Parameters
        ----------
        queued
            How many tasks wait in the job's queue, of whatever job.

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
        gone = self._gone(queued)
        if not gone:
            return ""
        if self._looks <= _LOOKS or time.monotonic() - self._since <= PATIENCE:
            return (
                f"{gone} tasks are neither queued nor running; they may be with a worker that died just now."
            )
        # While RabbitMQ takes nothing (an alarm), workers can't tell that they are at work: see if it does.
        log = self._log
        note = message.seal(self._signer, "kept", job=log.job)
        stored = self._broker.append(topology.job_log(log.job), note, urgent=True)
        if not wait([stored], _STORE_SECONDS).done:
            self._reset()
            return ""
        many = f"{gone} tasks" if gone > 1 else "1 task"
        raise BrokerError(
            f"{many} of job {log.about.get('name') or log.job} got lost: neither queued nor with a worker,"
            " and nothing came of them. Somebody took or changed them on RabbitMQ, or workers reject them"
            " (see their logs). job.partial() has what is done; start the job again."
        )

    def _gone(self, queued: int) -> int:
        """Return how many tasks are with nobody; 0 unless that has been so for a while."""
        gone = 0 if queued else self._log.astray
        seen = (gone, self._log.done, self._log.failed, self._log.bytes_received)
        if not gone or seen != self._seen:
            self._seen = seen
            self._reset()
        self._looks += 1
        return gone if time.monotonic() - self._since > TOLD_AFTER else 0

    def _reset(self) -> None:
        self._since, self._looks = time.monotonic(), 0
