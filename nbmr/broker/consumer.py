"""One subscription to a queue or stream, on a channel of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pika.exceptions import ChannelClosedByBroker

from nbmr.broker.patience import Patience
from nbmr.broker.trouble import passes, refusal
from nbmr.errors import BrokerError
from nbmr.topology import Queue

#: Seconds for which a queue may be out of service (no leader, no replica) before it counts as lost.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, eq=False)
class Delivery:
    """One message as it was delivered; `ack` it or `give_back` it."""

    body: bytes
    #: How often it was given back before; 0 for a message's first delivery.
    returned: int
    #: Its place in a stream; -1 in a queue.
    offset: int
    tag: int
    channel: Any
    consumer: Consumer

    def ack(self) -> None:
        """Tell RabbitMQ that the message is dealt with; from any thread."""
        self.consumer.settle(self, "basic_ack")

    def give_back(self) -> None:
        """Put the message back into its queue; it counts as a failed attempt. From any thread."""
        # basic.reject, since basic.nack no longer counts from RabbitMQ 4.3 on
        self.consumer.settle(self, "basic_reject")


class Consumer:
    """A subscription.

    Parameters
    ----------
    queue
        The queue or stream. An exclusive one is declared and bound whenever the consumer subscribes.
    on_delivery
        Called in the I/O thread with each `Delivery`; must be quick.
    prefetch
        How many unacknowledged messages to hold.
    offset
        For a stream: where to start, ``"first"``, ``"next"`` or a number. After a reconnect it goes on behind
        the last message seen. None for a queue.
    on_lost
        Called in the I/O thread, once, when RabbitMQ has ended the subscription: with `NotFound` if the queue
        is gone, `DeliveryExpired` if a delivery wasn't acknowledged for too long, or what RabbitMQ says if it
        can't serve it for long.
    """

    def __init__(
        self,
        queue: Queue,
        on_delivery: Callable[[Delivery], None],
        *,
        prefetch: int = 1,
        offset: str | int | None = None,
        on_lost: Callable[[BrokerError], None] | None = None,
    ) -> None:
        self.queue = queue.name
        self._exclusive = queue if queue.exclusive else None
        self.channel: Any = None
        self._on_delivery, self._on_lost = on_delivery, on_lost
        self._prefetch, self._offset = prefetch, offset
        #: Of a stream: how many messages were dealt with; and the last of those that RabbitMQ is still to be
        #: told of, by its number on the channel.
        self._read = self._unsaid = 0
        #: Set while RabbitMQ serves it.
        self.subscribed = threading.Event()
        self._tag = ""
        self._cancelled = False
        #: Since when RabbitMQ can't serve it.
        self._refused_since: float | None = None
        self._patience = Patience()

    def attach(
        self,
        soon: Callable[[Callable[[], object]], None],
        in_io_thread: Callable[[], bool],
        *,
        forget: Callable[[], object],
        again: Callable[[], object],
    ) -> None:
        """Tell the consumer how to reach its link; `Link.consume` does.

        Parameters
        ----------
        soon, in_io_thread
            Calls in the link's I/O thread, and whether this is it.
        forget, again
            Called in that thread: subscribe no more; subscribe again in a moment.
        """
        self._soon, self._in_io_thread, self._forget, self._again = soon, in_io_thread, forget, again

    def lose(self) -> None:
        """Note that its channel is gone; in the I/O thread."""
        self.channel = None
        self._unsaid = 0
        self.subscribed.clear()

    def settle(self, delivery: Delivery, how: str) -> None:
        """Call that method of the channel which delivered the message, if it is still open."""
        self._do(lambda: self._settle(delivery, how))

    def cancel(self) -> None:
        """Take no more messages; those that are held can still be acknowledged. From any thread."""

        def cancel() -> None:
            self._cancelled = True
            if self.channel is not None and self.channel.is_open and self._tag:
                self.channel.basic_cancel(self._tag)

        self._do(cancel)

    def renew(self) -> None:
        """Go on with a new subscription, on a channel of its own: this one gives nothing. From any thread."""

        def renew() -> None:
            deaf = self.channel
            if self._cancelled or deaf is None:  # over, or about to subscribe again
                return
            self.lose()
            self._again()
            if deaf.is_open:
                deaf.close()

        self._do(renew)

    def close(self) -> None:
        """Cancel, and give up the channel: what is unacknowledged goes back to the queue. From any thread."""

        def close() -> None:
            self._cancelled = True
            self._forget()
            if self.channel is not None and self.channel.is_open:
                self.channel.close()

        self._do(close)

    def _do(self, action: Callable[[], None]) -> None:
        if self._in_io_thread():
            action()
        else:
            self._soon(action)

    def _settle(self, delivery: Delivery, how: str) -> None:
        # After a reconnect the message was given back by RabbitMQ itself, and the old tag means nothing.
        if delivery.channel is not self.channel or self.channel is None or not self.channel.is_open:
            return
        if self._offset is None:
            getattr(self.channel, how)(delivery.tag)
            return
        # in a stream that only makes room for more: say it for several at once
        self._read, self._unsaid = self._read + 1, delivery.tag
        if self._read % max(1, self._prefetch // 4) == 0:
            self.acknowledge()

    def acknowledge(self) -> None:
        """Tell RabbitMQ what of a stream is dealt with and wasn't told yet; in the I/O thread.

        To be called about once a second: RabbitMQ closes a channel that owes it an answer for long.
        """
        if self._unsaid and self.channel is not None and self.channel.is_open:
            self.channel.basic_ack(self._unsaid, multiple=True)
        self._unsaid = 0

    def overdue(self) -> bool:
        """Whether RabbitMQ has said nothing to a subscription for too long; to be asked once a second."""
        waits = not self._cancelled and not self.subscribed.is_set()
        return self._patience.over(self if waits else None)

    def subscribe(self, channel: Any) -> None:
        """Start to consume on a new channel; in the I/O thread."""
        if self._cancelled or self.channel is not None:  # it needs none, or was given one already
            channel.close()
            return
        self.channel = channel
        channel.add_on_close_callback(self._on_channel_closed)
        # RabbitMQ cancels where the queue was deleted, and where its replica stopped: the next try tells
        channel.add_on_cancel_callback(lambda _frame: channel.is_open and channel.close())
        if self._exclusive:
            _declare(channel, self._exclusive)
        channel.basic_qos(prefetch_count=self._prefetch, callback=lambda _frame: self._consume(channel))

    def _consume(self, channel: Any) -> None:
        arguments = None if self._offset is None else {"x-stream-offset": self._offset}
        if channel.is_open and channel is self.channel and not self._cancelled:
            self._tag = channel.basic_consume(
                self.queue,
                self._on_message,
                arguments=arguments,
                callback=lambda _frame: self._on_subscribed(channel),
            )

    def _on_subscribed(self, channel: Any) -> None:
        if channel is self.channel:
            self._refused_since = None
            self.subscribed.set()

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if channel is not self.channel:  # given up: RabbitMQ delivers it again on another one
            return
        offset = _count(properties.headers, "x-stream-offset", -1)
        if offset >= 0 and self._offset is not None:
            self._offset = offset + 1
        returned = _count(properties.headers, "x-delivery-count", 0)
        self._on_delivery(Delivery(body, returned, offset, method.delivery_tag, channel, self))

    def _on_channel_closed(self, channel: Any, reason: Any) -> None:
        if channel is not self.channel:
            return
        self.lose()
        if self._cancelled or not channel.connection.is_open:  # closed by us, or with its connection
            return
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        refused = isinstance(reason, ChannelClosedByBroker) and not passes(reason)
        if not refused and now - self._refused_since < PATIENCE_SECONDS:
            self._again()
            return
        self._cancelled = True
        self._forget()
        if self._on_lost:
            self._on_lost(refusal(reason))


def _declare(channel: Any, queue: Queue) -> None:
    """Make a queue that belongs to this connection; RabbitMQ does all this in order, before it answers."""
    if queue.exchange:
        channel.exchange_declare(queue.exchange, "topic", durable=True)
    channel.queue_declare(queue.name, exclusive=True, auto_delete=True, arguments=queue.arguments)
    for key in (queue.key, *queue.more_keys):
        if queue.exchange:
            channel.queue_bind(queue.name, queue.exchange, key)


def _count(headers: dict[str, Any] | None, name: str, otherwise: int) -> int:
    """Return what RabbitMQ counts in a header; whoever publishes may have written anything there."""
    value = (headers or {}).get(name)
    return value if isinstance(value, int) and value >= 0 else otherwise
