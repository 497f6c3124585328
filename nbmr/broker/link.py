"""One connection to RabbitMQ with an I/O thread of its own, which comes back by itself when it breaks.

pika's connections belong to one thread. Here that is the I/O thread; every other thread talks to it by
callbacks. What has to survive a broken connection is kept in this object: messages that are not confirmed are
sent again, consumers subscribe again, calls are made again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Any

import pika
from pika.adapters.select_connection import IOLoop
from pika.exceptions import ChannelClosedByBroker

from nbmr.broker.address import Address
from nbmr.broker.connection import Connection
from nbmr.broker.consumer import Consumer, Delivery
from nbmr.broker.trouble import NotFound, refusal, translate
from nbmr.errors import BrokerError, BrokerUnreachable

__all__ = ["Consumer", "Delivery", "Link", "NotFound"]

#: Bytes that may wait for their confirmation; whoever publishes more waits.
WINDOW_BYTES = 16 << 20
#: Seconds before the first attempt to reconnect, and the most between two.
FIRST_BACKOFF, LONGEST_BACKOFF = 0.1, 5.0
#: Seconds that a call (declare, delete, …) may take, reconnecting included.
CALL_SECONDS = 30.0

# Without a handler of its own, logging would print pika's remarks about a broken connection into the cell.
logging.getLogger("pika").addHandler(logging.NullHandler())


#: A message's body, in pieces.
Body = list[bytes]
#: Calls a method of the channel that it is given, and has it call back what it is given next.
Operation = Callable[[Any, Callable[[Any], None]], Any]


@dataclass(eq=False)
class _Outgoing:
    exchange: str
    key: str
    size: int
    body: list[bytes]
    routed: bool = True
    confirmed: Future[bool] = field(default_factory=Future)


@dataclass(eq=False)
class _Call:
    operation: Operation
    answer: Future[Any] = field(default_factory=Future)


class Link:
    """One connection, opened at once.

    Parameters
    ----------
    addresses
        The broker's hosts, tried in turn.
    name
        What RabbitMQ's own tools show for this connection.
    alive
        Asked when the connection has broken: whether there is any hope. If not, the link closes.

    Raises
    ------
    BrokerError
        If none of them can be connected to; the message says why.
    """

    def __init__(
        self, addresses: tuple[Address, ...], name: str, alive: Callable[[], bool] = lambda: True
    ) -> None:
        self._addresses, self._name, self._alive = addresses, name, alive
        self._changed = threading.Condition()
        self._waking = threading.Lock()  # the loop must not be woken after it was closed
        self._loop = IOLoop()
        self._connection: Any = None
        self._publisher: Any = None
        self._caller: Any = None
        self._state = "connecting"
        self._backoff = FIRST_BACKOFF
        self._failures: list[BrokerError] = []
        self._outbox: deque[_Outgoing] = deque()
        self._unconfirmed: dict[int, _Outgoing] = {}
        self._held = 0
        self._sent = 0
        self._calls: deque[_Call] = deque()
        self._calling: _Call | None = None
        self._consumers: set[Consumer] = set()
        self._opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=f"nbmr {name}", daemon=True)
        self._thread.start()
        try:
            self._opened.result()
        except BaseException:
            self.close()
            raise

    # ---------------------------------------------------------------- for any thread

    @property
    def state(self) -> str:
        """``"open"``, ``"blocked"`` (an alarm in RabbitMQ), ``"reconnecting"`` or ``"closed"``."""
        return self._state

    @property
    def trouble(self) -> str:
        """Why the state is not ``"open"``; otherwise empty."""
        return "" if self._state == "open" else "; ".join(str(f) for f in self._failures)

    def publish(self, exchange: str, key: str, body: Body, *, urgent: bool = False) -> Future[bool]:
        """Send a persistent message; wait while too many bytes are unconfirmed, unless it is urgent.

        Parameters
        ----------
        exchange, key
            Where to.
        body
            The body, in pieces that fit a frame, as `nbmr.message.seal` makes them.
        urgent
            Don't wait: for small messages from where nothing may block.

        Returns
        -------
        Future
            Done when RabbitMQ has the message safely: True, or False if no queue wanted it.
        """
        size = sum(map(len, body))
        with self._changed:
            while self._held and self._held + size > WINDOW_BYTES and not urgent:
                self._check_open()
                self._changed.wait(1.0)
            self._check_open()
            self._held += size
            message = _Outgoing(exchange, key, size, body)
            self._outbox.append(message)  # under the lock: nothing comes behind the end of the I/O thread
        self._soon(self._flush)
        return message.confirmed

    def ask(self, operation: Operation) -> Future[Any]:
        """Do one operation on a channel, now or after a reconnect; the future gets RabbitMQ's answer."""
        call = _Call(operation)
        with self._changed:
            self._check_open()
            self._calls.append(call)
        self._soon(self._next_call)
        return call.answer

    def call(self, operation: Operation, timeout: float = CALL_SECONDS) -> Any:
        """Do one operation on a channel and return RabbitMQ's answer.

        Raises
        ------
        NotFound
            If the queue or exchange isn't there.
        BrokerError
            If RabbitMQ refuses, or doesn't answer in time.
        """
        answer = self.ask(operation)
        try:
            return answer.result(timeout)
        except FutureTimeout:
            answer.cancel()
            raise BrokerUnreachable(
                f"RabbitMQ at {self._addresses[0].host} didn't answer within {timeout:g} s. {self.trouble}"
            ) from None

    def consume(self, consumer: Consumer) -> Consumer:
        """Subscribe a consumer, now and after every reconnect, until it is cancelled."""
        self._check_open()
        consumer.attach(self._soon, self._in_io_thread)
        self._soon(lambda: self._add(consumer))
        return consumer

    def close(self) -> None:
        """Close the connection and end its thread; what is unconfirmed fails."""
        if self._state == "closed":
            return
        self._soon(self._close)
        if not self._in_io_thread():
            self._thread.join(10)

    def _in_io_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def _check_open(self) -> None:
        if self._state == "closed":
            raise BrokerUnreachable("The connection to RabbitMQ was closed. Connect again.")

    def _soon(self, callback: Callable[[], object]) -> None:
        with self._waking:
            if self._state != "closed":
                self._loop.add_callback_threadsafe(callback)

    # ---------------------------------------------------------------- in the I/O thread

    def _run(self) -> None:
        self._soon(lambda: self._connect(0))
        try:
            self._loop.start()
        finally:
            with self._waking:
                self._set_state("closed")
                self._loop.close()
            error = BrokerUnreachable("The connection to RabbitMQ was closed.")
            waiting: list[Future[Any]] = [m.confirmed for m in (*self._unconfirmed.values(), *self._outbox)]
            waiting += [c.answer for c in (*self._calls, *([self._calling] if self._calling else ()))]
            waiting.append(self._opened)
            for future in waiting:
                if not future.done():
                    future.set_exception(error)

    def _set_state(self, state: str) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def _connect(self, number: int) -> None:
        if self._state == "closing":
            return
        if number == 0:
            self._failures = []
        address = self._addresses[number]

        def failed(_connection: Any, error: Any) -> None:
            self._failures.append(translate(error, address))
            if number + 1 < len(self._addresses):
                self._connect(number + 1)
            elif not self._opened.done():
                first = self._failures[0]
                every = "\n".join(str(f) for f in self._failures)
                self._opened.set_exception(type(first)(every))
            else:
                self._retry()

        try:
            self._connection = Connection(
                address.parameters(self._name),
                on_open_callback=self._on_open,
                on_open_error_callback=failed,
                on_close_callback=lambda _, reason: self._on_close(reason, address),
                custom_ioloop=self._loop,
            )
        except (OSError, BrokerError) as exc:
            failed(None, exc)

    def _retry(self) -> None:
        if not self._alive():
            self._loop.stop()
            return
        self._set_state("reconnecting")
        self._loop.call_later(self._backoff, lambda: self._connect(0))
        self._backoff = min(2 * self._backoff, LONGEST_BACKOFF)

    def _on_open(self, connection: Any) -> None:
        self._backoff = FIRST_BACKOFF
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(lambda *_: self._on_unblocked())
        connection.channel(on_open_callback=self._on_publisher)

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self._failures = [BrokerError(f"RabbitMQ takes nothing at the moment: {frame.method.reason}")]
        self._set_state("blocked")

    def _on_unblocked(self) -> None:
        self._failures = []
        self._set_state("open")

    def _on_publisher(self, channel: Any) -> None:
        channel.add_on_return_callback(self._on_return)
        channel.add_on_close_callback(self._on_publisher_closed)
        channel.confirm_delivery(
            self._on_confirm, callback=lambda _frame, channel=channel: self._on_ready(channel)
        )

    def _on_publisher_closed(self, channel: Any, reason: Any) -> None:
        """Fail what is unconfirmed if RabbitMQ refuses it: sending it again would end the same way."""
        if channel is not self._publisher or not isinstance(reason, ChannelClosedByBroker):
            return
        self._publisher = None
        refused = list(self._unconfirmed.values())
        self._unconfirmed.clear()
        with self._changed:
            self._held -= sum(message.size for message in refused)
            self._changed.notify_all()
        for message in refused:
            message.confirmed.set_exception(BrokerError(f"RabbitMQ refused a message: {reason.reply_text}"))
        self._connection.channel(on_open_callback=self._on_publisher)

    def _on_ready(self, channel: Any) -> None:
        self._publisher, self._sent = channel, 0
        self._outbox.extendleft(reversed(self._unconfirmed.values()))
        self._unconfirmed.clear()
        self._failures = []
        self._set_state("open")
        if not self._opened.done():
            self._opened.set_result(None)
        for consumer in self._consumers:
            if consumer.channel is None:
                self._subscribe(consumer)
        self._next_call()
        self._flush()

    def _on_close(self, reason: Any, address: Address) -> None:
        self._connection = self._publisher = self._caller = None
        if self._state == "closing":
            self._loop.stop()
            return
        if self._calling:
            self._calls.appendleft(self._calling)
            self._calling = None
        for consumer in self._consumers:
            consumer.channel = None
        error = translate(reason, address)
        self._failures = [error]
        if not self._opened.done():
            self._opened.set_exception(error)
        else:
            self._retry()

    def _close(self) -> None:
        self._state = "closing"
        if self._connection is not None and self._connection.is_open:
            self._connection.close()
        else:
            self._loop.stop()

    def _flush(self) -> None:
        if self._publisher is None or not self._publisher.is_open:
            return
        while self._outbox:
            message = self._outbox.popleft()
            self._sent += 1
            self._unconfirmed[self._sent] = message
            properties = pika.BasicProperties(delivery_mode=2, message_id=str(self._sent))
            self._connection.publish(self._publisher, message.exchange, message.key, properties, message.body)

    def _on_return(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        message = self._unconfirmed.get(int(properties.message_id))
        if message:
            message.routed = False

    def _on_confirm(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        tags = [t for t in self._unconfirmed if t <= tag] if frame.method.multiple else [tag]
        done = [self._unconfirmed.pop(t) for t in tags if t in self._unconfirmed]
        with self._changed:
            self._held -= sum(m.size for m in done)
            self._changed.notify_all()
        for message in done:
            message.body = []
            if isinstance(frame.method, pika.spec.Basic.Nack):
                message.confirmed.set_exception(
                    BrokerError(
                        "RabbitMQ could not store a message; see its log for the reason (disk full?)."
                    )
                )
            else:
                message.confirmed.set_result(message.routed)

    def _next_call(self) -> None:
        if self._calling or not self._calls or self._publisher is None:
            return
        if self._caller is None:
            self._caller = self._connection.channel(on_open_callback=lambda _: self._next_call())
            self._caller.add_on_close_callback(self._on_caller_closed)
            return
        if not self._caller.is_open:
            return
        call = self._calling = self._calls.popleft()
        if call.answer.cancelled():
            self._finish_call()
            return
        call.operation(self._caller, self._finish_call)

    def _finish_call(self, frame: Any = None, error: BaseException | None = None) -> None:
        call, self._calling = self._calling, None
        if call and not call.answer.done():
            if error:
                call.answer.set_exception(error)
            else:
                call.answer.set_result(frame.method if frame else None)
        self._next_call()

    def _on_caller_closed(self, channel: Any, reason: Any) -> None:
        if channel is not self._caller:
            return
        self._caller = None
        if isinstance(reason, ChannelClosedByBroker):
            self._finish_call(error=refusal(reason))

    def _add(self, consumer: Consumer) -> None:
        self._consumers.add(consumer)
        consumer.forget = lambda: self._consumers.discard(consumer)
        if self._publisher is not None:
            self._subscribe(consumer)

    def _subscribe(self, consumer: Consumer) -> None:
        self._connection.channel(on_open_callback=consumer.subscribe)
