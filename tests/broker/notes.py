"""What tests read of what really ran: notes that tasks make in a file, connections of a process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil


def note(file: Path, text: object) -> None:
    """Add a line to a file; one write, so that processes don't mix theirs."""
    with file.open("a") as f:
        f.write(f"{text}\n")


def lines(file: Path) -> list[str]:
    """Return the lines so far; none if there is no file yet."""
    return file.read_text().splitlines() if file.exists() else []


def connections_of(process: psutil.Process) -> Any:
    """Return a process' TCP connections; psutil 5 has another name for that."""
    connections: Any = getattr(process, "net_connections", None) or process.connections
    return connections("tcp")
