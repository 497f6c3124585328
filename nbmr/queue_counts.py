"""How many tasks wait in queues, and how many slots of workers listen to them."""

from __future__ import annotations

import time

from nbmr import topology
from nbmr.broker import Broker, NotFound

#: Seconds for which a count is good.
FRESH_SECONDS = 1.0
#: Seconds that RabbitMQ has to answer.
_ANSWER_SECONDS = 30.0


class QueueCounts:
    """Counts of the queues of one broker, which is asked for each at most once a second.

    Parameters
    ----------
    broker
        Where they are.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        #: By queue: when it was counted, by the monotonic clock; tasks, and slots.
        self._known: dict[str, tuple[float, int, int]] = {}

    def of(self, queue: str, timeout: float = _ANSWER_SECONDS) -> tuple[int, int]:
        """Return how many tasks wait in a queue, and how many slots listen to it.

        Raises
        ------
        BrokerUnreachable
            If RabbitMQ doesn't answer within so many seconds.
        """
        known = self._known.get(queue)
        if known and time.monotonic() - known[0] < FRESH_SECONDS:
            return known[1:]
        try:
            count = self._broker.count(topology.task_queue(queue), timeout)
        except NotFound:
            count = (0, 0)
        self._known[queue] = (time.monotonic(), *count)
        return count

    def forget(self, queue: str) -> None:
        """Have a queue counted anew when it is asked for next."""
        self._known.pop(queue, None)
