"""Notices that a job's log is not heard any more, although RabbitMQ serves it.

Where a server of a cluster dies, RabbitMQ can go on to serve a subscription that nothing comes from any more.
A log in which nothing is written looks the same, so who waits for it writes something now and then, and reads
the log anew if that doesn't come back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future

#: Seconds without a word after which something is written.
SILENT_SECONDS = 20.0
#: Seconds that it may take to come back once RabbitMQ has it, and the most after several attempts.
BACK_SECONDS, LONGEST_SECONDS = 10.0, 160.0


class Hearing:
    """Watches one reader of a log.

    Parameters
    ----------
    write
        Writes a note into the log; its future is done when RabbitMQ has it.
    again
        Has the log read on another channel, from where it was.
    """

    def __init__(self, write: Callable[[], Future[bool]], again: Callable[[], None]) -> None:
        self._write, self._again = write, again
        self._note: Future[bool] | None = None
        #: When the note was written, and when it was seen to be stored.
        self._written_at = self._stored_at = 0.0
        self._patience = BACK_SECONDS

    def check(self, heard_at: float) -> None:
        """See whether the log is heard; to be called about once a second while RabbitMQ is in reach.

        Parameters
        ----------
        heard_at
            When something was read last, by the monotonic clock.
        """
        now = time.monotonic()
        if self._note is None:
            if now - heard_at >= SILENT_SECONDS:
                self._note, self._written_at, self._stored_at = self._write(), now, 0.0
        elif heard_at > self._written_at:
            self._note, self._patience = None, BACK_SECONDS
        elif not self._note.done():  # RabbitMQ will be asked for its answer again
            return
        elif self._note.exception():
            self._note = None
        elif not self._stored_at:
            self._stored_at = now
        elif now - self._stored_at >= self._patience:
            self._again()
            self._note, self._patience = None, min(2 * self._patience, LONGEST_SECONDS)
