"""Pools of workers on this machine: start them, find them, scale and stop them, from any kernel.

A pool is a process of its own (`nbmr.worker.pool`), so that workers outlive the kernel. It tells how it goes
in a file: beside the private node's data, or in Jupyter's runtime folder for a named broker.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from nbmr import private
from nbmr.broker import passwords
from nbmr.config import Settings
from nbmr.environment import Environment
from nbmr.errors import ConfigError, WorkerError
from nbmr.node import living as living_process
from nbmr.node import start_time
from nbmr.topology import check_queue

#: Seconds without a task after which workers of a named broker end, once the kernel that started them is
#: gone.
MAX_IDLE = 900.0
#: Seconds that workers may take to be ready.
START_SECONDS = 60.0
#: Seconds that a stopping pool has before it is killed, when it is to end now.
_STOP_SECONDS = 3.0
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
#: The pools that this process started: kept, so that the system can forget those that have ended.
_started: list[subprocess.Popen[bytes]] = []
#: Stands for every broker that was named: their pools' files share a folder.
NAMED_BROKERS = Settings("", "")


@atexit.register
def _let_go() -> None:
    """Keep `subprocess` from warning about pools that outlive this process: they are meant to."""
    for process in _started:
        if process.poll() is None:
            process.returncode = 0


@dataclass(frozen=True)
class Pool:
    """One pool, as its file tells it."""

    file: Path

    def state(self) -> dict[str, Any]:
        """Return what the pool told last; empty if it has ended."""
        try:
            found: dict[str, Any] = json.loads(self.file.read_text())
        except (OSError, ValueError):
            return {}
        if not found["failed"] and living_process(found["pid"], found["started"]) is None:
            self._clean_up()
            return {}
        return found

    def wait(
        self,
        count: int,
        process: subprocess.Popen[bytes] | None = None,
        timeout: float = START_SECONDS,
    ) -> None:
        """Wait until so many workers are there, and ready.

        Raises
        ------
        WorkerError
            If they can't be started, with the reason.
        """
        deadline = time.monotonic() + timeout
        while True:
            state = self.state()
            self.check(state)
            if state and count == state["count"] == len(state["ready"]) == len(state["workers"]):
                return
            if process is not None and process.poll() is not None and not self.state():
                raise WorkerError(f"The workers ended at once (status {process.returncode}). {self.log()}")
            if time.monotonic() > deadline:
                raise WorkerError(f"The workers were not ready within {timeout:g} s. {self.log()}")
            time.sleep(0.02)

    def check(self, state: dict[str, Any]) -> None:
        """Raise if the pool has failed."""
        if state and state["failed"]:
            log = self.log()
            self._clean_up()
            raise WorkerError(f"Workers can't be started: {state['failed']}\n{log}".rstrip())

    def log(self) -> str:
        """Return the last lines that the pool's workers logged."""
        with contextlib.suppress(OSError):
            lines = self.file.with_suffix(".log").read_text(errors="replace").splitlines()[-8:]
            return "Their log ends:\n" + "\n".join(lines) if lines else ""
        return ""

    def scale(self, count: int) -> None:
        """Have so many workers."""
        state = self.state()
        if not state:
            raise WorkerError("These workers have ended; start new ones with nbmr.workers(n).")
        private.write(self.file.with_suffix(".want"), str(count))
        os.kill(state["pid"], signal.SIGHUP)

    def stop(self, *, now: bool = False) -> None:
        """Let the workers finish their tasks, or end them now; wait until they are gone."""
        state = self.state()
        if not state:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(state["pid"])
            process.terminate()
            if now:
                process.terminate()
            try:
                process.wait(_STOP_SECONDS if now else None)
            except psutil.TimeoutExpired:
                os.killpg(state["pid"], signal.SIGKILL)
                process.wait(_STOP_SECONDS)
        self._clean_up()

    def _clean_up(self) -> None:
        for ending in (".json", ".want", ".log"):
            self.file.with_suffix(ending).unlink(missing_ok=True)


def folder(settings: Settings) -> Path:
    """Return the folder of the pools' files for a broker; it is made if need be."""
    if settings.node:
        place = Path(settings.node) / "pools"
    else:
        from jupyter_core.paths import jupyter_runtime_dir  # noqa: PLC0415 - slow to import

        place = Path(jupyter_runtime_dir()) / "nbmr-pools"
    return private.make_folder(place)


def living(settings: Settings) -> list[Pool]:
    """Return the pools on this machine that live, or that failed and were not asked why yet."""
    pools = [Pool(file) for file in sorted(folder(settings).glob("*.json"))]
    return [pool for pool in pools if pool.state()]


def start(
    settings: Settings,
    count: int,
    queue: str = "default",
    memory_limit: int | str | None = None,
    environment: Environment | None = None,
) -> tuple[Pool, subprocess.Popen[bytes]]:
    """Start a pool and return at once; `Pool.wait` waits for it."""
    place, environment = folder(settings), environment or Environment()
    check_queue(queue)
    options: dict[str, Any] = {
        "url": settings.url, "key": settings.key, "queue": queue, "node": settings.node,
        "memory_limit": parse_bytes(memory_limit),
    }  # fmt: skip
    if not settings.node:
        me = os.getpid()
        options |= {"max_idle": MAX_IDLE, "client": [me, start_time(me)]}
    log = place / f"starting-{os.getpid()}-{time.monotonic_ns()}.log"
    with open(log, "wb", opener=private.opener) as errors:
        process = subprocess.Popen(
            environment.command("nbmr.worker.pool"),
            stdin=subprocess.PIPE, stdout=errors, stderr=errors, start_new_session=True,
            env=environment.variables(), cwd=environment.cwd or None,
        )  # fmt: skip
    log.replace(place / f"{process.pid}.log")
    _started[:] = [known for known in _started if known.poll() is None] + [process]
    about = environment.about() | {"broker": passwords.without(settings.url)}
    spec = {"options": options, "count": count, "folder": str(place), "about": about}
    assert process.stdin is not None  # noqa: S101 - for the type checker
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(spec).encode() + b"\n")
        process.stdin.close()
    return Pool(place / f"{process.pid}.json"), process


def ensure(settings: Settings, queue: str) -> None:
    """Start a worker for each core, unless some are there already; return without waiting for them."""
    with _only_one(settings):
        pools = living(settings)
        for pool in pools:
            pool.check(pool.state())
        if any(pool.state().get("queue") == queue for pool in pools):
            return
        pool, process = start(settings, cores(), queue)
        deadline = time.monotonic() + START_SECONDS
        while not pool.file.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)  # until the pool can be found by others


def hint(settings: Settings, queue: str) -> str:
    """Tell whether workers are starting here; raise if they can't."""
    for pool in living(settings):
        state = pool.state()
        if state.get("queue") == queue:
            pool.check(state)
            return f"{state['count']} workers are starting on this machine …"
    return ""


def call_for(settings: Settings, queue: str) -> str:
    """Have workers started where that is ours to do; return what to tell who waits for some."""
    if starting := hint(settings, queue):
        return starting
    if settings.node:
        ensure(settings, queue)  # they ended, or were stopped
    where = "" if queue == "default" else f", queue={queue!r}"
    option = "" if queue == "default" else f" --queue {queue}"
    named = "" if settings.node else " --url … --key-file …"
    return (
        f"No worker listens to queue {queue!r}. Start some: nbmr.workers(2{where}) in a cell,"
        f" or `nbmr worker{named}{option}` on any machine that reaches the broker."
    )


def cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def parse_bytes(size: int | str | None) -> int | None:
    """Read a number of bytes, such as ``2_000_000_000``, ``"2GB"`` or ``"2 GiB"``.

    Raises
    ------
    ConfigError
        If it isn't one.

    Examples
    --------
    >>> parse_bytes("1.5 GB")
    1500000000
    """
    if size is None:
        return None
    match = re.fullmatch(r"\s*([0-9.]+)\s*([kmgt]?i?)b?\s*", str(size).lower())
    try:
        count = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    except (ValueError, KeyError):
        count = 0
    if count <= 0 or isinstance(size, bool):
        raise ConfigError(f"{size!r} is no number of bytes; it looks like 2000000000, '2GB' or '2GiB'.")
    return count


@contextlib.contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    """Let two kernels that start at the same moment start one pool."""
    lock = folder(settings) / "starting.lock"
    with open(lock, "w", opener=private.opener) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
