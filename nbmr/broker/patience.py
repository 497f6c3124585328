"""How long RabbitMQ may owe an answer before it is asked again, on another channel.

RabbitMQ loses what it is told while it restarts: a message for a stream whose writer has just been started
and is started once more is neither stored nor refused (3.10.8), and is never confirmed.
"""

from __future__ import annotations

#: Seconds before it is asked again, and the most when it goes on to say nothing.
FIRST_SECONDS, LONGEST_SECONDS = 15, 240


class Patience:
    """Counts for how long the same answer is owed, in seconds in which it could have come."""

    def __init__(self) -> None:
        self._owed: object = None
        self._seconds, self._limit = 0, FIRST_SECONDS
        #: How often it was asked again.
        self.asked = 0

    def over(self, owed: object) -> bool:
        """Tell whether to ask again; to be called once a second while RabbitMQ can answer.

        Parameters
        ----------
        owed
            What has waited longest for its answer; None if nothing waits.
        """
        if owed is None or owed is not self._owed:
            self._owed, self._seconds, self._limit, self.asked = owed, 0, FIRST_SECONDS, 0
            return False
        self._seconds += 1
        if self._seconds < self._limit:
            return False
        self._seconds, self._limit = 0, min(2 * self._limit, LONGEST_SECONDS)
        self.asked += 1
        return True
