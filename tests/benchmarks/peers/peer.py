"""What a peer is, and what all of them do alike where they have no better way of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from time import perf_counter
from typing import Any

Fn = Callable[[Any], Any]

WORKERS = 2
#: Batches that are made by hand of many tiny items, and parts of rows or groups.
BATCHES = 8
#: Bytes of a partition where a frame is cut by hand: RabbitMQ 4 takes up to 16 MiB in a message.
PARTITION_BYTES = 8_000_000
#: Seconds after which an answer is given up.
PATIENCE = 300


def split(data: Any, count: int) -> list[Any]:
    """Cut a frame or a list into parts of about the same length."""
    cuts = [len(data) * i // count for i in range(count + 1)]
    rows = data if isinstance(data, list) else data.iloc
    return [rows[a:b] for a, b in pairwise(cuts)]


class Peer:
    """One of those that are compared."""

    #: Cases that make no sense for it.
    skips: frozenset[str] = frozenset()
    #: What its client imports.
    imports: str

    def start(self) -> str:
        """Start the workers and connect; return what `connect` takes in another process."""
        raise NotImplementedError

    def connect(self, address: str) -> None:
        """Connect to workers that are up; where they belong to their client, start them."""
        raise NotImplementedError

    def close(self) -> None:
        """End the connection."""

    def stop(self) -> None:
        """End the connection and the workers."""
        self.close()

    def items(self, items: list[Any], fn: Fn) -> list[Any]:
        """Call a function with each item, one task an item."""
        raise NotImplementedError

    def batched(self, items: list[Any], fn: Fn) -> list[Any]:
        """Call a function with each item, in batches."""

        def each(part: list[Any]) -> list[Any]:
            return [fn(item) for item in part]

        return [answer for part in self.items(split(items, BATCHES), each) for answer in part]

    def frame(self, df: Any, fn: Fn, partitions: int | None) -> Any:
        """Map a frame; without a number of partitions, so that a frame of any size passes."""
        import pandas as pd

        count = partitions or max(1, -(-int(df.memory_usage().sum()) // PARTITION_BYTES))
        return pd.concat(self.items(split(df, count), fn))

    def rows(self, df: Any, fn: Fn) -> Any:
        """Call a function with each row."""
        return self.frame(df, lambda part: part.apply(fn, axis=1), BATCHES)

    def groups(self, df: Any, by: str, fn: Fn) -> Any:
        """Call a function with each group of rows, which are brought together here, by whole keys."""
        import pandas as pd

        parts = [part for _, part in df.groupby(df[by] % BATCHES)]
        return pd.concat(self.items(parts, lambda part: part.groupby(by).apply(fn))).sort_index()

    def trip(self, item: Any, fn: Fn) -> tuple[Any, dict[str, float]]:
        """Call a function with one item; return the answer, and the seconds it took, by what they cover."""
        start = perf_counter()
        [answer] = self.items([item], fn)
        return answer, {"latency": perf_counter() - start}

    @contextmanager
    def executor(self) -> Iterator[Callable[[Fn, Any], Any]]:
        """Give what calls a function with one item: by ``concurrent.futures``' interface if it can."""
        yield lambda fn, item: self.trip(item, fn)[0]

    def prove(self) -> None:
        """Make sure that two other processes work."""

        def where(seconds: float) -> int:
            import os
            import time

            time.sleep(seconds)
            return os.getpid()

        pids: set[int] = set()
        until = time.monotonic() + PATIENCE
        while len(pids) < WORKERS:
            assert time.monotonic() < until, f"only these processes work: {pids}"
            pids |= set(self.items([0.05] * 8, where))
        assert os.getpid() not in pids
