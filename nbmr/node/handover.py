"""How a node is started: by a process that waits for it, which hands the right to do so to a keeper.

The lock file beside the connection file is locked while a node starts. The keeper inherits the lock, writes
down there who it is, and keeps it until the node is up: a start that was interrupted leaves a node that
starts, and the next one waits for it. It reports on a pipe.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbmr import errors, private
from nbmr.errors import NodeError
from nbmr.node import processes
from nbmr.node.folder import Folder
from nbmr.node.presence import nobody


class Wait:
    """Waits in small steps, tells about it, and gives up after the timeout."""

    def __init__(self, on_progress: Callable[[str], None] | None, timeout: float) -> None:
        self._tell = on_progress or (lambda _line: None)
        self._began = time.monotonic()
        self._timeout = timeout
        self._next = 0.0

    def tick(self, what: str, readable: int | None = None) -> bool:
        """Wait a moment, or until the file can be read; True if it can."""
        seconds = time.monotonic() - self._began
        if seconds > self._timeout:
            raise NodeError(
                f"{what} took longer than {self._timeout:g} s. It goes on; try again, or end it with "
                "`nbmr broker stop`."
            )
        if seconds >= self._next:
            self._tell(f"{what} … {seconds:.0f} s")
            self._next = seconds + 0.5
        return bool(select.select([] if readable is None else [readable], [], [], 0.05)[0])


class Handover:
    """The keeper's side: what it got from the process that started it, if one did.

    Parameters
    ----------
    lock_fd, report_fd
        The locked file, and the pipe to report on; None where nobody waits.
    """

    def __init__(self, lock_fd: int | None = None, report_fd: int | None = None) -> None:
        self._lock, self._report = lock_fd, report_fd

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for a report."""
        return self._report is not None

    def sign(self, folder: Folder) -> None:
        """Say in the lock file who is starting, for `starting`."""
        if self._lock is None:
            return
        os.set_inheritable(self._lock, False)
        record = {**processes.identity(), "data_dir": str(folder.path)}
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, json.dumps(record).encode(), 0)

    def report(self, answer: dict[str, object]) -> None:
        """Tell the process that started us, once, and let the next one go ahead."""
        report, lock = self._report, self._lock
        self._report = self._lock = None
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)
        if report is not None:
            with contextlib.suppress(OSError):  # it was interrupted, and has gone
                os.write(report, json.dumps(answer).encode())
            os.close(report)


def lock_file(connection_file: Path) -> Path:
    """Return the file that is locked while a node starts."""
    return connection_file.with_suffix(".lock")


def starting(connection_file: Path) -> dict[str, Any] | None:
    """Return who is starting a node now: ``pid``, ``started`` and ``data_dir`` of its keeper."""
    file = lock_file(connection_file)
    if not file.exists() or nobody(file):
        return None
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return record if record.keys() >= {"pid", "started", "data_dir"} else None
    except (ValueError, AttributeError):  # so early that there is nothing yet
        return None


def start(connection_file: Path, lock: int, wait: Wait, what: str) -> None:
    """Start a keeper and wait for its report; it takes over the lock.

    Raises
    ------
    NbmrError
        What it reports, if it fails.
    """
    report, theirs = os.pipe()
    with tempfile.TemporaryFile() as output, os.fdopen(report, "rb", buffering=0) as reports:
        command = [sys.executable, "-m", "nbmr.node.keeper", f"--connection-file={connection_file}"]
        command += [f"--lock-fd={lock}", f"--report-fd={theirs}"]
        try:
            starter = subprocess.Popen(
                command,
                cwd="/",
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[lock, theirs],
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        starter.wait()  # it forks, so that the keeper is nobody's child
        data = b""
        while True:
            if wait.tick(what, report):
                if not (chunk := reports.read(65536)):
                    break
                data += chunk
        output.seek(0)
        said = output.read()[-2000:].decode(errors="replace").strip()
    answer = (
        json.loads(data) if data else {"error": "NodeError", "message": f"The keeper died. {said}".strip()}
    )
    if "error" in answer:
        raise getattr(errors, answer["error"], NodeError)(answer["message"])


def _environment() -> dict[str, str]:
    """Our environment without its secrets; in it the keeper finds the nbmr that runs here."""
    ours = str(Path(__file__).resolve().parents[2])
    if ours in [*site.getsitepackages(), site.getusersitepackages()]:
        return private.environment()
    theirs = os.environ.get("PYTHONPATH")
    return {**private.environment(), "PYTHONPATH": os.pathsep.join([theirs, ours] if theirs else [ours])}
