"""A trial: one case of one peer, measured in a process of its own, of which nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from home import processes

HERE = Path(__file__).parent
#: Seconds that one peer may take for one case, before it is killed.
PATIENCE = 900
#: Seconds that workers of a trial have to end, after it.
ENDING = 20
#: Where joblib has its memory maps; it removes them itself, unless it is killed.
MAPS = Path("/dev/shm")


def run(place: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Measure; return numbers by name, or what went wrong as "error" or "not started"."""
    answer, log, mark = place / "answer.json", place / "child.log", secrets.token_hex(16)
    answer.unlink(missing_ok=True)
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, str(HERE / "child.py"), json.dumps(spec), str(answer)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "BENCHMARK_TRIAL": mark},
        )
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return {"error": f"not done within {PATIENCE} s"}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            tidy(child.pid, mark)
    if not answer.exists():
        return {"error": f"exit {child.returncode}: {log.read_text(errors='replace')[-1500:]}"}
    return dict(json.loads(answer.read_text()))


def tidy(pid: int, mark: str) -> None:
    """Kill what a trial has left: workers may have a session of their own, and outlive a client that died."""
    for process in processes(mark, ENDING):
        with contextlib.suppress(psutil.Error):
            print(f"left behind, and killed: {process.pid} {process.name()}", flush=True)
            process.kill()
    for folder in MAPS.glob(f"joblib_memmapping_folder_{pid}_*"):
        shutil.rmtree(folder, ignore_errors=True)
