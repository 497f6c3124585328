"""A broker as the rest of nbmr sees it: publish, consume, declare, delete.

It has two connections: one that publishes and one that consumes, since RabbitMQ stops reading from
connections that publish while it is short of memory or disk, and acknowledgements must still get through.
"""

from __future__ import annotations

import functools
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from nbmr.broker.address import Address, parse
from nbmr.broker.calls import Operation
from nbmr.broker.consumer import Consumer, Delivery
from nbmr.broker.link import CALL_SECONDS, Link
from nbmr.broker.publisher import Body
from nbmr.broker.trouble import NotFound
from nbmr.broker.turns import all_done
from nbmr.errors import BrokerError
from nbmr.topology import DEAD_EXCHANGE, NOWHERE, STREAM_PREFETCH, TASKS_EXCHANGE, Queue

#: Seconds after which a new queue survives RabbitMQ's being killed. RabbitMQ writes down the names of its
#: quorum queues, and of what keeps its streams, half a second after it was last busy with them. Killed before
#: that (3.10.8), it comes back with a queue that has lost its messages, or never answers again.
SETTLE_SECONDS = 1.2
#: Seconds within which a queue that is not broken takes a consumer.
SERVES_SECONDS = 10.0

_pool: dict[tuple[int, str], Broker] = {}
_pool_lock = threading.Lock()


def connect(url: str, alive: Callable[[], bool] = lambda: True) -> Broker:
    """Return this process's connections to a broker: made once, shared by all who ask.

    Parameters
    ----------
    url
        See `nbmr.broker.address.parse`.
    alive
        Asked when a connection has broken: whether there is any hope. If not, the connections close.

    Raises
    ------
    BrokerError
        If there is no connection to be had; the message says what to check.
    ConfigError
        If the URL is wrong.
    """
    with _pool_lock:
        known = _pool.get((os.getpid(), url))
        if known is None or known.closed:
            known = _pool[os.getpid(), url] = Broker(parse(url), alive)
        known.users += 1
        return known


class Broker:
    """Connections to one RabbitMQ server or cluster; `connect` gives a shared one.

    Parameters
    ----------
    addresses
        Its hosts, tried in turn.
    alive
        As for `connect`.
    """

    def __init__(self, addresses: tuple[Address, ...], alive: Callable[[], bool] = lambda: True) -> None:
        name = f"nbmr {socket.gethostname()} {os.getpid()}"
        self._publishing = Link(addresses, f"{name} publishing", alive)
        try:
            self._consuming = Link(addresses, f"{name} consuming", alive)
        except BaseException:
            self._publishing.close()
            raise
        #: Queues and streams that are there, as of which generation of the connection.
        self._declared: dict[str, int] = {}
        #: Those that we made a moment ago: when, and in which generation.
        self._young: dict[str, tuple[float, int]] = {}
        self._settling = threading.Lock()
        #: How many asked `connect` for it and didn't `release` it.
        self.users = 0

    @property
    def closed(self) -> bool:
        """Whether it was closed for good."""
        return "closed" in (self._publishing.state, self._consuming.state)

    @property
    def generation(self) -> int:
        """How often it was connected to, to read from."""
        return self._consuming.generation

    @property
    def rate(self) -> float | None:
        """Bytes a second that it takes, when it was measured last; None before that."""
        return self._publishing.rate

    @functools.cached_property
    def is_local(self) -> bool:
        """Whether it is on this host."""
        return self._publishing.is_local

    @property
    def version(self) -> str:
        """RabbitMQ's version, as it told when it was connected to."""
        return self._consuming.version

    @property
    def reason(self) -> str:
        """What has gone wrong last with a connection that isn't open."""
        return self._publishing.trouble or self._consuming.trouble

    @property
    def trouble(self) -> str:
        """Empty if all is well; otherwise what is wrong, for a person to read.

        An alarm that came up after this process published last is seen after `knock` only.
        """
        for link in (self._publishing, self._consuming):
            if link.state != "open":
                return f"{link.state}: {link.trouble}" if link.trouble else link.state
        return ""

    def publish(self, exchange: str, key: str, body: Body, *, urgent: bool = False) -> Future[bool]:
        """Send a persistent message; see `Link.publish`."""
        return self._publishing.publish(exchange, key, body, urgent=urgent)

    def append(self, queue: Queue, body: Body, *, urgent: bool = False) -> Future[bool]:
        """Send a persistent message straight to a queue or stream; the answer is False if it is gone.

        An urgent one doesn't wait for its turn: small messages that must not block the caller.
        """
        return self._publishing.publish("", queue.name, body, urgent=urgent)

    def knock(self) -> None:
        """Send a message to nowhere if nothing else is under way.

        RabbitMQ tells of an alarm to those alone who publish; who waits for workers wants to know too.
        """
        if self._publishing.idle:
            self._publishing.publish("", NOWHERE, [b"?"], urgent=True)

    def declare(self, *queues: Queue) -> None:
        """Make exchanges, queues and bindings that aren't there yet.

        A stream or queue is asked for once, and again after a reconnect. See `settle` for new ones.
        """
        for queue in queues:
            if self._declared.get(queue.name) == self._consuming.generation:
                continue
            new = queue.shared and not self.exists(queue)
            self._declare(queue)
            generation = self._declared[queue.name] = self._consuming.generation
            if new:
                self._young[queue.name] = time.monotonic(), generation

    def settle(self, *queues: Queue, timeout: float = CALL_SECONDS) -> None:
        """Wait until these survive RabbitMQ's being killed; make again what it broke if it was killed before.

        Only those that this process has just made have to be waited for.

        Raises
        ------
        BrokerUnreachable
            If RabbitMQ doesn't answer within so many seconds; call it again then.
        """
        with self._settling:
            for queue in queues:
                while young := self._young.get(queue.name):
                    made, generation = young
                    time.sleep(max(0.0, made + SETTLE_SECONDS - time.monotonic()))
                    self.exists(queue, timeout)  # answered after a reconnect, if there was one
                    now = self._consuming.generation
                    broken = generation != now and not self._serves(queue)
                    if broken and (self._consuming.state != "open" or now != self._consuming.generation):
                        continue  # out of reach once more: that is why nothing is served
                    del self._young[queue.name]
                    if broken:
                        self.delete(queue)  # nobody can get at what may be in it
                        self.declare(queue)

    def _serves(self, queue: Queue) -> bool:
        """Whether RabbitMQ serves a consumer of a queue: one that we have, or one for a moment.

        A message that comes to the latter is not given back by us: that would count, again and again, as an
        attempt that has failed. It goes back with the channel.
        """
        ours = self._consuming.consumer_of(queue.name)
        offset = "next" if queue.is_stream else None
        consumer = ours or self.consume(queue, lambda _delivery: None, prefetch=1, offset=offset)
        try:
            return consumer.subscribed.wait(SERVES_SECONDS)
        finally:
            if ours is None:
                consumer.close()

    def _declare(self, queue: Queue) -> None:
        if queue.exchange:
            for exchange in (TASKS_EXCHANGE, DEAD_EXCHANGE):
                self._call(_declaration_of(exchange))
        self._call(
            lambda channel, done: channel.queue_declare(
                queue.name, durable=True, arguments=queue.arguments, callback=done
            )
        )
        if queue.exchange:
            self._call(
                lambda channel, done: channel.queue_bind(queue.name, queue.exchange, queue.key, callback=done)
            )

    def count(self, queue: Queue, timeout: float = CALL_SECONDS) -> tuple[int, int]:
        """Return how many messages wait in a queue, and how many consumers it has.

        Raises
        ------
        NotFound
            If it isn't there.
        BrokerUnreachable
            If RabbitMQ doesn't say within so many seconds.
        """
        ok = self._consuming.call(
            lambda channel, done: channel.queue_declare(queue.name, passive=True, callback=done), timeout
        )
        return int(ok.message_count), int(ok.consumer_count)

    def exists(self, queue: Queue, timeout: float = CALL_SECONDS) -> bool:
        """Whether a queue or stream is there; raises `BrokerUnreachable` if RabbitMQ doesn't say in time."""
        try:
            self.count(queue, timeout)
        except NotFound:
            self._declared.pop(queue.name, None)
            return False
        return True

    def delete(self, *queues: Queue, timeout: float = CALL_SECONDS) -> bool:
        """Delete queues and streams; it is no error if they are gone already.

        Parameters
        ----------
        *queues
            What to delete.
        timeout
            Seconds to wait; they are deleted later if that is not enough.

        Returns
        -------
        bool
            Whether they are gone by now.
        """
        waiting = []
        for queue in queues:
            self._declared.pop(queue.name, None)
            waiting.append(self._consuming.ask(_deletion_of(queue.name)))
        if self.trouble:
            return False
        gone = all_done(waiting, timeout)
        for answer in waiting:
            if answer.done():
                answer.result()
        return gone

    def _call(self, operation: Operation) -> Any:
        return self._consuming.call(operation)

    def consume(
        self,
        queue: Queue,
        on_delivery: Callable[[Delivery], None],
        *,
        prefetch: int = STREAM_PREFETCH,
        offset: str | int | None = None,
        on_lost: Callable[[BrokerError], None] | None = None,
    ) -> Consumer:
        """Subscribe to a queue, or to a stream from an offset; see `Consumer`."""
        consumer = Consumer(queue, on_delivery, prefetch=prefetch, offset=offset, on_lost=on_lost)
        return self._consuming.consume(consumer)

    def consume_elsewhere(self) -> None:
        """Have all consumers go on by a new connection: to the next host, if there are several."""
        self._consuming.connect_again()

    def release(self) -> None:
        """Give up what `connect` gave; the last one closes the connections."""
        with _pool_lock:
            self.users -= 1
            last = self.users <= 0
        if last:
            self.close()

    def close(self) -> None:
        """Close both connections, when what is under way is done; see `Link.finish`."""
        try:
            for link in (self._publishing, self._consuming):
                link.finish()
        finally:
            self._publishing.close()
            self._consuming.close()


def _declaration_of(exchange: str) -> Operation:
    return lambda channel, done: channel.exchange_declare(exchange, "topic", durable=True, callback=done)


def _deletion_of(queue: str) -> Operation:
    return lambda channel, done: channel.queue_delete(queue, callback=done)
