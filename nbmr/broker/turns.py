"""Waits that Ctrl-C ends, whichever thread the system gives the signal to.

Python looks for signals in its main thread, and a wait there is cut short only if the system has woken that
very thread. Where it has picked another one, or just before the wait began, the signal is seen when the wait
ends. So no wait is long: it begins anew.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from typing import Any

#: Seconds after which a wait begins anew.
TURN_SECONDS = 0.5


def all_done(futures: Sequence[Future[Any]], seconds: float) -> bool:
    """Wait until all futures are done; tell whether they are, after so many seconds at the latest."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > TURN_SECONDS:
        if not wait(futures, TURN_SECONDS).not_done:
            return True
    return not wait(futures, max(0.0, left)).not_done
