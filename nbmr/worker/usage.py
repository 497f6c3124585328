"""What a worker's processes take of the machine: memory, and processor time."""

from __future__ import annotations

import time

import psutil


class Usage:
    """Measures this process with all that it has started: fork server, children, and what tasks started."""

    def __init__(self) -> None:
        #: When it was measured last, and the processor time of each process then, by its id and start.
        self._at = 0.0
        self._seconds: dict[tuple[int, float], float] = {}

    @property
    def age(self) -> float:
        """Seconds since the last measurement."""
        return time.monotonic() - self._at

    def measure(self) -> tuple[int, float]:
        """Return how many bytes they hold, and how much they have computed since the last measurement.

        Pages that processes share are counted for each of them.

        Returns
        -------
        memory : int
            Bytes of resident memory.
        cpu : float
            Percent of one core; 0 at the first measurement.
        """
        memory, seconds = 0, {}
        this = psutil.Process()
        for process in (this, *this.children(recursive=True)):
            try:
                with process.oneshot():
                    memory += process.memory_info().rss
                    times = process.cpu_times()
                    seconds[process.pid, process.create_time()] = times.user + times.system
            except psutil.Error:  # it has just ended
                continue
        now, before = time.monotonic(), self._seconds
        used = sum(spent - before.get(process, 0.0) for process, spent in seconds.items()) if before else 0.0
        interval = now - self._at
        self._at, self._seconds = now, seconds
        return memory, max(0.0, 100 * used / interval)
