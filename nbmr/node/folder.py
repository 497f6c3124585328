"""The data folder of a node: what lies in it, who owns it, who uses it, and its end.

``keeper.lock`` is locked while the keeper lives, ``clients.lock`` and ``jobs.lock`` while somebody uses the
node (`nbmr.node.presence`), ``process-*.json`` name its processes, ``server.json`` says how its server was
started, and ``pools/*.json`` name the local worker pools that end with it.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import psutil

from nbmr import private, shared
from nbmr.errors import NodeError
from nbmr.node import processes
from nbmr.node.presence import nobody, try_lock

#: Free disk space that a node needs to start, in bytes.
DISK_NEEDED = 500_000_000
#: Beside the data folders: why the last node failed.
FAILURE_FILE = "last-failure.log"
#: How long a worker pool has to end by itself, in seconds.
POOL_GRACE = 3.0
#: How long a keeper has to end all that is its own, in seconds.
KEEPER_GRACE = POOL_GRACE + 4.0


class Folder:
    """A node's data folder, which may be gone.

    Parameters
    ----------
    path
        Where it is (`ConnectionInfo.data_dir`).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def make(cls, state_dir: Path) -> Self:
        """Make a new one, owned from its first moment on."""
        name = f"node-{secrets.token_hex(4)}"
        unlocked = state_dir / f".{name}"
        unlocked.mkdir(mode=0o700)
        for file in ("keeper.lock", "clients.lock", "jobs.lock", "rabbitmq-env.conf"):
            (unlocked / file).touch(mode=0o600)
        for sub in ("pools", "log"):
            (unlocked / sub).mkdir(mode=0o700)
        folder = cls(unlocked)
        folder.own()
        folder.path = unlocked.rename(state_dir / name)
        return folder

    def own(self) -> bool:
        """Be its keeper until this process ends; False where it has one, or is gone."""
        try:
            lock = os.open(self.path / "keeper.lock", os.O_RDWR)
        except OSError:
            return False
        owned = try_lock(lock)
        if not owned:
            os.close(lock)
        return owned

    @property
    def exists(self) -> bool:
        """Whether it is there."""
        return self.path.exists()

    @property
    def clients(self) -> bool:
        """Whether somebody uses the node."""
        return not nobody(self.path / "clients.lock")

    @property
    def busy(self) -> bool:
        """Whether a worker runs a task."""
        return not nobody(self.path / "jobs.lock")

    @property
    def pools(self) -> list[Path]:
        """The records of the worker pools on this machine."""
        return list((self.path / "pools").glob("*.json"))

    def shut_out(self) -> bool:
        """Take the place of clients and workers, so that one that comes now sees that the node is gone.

        False where there still are some.
        """
        fds: list[int] = []
        for role in ("clients", "jobs"):
            try:
                fds.append(os.open(self.path / f"{role}.lock", os.O_RDWR))
            except OSError:
                break
            if not try_lock(fds[-1]):
                break
        else:
            return True  # held until this process ends
        for fd in fds:
            os.close(fd)
        return False

    def record(self, name: str, pid: int) -> None:
        """Write down a process, so that it can be ended when its keeper is gone."""
        text = json.dumps(processes.identity(pid))
        (self.path / f"process-{name}.json").write_text(text, encoding="utf-8")

    def recorded(self, name: str = "*") -> list[psutil.Process]:
        """Return those that live of the processes that were written down."""
        return processes.recorded(self.path.glob(f"process-{name}.json"))

    def kill(self, others: Iterable[psutil.Process] = ()) -> None:
        """Kill the server and the epmd, and wait until they are gone."""
        doomed = [*others, *self.recorded()]
        for process in doomed:
            processes.send(process, signal.SIGKILL)
        processes.gone(doomed, KEEPER_GRACE)

    def end(self) -> None:
        """End what a node has left: its worker pools (which get a moment), its server, its epmd, its data."""
        if not self.path.name.startswith("node-"):  # never delete what isn't a node's
            return
        pools = processes.recorded(self.pools)
        for process in pools:
            processes.send(process, signal.SIGTERM)
        processes.gone(pools, POOL_GRACE)
        self.kill(pools)
        shutil.rmtree(self.path, ignore_errors=True)
        if self.exists:  # something wrote while we deleted
            shutil.rmtree(self.path, ignore_errors=True)
        shared.remove_node(self.path)


def end_orphans(state_dir: Path) -> None:
    """End what nodes have left whose keepers are gone."""
    for path in state_dir.glob("node-*"):
        if nobody(path / "keeper.lock"):
            Folder(path).end()


def check_disk(state_dir: Path, needed: int = DISK_NEEDED) -> None:
    """Make the folder, if need be, and raise `NodeError` where its disk has too little room."""
    try:
        private.make_folder(state_dir)
        free = shutil.disk_usage(state_dir).free
    except OSError as e:
        raise NodeError(
            f"The private node can't keep its data in {state_dir}: {e}. Set XDG_STATE_HOME."
        ) from e
    if free < needed:
        raise NodeError(
            f"Too little free disk space for a private RabbitMQ node: {free / 1e6:.0f} MB in {state_dir}, "
            f"and it takes {needed / 1e6:.0f} MB. Free some, or name a broker elsewhere by NBMR_URL."
        )
