"""Does it hold? Minutes of mixed calls, while processes are killed and the broker is.

    .venv/bin/python tests/benchmarks/soak.py --minutes 10

Two workers and four client processes (`soak_client`) at a private node of their own. Every few seconds a
child or fork server, a supervisor or, rarely, the pool is killed; the broker twice, at a third and at two
thirds of the time. At the end: how many answers were wrong, waits unfinished and errors unexpected, and what
was left behind; all of that must be 0, or the exit status is 1. And how memory went: the median of the third
quarter of the time beside that of the last one, for each process that lived through both.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import click
import psutil
from home import home, is_ours, processes

import nbmr
from nbmr import node
from nbmr.node import connection_file

HERE = Path(__file__).parent
CLIENTS, WORKERS = 4, 2
#: Must be 0.
FATAL = ("wrong", "unfinished", "error")


SHARED_MEMORY = Path("/dev/shm")


class Memory:
    """Memory of processes, sampled; processes that are replaced begin anew."""

    def __init__(self) -> None:
        self.samples: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)

    def sample(self, place: Path, at: float) -> None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if is_ours(process, place) and (kind := kind_of(process)):
                    self.samples[kind, process.pid].append((at, process.memory_info().rss / 1e6))

    def growth(self, seconds: float) -> dict[str, str]:
        """Tell for each kind the medians of the third and the last quarter, in MB."""
        found: dict[str, str] = {}
        for (kind, pid), samples in self.samples.items():
            third = [mb for at, mb in samples if seconds / 2 <= at < seconds * 3 / 4]
            last = [mb for at, mb in samples if seconds * 3 / 4 <= at <= seconds]
            if len(third) > 2 and len(last) > 2:
                before, after = statistics.median(third), statistics.median(last)
                slope = (after - before) / (seconds / 4 / 60)
                found[f"{kind} {pid}"] = f"{before:.0f} -> {after:.0f} MB, {slope:+.1f} MB/min"
        return dict(sorted(found.items()))


def kind_of(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    for kind, text in (
        ("broker", "beam.smp"), ("client", "soak_client.py"), ("pool", "nbmr.worker.pool"),
        ("child", "forkserver import main"), ("supervisor", "-m nbmr.worker"),
    ):  # fmt: skip
        if text in line:
            return kind
    return ""


def kill_one(place: Path, rng: random.Random) -> str:
    """Kill a random process; return its kind."""
    kind = rng.choices(["child", "supervisor", "pool"], [6, 3, 1])[0]
    there = [p for p in psutil.process_iter() if is_ours(p, place) and kind_of(p) == kind]
    if not there:
        return ""
    with contextlib.suppress(psutil.Error):
        rng.choice(there).kill()
    return kind


def jobs_left() -> list[str]:
    """Name the streams of jobs that are on the broker."""
    info = connection_file.read()
    look = (
        'io:format("~p", [[binary_to_list(element(4, amqqueue:get_name(Q)))'
        " || Q <- rabbit_amqqueue:list()]])."
    )
    done = subprocess.run(
        [node.find_server().parent / "rabbitmqctl", "eval", look],
        env=psutil.Process(info.node_pid).environ(),
        capture_output=True,
        text=True,
        check=True,
    )
    names = ast.literal_eval(done.stdout.strip().removesuffix("ok").strip())
    return [name for name in names if name.startswith("nbmr.job.")]


@click.command(help="Mixed calls under kills; see the top of this file.")
@click.option("--minutes", type=click.FloatRange(0.3, 10), default=10.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write the figures here.")
def main(minutes: float, seed: int, out: Path | None) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rng, seconds, memory, kills = random.Random(seed), minutes * 60, Memory(), Counter[str]()
    shared = set(names(SHARED_MEMORY))
    with home() as place:
        files = [place / f"client{number}.json" for number in range(CLIENTS)]
        with nbmr.Client() as client:
            client.workers(WORKERS)
            clients = [
                subprocess.Popen(
                    [
                        sys.executable,
                        str(HERE / "soak_client.py"),
                        str(seed * 100 + n),
                        str(seconds),
                        str(file),
                    ]
                )
                for n, file in enumerate(files)
            ]
            try:
                watch(clients, place, rng, seconds, memory, kills)
            finally:
                for process in clients:
                    if process.poll() is None:
                        process.kill()
                    process.wait()
            counts, notes = collect(files)
            counts["error"] += sum(process.returncode != 0 for process in clients)
            jobs = wait_for(jobs_left)
        nbmr.shutdown()
        left = [f"process {p.pid} {p.name()}" for p in processes(place)]
        left += [f"file {name}" for name in names(place / "tmp")]
        left += [f"shared memory {name}" for name in names(SHARED_MEMORY) if name not in shared]
    found: dict[str, Any] = {
        "minutes": minutes, "counts": counts, "kills": kills, "jobs left": jobs, "left": left,
        "memory": memory.growth(seconds), "notes": notes,
    }  # fmt: skip
    for name, value in found.items():
        print(f"{name}: {json.dumps(value, indent=1) if isinstance(value, dict | list) else value}")
    if out:
        out.write_text(json.dumps(found, indent=1))
    if any(counts[name] for name in FATAL) or jobs or left:
        raise SystemExit(1)


def watch(
    clients: list[subprocess.Popen[bytes]], place: Path, rng: random.Random, seconds: float, memory: Memory,
    kills: Counter[str],
) -> None:  # fmt: skip
    """Sample and kill, until the time is over and the clients have ended."""
    began = time.monotonic()
    next_kill = rng.uniform(4, 8)
    broker_kills = [seconds / 3, seconds * 2 / 3]
    while any(process.poll() is None for process in clients):
        at = time.monotonic() - began
        if at > seconds + 300:
            print("clients that don't end are killed")
            return  # which their exit status tells
        memory.sample(place, at)
        if broker_kills and at > broker_kills[0]:
            broker_kills.pop(0)
            os.kill(connection_file.read().node_pid, signal.SIGKILL)
            kills["broker"] += 1
        elif next_kill < at < seconds:
            kills[kill_one(place, rng)] += 1
            next_kill = at + rng.uniform(3, 8)
        time.sleep(1.0)


def collect(files: list[Path]) -> tuple[Counter[str], list[str]]:
    counts: Counter[str] = Counter()
    notes: list[str] = []
    for file in files:
        told = (
            json.loads(file.read_text()) if file.exists() else {"counts": {"error": 1}, "notes": ["no word"]}
        )
        longest = max(counts["longest, s"], told["counts"].pop("longest, s", 0))
        counts.update(told["counts"])
        counts["longest, s"] = longest
        notes += told["notes"]
    return Counter(dict(sorted(counts.items()))), notes


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def wait_for(look: Any, timeout: float = 15.0) -> Any:
    until = time.monotonic() + timeout
    while (found := look()) and time.monotonic() < until:
        time.sleep(0.5)
    return found


if __name__ == "__main__":
    main()
