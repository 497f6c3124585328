"""The private RabbitMQ node of this user: find it, start it, ask after it, stop it.

A node is owned by its keeper, a process of its own (`nbmr.keeper`), so that it outlives the kernel that
started it. What is known of it lies in its data folder: `keeper.lock` is locked while its keeper lives,
`clients.lock` and `jobs.lock` while somebody uses it (`Presence`), `process-*.json` name its processes and
`pools/*.json` the local worker pools that end with it. These are locks by flock, which the kernel releases
however a process dies.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import signal
import site
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

import psutil

from nbmr import connection_file, errors
from nbmr.connection_file import ConnectionInfo
from nbmr.errors import NodeError, RabbitMQNotFound

Role = Literal["clients", "jobs"]

#: Where the server's own script lies: Debian and RPM packages, generic archives, Homebrew.
SERVERS = (
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server",
    "/opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server",
    "/usr/local/opt/rabbitmq/sbin/rabbitmq-server",
    "/home/linuxbrew/.linuxbrew/opt/rabbitmq/sbin/rabbitmq-server",
    "/opt/rabbitmq*/sbin/rabbitmq-server",
    "/usr/local/rabbitmq*/sbin/rabbitmq-server",
)
#: Where programs lie that a kernel's PATH may lack.
PROGRAMS = (
    "/opt/homebrew/bin",
    "/opt/homebrew/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/usr/bin",
    "/usr/sbin",
    "/bin",
)
#: How long a worker pool has to end by itself, in seconds.
POOL_GRACE = 3.0
#: How long a keeper has to end all that is its own, in seconds.
KEEPER_GRACE = POOL_GRACE + 4.0
#: How long a living keeper may leave its server unreachable, as while it restarts it, in seconds.
RESTART_GRACE = 25.0


class Presence:
    """Tells the node's keeper that somebody is here, for as long as it is held or until this process dies.

    A lock is shared with forked children, which would prolong it. Python's own forks (`os.fork`,
    `multiprocessing`) therefore close their copy at once, and programs that are started never get one; only a
    fork made by C code keeps the parent's presence up.

    Parameters
    ----------
    data_dir
        The node's data folder (`ConnectionInfo.data_dir`).
    role
        ``"clients"`` for a process that uses the node, ``"jobs"`` for a worker while it runs a task.

    Examples
    --------
    >>> with Presence(info.data_dir, "clients"):  # doctest: +SKIP
    ...     work()
    """

    _held: ClassVar[weakref.WeakSet[Presence]] = weakref.WeakSet()

    def __init__(self, data_dir: str | Path, role: Role) -> None:
        self._file = Path(data_dir) / f"{role}.lock"
        self._fd: int | None = None

    def hold(self) -> Self:
        """Be present; holding twice is holding once.

        Raises
        ------
        NodeError
            The node has ended meanwhile; call `ensure` again.
        """
        if self._fd is None:
            try:
                fd = os.open(self._file, os.O_RDWR)  # close-on-exec, as every file that Python opens
            except OSError as e:
                raise NodeError(f"the private node at {self._file.parent} has ended; start a new one") from e
            fcntl.flock(fd, fcntl.LOCK_SH)
            if os.fstat(fd).st_nlink == 0:  # it ended while we waited for the lock
                os.close(fd)
                raise NodeError(f"the private node at {self._file.parent} has just ended; start a new one")
            self._fd = fd
            self._held.add(self)
        return self

    def release(self) -> None:
        """Be gone; releasing twice does no harm."""
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # also for a child that a fork in C code made
        self._close()

    def __enter__(self) -> Self:
        return self.hold()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        self._held.discard(self)
        if fd is not None:
            os.close(fd)

    @classmethod
    def _forget_in_child(cls) -> None:
        for presence in list(cls._held):
            presence._close()  # noqa: SLF001  # one of ours; without unlocking: that would unlock the parent


os.register_at_fork(after_in_child=Presence._forget_in_child)  # noqa: SLF001  # this module's own


def hold(data_dir: str | Path, role: Role) -> Presence:
    """Be present at a node until ``release()`` of what this returns; see `Presence`."""
    return Presence(data_dir, role).hold()


def ensure(on_progress: Callable[[str], None] | None = None, timeout: float = 60.0) -> ConnectionInfo:
    """Return the living node of this user, or start one.

    Parameters
    ----------
    on_progress
        Called with a line for a person to read, about twice a second while the node starts.
    timeout
        Longest wait, in seconds. A node that is starting then goes on to start.

    Raises
    ------
    RabbitMQNotFound
        RabbitMQ is not installed.
    NodeError
        The node can't be started; says why.
    ConfigError
        Other users can get at the connection file.
    """
    wait = _Wait(on_progress, timeout)
    file = connection_file.path()
    info = connection_file.read(file)
    if info and _answers(info):
        return info
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(_lock_file(file), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        # The keeper inherits this lock and holds it until the node is up: an ensure() that was interrupted
        # leaves a node that starts, and the next one waits for it.
        while not _try_lock(lock):
            wait.tick("Waiting for the private RabbitMQ node, which another kernel is starting")
        info = connection_file.read(file)
        if info:
            if _recovers(info, wait):
                return info
            _end(info, file)
        _start(file, lock, wait)
    finally:
        os.close(lock)
    info = connection_file.read(file)
    if info is None:
        raise NodeError("the private RabbitMQ node ended as soon as it had started; try again")
    return info


def status() -> dict[str, Any] | None:
    """Describe the living node of this user, without its password; None where there is none."""
    info = connection_file.read()
    if info is None or not (_answers(info) or living(info.keeper_pid, info.keeper_started)):
        return None
    folder = Path(info.data_dir)
    server = living(info.node_pid)
    return {
        "address": f"127.0.0.1:{info.port}",
        "answers": _answers(info),
        "rabbitmq_version": info.rabbitmq_version,
        "uptime": time.time() - info.started,
        "keeper_pid": info.keeper_pid,
        "node_pid": info.node_pid,
        "memory": server.memory_info().rss if server else 0,
        "data_dir": info.data_dir,
        "clients": not nobody(folder / "clients.lock"),
        "busy": not nobody(folder / "jobs.lock"),
        "pools": len(list((folder / "pools").glob("*.json"))),
    }


def stop() -> bool:
    """End the node of this user and its local workers at once, also one that is starting or hung.

    Returns
    -------
    bool
        False where there was none.
    """
    file = connection_file.path()
    lock_file = _lock_file(file)
    stopped = False
    if lock_file.exists() and not nobody(lock_file):  # a keeper is starting; it wrote down who it is
        try:
            starting = json.loads(lock_file.read_text(encoding="utf-8"))
            stopped = _end_keeper(starting["pid"], starting["started"])
            end_folder(Path(starting["data_dir"]))
        except (ValueError, KeyError):  # so early that there is nothing yet
            pass
    info = connection_file.read(file)
    if info:
        stopped = _end(info, file) or stopped
    return stopped


def find_server() -> Path:
    """Find the RabbitMQ server's own script; Debian's wrapper around it refuses ordinary users.

    The environment variable ``NBMR_RABBITMQ_SERVER`` may name it.

    Raises
    ------
    RabbitMQNotFound
        It is not installed; says how to install it.
    """
    if named := os.environ.get("NBMR_RABBITMQ_SERVER"):
        if os.access(named, os.X_OK) and Path(named).is_file():
            return Path(named).absolute()
        raise RabbitMQNotFound(f"NBMR_RABBITMQ_SERVER names {named}, which is no program that can be run.")
    on_path = shutil.which("rabbitmq-server", path=search_path())
    found = [Path(on_path).resolve()] if on_path else []
    for pattern in SERVERS:
        matches = Path("/").glob(pattern.removeprefix("/"))
        found += sorted(matches, key=lambda p: [int(n) for n in re.findall(r"\d+", str(p))], reverse=True)
    for script in found:
        if script.name == "rabbitmq-server" and os.access(
            script, os.X_OK
        ):  # Debian's wrapper has another name
            return script
    raise RabbitMQNotFound(
        "RabbitMQ is not installed on this machine. nbmr needs it to start a private node. "
        f"{_how_to_install()} Or set NBMR_URL to use a RabbitMQ broker that runs elsewhere."
    )


def search_path() -> str:
    """Return this process's PATH, and the folders that a kernel's PATH may lack."""
    brewed = [str(p) for top in ("/opt/homebrew", "/usr/local") for p in Path(top).glob("opt/erlang*/bin")]
    return os.pathsep.join([os.environ.get("PATH", ""), *PROGRAMS, *brewed])


def probe(port: int, timeout: float = 2.0) -> str | None:
    """Return RabbitMQ's version, where AMQP answers on this port of 127.0.0.1; otherwise None."""
    header = 7  # type, channel and size of a frame; a frame ends with one byte more
    try:
        with socket.create_connection(("127.0.0.1", port), timeout) as s:
            s.settimeout(timeout)
            s.sendall(b"AMQP\x00\x00\x09\x01")
            data = b""
            # A method frame (1) with class connection (10), method start (10), then the server's properties.
            while len(data) < header or len(data) < header + 1 + int.from_bytes(data[3:7], "big"):
                if not (chunk := s.recv(4096)):
                    return None
                data += chunk
    except OSError:
        return None
    if data[:1] != b"\x01" or data[7:11] != b"\x00\x0a\x00\x0a":
        return None
    version = re.search(rb"\x07versionS...(.)", data, re.DOTALL)
    return data[version.end() : version.end() + version[1][0]].decode() if version else "unknown"


def living(pid: int, started: float | None = None) -> psutil.Process | None:
    """Return the process of that id that started then; None where it is gone (a zombie is gone)."""
    try:
        process = psutil.Process(pid)
        created = process.create_time()
        recycled = started is not None and abs(created - started) > 2  # noqa: PLR2004  # the clock may be set
        return None if recycled or process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.Error:
        return None


def nobody(lock_file: Path) -> bool:
    """Whether nobody holds this lock; a file that is missing is held by nobody."""
    try:
        fd = os.open(lock_file, os.O_RDWR)
    except OSError:
        return True
    try:
        return _try_lock(fd)
    finally:
        os.close(fd)


def end_folder(folder: Path) -> None:
    """End what a node has left: its worker pools (which get a moment), its server, its epmd, its data."""
    if not folder.name.startswith("node-"):  # never delete what isn't a node's
        return
    pools = _recorded((folder / "pools").glob("*.json"))
    for process in pools:
        _signal(process, signal.SIGTERM)
    _gone(pools, POOL_GRACE)
    kill_recorded(folder, pools)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():  # something wrote while we deleted
        shutil.rmtree(folder, ignore_errors=True)


def kill_recorded(folder: Path, others: Iterable[psutil.Process] = ()) -> None:
    """Kill the server and the epmd of this data folder, and wait until they are gone."""
    processes = [*others, *_recorded(folder.glob("process-*.json"))]
    for process in processes:
        _signal(process, signal.SIGKILL)
    _gone(processes, KEEPER_GRACE)


class _Wait:
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


def _start(file: Path, lock: int, wait: _Wait) -> None:
    """Start a keeper and wait for its report; it takes over the lock."""
    report, theirs = os.pipe()
    with tempfile.TemporaryFile() as output, os.fdopen(report, "rb", buffering=0) as reports:
        command = [sys.executable, "-m", "nbmr.keeper", f"--connection-file={file}"]
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
            if wait.tick("Starting a private RabbitMQ node for your kernels (takes about 3 to 6 s)", report):
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
    """Our environment, in which the keeper also finds an nbmr that is on this process's path only."""
    ours = str(Path(__file__).resolve().parent.parent)
    if ours in [*site.getsitepackages(), site.getusersitepackages()]:
        return dict(os.environ)
    theirs = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([theirs, ours] if theirs else [ours])}


def _answers(info: ConnectionInfo) -> bool:
    return living(info.keeper_pid, info.keeper_started) is not None and probe(info.port) is not None


def _recovers(info: ConnectionInfo, wait: _Wait) -> bool:
    """Whether the node answers, or its keeper soon brings it back."""
    until = time.monotonic() + RESTART_GRACE
    while living(info.keeper_pid, info.keeper_started) and time.monotonic() < until:
        if probe(info.port):
            return True
        wait.tick("Waiting for the private RabbitMQ node, which its keeper is restarting")
    return False


def _end(info: ConnectionInfo, file: Path) -> bool:
    """End a node, whatever of it still lives; whether anything did."""
    ended = _end_keeper(info.keeper_pid, info.keeper_started)
    ended = Path(info.data_dir).exists() or ended
    end_folder(Path(info.data_dir))
    connection_file.remove(file)
    return ended


def _end_keeper(pid: int, started: float) -> bool:
    keeper = living(pid, started)
    if keeper is None:
        return False
    keeper.terminate()
    if not _gone([keeper], KEEPER_GRACE):
        keeper.kill()
        _gone([keeper], KEEPER_GRACE)
    return True


def _recorded(files: Iterable[Path]) -> list[psutil.Process]:
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


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    """Send a signal to a process; SIGKILL to its whole group, where it leads one."""
    try:
        if number == signal.SIGKILL and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
    except (OSError, psutil.Error):  # gone meanwhile
        pass


def _gone(processes: list[psutil.Process], timeout: float) -> bool:
    """Wait until these processes are gone; whether they are."""
    until = time.monotonic() + timeout
    while any(living(p.pid, p.create_time()) for p in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _lock_file(file: Path) -> Path:
    return file.with_suffix(".lock")


def _how_to_install() -> str:
    if sys.platform == "darwin":
        return "Install it with: brew install rabbitmq"
    if shutil.which("apt-get", path=search_path()):
        return "Install it with: sudo apt-get install rabbitmq-server"
    return "Install RabbitMQ 3.10 or newer (most package managers call it rabbitmq-server or rabbitmq)."
