"""What a node's programs said: the keeper's own log, and the last words of a server that died."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path


def log(line: str) -> None:
    """Note a line in the keeper's log."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), line, flush=True)  # noqa: T201  # stdout is the log


def log_to(file: Path) -> None:
    """Send this process's output to a file from now on."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def logged(folder: Path) -> str:
    """Return all that lies in this folder of logs, the newest file last."""
    logs = sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime)
    return "\n".join(p.read_text(encoding="utf-8", errors="replace") for p in logs)


def last_words(text: str) -> str:
    """Return what a person needs of the log of a server that died."""
    lines = [
        re.sub(r"^[-\d]+ [\d:.+]+ (\[\w+\] )?(<[\d.]+> )?", "", line).strip() for line in text.splitlines()
    ]
    lines = [line for line in lines if re.search(r"\w", line)]
    failed = [i for i, line in enumerate(lines) if line.startswith("BOOT FAILED")]
    telling = lines[failed[-1] + 1 :][:6] if failed else lines[-6:]
    return "\n".join(telling) or "it said nothing"
