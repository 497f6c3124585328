"""How fast is nbmr beside what people would use in its place?

Install the others first, then run, with nothing else going on on the machine::

    .venv/bin/pip install --group benchmark
    .venv/bin/python tests/benchmarks/run.py
    .venv/bin/python tests/benchmarks/run.py --cases transfer,latency --peers nbmr,celery --rounds 5
    .venv/bin/python tests/benchmarks/run.py --rounds 1 --best-of 1 --scale 0.01   # does it work at all?

Every peer runs every case in a child process of its own, with two worker processes that are started for it,
and is warmed up before anything is timed. Rounds interleave the peers (for each case nbmr, celery, dask, then
nbmr again), so that a slow minute of the machine hits all of them. Every answer is compared with that of
plain pandas. A number is the best of ``--best-of`` tries within a round, and the median over rounds in the
table; a ratio above 1 says that nbmr is better.

The cases (`cases`):

- transfer: 2,000,000 x 8 float64, ``df * 2``, 16 partitions. MB/s counts input and output.
- tiny: 1,000 times ``x + 1``, in batches (nbmr's own; 8 made by hand for the others), and one task an item.
- latency: ``submit([x], fn).result()`` on a warm client, 200 times; for nbmr also from the moment at which
  the task is published, that is, without the job's set-up.
- cpu: 16 partitions of 0.5 s of pure Python. Efficiency is serial time / time / 2, and beside it stands what
  two bare processes reach on this machine in the same minute.
- start: a new process, from its first import to the first result, workers already up; from a list, and from a
  frame, which includes the import of pandas.
- memory: a 1 GB frame mapped to 1 GB: the client's peak memory beyond both. And the peak of RabbitMQ itself
  while a 2 GB frame goes through it. Each on a node that is started for it.

The peers (`peers`): Celery works through the same private RabbitMQ node as nbmr (classic queue, transient
messages, rpc results, pickle protocol 5, prefetch 1), dask.distributed through its own direct connections,
pandas in the process itself. ``--scale`` multiplies sizes, counts and durations.

The node, its folders and all processes belong to the run, and are gone after it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
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
import work
from home import home, private_node
from table import Results, table

HERE = Path(__file__).parent
CASES = ("transfer", "tiny", "latency", "cpu", "start", "memory")
PEERS = ("nbmr", "celery", "dask", "pandas")
#: What has to be installed for a peer.
MODULES = {"celery": "celery", "dask": "distributed"}
#: Seconds that one peer may take for one case, before it is killed.
PATIENCE = 900


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
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--best-of", type=click.IntRange(1), default=3, show_default=True, help="Tries in each round.")
@click.option("--scale", type=float, default=1.0, show_default=True, help="Of sizes, counts and durations.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write every round's numbers here.")
def main(
    cases: list[str], peers: list[str], rounds: int, best_of: int, scale: float, out: Path | None
) -> None:
    for peer in peers:
        if peer in MODULES and not find_spec(MODULES[peer]):
            raise click.UsageError(f"{peer} is not installed. Run: pip install --group benchmark")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is tidied up then, too
    print(about(), flush=True)
    options = {"scale": scale, "best_of": best_of, "steps": work.steps_in(0.5 * scale)}
    results: Results = {}
    failures = 0
    with home() as place:
        for number in range(1, rounds + 1):
            for group in plan(cases, peers):
                with private_node():
                    for case, peer in group:
                        found = run_child(place, {"case": case, "peer": peer, **options})
                        failures += "error" in found
                        show(number, case, peer, found)
                        for name, value in found.items():
                            if name != "error":
                                results.setdefault(name, {}).setdefault(peer, []).append(value)
            if out:
                out.write_text(json.dumps({"about": about(), **options, "results": results}, indent=1))
    print("\n" + table(results, peers))
    if failures:
        raise SystemExit(f"{failures} measurements failed, see above.")


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
    for name in ("nbmr", "pandas", "numpy", "celery", "distributed"):
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    load = os.getloadavg()[0]
    return (
        f"{', '.join(versions)}; {psutil.cpu_count()} cores, load {load:.1f} before; {time.strftime('%F %R')}"
    )


def show(number: int, case: str, peer: str, found: dict[str, Any]) -> None:
    what = "; ".join(
        f"{name} {value}" if name == "error" else f"{name} {value:.4g}" for name, value in found.items()
    )
    print(f"round {number}  {case:13}  {peer:6}  {what or '-'}", flush=True)


def run_child(place: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Measure one case of one peer in a process of its own; what it leaves running is killed."""
    answer, log = place / "answer.json", place / "child.log"
    answer.unlink(missing_ok=True)
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, str(HERE / "child.py"), json.dumps(spec), str(answer)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return {"error": f"not done within {PATIENCE} s"}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if not answer.exists():
        return {"error": f"exit {child.returncode}: {log.read_text(errors='replace')[-1500:]}"}
    return dict(json.loads(answer.read_text()))


if __name__ == "__main__":
    main()
