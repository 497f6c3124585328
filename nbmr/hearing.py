"""Notices that a job's log is not heard any more, although RabbitMQ serves it.

Where a server of a cluster dies, RabbitMQ can go on to serve a subscription that nothing comes from any more.
Or a server's copy of the log gets what is written, and is never told that it may hand it out (3.10.8): then
who reads there gets nothing. A log in which nothing is written looks the same, so who waits for it writes
something now and then. If that doesn't come back, the log is read anew, and then on another server.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future

from nbmr.errors import BrokerError

#: Seconds without a word after which something is written.
SILENT_SECONDS = 20.0
#: Seconds that it may take to come back once RabbitMQ has it, and the most after several attempts.
BACK_SECONDS, LONGEST_SECONDS = 10.0, 160.0
#: How often a note is looked at that RabbitMQ does not store, until that is told, and until it is an error.
TOLD_AFTER, GIVEN_UP_AFTER = 10, 300


class Hearing:
    """Watches one reader of a log.

    Parameters
    ----------
    write
        Writes a note into the log; its future is done when RabbitMQ has it.
    again
        Has the log read on another channel, from where it was.
    elsewhere
        Has it read by another connection, if possible to another server.
    """

    def __init__(
        self,
        write: Callable[[], Future[bool]],
        again: Callable[[], None],
        elsewhere: Callable[[], None],
    ) -> None:
        self._write, self._again, self._elsewhere = write, again, elsewhere
        self._note: Future[bool] | None = None
        #: When the note was written, and when it was seen to be stored.
        self._written_at = self._stored_at = 0.0
        self._patience = BACK_SECONDS
        #: How often the note was looked at, and was not stored.
        self._looks = 0

    def check(self, heard_at: float) -> str:
        """See whether the log is heard; to be called about once a second while RabbitMQ is in reach.

        Parameters
        ----------
        heard_at
            When something was read last, by the monotonic clock.

        Returns
        -------
        str
            What to tell who waits, if RabbitMQ doesn't store what is written.

        Raises
        ------
        BrokerError
            If it goes on like that.
        """
        now = time.monotonic()
        if self._note is None:
            if now - heard_at >= SILENT_SECONDS:
                self._note, self._written_at, self._stored_at = self._write(), now, 0.0
                self._looks = 0
        elif heard_at > self._written_at:
            self._note, self._patience = None, BACK_SECONDS
        elif not self._note.done():  # RabbitMQ will be asked for its answer again
            self._looks += 1
            return self._unstored()
        elif self._note.exception():
            self._note = None
        elif not self._stored_at:
            self._stored_at = now
        elif now - self._stored_at >= self._patience:
            if self._patience == BACK_SECONDS:
                self._again()
            else:
                self._elsewhere()
            self._note, self._patience = None, min(2 * self._patience, LONGEST_SECONDS)
        return ""

    def _unstored(self) -> str:
        if self._looks < TOLD_AFTER:
            return ""
        what = "RabbitMQ can be reached, and does not store what is written into the log of this job"
        if self._looks < GIVEN_UP_AFTER:
            return f"{what}; it is asked again."
        raise BrokerError(
            f"{what}. Its own log may say why. job.partial() has what is done; start the job again."
        )
