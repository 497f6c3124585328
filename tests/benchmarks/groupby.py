"""How fast is nbmr.groupby beside dask.dataframe and plain pandas?

Install the others first (``pip install --group benchmark``), then run, with nothing else going on::

    .venv/bin/python tests/benchmarks/groupby.py
    .venv/bin/python tests/benchmarks/groupby.py --rounds 1 --scale 0.01   # does it work at all?

- agg: 10,000,000 rows, 1,000 keys, ``{"x": [sum, mean, std], "y": [min, max, count]}``, from a frame in this
  process. dask.dataframe has two worker processes of one thread each, and as many partitions as there are
  tasks in nbmr; its time includes the sending of the frame, as nbmr's does.
- apply: a Python function of 1 ms over 5,000 groups. Its share of perfect is serial time / time / 2.

Both have two workers, and are warmed up before anything is timed. Rounds interleave the peers. Every answer
is compared with that of plain pandas. The table has the median over rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import click
import numpy as np
import pandas as pd
from home import home, private_node

WORKERS = 2
SPEC = {"x": ["sum", "mean", "std"], "y": ["min", "max", "count"]}
#: Rows of each group, and seconds, of the function that is applied.
ROWS, SECONDS = 40, 0.001


def frame(rows: int, keys: int) -> pd.DataFrame:
    """Make a frame with a key of whole numbers."""
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {"k": rng.integers(0, keys, rows), "x": rng.normal(size=rows), "y": rng.integers(0, 1_000, rows)}
    )


def work(group: pd.DataFrame) -> float:
    """Compute for 1 ms of processor time."""
    end = time.process_time() + SECONDS
    total = 0.0
    while time.process_time() < end:
        total = float(group["x"].iloc[0])
    return total


@contextmanager
def dask() -> Iterator[Callable[[pd.DataFrame, int], pd.DataFrame]]:
    """Give what aggregates by dask.dataframe."""
    import dask.dataframe as dd
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster,
        Client(cluster),
    ):
        yield (
            lambda df, partitions: (
                dd.from_pandas(df, npartitions=partitions, sort=False).groupby("k").agg(SPEC).compute()
            )
        )


@click.command(help="Measure nbmr.groupby; see the top of this file.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--scale", type=float, default=1.0, show_default=True, help="Of rows and groups.")
@click.option("--with-dask/--without-dask", default=True, show_default=True)
def main(rounds: int, scale: float, with_dask: bool) -> None:
    import nbmr
    from nbmr.grouping import row_cuts

    rows, groups = max(int(10_000_000 * scale), 10_000), max(int(5_000 * scale), 20)
    df = frame(rows, 1_000)
    parts = frame(groups * ROWS, 1).assign(k=np.repeat(np.arange(groups), ROWS))
    partitions = len(row_cuts(rows, None)) - 1
    seconds: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = perf_counter()
        answer = call()
        seconds.setdefault(name, []).append(perf_counter() - start)
        return answer

    with home(), private_node(), nbmr.Client() as client:
        workers = client.workers(WORKERS)
        small = df[:10_000]
        client.groupby(small, "k", progress=False).agg(SPEC)
        for _ in range(rounds):
            want = timed("agg by pandas", lambda: df.groupby("k").agg(SPEC))
            got = timed("agg by nbmr", lambda: client.groupby(df, "k", progress=False).agg(SPEC))
            pd.testing.assert_frame_equal(got, want, rtol=1e-12)
            if with_dask:
                with dask() as aggregate:
                    aggregate(small, partitions)
                    got = timed("agg by dask", lambda: aggregate(df, partitions))
                pd.testing.assert_frame_equal(got.sort_index(), want, rtol=1e-9, check_names=False)
            start = perf_counter()
            few = parts[: ROWS * max(groups // 20, 1)]
            few.groupby("k").apply(work)
            serial = (perf_counter() - start) * len(parts) / len(few)
            got = timed("apply by nbmr", lambda: client.groupby(parts, "k", progress=False).apply(work))
            seconds.setdefault("apply by pandas, reckoned from a twentieth", []).append(serial)
            pd.testing.assert_series_equal(got, parts.groupby("k")["x"].first().rename(None))
        workers.stop(now=True)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in median.items():
        print(f"{name:45} {value:8.3f} s")
    if with_dask:
        print(f"{'agg: dask / nbmr':45} {median['agg by dask'] / median['agg by nbmr']:8.2f}")
    print(f"{'agg: pandas / nbmr':45} {median['agg by pandas'] / median['agg by nbmr']:8.2f}")
    share = median["apply by pandas, reckoned from a twentieth"] / median["apply by nbmr"] / WORKERS
    print(f"{'apply: share of perfect':45} {share:8.2f}")
    print(f"{'apply: share of 1 ms a group':45} {groups * SECONDS / median['apply by nbmr'] / WORKERS:8.2f}")


if __name__ == "__main__":
    main()
