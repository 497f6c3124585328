"""One child process as its supervisor sees it: start, talk, interrupt, kill."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerContext
from typing import Any

import psutil

from nbmr.codec import Buffer
from nbmr.worker import pipe
from nbmr.worker.cleaner import FOLDER, folder_prefix, parent_folder
from nbmr.worker.output import Output

#: Imported once by the fork server, so that a new child has them at once.
PRELOADED = (
    "pandas",
    "numpy",
    "cloudpickle",
    "nbmr.codec",
    "nbmr.frames",
    "nbmr.worker.child",
    "nbmr.worker.cleaner",
)
#: Bytes that may be on their way between a supervisor and its child: few switches for a partition.
BUFFER_BYTES = 1 << 20
#: Bytes of a unit's number.
PLACE_BYTES = 8
#: Seconds that a fresh child may take to say that it is ready; the first one waits for pandas.
START_SECONDS = 60.0

_start_lock = threading.Lock()


def fork_server() -> ForkServerContext:
    """Return the context whose fork server has pandas loaded already."""
    # multiprocessing has the folder of the server's socket removed by this process, unless that is killed
    settings = vars(multiprocessing.current_process())["_config"]
    if "tempdir" not in settings:
        settings["tempdir"] = os.environ[FOLDER] = tempfile.mkdtemp(
            prefix=folder_prefix(os.getpid()), dir=parent_folder()
        )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


class Child:
    """A child process that runs one task at a time.

    Parameters
    ----------
    said
        Takes what it prints.

    Raises
    ------
    EOFError
        If it dies while it starts.
    """

    def __init__(self, said: Output) -> None:
        from nbmr.worker import child  # noqa: PLC0415 - its imports are the child's, not the supervisor's

        #: Where the child notes which unit of its task it is at; a file, since that outlives the child.
        self._place = _small_file()
        self.sock, theirs = socket.socketpair()
        for end in (self.sock, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self.output, writer = connection.Pipe(duplex=False)
        self._unit = 0
        self._said = said
        try:
            with _start_lock:
                self._process = fork_server().Process(target=child.main, args=(theirs, writer), daemon=True)
                self._process.start()
        except BaseException:
            self._free()
            raise
        finally:
            theirs.close()
            writer.close()
        self._fork_server = _fork_server_pid()
        os.set_blocking(self.output.fileno(), False)
        self.pid: int = self._process.pid or 0
        self.sock.settimeout(START_SECONDS)
        try:
            pipe.receive_header(self.sock)
        except (EOFError, OSError) as exc:
            self.close()
            raise EOFError(said.last or str(exc)) from exc
        self.sock.settimeout(None)
        pipe.send(self.sock, {}, files=[self._place])

    def send(self, header: dict[str, Any], parts: Sequence[Buffer], files: Sequence[int]) -> None:
        """Hand over a task."""
        pipe.send(self.sock, header, parts, files)

    def read_output(self) -> bool:
        """Take what the task printed so far; return whether the pipe is still open."""
        return self._said.read(self.output.fileno())

    def unit(self) -> int:
        """Return which unit of its task the child was at when it ended."""
        return self._unit

    def memory(self) -> int:
        """Bytes of memory that the child holds; 0 if it is gone."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the task, if one runs."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT)

    def descendants(self) -> list[psutil.Process]:
        """Return the processes that the task started, in other process groups too."""
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.Error:
            return []

    def kill(self) -> None:
        """End the child, and the processes that its task started."""
        started = self.descendants()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()
        for process in started:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def cause_of_death(self) -> str:
        """Wait for the child's end and tell it: a signal's name or an exit code."""
        self._process.join(5)
        code = self._process.exitcode
        if code is None:
            return "it does not react"
        if code < 0:
            try:
                return signal.Signals(-code).name
            except ValueError:
                return f"signal {-code}"
        if not _runs(self._fork_server):  # then nobody knows the code, and the child was killed with it
            return "SIGKILL, with its fork server"
        return f"exit code {code}"

    def close(self) -> None:
        """Kill the child if it still runs, and free what belongs to it."""
        self.kill()
        self._process.join(5)
        self.read_output()
        self._unit = int.from_bytes(os.pread(self._place, PLACE_BYTES, 0), "big")
        self._free()
        self._process.close()

    def _free(self) -> None:
        os.close(self._place)
        self.sock.close()
        self.output.close()


def _small_file() -> int:
    """Open a file without a name; in memory where possible, so that a full disk is no trouble."""
    if sys.platform == "linux":
        return os.memfd_create("nbmr-place")
    with tempfile.TemporaryFile(prefix="nbmr-") as file:
        return os.dup(file.fileno())


def _fork_server_pid() -> int:
    return int(forkserver._forkserver._forkserver_pid or 0)  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public way


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
