"""The sending of a job's tasks: by whoever calls, or by a thread of its own."""

from __future__ import annotations

import atexit
import contextlib
import sys
import threading
import weakref
from collections.abc import Callable

from nbmr.errors import BrokerUnreachable
from nbmr.joblog import JobLog
from nbmr.standing import Status

#: Seconds after which a process that ends says what it waits for.
_SAY_AFTER = 2.0

#: What threads of this process are sending, or were.
_in_background: weakref.WeakSet[Sending] = weakref.WeakSet()


@atexit.register
def _send_the_rest() -> None:
    """Keep a process that ends from leaving a job half sent; Ctrl-C leaves it."""
    for sending in list(_in_background):
        sending.finish()


class Sending(threading.Thread):
    """Sends one job's tasks: `now`, or in a thread by `start`. Whatever goes wrong ends the job.

    Parameters
    ----------
    log
        The job's log, as it is read.
    send
        Sends the tasks.
    look
        Raises why RabbitMQ is out of reach, if that is for good.
    """

    def __init__(self, log: JobLog, send: Callable[[], None], look: Callable[[], None]) -> None:
        super().__init__(name=f"nbmr sends {log.job}", daemon=True)
        self._log, self._send, self._look = log, send, look
        #: What went wrong.
        self.error: BaseException | None = None

    def start(self) -> None:
        """Send in this thread; what goes wrong stands in `error`."""
        super().start()
        _in_background.add(self)

    def run(self) -> None:
        """Send, and keep an error for whoever asks for the job's result."""
        with contextlib.suppress(BaseException):
            self.now()

    def now(self) -> None:
        """Send, and raise what goes wrong."""
        try:
            try:
                self._send()
            except BrokerUnreachable:
                self._look()
                raise
        except BaseException as exc:
            self.error = exc
            interrupted = isinstance(exc, KeyboardInterrupt)
            self._log.end(Status.CANCELLED if interrupted else Status.FAILED)
            raise

    def finish(self) -> None:
        """Wait until the thread has sent all, and say so if it takes long."""
        said = False
        while self.is_alive() and not self._log.ended:
            self.join(_SAY_AFTER)
            if self.is_alive() and not said:
                said = True
                name = self._log.about.get("name") or self._log.job
                note = f"nbmr: job {name} is still being sent; Ctrl-C leaves it as it is."
                print(note, file=sys.stderr)  # noqa: T201 - there is no view any more
