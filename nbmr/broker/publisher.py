"""Messages on their way to RabbitMQ: those that wait to be sent, and those that it has not confirmed yet."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pika
from pika.exceptions import ChannelClosedByBroker

from nbmr.broker.patience import Patience
from nbmr.broker.trouble import passes
from nbmr.errors import BrokerError

#: Bytes that may wait for their confirmation; whoever publishes more waits.
WINDOW_BYTES = 16 << 20
#: Bytes on their way in one go from which on it is measured how many a second go.
_MEASURED_BYTES = 4 << 20
#: Seconds after a reconnect in which a queue that isn't there may still be on its way back.
RECOVERY_SECONDS = 10.0
#: How often a message is sent again that RabbitMQ could not store.
STORE_TRIES = 3
#: Seconds before it is sent again.
AGAIN_SECONDS = 0.5

#: A message's body, in pieces.
Body = list[bytes]


@dataclass(eq=False)
class Outgoing:
    """One message."""

    exchange: str
    key: str
    size: int
    body: Body
    routed: bool = True
    #: How often RabbitMQ could not store it.
    refused: int = 0
    confirmed: Future[bool] = field(default_factory=Future)


class Publisher:
    """Sends messages in order on a channel of its own, and sends again what was not confirmed.

    Parameters
    ----------
    changed
        Notified when there is room for more. `room` and `add` are to be called with it held, from any thread;
        everything else belongs to the I/O thread.
    later
        Calls a function after so many seconds.
    on_ready
        Called when messages can be sent, now or again.
    """

    def __init__(
        self,
        changed: threading.Condition,
        later: Callable[[float, Callable[[], None]], object],
        on_ready: Callable[[], None],
    ) -> None:
        self._changed, self._later, self._on_ready = changed, later, on_ready
        self._connection: Any = None
        self._channel: Any = None
        self._outbox: deque[Outgoing] = deque()
        self._unconfirmed: dict[int, Outgoing] = {}
        #: Not stored, or not routed, and to be sent again in a moment.
        self._resting: list[Outgoing] = []
        self._held = 0
        #: Since when something has been on its way, by the monotonic clock, and how many bytes went since.
        self._begun, self._gone = 0.0, 0
        #: Bytes a second that went, when it was measured last; None before that.
        self.rate: float | None = None
        self._sent = 0
        self._recovering_until = 0.0
        self._patience = Patience()

    # ---------------------------------------------------------------- for any thread, with `changed` held

    def room(self, size: int) -> bool:
        """Whether a message of that size may come."""
        return not self._held or self._held + size <= WINDOW_BYTES

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._held

    def add(self, message: Outgoing) -> None:
        """Take a message; `flush` sends it."""
        if not self._held:
            self._begun, self._gone = time.monotonic(), 0
        self._held += message.size
        self._outbox.append(message)

    # ---------------------------------------------------------------- in the I/O thread

    @property
    def ready(self) -> bool:
        """Whether messages can be sent."""
        return self._channel is not None

    def open(self, connection: Any, *, again: bool) -> None:
        """Send by this connection from now on; `again` if there was another one before."""
        self._connection = connection
        if again:
            self._recovering_until = time.monotonic() + RECOVERY_SECONDS
        connection.channel(on_open_callback=self._on_open)

    def lose(self) -> None:
        """Note that the connection has broken."""
        self._connection = self._channel = None

    def fail(self, error: BrokerError) -> None:
        """Fail everything that is under way, for good."""
        for message in (*self._unconfirmed.values(), *self._outbox, *self._resting):
            if not message.confirmed.done():
                message.confirmed.set_exception(error)

    def flush(self) -> None:
        """Send what waits."""
        if self._channel is None or not self._channel.is_open:
            return
        while self._outbox:
            message = self._outbox.popleft()
            self._sent += 1
            self._unconfirmed[self._sent] = message
            properties = pika.BasicProperties(delivery_mode=2, message_id=str(self._sent))
            self._connection.publish(self._channel, message.exchange, message.key, properties, message.body)

    def insist(self) -> bool:
        """Send again what RabbitMQ has not confirmed for long; to be called once a second while it could.

        Returns
        -------
        bool
            Whether that was done before, in vain: then it may be the connection that it reads no more.
        """
        oldest = next(iter(self._unconfirmed.values()), self._outbox[0] if self._outbox else None)
        if not self._patience.over(oldest):
            return False
        if self._patience.asked > 1:
            return True
        silent, self._channel = self._channel, None
        if silent is not None and silent.is_open:
            silent.close()
        self._reopen()
        return False

    def _on_open(self, channel: Any) -> None:
        channel.add_on_return_callback(self._on_return)
        channel.add_on_close_callback(self._on_closed)
        channel.confirm_delivery(
            lambda frame: self._on_confirm(channel, frame),
            callback=lambda _frame: self._on_confirming(channel),
        )

    def _on_confirming(self, channel: Any) -> None:
        self._channel, self._sent = channel, 0
        self._outbox.extendleft(reversed(self._unconfirmed.values()))
        self._unconfirmed.clear()
        self._on_ready()
        self.flush()

    def _on_closed(self, channel: Any, reason: Any) -> None:
        """Fail what is unconfirmed if RabbitMQ refuses it: sending it again would end the same way."""
        if channel is not self._channel or not isinstance(reason, ChannelClosedByBroker):
            return
        self._channel = None
        if passes(reason):
            self._later(AGAIN_SECONDS, self._reopen)
            return
        refused = list(self._unconfirmed.values())
        self._unconfirmed.clear()
        for message in refused:
            self._settle(message, BrokerError(f"RabbitMQ refused a message: {reason.reply_text}"))
        self._reopen()

    def _reopen(self) -> None:
        if self._connection is not None and self._connection.is_open:
            self._connection.channel(on_open_callback=self._on_open)

    def _on_return(self, channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        message = self._unconfirmed.get(int(properties.message_id))
        if message and channel is self._channel:
            message.routed = False

    def _on_confirm(self, channel: Any, frame: Any) -> None:
        if channel is not self._channel:  # given up: all that it was sent is sent again
            return
        tag = frame.method.delivery_tag
        tags = [t for t in self._unconfirmed if t <= tag] if frame.method.multiple else [tag]
        stored = not isinstance(frame.method, pika.spec.Basic.Nack)
        for message in [self._unconfirmed.pop(t) for t in tags if t in self._unconfirmed]:
            if not stored:
                message.refused += 1
            if (not stored and message.refused < STORE_TRIES) or (not message.routed and self._recovering):
                self._rest(message)
            elif stored:
                self._settle(message)
            else:
                why = "RabbitMQ could not store a message; see its log for the reason (disk full?)."
                self._settle(message, BrokerError(why))

    @property
    def _recovering(self) -> bool:
        """Whether RabbitMQ may have been restarted just now: it answers before all its streams are back."""
        return time.monotonic() < self._recovering_until

    def _rest(self, message: Outgoing) -> None:
        message.routed = True
        self._resting.append(message)
        self._later(AGAIN_SECONDS, self._send_again)

    def _send_again(self) -> None:
        self._outbox.extendleft(reversed(self._resting))
        self._resting.clear()
        self.flush()

    def _settle(self, message: Outgoing, error: BrokerError | None = None) -> None:
        with self._changed:
            self._held -= message.size
            self._gone += message.size
            if self._gone >= _MEASURED_BYTES:
                self.rate = self._gone / max(time.monotonic() - self._begun, 1e-9)
            self._changed.notify_all()
        message.body = []
        if error:
            message.confirmed.set_exception(error)
        else:
            message.confirmed.set_result(message.routed)
