"""What has to pass before there is a first result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
from peers import Peer

from cases.setting import Numbers, Setting

FIRST = str(Path(__file__).parents[1] / "first.py")


def start(peer: Peer, setting: Setting) -> Numbers:
    peer.frame(pd.DataFrame({"x": range(16)}), lambda part: part * 2, 16)  # the workers have pandas
    found = {}
    for data in ("list", "frame"):
        command = [sys.executable, FIRST, setting.peer, setting.address, data]
        found[f"start with a {data}, s"] = least(command, setting.best_of)
    return found


def imports(peer: Peer, setting: Setting) -> Numbers:
    clock = "from time import perf_counter; start = perf_counter()"
    program = f"{clock}; {peer.imports}; print(perf_counter() - start)"
    command = [sys.executable, "-c", program]
    least(command, 1)  # compiles, and has the files read
    return {"import of the client, s": least(command, setting.best_of)}


def least(command: list[str], times: int) -> float:
    """Run a program some times that prints seconds; return the least."""
    return min(
        float(json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout))
        for _ in range(times)
    )
