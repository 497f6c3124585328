"""Pure Python work of a known length. Run as a program, it works and tells the seconds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from time import perf_counter


def burner(steps: int) -> Callable[[int], int]:
    """Return a function that computes for so many steps; it can be pickled by value, as one from a cell."""

    def burn(seed: int) -> int:
        x = int(seed)
        for _ in range(steps):
            x = (x * 1103515245 + 12345) & 0x7FFFFFFF
        return x

    return burn


def computer() -> Callable[[int], int]:
    """Return a function that computes for the steps it is given; pickled by value, too."""

    def compute(steps: int) -> int:
        x = 1
        for _ in range(steps):
            x = (x * 1103515245 + 12345) & 0x7FFFFFFF
        return x

    return compute


def steps_in(seconds: float) -> int:
    """Return how many steps take about so long here."""
    probe = 200_000
    return max(1, int(probe * seconds / min(work(probe, 1) for _ in range(5))))


def work(steps: int, times: int) -> float:
    """Compute so many times; the seconds that it took."""
    burn = burner(steps)
    start = perf_counter()
    for seed in range(times):
        burn(seed)
    return perf_counter() - start


def bare(processes: int, steps: int, times: int) -> float:
    """Compute so many times in each of so many bare processes at once; the seconds that the slowest took."""
    command = [sys.executable, __file__, str(steps), str(times)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
    return max(float(process.communicate()[0]) for process in started)


if __name__ == "__main__":
    print(work(int(sys.argv[1]), int(sys.argv[2])))
