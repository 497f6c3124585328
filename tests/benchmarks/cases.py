"""The cases: each measures one thing of one peer, and returns numbers by name.

A name ends with its unit. Of rates and efficiencies more is better, of all else less.
"""

from __future__ import annotations

import functools
import json
import math
import resource
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import psutil
import work
from peers import WORKERS, Peer

Numbers = dict[str, float]

COLUMNS = list("abcdefgh")


@dataclass(frozen=True)
class Setting:
    """What a case is given besides a peer: how large, how often, and what the peer's workers are found by."""

    scale: float
    best_of: int
    #: Steps of `work` in a partition of the cpu case.
    steps: int
    peer: str
    address: str

    def times(self, count: float, least: int = 1) -> int:
        """Return a count at this scale."""
        return max(least, round(count * self.scale))


# ---------------------------------------------------------------- data, time and answers


def floats(rows: int) -> pd.DataFrame:
    """Make a frame of 8 float64 columns, each in one piece, as `pandas.concat` leaves it; no copy is made."""
    values = np.empty((len(COLUMNS), rows))
    np.random.default_rng(1).random(out=values)
    return pd.DataFrame(values.T, columns=COLUMNS, copy=False)


def double(df: pd.DataFrame) -> pd.DataFrame:
    return df * 2


def check(got: pd.DataFrame, df: pd.DataFrame, fn: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Compare with what plain pandas gives, exactly, some rows at a time, since frames may be large."""
    assert len(got) == len(df)
    for start in range(0, len(df), 1_000_000):
        part = slice(start, start + 1_000_000)
        pd.testing.assert_frame_equal(got.iloc[part], fn(df.iloc[part]), check_exact=True)


def best(fn: Callable[[], Any], times: int) -> tuple[Any, float]:
    """Call some times; return the last answer, and the least seconds."""
    seconds = []
    for _ in range(times):
        answer = None  # the memory of the last answer may be used again
        start = perf_counter()
        answer = fn()
        seconds.append(perf_counter() - start)
    return answer, min(seconds)


# ---------------------------------------------------------------- the cases


def transfer(peer: Peer, setting: Setting) -> Numbers:
    df = floats(setting.times(2_000_000, 16))
    peer.frame(df, lambda part: part * 2, 16)
    got, seconds = best(lambda: peer.frame(df, lambda part: part * 2, 16), setting.best_of)
    check(got, df, double)
    megabytes = (size(df) + size(got)) / 1e6
    return {"transfer, s": seconds, "transfer, MB/s": megabytes / seconds}


def tiny(peer: Peer, setting: Setting) -> Numbers:
    items = list(range(setting.times(1_000, 8)))
    increment = lambda x: x + 1  # noqa: E731 - as from a cell: pickled by value
    found = {}
    for name, call in (("in batches", peer.batched), ("one task each", peer.items)):
        call(items, increment)
        got, seconds = best(functools.partial(call, items, increment), setting.best_of)
        assert got == [item + 1 for item in items]
        found[f"tiny {name}, items/s"] = len(items) / seconds
    return found


def latency(peer: Peer, setting: Setting) -> Numbers:
    seconds: dict[str, list[float]] = {}
    warm_up = 10
    for item in range(warm_up + setting.times(200, 5)):
        got, took = peer.trip(item, lambda x: x + 1)
        assert got == item + 1
        for name, value in took.items():
            seconds.setdefault(name, []).append(value)
    found = {}
    for name, values in seconds.items():
        warm = sorted(values[warm_up:])
        found[f"{name} p50, ms"] = statistics.median(warm) * 1e3
        found[f"{name} p95, ms"] = warm[math.ceil(0.95 * len(warm)) - 1] * 1e3
    return found


def cpu(peer: Peer, setting: Setting) -> Numbers:
    partitions = 16
    df = pd.DataFrame({"x": range(partitions)})
    burn, warm_up = work.burner(setting.steps), work.burner(1)
    peer.frame(df, lambda part: part.assign(y=[warm_up(x) for x in part["x"]]), partitions)
    half, serial, bare, seconds = partitions // WORKERS, [], [], []
    for _ in range(setting.best_of):  # by turns, for the speed of a machine changes
        serial.append(work.bare(1, setting.steps, half) * WORKERS)
        bare.append(work.bare(WORKERS, setting.steps, half))
        got, took = best(
            lambda: peer.frame(df, lambda part: part.assign(y=[burn(x) for x in part["x"]]), partitions), 1
        )
        seconds.append(took)
    pd.testing.assert_frame_equal(got, df.assign(y=[burn(x) for x in df["x"]]))
    return {
        "cpu, s": min(seconds),
        "cpu, efficiency": min(serial) / min(seconds) / WORKERS,
        "cpu of two bare processes, efficiency": min(serial) / min(bare) / WORKERS,
    }


def start(peer: Peer, setting: Setting) -> Numbers:
    program = str(Path(__file__).with_name("first.py"))
    peer.frame(pd.DataFrame({"x": range(16)}), double, 16)  # the workers have pandas
    found = {}
    for data in ("list", "frame"):
        command = [sys.executable, program, setting.peer, setting.address, data]
        seconds = []
        for _ in range(setting.best_of):
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seconds.append(float(json.loads(done.stdout)))
        found[f"start with a {data}, s"] = min(seconds)
    return found


def client_memory(peer: Peer, setting: Setting) -> Numbers:
    df = floats(setting.times(15_625_000, 16))  # 1 GB
    got = peer.frame(df, lambda part: part * 2, None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    check(got, df, double)
    return {"memory of the client beyond input and output, MB": (peak - size(df) - size(got)) / 1e6}


def node_memory(peer: Peer, setting: Setting) -> Numbers:
    df = floats(setting.times(31_250_000, 16))  # 2 GB
    with watch() as sizes:
        got = peer.frame(df, lambda part: part * 2, None)
    check(got, df, double)
    return {
        "memory of the node before, MB": sizes[0] / 1e6,
        "memory of the node at its peak, MB": max(sizes) / 1e6,
    }


@contextmanager
def watch(every: float = 0.01) -> Iterator[list[int]]:
    """Sample the memory of the private RabbitMQ node, in bytes; `every` so many seconds."""
    from nbmr.node import connection_file

    info = connection_file.read()
    assert info is not None
    processes = [psutil.Process(info.node_pid), *psutil.Process(info.node_pid).children(recursive=True)]
    [server] = [process for process in processes if process.name().startswith("beam")]
    sizes, done = [server.memory_info().rss], threading.Event()

    def sample() -> None:
        while not done.wait(every):
            sizes.append(server.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield sizes
    finally:
        done.set()
        thread.join()


def size(df: pd.DataFrame) -> int:
    """Bytes of a frame's values."""
    return int(df.memory_usage(index=False).sum())


CASES: dict[str, Callable[[Peer, Setting], Numbers]] = {
    case.__name__: case for case in (transfer, tiny, latency, cpu, start, client_memory, node_memory)
}
