"""The keeper: a light process that owns the private RabbitMQ node and outlives the kernel that started it.

It makes the node's data folder and starts the server there, or takes over a node whose keeper was killed.
Then it restarts the server when it dies, and ends everything, data included, when it is told to (SIGTERM) or
when nobody has used the node for a while. Run as ``python -m nbmr.node.keeper``; `nbmr.node.ensure` does so.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import secrets
import select
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import platformdirs

from nbmr.errors import ConfigError, NbmrError, NodeError
from nbmr.node import connection_file, processes
from nbmr.node.configuration import Configuration
from nbmr.node.connection_file import ConnectionInfo
from nbmr.node.folder import FAILURE_FILE, Folder, check_disk, end_orphans
from nbmr.node.handover import Handover
from nbmr.node.logs import log, log_to
from nbmr.node.server import Server, ServerDied, orphaned

#: Seconds without a client and without a running task after which a node ends.
IDLE = 900.0
#: The server is given up when it fails as often as this, each time within so many seconds after its start.
FAILURES, STABLE = 5, 60.0
#: How often to look after a server, and after one whose end nobody tells us, in seconds.
ROUND, ADOPTED_ROUND = 5.0, 0.25


class Stopped(Exception):
    """The keeper was told to end."""


class Keeper:
    """Owns one node, from its data folder to its end.

    Parameters
    ----------
    state_dir
        Where data folders lie.
    file
        The connection file: to write, and to find a node in whose keeper was killed.
    idle
        Seconds without use after which the node ends.
    """

    def __init__(self, state_dir: Path, file: Path, idle: float) -> None:
        self._state_dir, self._file, self._idle = state_dir, file, idle
        self._stop = False
        self._wakeup, wake = os.pipe()
        for fd in (self._wakeup, wake):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes us up
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

        self._orphan = self._find_orphan()
        if self._orphan is None:
            check_disk(state_dir)
            end_orphans(state_dir)
            self.folder = Folder.make(state_dir)

    def start(self, script: Path | None = None) -> None:
        """Start the node, or take it over, and write the connection file.

        Raises
        ------
        NodeError
            It can't be started; says why.
        """
        orphan = self._orphan
        self._key = orphan.key if orphan else secrets.token_hex(32)
        self._started = orphan.started if orphan else time.time()
        known = Configuration.load(orphan) if orphan else None
        self._server = Server(self.folder, known or Configuration.draw(script), self._wait)
        if orphan:
            log(f"took over the server of keeper {orphan.keeper_pid}, pid {orphan.node_pid}")
            self._server.adopt(orphan)
            self._server.revive()  # on its own ports: others wait for it there
        else:
            self._server.start()
        self._announce()

    def run(self) -> None:
        """Keep the server up until nobody has used the node for a while, or until SIGTERM (`Stopped`)."""
        failures, revived = 0, time.monotonic()
        used = time.monotonic()
        while time.monotonic() - used < self._idle or not self.folder.shut_out():
            self._wait(min(ROUND if self._server.wakes else ADOPTED_ROUND, max(0.1, self._idle / 10)))
            if self.folder.clients or self.folder.busy:
                used = time.monotonic()
            dead = self._server.dead
            if not dead:
                continue
            failures = 1 if time.monotonic() - revived > STABLE else failures + 1
            log(f"died: {' and '.join(dead)} ({failures} times)")
            if failures == FAILURES:
                raise NodeError(f"The private RabbitMQ server keeps dying: {self._server.why()}")
            if failures > 1:
                self._wait(0.1 * 2**failures)
            with contextlib.suppress(ServerDied):  # the next round sees it
                self._server.revive()
                self._announce()
            revived = time.monotonic()
        log(f"unused for {self._idle:g} s")

    def end(self) -> None:
        """End all that is the node's, at once."""
        self.folder.shut_out()
        with contextlib.suppress(NbmrError):
            info = connection_file.read(self._file)
            if info and info.keeper_pid == os.getpid():
                connection_file.remove(self._file)
        self.folder.end()

    def keep_failure(self, error: BaseException) -> None:
        """Leave the reason of a failure where it outlives the data folder."""
        (self._state_dir / FAILURE_FILE).write_text(f"{time.ctime()}\n{error}\n", encoding="utf-8")

    def _find_orphan(self) -> ConnectionInfo | None:
        """Own the node whose keeper was killed, if there is one."""
        info = connection_file.read(self._file)
        if info and orphaned(info):
            self.folder = Folder(info.data_dir)
            if self.folder.own():
                return info
        return None

    def _announce(self) -> None:
        """Write the connection file."""
        me = processes.identity()
        info = ConnectionInfo(
            url=self._server.configuration.url,
            key=self._key,
            keeper_pid=os.getpid(),
            keeper_started=me["started"],
            node_pid=self._server.pid,
            data_dir=str(self.folder.path),
            rabbitmq_version=self._server.version,
            started=self._started,
        )
        connection_file.write(info, self._file)

    def _note_stop(self, *_: object) -> None:
        self._stop = True

    def _wait(self, seconds: float) -> None:
        """Wait that long, or until a child ends; raise `Stopped` when told to end."""
        if select.select([self._wakeup], [], [], 0 if self._stop else seconds)[0]:
            os.read(self._wakeup, 4096)
        if self._stop:
            raise Stopped


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a keeper until its node ends."""
    options = _options(arguments)
    handover = Handover(options.lock_fd, options.report_fd)
    if handover.waiting and os.fork():
        os._exit(0)  # so that the keeper is not the kernel's child, which would have to be waited for
    sys.exit(_keep(options, handover))


def _keep(options: argparse.Namespace, handover: Handover) -> int:
    os.umask(0o077)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS starts with 256, and streams take several each
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit[0], 10240), limit[1]))
    keeper = None
    try:
        keeper = Keeper(options.state_dir, options.connection_file, _seconds(options.idle))
        if handover.waiting:
            log_to(keeper.folder.path / "keeper.log")
        handover.sign(keeper.folder)
        keeper.start(options.server)
        handover.report({"ready": True})
        keeper.run()
    except Stopped:
        handover.report({"error": "NodeError", "message": "The node was stopped while it started."})
    except (NbmrError, OSError) as e:
        log(f"failed: {e}")
        if keeper:
            keeper.keep_failure(e)
            keeper.end()
        handover.report({"error": type(e).__name__, "message": str(e)})
        return 1
    finally:
        if keeper:
            keeper.end()
    return 0


def _seconds(idle: str | float) -> float:
    try:
        return float(idle)
    except ValueError:
        raise ConfigError(f"NBMR_NODE_IDLE is {idle!r}; it must be a number of seconds, or inf.") from None


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m nbmr.node.keeper", description=__doc__)
    parser.add_argument("--connection-file", type=Path, default=connection_file.path())
    parser.add_argument("--state-dir", type=Path, default=platformdirs.user_state_path("nbmr").absolute())
    parser.add_argument("--idle", default=os.environ.get("NBMR_NODE_IDLE") or IDLE, help="in seconds")
    parser.add_argument("--server", type=Path, help="the RabbitMQ server's own script")
    parser.add_argument("--lock-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--report-fd", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
