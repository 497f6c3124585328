"""Calls of RabbitMQ that give an answer (declare, delete, …): one at a time, again after a reconnect."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

from pika.exceptions import ChannelClosedByBroker

from nbmr.broker.patience import Patience
from nbmr.broker.trouble import passes, refusal
from nbmr.errors import BrokerError

#: Seconds before a call is made again that RabbitMQ could not answer yet.
AGAIN_SECONDS = 0.2

#: Calls a method of the channel that it is given, and has it call back what it is given next.
Operation = Callable[[Any, Callable[[Any], None]], Any]


@dataclass(eq=False)
class Call:
    """One call."""

    operation: Operation
    answer: Future[Any] = field(default_factory=Future)
    #: Why it has not been answered yet, if RabbitMQ said so.
    trouble: str = ""

    def end(self, result: Any = None, error: BaseException | None = None) -> None:
        """Give its caller the answer, unless that has given it up."""
        with contextlib.suppress(InvalidStateError):
            if error:
                self.answer.set_exception(error)
            else:
                self.answer.set_result(result)


class Calls:
    """Makes calls on a channel of its own; all but `add` belongs to the I/O thread.

    Parameters
    ----------
    later
        Calls a function after so many seconds.
    """

    def __init__(self, later: Callable[[float, Callable[[], None]], object]) -> None:
        self._later = later
        self._connection: Any = None
        self._channel: Any = None
        self._waiting: deque[Call] = deque()
        self._calling: Call | None = None
        #: To be made again in a moment.
        self._resting: list[Call] = []
        self._patience = Patience()

    @property
    def idle(self) -> bool:
        """Whether every call is answered."""
        return not (self._waiting or self._calling or self._resting)

    def add(self, call: Call) -> None:
        """Take a call, from any thread; `next` makes it."""
        self._waiting.append(call)

    def open(self, connection: Any) -> None:
        """Call by this connection from now on."""
        self._connection = connection
        self.next()

    def lose(self) -> None:
        """Note that the connection has broken: the call under way will be made again."""
        self._connection = self._channel = None
        if self._calling:
            self._waiting.appendleft(self._calling)
            self._calling = None

    def fail(self, error: BrokerError) -> None:
        """Fail every call, for good."""
        for call in (*self._waiting, *self._resting, *([self._calling] if self._calling else ())):
            call.end(error=error)

    def next(self) -> None:
        """Make the next call, if there is one and it can be made now."""
        if self._calling or not self._waiting or self._connection is None:
            return
        if self._channel is None:
            self._channel = self._connection.channel(on_open_callback=lambda _: self.next())
            self._channel.add_on_close_callback(self._on_closed)
            return
        if not self._channel.is_open:
            return
        call = self._calling = self._waiting.popleft()
        if call.answer.cancelled():
            self._finish()
            return
        call.operation(self._channel, lambda frame: self._on_answer(call, frame))

    def _on_answer(self, call: Call, frame: Any) -> None:
        if call is self._calling:  # or else it was made again, and answered
            self._finish(frame)

    def insist(self) -> None:
        """Make a call again that RabbitMQ owes an answer for long; to be called once a second."""
        if not self._patience.over(self._calling or (self._waiting[0] if self._waiting else None)):
            return
        silent = self._channel
        self._waiting.extendleft([self._calling] if self._calling else ())
        self._channel = self._calling = None
        if silent is not None and silent.is_open:
            silent.close()
        self.next()

    def _finish(self, frame: Any = None, error: BaseException | None = None) -> None:
        call, self._calling = self._calling, None
        if call:
            call.end(frame.method if frame else None, error)
        self.next()

    def _on_closed(self, channel: Any, reason: Any) -> None:
        if channel is not self._channel:
            return
        self._channel = None
        if not isinstance(reason, ChannelClosedByBroker):
            return
        if passes(reason) and self._calling:
            call, self._calling = self._calling, None
            call.trouble = str(reason.reply_text)
            self._resting.append(call)
            self._later(AGAIN_SECONDS, self._again)
            self.next()
            return
        self._finish(error=refusal(reason))

    def _again(self) -> None:
        self._waiting.extend(self._resting)
        self._resting.clear()
        self.next()
