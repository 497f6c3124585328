"""How long a job's units take, as it is learnt while its tasks are cut and sent."""

from __future__ import annotations

import time
from collections.abc import Callable

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
