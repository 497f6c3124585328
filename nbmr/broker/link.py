"""One connection to RabbitMQ with an I/O thread of its own, which comes back by itself when it breaks.

pika's connections belong to one thread. Here that is the I/O thread; every other thread talks to it by
callbacks. What has to survive a broken connection is kept outside of it: messages that are not confirmed are
sent again (`Publisher`), calls are made again (`Calls`), consumers subscribe again (`Subscriptions`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pika.adapters.select_connection import IOLoop

from nbmr.broker.address import Address, is_here
from nbmr.broker.calls import Call, Calls, Operation
from nbmr.broker.connection import Connection
from nbmr.broker.consumer import Consumer
from nbmr.broker.publisher import Body, Outgoing, Publisher
from nbmr.broker.subscriptions import Subscriptions
from nbmr.broker.trouble import translate
from nbmr.broker.turns import all_done
from nbmr.errors import BrokerError, BrokerUnreachable

#: Seconds before the first attempt to reconnect, and the most between two.
FIRST_BACKOFF, LONGEST_BACKOFF = 0.1, 5.0
#: Seconds that a call (declare, delete, …) may take, reconnecting included.
CALL_SECONDS = 30.0
#: Seconds that RabbitMQ has to answer when a connection is closed; one that is blocked never does.
CLOSE_SECONDS = 2.0
#: Seconds that RabbitMQ has, once it can be reached again, before it is told anything. Where it was restarted
#: it starts the writers of its streams twice, within 0.2 s on an idle machine (3.10.8), and what the first
#: ones take is lost, or overwritten by the second ones, confirmed or not.
RESTART_SECONDS = 2.0
#: Seconds that what is under way may take when a connection is closed, reconnecting included.
FINISH_SECONDS = 5.0

# Without a handler of its own, logging would print pika's remarks about a broken connection into the cell.
logging.getLogger("pika").addHandler(logging.NullHandler())


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
        self._state = "connecting"
        self._backoff = FIRST_BACKOFF
        self._failures: list[BrokerError] = []
        #: The host that is tried first: the one behind that which broke.
        self._first = 0
        #: How often a connection was made.
        self.generation = 0
        #: RabbitMQ's version; empty before the first connection.
        self.version = ""
        #: How many bytes had been received when something last came, and when that was.
        self._heard = (0, 0.0)
        self._publisher = Publisher(self._changed, self._loop.call_later, self._on_ready)
        self._calls = Calls(self._loop.call_later)
        self._subscriptions = Subscriptions(self._loop.call_later)
        self._opened: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name=f"nbmr {name}", daemon=True)
        self._thread.start()
        try:
            while not all_done([self._opened], CALL_SECONDS):
                pass  # the I/O thread ends it, when all hosts have had their time
            self._opened.result()
        except BaseException:
            self.close()
            raise

    # ---------------------------------------------------------------- for any thread

    @property
    def state(self) -> str:
        """How it is.

        ``"open"``, ``"blocked"`` (an alarm in RabbitMQ), ``"silent"`` (RabbitMQ says nothing),
        ``"reconnecting"`` or ``"closed"``.
        """
        return self._state

    @property
    def idle(self) -> bool:
        """Whether everything that was published is confirmed."""
        return self._publisher.idle

    @property
    def rate(self) -> float | None:
        """Bytes a second that were published and confirmed, when it was measured last."""
        return self._publisher.rate

    @property
    def is_local(self) -> bool:
        """Whether all hosts are this one."""
        return all(is_here(address.host) for address in self._addresses)

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
        message = Outgoing(exchange, key, sum(map(len, body)), body)
        with self._changed:
            while not self._publisher.room(message.size) and not urgent:
                self._check_open()
                self._changed.wait(1.0)
            self._check_open()
            self._publisher.add(message)  # under the lock: nothing comes behind the end of the I/O thread
        self._soon(self._publisher.flush)
        return message.confirmed

    def ask(self, operation: Operation) -> Future[Any]:
        """Do one operation on a channel, now or after a reconnect; the future gets RabbitMQ's answer."""
        return self._ask(operation).answer

    def _ask(self, operation: Operation) -> Call:
        call = Call(operation)
        with self._changed:
            self._check_open()
            self._calls.add(call)
        self._soon(self._calls.next)
        return call

    def call(self, operation: Operation, timeout: float = CALL_SECONDS) -> Any:
        """Do one operation on a channel and return RabbitMQ's answer.

        Raises
        ------
        NotFound
            If the queue or exchange isn't there.
        BrokerError
            If RabbitMQ refuses, or doesn't answer in time.
        """
        call = self._ask(operation)
        if not all_done([call.answer], timeout):
            call.answer.cancel()
            address = self._addresses[0]
            raise BrokerUnreachable(
                f"RabbitMQ at {address.host}:{address.port} didn't answer within {timeout:g} s."
                f" {self.trouble or call.trouble}".rstrip()
            )
        return call.answer.result()

    def consume(self, consumer: Consumer) -> Consumer:
        """Subscribe a consumer, now and after every reconnect, until it is cancelled."""
        self._check_open()
        consumer.attach(
            self._soon,
            self._in_io_thread,
            forget=lambda: self._subscriptions.drop(consumer),
            again=lambda: self._subscriptions.again(consumer),
        )
        self._soon(lambda: self._subscriptions.add(consumer))
        return consumer

    def consumer_of(self, queue: str) -> Consumer | None:
        """Return a consumer of a queue, if there is one on this connection."""
        return self._subscriptions.of(queue)

    def connect_again(self) -> None:
        """Give up the connection, and make another one, to the next host first; all goes on by that one."""
        self._soon(lambda: self._connect_anew("what is read came no more, and is read anew"))

    def finish(self) -> None:
        """Wait until what is under way is done, unless RabbitMQ takes nothing, and not for long."""
        deadline = time.monotonic() + FINISH_SECONDS
        while not (self._publisher.idle and self._calls.idle) and time.monotonic() < deadline:
            if self._state not in {"open", "reconnecting"} or self._in_io_thread():
                return
            time.sleep(0.01)

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
        self._soon(self._connect)
        try:
            self._loop.start()
        finally:
            with self._waking:
                self._set_state("closed")
                self._loop.close()
            error = BrokerUnreachable("The connection to RabbitMQ was closed.")
            self._publisher.fail(error)
            self._calls.fail(error)
            if not self._opened.done():
                self._opened.set_exception(error)

    def _set_state(self, state: str) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()

    def _connect(self, failures: tuple[BrokerError, ...] = ()) -> None:
        """Try one host, and then the next; `failures` tells why those before it were of no use."""
        if self._state == "closing":
            return
        place = (self._first + len(failures)) % len(self._addresses)
        address = self._addresses[place]

        def failed(_connection: Any, error: Any) -> None:
            every = (*failures, translate(error, address))
            if len(every) < len(self._addresses):
                self._connect(every)
                return
            self._failures = list(every)
            if not self._opened.done():
                self._opened.set_exception(type(every[0])("\n".join(map(str, every))))
            else:
                self._retry()

        try:
            self._connection = Connection(
                address.parameters(self._name),
                on_open_callback=lambda connection: self._on_open(connection, place),
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
        self._loop.call_later(self._backoff, self._connect)
        self._backoff = min(2 * self._backoff, LONGEST_BACKOFF)

    def _on_open(self, connection: Any, place: int) -> None:
        self._backoff = FIRST_BACKOFF
        self._first = (place + 1) % len(self._addresses)
        self.generation += 1
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(lambda *_: self._on_unblocked())
        self._heard = (0, time.monotonic())
        self._listen(connection)
        if self.generation == 1:
            self._publisher.open(connection, again=False)
        else:
            self._failures = [BrokerUnreachable("it can be reached again, and brings back its queues")]
            self._loop.call_later(RESTART_SECONDS, lambda: self._resume(connection))

    def _resume(self, connection: Any) -> None:
        """Use a connection that took the place of a broken one, unless that is broken, too."""
        if connection is self._connection and connection.is_open:
            self._publisher.open(connection, again=True)

    def _listen(self, connection: Any) -> None:
        """Note whether RabbitMQ still says something; it does so every few seconds, by its heartbeat."""
        if connection is not self._connection or not connection.is_open:
            return
        now, heartbeat = time.monotonic(), connection.params.heartbeat
        silence = now - self._heard[1]
        if self._heard[0] != connection.bytes_received:
            self._heard = connection.bytes_received, now
            if self._state == "silent":
                self._on_unblocked()
        elif heartbeat and silence > heartbeat + 1 and self._state == "open":
            self._failures = [BrokerUnreachable(f"RabbitMQ has said nothing for {silence:.0f} s")]
            self._set_state("silent")
        if self._state == "open":
            self._insist()
        self._loop.call_later(1.0, lambda: self._listen(connection))

    def _insist(self) -> None:
        """Ask again for what RabbitMQ owes an answer for long: on new channels, and then a new connection."""
        if self._publisher.insist():
            self._connect_anew("it confirms nothing that it is sent")
            return
        self._calls.insist()
        self._subscriptions.insist()

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self._failures = [BrokerError(f"RabbitMQ takes nothing at the moment: {frame.method.reason}")]
        self._set_state("blocked")

    def _on_unblocked(self) -> None:
        if self._publisher.ready:  # or else it is not open yet
            self._failures = []
            self._set_state("open")

    def _on_ready(self) -> None:
        if self._connection is None or not self._connection.is_open:  # it was given up meanwhile
            return
        self._failures = []
        self._set_state("open")
        if not self._opened.done():
            self._opened.set_result(None)
        self.version = str((self._connection.server_properties or {}).get("version", ""))
        self._calls.open(self._connection)
        self._subscriptions.open(self._connection)

    def _on_close(self, reason: Any, address: Address) -> None:
        self._connection = None
        self._lose()
        if self._state == "closing":
            self._loop.stop()
            return
        error = translate(reason, address)
        self._failures = [error]
        if not self._opened.done():
            self._opened.set_exception(error)
        else:
            self._retry()

    def _connect_anew(self, why: str) -> None:
        if self._state == "open" and self._connection.is_open:
            self._failures = [BrokerUnreachable(why)]
            self._set_state("reconnecting")
            self._give_up(self._connection)

    def _close(self) -> None:
        self._state = "closing"
        if self._connection is not None and self._connection.is_open:
            self._give_up(self._connection)
            self._loop.call_later(CLOSE_SECONDS + 1.0, self._loop.stop)
        else:
            self._loop.stop()

    def _give_up(self, connection: Any) -> None:
        """Close a connection, with RabbitMQ's consent or without; `_on_close` is told of its end."""

        def abort() -> None:
            if connection is self._connection:
                connection._terminate_stream(None)  # noqa: SLF001 - pika has no public way

        self._lose()  # nothing may be opened on it any more
        connection.close()
        self._loop.call_later(CLOSE_SECONDS, abort)

    def _lose(self) -> None:
        """Note that all that was open on the connection is gone."""
        self._publisher.lose()
        self._calls.lose()
        self._subscriptions.lose()
