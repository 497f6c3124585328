"""How long a job's units take, as it is learnt while its tasks are cut and sent."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds of work that neighbours which make one task hold at most.
MERGED_SECONDS = 0.25
#: Seconds for which to wait for the first result.
_LEARN_SECONDS = 0.05


class Pace:
    """How long a unit takes, for who cuts tasks as they are sent.

    Parameters
    ----------
    seconds_per_unit
        Tells how long a unit takes, once that is known.
    """

    def __init__(self, seconds_per_unit: Callable[[], float | None]) -> None:
        self._seconds_per_unit = seconds_per_unit
        self._asked = 0

    def seconds(self, behind: int) -> float | None:
        """Return how long a unit takes, if it is known; to be asked before each task.

        Waits for a moment, once, where so many tasks were sent.
        """
        self._asked += 1
        seconds = self._seconds_per_unit()
        if seconds is None and self._asked == behind + 1:
            until, pause = time.monotonic() + _LEARN_SECONDS, _LEARN_SECONDS / 400
            while (seconds := self._seconds_per_unit()) is None and time.monotonic() < until:
                time.sleep(pause)
                pause = min(1.5 * pause, _LEARN_SECONDS / 25)
        return seconds


class Rounds:
    """How much of what is left makes the next task, once it is known to be short work.

    In a round every slot gets a task, of two thirds of its share of what is left. Where that is short, it
    needs no balance, and is all of it.

    Parameters
    ----------
    slots
        How many tasks run at once.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        #: How much each task of this round gets, and how many of them are to come.
        self._size, self._coming = 0.0, 0

    def next(self, left: float, seconds: float) -> float:
        """Return how much makes the next task.

        Parameters
        ----------
        left
            How much there is.
        seconds
            How long a task of 1 takes.
        """
        if not self._coming:
            share = left / self._slots
            self._size = share if share * seconds <= MERGED_SECONDS else 2 / 3 * share
            self._size = min(self._size, MERGED_SECONDS / max(seconds, 1e-6))
            self._coming = self._slots
        self._coming -= 1
        return self._size
