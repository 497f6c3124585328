"""The consumers of one connection: each subscribes on a channel of its own, and again after a reconnect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nbmr.broker.consumer import Consumer

#: Seconds before a consumer subscribes again that RabbitMQ could not serve yet.
SUBSCRIBE_SECONDS = 0.3


class Subscriptions:
    """Has consumers subscribe while there is a connection; all but `of` belongs to the I/O thread.

    Parameters
    ----------
    later
        Calls a function after so many seconds.
    """

    def __init__(self, later: Callable[[float, Callable[[], None]], object]) -> None:
        self._later = later
        self._connection: Any = None
        self._consumers: set[Consumer] = set()

    def of(self, queue: str) -> Consumer | None:
        """Return a consumer of a queue, if there is one."""
        return next((consumer for consumer in list(self._consumers) if consumer.queue == queue), None)

    def add(self, consumer: Consumer) -> None:
        """Subscribe a consumer, until it is dropped."""
        self._consumers.add(consumer)
        self._subscribe(consumer)

    def drop(self, consumer: Consumer) -> None:
        """Subscribe a consumer no more."""
        self._consumers.discard(consumer)

    def again(self, consumer: Consumer) -> None:
        """Subscribe a consumer again, in a moment."""

        def subscribe() -> None:
            if consumer in self._consumers:
                self._subscribe(consumer)

        self._later(SUBSCRIBE_SECONDS, subscribe)

    def open(self, connection: Any) -> None:
        """Subscribe by this connection from now on."""
        self._connection = connection
        for consumer in self._consumers:
            self._subscribe(consumer)

    def lose(self) -> None:
        """Note that the connection has broken."""
        self._connection = None
        for consumer in self._consumers:
            consumer.lose()

    def insist(self) -> None:
        """Subscribe again where RabbitMQ owes an answer for long; to be called once a second."""
        for consumer in list(self._consumers):
            consumer.acknowledge()
            if consumer.overdue():
                silent = consumer.channel
                consumer.lose()
                self._subscribe(consumer)
                if silent is not None and silent.is_open:
                    silent.close()

    def _subscribe(self, consumer: Consumer) -> None:
        if self._connection is not None and consumer.channel is None:
            self._connection.channel(on_open_callback=consumer.subscribe)
