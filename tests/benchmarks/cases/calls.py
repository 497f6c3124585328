"""Many small calls, and single ones."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

from peers import Peer

from cases.setting import Numbers, Setting, best

WARM_UP = 10


def from_a_cell(source: str) -> Any:
    """Make a function as a notebook's cell does: pickled by value, without the module that asks for it."""
    return eval(source, {"__name__": "__main__"})


def tiny(peer: Peer, setting: Setting) -> Numbers:
    items = list(range(setting.times(1_000, 8)))
    increment = from_a_cell("lambda x: x + 1")
    found = {}
    for name, call in (("in batches", peer.batched), ("one task each", peer.items)):
        call(items, increment)
        got, seconds = best(functools.partial(call, items, increment), setting.best_of)
        assert got == [item + 1 for item in items]
        found[f"tiny {name}, items/s"] = len(items) / seconds
    return found


def latency(peer: Peer, setting: Setting) -> Numbers:
    return one_by_one(peer.trip, setting)


def executor(peer: Peer, setting: Setting) -> Numbers:
    with peer.executor() as call:

        def trip(item: int, fn: Callable[[int], int]) -> tuple[int, dict[str, float]]:
            start = perf_counter()
            answer = call(fn, item)
            return answer, {"executor round trip": perf_counter() - start}

        return one_by_one(trip, setting)


def one_by_one(trip: Callable[[int, Any], tuple[int, dict[str, float]]], setting: Setting) -> Numbers:
    """Make one call after the other; return the median and the 95th percentile of what each took."""
    seconds: dict[str, list[float]] = {}
    increment = from_a_cell("lambda x: x + 1")
    for item in range(WARM_UP + setting.times(200, 5)):
        got, took = trip(item, increment)
        assert got == item + 1
        for name, value in took.items():
            seconds.setdefault(name, []).append(value)
    found = {}
    for name, values in seconds.items():
        warm = sorted(values[WARM_UP:])
        found[f"{name} p50, ms"] = statistics.median(warm) * 1e3
        found[f"{name} p95, ms"] = warm[math.ceil(0.95 * len(warm)) - 1] * 1e3
    return found
