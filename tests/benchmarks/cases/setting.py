"""What a case is given besides a peer, what it returns, and how it takes the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

Numbers = dict[str, float]


@dataclass(frozen=True)
class Setting:
    """How large, how often, and what the peer's workers are found by."""

    scale: float
    best_of: int
    #: Steps of `work` in a partition of the cpu case.
    steps: int
    peer: str
    address: str

    def times(self, count: float, least: int = 1) -> int:
        """Return a count at this scale."""
        return max(least, round(count * self.scale))


def best(fn: Callable[[], Any], times: int) -> tuple[Any, float]:
    """Call some times; return the last answer, and the least seconds."""
    seconds = []
    for _ in range(times):
        answer = None  # the memory of the last answer may be used again
        start = perf_counter()
        answer = fn()
        seconds.append(perf_counter() - start)
    return answer, min(seconds)


def by_turns(calls: dict[str, Callable[[], Any]], times: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Call several in turn, since a machine's speed changes; return last answers, and least seconds."""
    answers: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for _ in range(times):
        for name, call in calls.items():
            answers.pop(name, None)
            answers[name], took = best(call, 1)
            seconds[name] = min(took, seconds.get(name, took))
    return answers, seconds
