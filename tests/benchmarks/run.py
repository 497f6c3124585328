"""How fast is nbmr beside what people would use in its place?

Install the others first, then run, with nothing else going on on the machine::

    .venv/bin/pip install --group benchmark
    .venv/bin/python tests/benchmarks/run.py --json /tmp/benchmark.json
    .venv/bin/python tests/benchmarks/run.py --cases transfer,latency --peers nbmr,celery --rounds 9
    .venv/bin/python tests/benchmarks/run.py --rounds 1 --best-of 1 --scale 0.01   # does it work at all?

Every peer runs every case in a child process of its own (`trial`), with two worker processes that are started
for it, and is warmed up before anything is timed. Rounds interleave the peers (each case by all of them, one
after the other, then the next case; and all of that again), so that a slow minute of the machine hits all of
them. Every answer is compared with that of plain pandas. A number is the best of ``--best-of`` tries within a
round, and the median over rounds in the table; a ratio above 1 says that nbmr is better.

A peer that is not installed is left out. So is one that has not started once, while one that has started
before is tried again. Both stand above the table, and in the JSON as "missing" and "not_started". What fails
is shown at once, stands in the JSON as "errors", and makes the exit status 1; the run goes on.

The cases (`cases`):

- transfer: 2,000,000 x 8 float64, ``df * 2``, 16 partitions. MB/s counts input and output.
- mixed: 1,000,000 rows of whole numbers, floats, strings, times and categories, with one column more on the
  way back, 16 partitions.
- rows: ``df.apply(fn, axis=1)`` of a Python function over 100,000 rows of 4 float64, beside plain pandas'.
- groups: ``df.groupby("key").apply(fn)``, 1,000 keys of 1,000 rows, some 0.3 ms each, beside plain pandas'.
- tiny: 1,000 times ``x + 1``, in batches (of their own, or 8 made by hand), and one task an item.
- latency: one call after the other on a warm client, 200 times; of nbmr ``map([x], fn)``, and also from the
  moment at which the task is published, that is, without the job's set-up.
- executor: the same by ``Executor.submit(fn, x).result()``; of Celery and Ray, which have none, as before.
- cpu: 16 partitions of 0.5 s of pure Python. Efficiency is serial time / time / 2, and beside it stands what
  two bare processes reach on this machine in the same minute.
- tail: 64 tasks of very different lengths (Pareto, 6 s in all), one task each. The ideal is half of the
  serial time.
- start: a new process, from its first import to the first result, workers already up (those of futures and
  joblib, which belong to their client, start with it); from a list, and from a frame, which includes the
  import of pandas.
- imports: the import of the client in a new process. What it puts off until it is used is in start.
- memory: a 1 GB frame mapped to 1 GB: the client's peak memory beyond both. And the peak of RabbitMQ itself
  while a 2 GB frame goes through it. Each on a node that is started for it.

The peers (`peers`):

- futures: the standard library's ProcessPoolExecutor, with cloudpickle around the functions; there is no
  broker, and nothing outlives the client.
- joblib: loky, workers that are used again, large arrays as memory maps.
- dask: dask.distributed, partitions scattered, direct connections.
- ipyparallel: two engines, cloudpickle; the load-balanced view, and the direct one where that is faster.
- ray: a local node of two processors; frames go by its object store.
- celery: the same private RabbitMQ node as nbmr's (classic queue, transient messages, rpc results, pickle
  protocol 5, prefetch 1).
- pandas: in the process itself.

Groups are split by key here, and sent, for all but nbmr and pandas: the shuffles that dask and Ray have took
longer. ``--scale`` multiplies sizes, counts and durations.

The node, its folders and all processes belong to the run, and are gone after it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import click
import psutil
import trial
import work
from home import home, private_node
from peers import NAMES as PEERS
from peers import NEEDS
from record import Record
from table import table

CASES = (
    "transfer", "mixed", "rows", "groups", "tiny", "latency", "executor", "cpu", "tail", "start", "imports",
    "memory",
)  # fmt: skip


class Names(click.ParamType):
    """Names, parted by commas."""

    name = "names"

    def __init__(self, known: tuple[str, ...]) -> None:
        self.known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        names = value.split(",") if isinstance(value, str) else value
        for name in names:
            if name not in self.known:
                self.fail(f"{name!r} is none of {', '.join(self.known)}", param, ctx)
        return list(names)


@click.command(help="Measure nbmr beside its peers; see the top of this file.")
@click.option("--cases", type=Names(CASES), default=",".join(CASES), show_default=True)
@click.option("--peers", type=Names(PEERS), default=",".join(PEERS), show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--best-of", type=click.IntRange(1), default=3, show_default=True, help="Tries in each round.")
@click.option("--scale", type=float, default=1.0, show_default=True, help="Of sizes, counts and durations.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write every round's numbers here.")
def main(
    cases: list[str], peers: list[str], rounds: int, best_of: int, scale: float, out: Path | None
) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is tidied up then, too
    options = {"scale": scale, "best_of": best_of, "steps": work.steps_in(0.5 * scale)}
    record = Record(about(), options, missing=missing(peers))
    print(record.about, flush=True)
    tell("not installed", record.missing)
    peers = [peer for peer in peers if peer not in record.missing]
    with home() as place:
        for number in range(1, rounds + 1):
            for group in plan(cases, peers):
                with private_node():
                    for case, peer in group:
                        if peer not in record.not_started:
                            found = trial.run(place, {"case": case, "peer": peer, **options})
                            record.add(number, case, peer, found)
                            show(number, case, peer, found)
                            if out:  # so that one that is interrupted has what there is
                                record.write(out)
    print()
    tell("not installed", record.missing)
    tell("not started", record.not_started)
    print("\n" + table(record.results, [peer for peer in peers if peer not in record.not_started]))
    if record.errors:
        raise SystemExit(f"{len(record.errors)} measurements failed, see above.")


def missing(peers: list[str]) -> dict[str, str]:
    """Tell of each peer that is not installed what is not."""
    return {
        peer: f"there is no module {NEEDS[peer]}; see the dependency group `benchmark`"
        for peer in peers
        if peer in NEEDS and not find_spec(NEEDS[peer])
    }


def tell(what: str, peers: dict[str, str]) -> None:
    """Tell which peers are left out, and in one line each why."""
    for peer, reason in peers.items():
        print(f"left out: {peer}, {what}: {reason.strip().splitlines()[-1]}", flush=True)


def plan(cases: list[str], peers: list[str]) -> Iterator[list[tuple[str, str]]]:
    """Yield what shares a node: all of a round, but a node for each where memory is measured."""
    if speed := [case for case in cases if case != "memory"]:
        yield list(product(speed, peers))
    if "memory" in cases:
        for case, peer in product(("client_memory", "node_memory"), peers):
            if case == "client_memory" or peer in {"nbmr", "celery"}:
                yield [(case, peer)]


def about() -> str:
    """Tell what is measured, and where."""
    versions = [f"Python {sys.version.split()[0]}"]
    for name in ("nbmr", "pandas", "numpy", *NEEDS.values()):
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    load = os.getloadavg()[0]
    return (
        f"{', '.join(versions)}; {psutil.cpu_count()} cores, load {load:.1f} before; {time.strftime('%F %R')}"
    )


def show(number: int, case: str, peer: str, found: dict[str, Any]) -> None:
    what = "; ".join(
        f"{name}: {value}" if isinstance(value, str) else f"{name} {value:.4g}"
        for name, value in found.items()
    )
    print(f"round {number}  {case:13}  {peer:11}  {what or '-'}", flush=True)


if __name__ == "__main__":
    main()
