"""Processes that aren't ours to wait for: whether they live, and ending them.

A process is known by its id and the time it started, so that a recycled id is noticed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from signal import SIGKILL, Signals

import psutil

#: Where a process's start stands in its "stat", behind its name.
_START_TICKS = 19
#: Seconds that no machine runs without a new start: three years.
_LONGEST_UPTIME = 1e8
#: Seconds by which start times of one process may differ: elsewhere than on Linux, the clock may be set.
_TOLERANCE = 2.0


def living(pid: int, started: float | None = None) -> psutil.Process | None:
    """Return the process of that id that started then; None where it is gone (a zombie is gone)."""
    try:
        process = psutil.Process(pid)
        recycled = started is not None and abs(start_time(pid) - started) > _TOLERANCE
        return None if recycled or process.status() == psutil.STATUS_ZOMBIE else process
    except (psutil.Error, OSError):
        return None


def start_time(pid: int) -> float:
    """Return when a process started: seconds on a scale that only compares processes of this machine.

    On Linux the scale is that of the kernel, whatever the clock says: somebody may set it meanwhile, or
    it jumps when a laptop wakes up. Each start of the machine has a scale of its own.

    Raises
    ------
    OSError or psutil.Error
        If there is no such process.
    """
    if sys.platform != "linux":
        return psutil.Process(pid).create_time()
    boot = int(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")[:6], 16)
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    ticks = int(stat.rpartition(")")[2].split()[_START_TICKS])
    return boot * _LONGEST_UPTIME + ticks / os.sysconf("SC_CLK_TCK")


def identity(pid: int | None = None) -> dict[str, int | float]:
    """Return what tells a process from all others, by default this one; `recorded` reads it."""
    process = psutil.Process(pid)
    return {"pid": process.pid, "started": start_time(process.pid)}


def recorded(files: Iterable[Path]) -> list[psutil.Process]:
    """Return the processes that still live of those which these files name."""
    processes = []
    for file in files:
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            process = living(int(record["pid"]), float(record["started"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if process:
            processes.append(process)
    return processes


def send(process: psutil.Process, number: Signals) -> None:
    """Send a signal to a process; SIGKILL to its whole group, where it leads one."""
    try:
        if number == SIGKILL and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    except (OSError, psutil.Error):  # gone meanwhile
        pass


def gone(processes: Iterable[psutil.Process], timeout: float) -> bool:
    """Wait until these processes are gone; whether they are."""
    processes = list(processes)
    until = time.monotonic() + timeout
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
