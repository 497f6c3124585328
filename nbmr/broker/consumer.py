"""One subscription to a queue or stream, on a channel of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nbmr.errors import BrokerError


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
        Name of the queue or stream.
    on_delivery
        Called in the I/O thread with each `Delivery`; must be quick.
    prefetch
        How many unacknowledged messages to hold.
    offset
        For a stream: where to start, ``"first"``, ``"next"`` or a number. After a reconnect it goes on behind
        the last message seen. None for a queue.
    on_lost
        Called in the I/O thread, once, when the queue is gone.
    """

    def __init__(
        self,
        queue: str,
        on_delivery: Callable[[Delivery], None],
        *,
        prefetch: int = 1,
        offset: str | int | None = None,
        on_lost: Callable[[BrokerError], None] | None = None,
    ) -> None:
        self.queue = queue
        self.channel: Any = None
        self.forget: Callable[[], object] = lambda: None
        self._on_delivery, self._on_lost = on_delivery, on_lost
        self._prefetch, self._offset = prefetch, offset
        self._tag = ""
        self._cancelled = False

    def attach(self, soon: Callable[[Callable[[], object]], None], in_io_thread: Callable[[], bool]) -> None:
        """Tell the consumer how to reach its link's I/O thread; `Link.consume` does."""
        self._soon, self._in_io_thread = soon, in_io_thread

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

    def close(self) -> None:
        """Cancel, and give up the channel: what is unacknowledged goes back to the queue. From any thread."""

        def close() -> None:
            self._cancelled = True
            self.forget()
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
        if delivery.channel is self.channel and self.channel is not None and self.channel.is_open:
            getattr(self.channel, how)(delivery.tag)

    def subscribe(self, channel: Any) -> None:
        """Start to consume on a new channel; in the I/O thread."""
        if self._cancelled:
            channel.close()
            return
        self.channel = channel
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_cancel_callback(lambda _frame: self._lost(f"queue {self.queue!r} was deleted"))
        channel.basic_qos(prefetch_count=self._prefetch, callback=lambda _frame: self._consume(channel))

    def _consume(self, channel: Any) -> None:
        arguments = None if self._offset is None else {"x-stream-offset": self._offset}
        if channel.is_open and not self._cancelled:
            self._tag = channel.basic_consume(self.queue, self._on_message, arguments=arguments)

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        offset = _count(properties.headers, "x-stream-offset", -1)
        if offset >= 0 and self._offset is not None:
            self._offset = offset + 1
        returned = _count(properties.headers, "x-delivery-count", 0)
        self._on_delivery(Delivery(body, returned, offset, method.delivery_tag, channel, self))

    def _on_channel_closed(self, channel: Any, reason: Any) -> None:
        if channel is self.channel:
            self.channel = None
            # closed by us or with its connection: both are no loss of the queue
            if getattr(reason, "reply_code", 0) not in (0, 200) and channel.connection.is_open:
                self._lost(getattr(reason, "reply_text", str(reason)))

    def _lost(self, why: str) -> None:
        if not self._cancelled:
            self._cancelled = True
            self.forget()
            if self._on_lost:
                self._on_lost(BrokerError(why))


def _count(headers: dict[str, Any] | None, name: str, otherwise: int) -> int:
    """Return what RabbitMQ counts in a header; whoever publishes may have written anything there."""
    value = (headers or {}).get(name)
    return value if isinstance(value, int) and value >= 0 else otherwise
