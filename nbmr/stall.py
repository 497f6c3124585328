"""Notices that tasks of a job are with nobody: sent, but neither queued, nor running, nor answered.

RabbitMQ doesn't lose tasks. But whoever can log in to it can take them away or change them, and a message
that was changed is dropped by the worker that gets it: unsigned as it is, nothing in it can be trusted, its
job's name included. So it is the client that has to find out, by what it misses.
"""

from __future__ import annotations

import time
from typing import Any

from nbmr.joblog import JobLog

#: Seconds for which tasks have to be with nobody until that is an error: longer than it takes RabbitMQ to
#: notice a dead connection, and to give its tasks to another worker.
PATIENCE = 60.0
#: How often they have to be looked for in vain at least, however long it took.
_LOOKS = 3


class Stall:
    """What was seen of a job's tasks that are with nobody.

    Parameters
    ----------
    log
        The job's log, as it is read.
    """

    def __init__(self, log: JobLog) -> None:
        self._log = log
        self._seen: Any = None
        self._since = 0.0
        self._looks = 0

    def look(self, queued: int) -> int:
        """Return how many tasks are gone; 0 unless that has been so for long enough.

        Parameters
        ----------
        queued
            How many tasks wait in the queue, of whatever job.
        """
        gone = 0 if queued else self._log.astray
        seen = (gone, self._log.done, self._log.failed, self._log.bytes_received)
        if not gone or seen != self._seen:
            self._seen = seen
            self.reset()
        self._looks += 1
        return gone if self._looks > _LOOKS and time.monotonic() - self._since > PATIENCE else 0

    def reset(self) -> None:
        """Start to wait anew."""
        self._since, self._looks = time.monotonic(), 0
