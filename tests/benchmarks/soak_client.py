"""One client of the soak: calls of every kind, one after another, each answer checked.

    python soak_client.py SEED SECONDS FILE

writes what it counted as JSON, again after every call.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import nbmr

#: Seconds after which an answer counts as a wait that doesn't end.
PATIENCE = 120.0


class Wrong(Exception):
    """An answer that is not what it must be."""


def same(found: Any, expected: Any) -> None:
    if isinstance(expected, pd.DataFrame):
        try:
            pd.testing.assert_frame_equal(found, expected, check_exact=True)
        except AssertionError as exc:
            raise Wrong(str(exc)[:300]) from exc
    elif found != expected:
        raise Wrong(f"{str(found)[:150]} for {str(expected)[:150]}")


def segfault() -> None:
    ctypes.string_at(0)


class Calls:
    """The kinds of calls."""

    def __init__(self, client: nbmr.Client, rng: random.Random) -> None:
        self.client, self.rng = client, rng

    def gather(self, data: Any, fn: Any, **options: Any) -> Any:
        job = self.client.submit(data, fn, **options)
        try:
            return job.result(PATIENCE)
        finally:
            job.forget()

    def tiny(self) -> None:
        same(self.gather(range(1000), lambda x: x + 1), list(range(1, 1001)))

    def large(self) -> None:
        rows = self.rng.randrange(300_000, 900_000)
        df = pd.DataFrame(
            {
                "a": np.arange(rows) / 7,
                "b": np.arange(rows),
                "c": ["x", "yy"] * (rows // 2) + ["z"] * (rows % 2),
            }
        )
        same(self.gather(df, lambda part: part.assign(d=part.a * part.b)), df.assign(d=df.a * df.b))

    def closure(self) -> None:
        big = np.arange(1_000_000) + self.rng.randrange(100)
        same(self.gather(range(4), lambda x: int(big[x])), [int(big[x]) for x in range(4)])

    def oversized(self) -> None:
        found = self.gather([12_000_000, 3], lambda n: b"x" * n, partitions=2)
        same(found == [b"x" * 12_000_000, b"xxx"], True)

    def failing(self) -> None:
        def fail(x: int) -> int:
            if x == 7:
                raise ValueError("it is seven")
            return x

        try:
            self.gather(range(10), fail)
        except nbmr.TaskLost:
            raise
        except nbmr.TaskError as exc:
            same((exc.partition, "it is seven" in str(exc)), (7, True))
        else:
            raise Wrong("no error")

    def keeping(self) -> None:
        def fail(x: int) -> int:
            if x % 5 == 0:
                raise ValueError(x)
            return x

        found = self.gather(range(20), fail, on_error="keep")
        told = [("failed", x.number) if isinstance(x, nbmr.Failure) else x for x in found]
        same(told, [x if x % 5 else ("failed", x) for x in range(20)])

    def cancelled(self) -> None:
        job = self.client.submit([1] * 20, time.sleep, partitions=20)
        time.sleep(self.rng.random())
        job.cancel()
        same(self.gather([1], lambda x: x), [1])

    def timeout(self) -> None:
        try:
            self.gather([60], time.sleep, timeout=0.5)
        except nbmr.TaskTimeout:
            return
        raise Wrong("no TaskTimeout")

    def crashing(self) -> None:
        end, cause = self.rng.choice([(lambda: os._exit(3), "exit code 3"), (segfault, "SIGSEGV")])

        def crash(x: int) -> int:
            if x == 3:
                end()
            return x

        try:
            self.gather(range(6), crash)
        except nbmr.TaskLost as exc:
            if exc.partition != 3 or cause not in str(exc):
                raise  # killed, perhaps
        else:
            raise Wrong("no TaskLost")

    def attached(self) -> None:
        job = self.client.submit(range(50), lambda x: x * 2, partitions=10)
        with nbmr.Client() as other:
            again = other.attach(job.id)
            same(again.result(PATIENCE), [2 * x for x in range(50)])
            again.forget()


KINDS = [name for name in vars(Calls) if not name.startswith("_") and name != "gather"]


def main() -> None:
    seed, seconds, file = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    notes: list[str] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        kind = rng.choice(KINDS)
        began = time.monotonic()
        try:
            with nbmr.Client() as client:
                getattr(Calls(client, rng), kind)()
            outcome = "right"
        except Wrong as exc:
            outcome = "wrong"
            notes.append(f"{kind}: {exc}")
        except nbmr.JobTimeout as exc:
            outcome = "unfinished"
            notes.append(f"{kind}: {exc}")
        except nbmr.TaskLost as exc:  # three kills under one task are honest, if they are told
            killed = "SIGKILL" in str(exc) or "killed" in str(exc)
            outcome = "lost by three kills" if killed else "error"
            notes.append(f"{kind}: {str(exc)[:400]}")
        except Exception as exc:  # noqa: BLE001 - it is counted, and told
            outcome = "error"
            notes.append(f"{kind}: {type(exc).__name__}: {str(exc)[:400]}")
        counts[outcome] += 1
        counts["calls"] += 1
        counts[f"calls: {kind}"] += 1
        longest = max(time.monotonic() - began, 0.0)
        counts["longest, s"] = max(counts["longest, s"], round(longest))
        new = file.with_suffix(".new")
        new.write_text(json.dumps({"counts": counts, "notes": notes[-20:], "at": time.time()}))
        new.replace(file)


if __name__ == "__main__":
    main()
