"""What a program does with this user's node: make sure that it lives, ask after it, stop it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbmr import private
from nbmr.errors import NodeError
from nbmr.node import connection_file, handover, processes
from nbmr.node.connection_file import ConnectionInfo
from nbmr.node.folder import FAILURE_FILE, KEEPER_GRACE, Folder
from nbmr.node.handover import Wait
from nbmr.node.presence import try_lock
from nbmr.node.probe import probe
from nbmr.node.processes import living
from nbmr.node.server import orphaned

#: How long a living keeper may leave its server unreachable, as while it restarts it, in seconds.
RESTART_GRACE = 25.0
#: For so many seconds a node's failure is told to those who miss it.
FAILURE_AGE = 300.0


def ensure(on_progress: Callable[[str], None] | None = None, timeout: float = 60.0) -> ConnectionInfo:
    """Return the living node of this user, or start one.

    A node whose keeper is dead gets a new one, which brings its server back if need be. It keeps its jobs.

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
        Other users can get at the connection file or its folder.
    """
    wait = Wait(on_progress, timeout)
    file = connection_file.path()
    info = connection_file.read(file)
    if info and _answers(info):
        return info
    private.make_folder(file.parent)
    lock = os.open(handover.lock_file(file), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not try_lock(lock):
            wait.tick("Waiting for the private RabbitMQ node, which another kernel is starting")
        info = connection_file.read(file)
        if info and _recovers(info, wait):
            return info
        what = "Starting a private RabbitMQ node for your kernels (takes about 3 to 6 s)"
        if info and orphaned(info):
            what = "Taking over the private RabbitMQ node, whose keeper was killed"
        elif info:
            _end(info, file)
        handover.start(file, lock, wait, what)
    finally:
        os.close(lock)
    info = connection_file.read(file)
    if info is None:
        raise NodeError("the private RabbitMQ node ended as soon as it had started; try again")
    return info


def revive(data_dir: str) -> None:
    """Bring a node back whose keeper is dead, with its jobs; wait for it, as `ensure` does.

    Parameters
    ----------
    data_dir
        The node's data folder (`ConnectionInfo.data_dir`).

    Raises
    ------
    NodeError
        It can't be brought back; says why.
    """
    if abandoned(data_dir):
        ensure()


def abandoned(data_dir: str) -> bool:
    """Whether a node's keeper is dead, so that nobody brings its server back."""
    info = connection_file.read()
    return bool(info and info.data_dir == data_dir and not living(info.keeper_pid, info.keeper_started))


def last_failure(data_dir: str) -> str:
    """Return why a node ended that is gone, if it failed and told so within the last minutes."""
    file = Path(data_dir).parent / FAILURE_FILE
    try:
        recent = time.time() - file.stat().st_mtime < FAILURE_AGE
        return file.read_text(encoding="utf-8").partition("\n")[2].strip() if recent else ""
    except OSError:
        return ""


def status() -> dict[str, Any] | None:
    """Describe the living node of this user, without its password; None where there is none."""
    info = connection_file.read()
    if info is None or not (_answers(info) or living(info.keeper_pid, info.keeper_started)):
        return None
    folder = Folder(info.data_dir)
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
        "clients": folder.clients,
        "busy": folder.busy,
        "pools": len(folder.pools),
    }


def stop() -> bool:
    """End the node of this user and its local workers at once, also one that is starting or hung.

    Returns
    -------
    bool
        False where there was none.
    """
    file = connection_file.path()
    stopped = False
    if starting := handover.starting(file):
        stopped = _end_keeper(starting["pid"], starting["started"])
        Folder(starting["data_dir"]).end()
    info = connection_file.read(file)
    if info:
        stopped = _end(info, file) or stopped
    return stopped


def _answers(info: ConnectionInfo) -> bool:
    return living(info.keeper_pid, info.keeper_started) is not None and probe(info.port) is not None


def _recovers(info: ConnectionInfo, wait: Wait) -> bool:
    """Whether the node answers, or its keeper soon brings it back."""
    until = time.monotonic() + RESTART_GRACE
    while living(info.keeper_pid, info.keeper_started) and time.monotonic() < until:
        if probe(info.port):
            return True
        wait.tick("Waiting for the private RabbitMQ node, which its keeper is restarting")
    return False


def _end(info: ConnectionInfo, file: Path) -> bool:
    """End a node, whatever of it still lives; whether anything did."""
    folder = Folder(info.data_dir)
    ended = _end_keeper(info.keeper_pid, info.keeper_started)
    ended = folder.exists or ended
    folder.end()
    connection_file.remove(file)
    return ended


def _end_keeper(pid: int, started: float) -> bool:
    keeper = living(pid, started)
    if keeper is None:
        return False
    keeper.terminate()
    if not processes.gone([keeper], KEEPER_GRACE):
        keeper.kill()
        processes.gone([keeper], KEEPER_GRACE)
    return True
