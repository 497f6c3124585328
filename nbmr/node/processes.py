"""Processes that aren't ours to wait for: whether they live, and ending them.

A process is known by its id and the time it started, so that a recycled id is noticed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from signal import SIGKILL, Signals

import psutil


def living(pid: int, started: float | None = None) -> psutil.Process | None:
    """Return the process of that id that started then; None where it is gone (a zombie is gone)."""
    try:
        process = psutil.Process(pid)
        created = process.create_time()
        recycled = started is not None and abs(created - started) > 2  # noqa: PLR2004  # the clock may be set
        return None if recycled or process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.Error:
        return None


def identity(pid: int | None = None) -> dict[str, int | float]:
    """Return what tells a process from all others, by default this one; `recorded` reads it."""
    process = psutil.Process(pid)
    return {"pid": process.pid, "started": process.create_time()}


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
    while any(living(p.pid, p.create_time()) for p in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
