"""The keeper: a light process that owns the private RabbitMQ node and outlives the kernel that started it.

It makes the node's data folder, starts its own ``epmd`` and the RabbitMQ server there, restarts the server
when it dies, and ends everything, data included, when it is told to (SIGTERM) or when nobody has used the
node for a while. Run as ``python -m nbmr.keeper``; `nbmr.node.ensure` does so.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import resource
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import platformdirs
import psutil

from nbmr import connection_file, node
from nbmr.connection_file import ConnectionInfo
from nbmr.errors import ConfigError, NbmrError, NodeError

#: Seconds without a client and without a running task after which a node ends.
IDLE = 900.0
#: Free disk space that a node needs to start, and at which RabbitMQ stops taking messages, in bytes.
DISK_NEEDED, DISK_LIMIT = 500_000_000, 200_000_000
#: Longest start of the server, in seconds; a loaded machine takes its time.
START_TIMEOUT = 120.0
#: How often a start is tried when somebody was faster to take a port.
PORT_TRIES = 3
#: The server is given up when it fails as often as this within that many seconds.
FAILURES, FAILURES_WITHIN = 5, 60.0

#: RabbitMQ's configuration, as Erlang terms: translating a rabbitmq.conf would take 0.3 s more.
CONFIG = """\
[{{rabbit, [
   {{tcp_listeners, [{{"127.0.0.1", {port}}}]}},
   {{default_vhost, <<"/">>}},
   {{default_user, <<"{user}">>}},
   {{default_pass, <<"{password}">>}},
   {{heartbeat, 10}},
   {{consumer_timeout, undefined}},  % a task may take as long as it takes
   {{disk_free_limit, {disk_limit}}},
   {{vm_memory_high_watermark, {{absolute, {memory}}}}},
   {{log, [{{file, [{{level, info}}, {{size, 10000000}}, {{count, 1}}]}}, {{console, [{{enabled, false}}]}}]}}
 ]}},
 {{ra, [
   {{wal_max_size_bytes, 64000000}},  % bounds the memory that quorum queues take
   % Confirms need not wait for the disk: what was written survives the server's death in the page cache, and
   % this node's data is not meant to survive the machine's.
   {{wal_sync_method, none}}
 ]}}].
"""


class Stopped(Exception):
    """The keeper was told to end."""


class ServerDied(NodeError):
    """The server ended while it started."""


class Keeper:
    """Owns one node, from its data folder to its end.

    Parameters
    ----------
    state_dir
        Where data folders lie.
    file
        The connection file to write.
    idle
        Seconds without use after which the node ends.
    """

    def __init__(self, state_dir: Path, file: Path, idle: float) -> None:
        self._state_dir, self._file, self._idle = state_dir, file, idle
        self._user, self._password, self._key = "nbmr", secrets.token_urlsafe(24), secrets.token_hex(32)
        self._name = f"nbmr-{secrets.token_hex(4)}@localhost"
        self._started = time.time()
        self._stop = False
        self._wakeup, wake = os.pipe()
        for fd in (self._wakeup, wake):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes us up
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

        check_disk(state_dir)
        self.folder = self._make_folder()

    def start(self, server: Path | None = None) -> None:
        """Start the node and write the connection file.

        Raises
        ------
        NodeError
            It can't be started; says why.
        """
        self._server_script = server or node.find_server()
        self._erl = _find_program("erl")
        for attempt in range(PORT_TRIES):
            self._port, self._dist_port, self._epmd_port = free_ports(3)
            try:
                self._start_epmd()
                self._start_server()
                break
            except ServerDied as e:
                if attempt == PORT_TRIES - 1 or not re.search("eaddrinuse|in use|already", self._logs()):
                    raise
                log(f"trying other ports: {e}")
                shutil.rmtree(self.folder / "data", ignore_errors=True)

    def run(self) -> None:
        """Keep the server up until nobody has used the node for a while, or until SIGTERM (`Stopped`)."""
        failures: list[float] = []
        used = time.monotonic()
        while time.monotonic() - used < self._idle or not self._shut_out():
            self._wait(min(5.0, max(0.1, self._idle / 10)))
            if not all(node.nobody(self.folder / f"{role}.lock") for role in ("clients", "jobs")):
                used = time.monotonic()
            dead = [
                name for name, p in (("epmd", self._epmd), ("server", self._server)) if p.poll() is not None
            ]
            if not dead:
                continue
            failures = [t for t in failures if time.monotonic() - t < FAILURES_WITHIN] + [time.monotonic()]
            log(f"died: {' and '.join(dead)} ({len(failures)} times within {FAILURES_WITHIN:g} s)")
            if len(failures) == FAILURES:
                raise NodeError(f"The private RabbitMQ server keeps dying: {self._why()}")
            if len(failures) > 1:
                self._wait(0.1 * 2 ** len(failures))
            if "epmd" in dead:
                self._start_epmd()
            if "server" in dead:
                with contextlib.suppress(ServerDied):  # the next round sees it
                    self._start_server()
        log(f"unused for {self._idle:g} s")

    def end(self) -> None:
        """End all that is the node's, at once."""
        self._shut_out()
        with contextlib.suppress(NbmrError):
            info = connection_file.read(self._file)
            if info and info.keeper_pid == os.getpid():
                connection_file.remove(self._file)
        node.end_folder(self.folder)

    def keep_failure(self, error: BaseException) -> None:
        """Leave the reason of a failure where it outlives the data folder."""
        (self._state_dir / "last-failure.log").write_text(f"{time.ctime()}\n{error}\n", encoding="utf-8")

    def _shut_out(self) -> bool:
        """Take the place of clients and workers, so that one that comes now sees that the node is gone.

        False where there still are some.
        """
        fds: list[int] = []
        try:
            for role in ("clients", "jobs"):
                fds.append(os.open(self.folder / f"{role}.lock", os.O_RDWR))
                fcntl.flock(fds[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            for fd in fds:
                os.close(fd)
            return False
        return True  # held until this process ends

    def _make_folder(self) -> Path:
        """Make the data folder, locked from its first moment on, and remove those of dead nodes."""
        for old in self._state_dir.glob("node-*"):
            if node.nobody(old / "keeper.lock"):
                node.end_folder(old)
        name = f"node-{secrets.token_hex(4)}"
        unlocked, folder = self._state_dir / f".{name}", self._state_dir / name
        unlocked.mkdir(mode=0o700)
        for file in ("keeper.lock", "clients.lock", "jobs.lock", "rabbitmq-env.conf"):
            (unlocked / file).touch(mode=0o600)
        for sub in ("pools", "log"):
            (unlocked / sub).mkdir(mode=0o700)
        self._lock = os.open(unlocked / "keeper.lock", os.O_RDWR)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return unlocked.rename(folder)

    def _start_epmd(self) -> None:
        """Start our own epmd in the foreground; the server would otherwise leave a daemon behind."""
        command = [_find_program("epmd", self._erl), "-address", "127.0.0.1", "-port", str(self._epmd_port)]
        with (self.folder / "log" / "epmd.log").open("ab") as out:
            self._epmd = subprocess.Popen(
                command,
                env={"PATH": node.search_path()},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._record("epmd", self._epmd.pid)

    def _start_server(self) -> None:
        """Start the server; return when it answers and the connection file says so."""
        self._configure()
        with (self.folder / "log" / "server.out").open("ab") as out:
            self._server = subprocess.Popen(
                [self._server_script],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._record("server", self._server.pid)
        until = time.monotonic() + START_TIMEOUT
        while (version := node.probe(self._port)) is None:
            self._wait(0.03)
            if self._server.poll() is not None or self._epmd.poll() is not None:
                node.kill_recorded(self.folder)
                raise ServerDied(f"RabbitMQ ended while it started: {self._why()}")
            if time.monotonic() > until:
                raise NodeError(f"RabbitMQ did not start within {START_TIMEOUT:g} s: {self._why()}")
        log(f"RabbitMQ {version} answers on port {self._port}, pid {self._server.pid}")
        info = ConnectionInfo(
            url=f"amqp://{self._user}:{self._password}@127.0.0.1:{self._port}/%2F",
            key=self._key,
            keeper_pid=os.getpid(),
            keeper_started=psutil.Process().create_time(),
            node_pid=self._server.pid,
            data_dir=str(self.folder),
            rabbitmq_version=version,
            started=self._started,
        )
        connection_file.write(info, self._file)

    def _configure(self) -> None:
        text = CONFIG.format(
            port=self._port,
            user=self._user,
            password=self._password,
            disk_limit=DISK_LIMIT,
            memory=min(psutil.virtual_memory().total * 4 // 10, 2**30),
        )
        (self.folder / "enabled_plugins").write_text("[].\n", encoding="utf-8")
        config = self.folder / "advanced.config"
        config.touch(mode=0o600)  # it holds the password, which must not show in a process list
        config.write_text(text, encoding="utf-8")

    def _environment(self) -> dict[str, str]:
        """Return the server's whole environment: nothing of the caller's or the system's RabbitMQ gets in."""
        folder = self.folder
        cores = max(1, min(4, os.cpu_count() or 1))
        arguments = f"+S {cores}:{cores} -kernel inet_dist_use_interface {{127,0,0,1}}"
        return {
            **{k: v for k, v in os.environ.items() if k in {"TMPDIR", "TZ", "USER", "LOGNAME"}},
            "LANG": "C.UTF-8",
            "PATH": os.pathsep.join([str(Path(self._erl).parent), node.search_path()]),
            "HOME": str(folder),  # the Erlang cookie lies there
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(folder / "conf.d" / "*.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "rabbitmq-env.conf"),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_NODENAME": self._name,
            # The Erlang schedulers spin for some microseconds before they sleep. That halves the start, since
            # loading code is a ping-pong of threads, and costs an idle node next to nothing.
            "RABBITMQ_SCHEDULER_BUSY_WAIT_THRESHOLD": "very_short",
            # Not bound to cores, which they share with the workers.
            "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": arguments,
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the server, in place of waiting for it
        }

    def _record(self, name: str, pid: int) -> None:
        """Write down a process, so that it can be ended when this keeper is gone."""
        record = {"pid": pid, "started": psutil.Process(pid).create_time()}
        (self.folder / f"process-{name}.json").write_text(json.dumps(record), encoding="utf-8")

    def _logs(self) -> str:
        logs = sorted((self.folder / "log").iterdir(), key=lambda p: p.stat().st_mtime)
        return "\n".join(p.read_text(encoding="utf-8", errors="replace") for p in logs)

    def _why(self) -> str:
        return last_words(self._logs())

    def _note_stop(self, *_: object) -> None:
        self._stop = True

    def _wait(self, seconds: float) -> None:
        """Wait that long, or until a child ends; raise `Stopped` when told to end."""
        if select.select([self._wakeup], [], [], 0 if self._stop else seconds)[0]:
            os.read(self._wakeup, 4096)
        if self._stop:
            raise Stopped


def check_disk(folder: Path, needed: int = DISK_NEEDED) -> None:
    """Make the folder, if need be, and raise `NodeError` where its disk has too little room."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as e:
        raise NodeError(f"The private node can't keep its data in {folder}: {e}. Set XDG_STATE_HOME.") from e
    if free < needed:
        raise NodeError(
            f"Too little free disk space for a private RabbitMQ node: {free / 1e6:.0f} MB in {folder}, "
            f"and it takes {needed / 1e6:.0f} MB. Free some, or name a broker elsewhere by NBMR_URL."
        )


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def last_words(text: str) -> str:
    """Return what a person needs of the log of a server that died."""
    lines = [
        re.sub(r"^[-\d]+ [\d:.+]+ (\[\w+\] )?(<[\d.]+> )?", "", line).strip() for line in text.splitlines()
    ]
    lines = [line for line in lines if re.search(r"\w", line)]
    failed = [i for i, line in enumerate(lines) if line.startswith("BOOT FAILED")]
    telling = lines[failed[-1] + 1 :][:6] if failed else lines[-6:]
    return "\n".join(telling) or "it said nothing"


def log(line: str) -> None:
    """Note a line in the keeper's log."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), line, flush=True)  # noqa: T201  # stdout is the log


def _find_program(name: str, beside: str | None = None) -> str:
    """Find a program of Erlang's."""
    path = os.pathsep.join([*([str(Path(beside).resolve().parent)] if beside else []), node.search_path()])
    if found := shutil.which(name, path=path):
        return found
    raise NodeError(
        f"Erlang's program {name}, which RabbitMQ needs, is not found. Install Erlang, or put it on PATH."
    )


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a keeper until its node ends."""
    options = _options(arguments)
    if options.report_fd is not None and os.fork():
        os._exit(0)  # so that the keeper is not the kernel's child, which would have to be waited for
    sys.exit(_keep(options))


def _keep(options: argparse.Namespace) -> int:
    os.umask(0o077)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS starts with 256, and streams take several each
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit[0], 10240), limit[1]))
    keeper = None
    try:
        keeper = Keeper(options.state_dir, options.connection_file, _seconds(options.idle))
        if options.report_fd is not None:
            _log_to(keeper.folder / "keeper.log")
        if options.lock_fd is not None:
            _sign(options.lock_fd, keeper.folder)
        keeper.start(options.server)
        _report(options, {"ready": True})
        keeper.run()
    except Stopped:
        _report(options, {"error": "NodeError", "message": "The node was stopped while it started."})
    except (NbmrError, OSError) as e:
        log(f"failed: {e}")
        if keeper:
            keeper.keep_failure(e)
            keeper.end()
        _report(options, {"error": type(e).__name__, "message": str(e)})
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


def _log_to(file: Path) -> None:
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def _sign(lock_fd: int, folder: Path) -> None:
    """Say in the lock file who is starting, for `nbmr.node.stop`."""
    os.set_inheritable(lock_fd, False)
    record = {"pid": os.getpid(), "started": psutil.Process().create_time(), "data_dir": str(folder)}
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, json.dumps(record).encode(), 0)


def _report(options: argparse.Namespace, answer: dict[str, object]) -> None:
    """Tell the process that started us, once, and let the next one go ahead."""
    report, lock = options.report_fd, options.lock_fd
    options.report_fd = options.lock_fd = None
    if lock is not None:
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
    if report is not None:
        with contextlib.suppress(OSError):  # it was interrupted, and has gone
            os.write(report, json.dumps(answer).encode())
        os.close(report)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m nbmr.keeper", description=__doc__)
    parser.add_argument("--connection-file", type=Path, default=connection_file.path())
    parser.add_argument("--state-dir", type=Path, default=platformdirs.user_state_path("nbmr").absolute())
    parser.add_argument("--idle", default=os.environ.get("NBMR_NODE_IDLE") or IDLE, help="in seconds")
    parser.add_argument("--server", type=Path, help="the RabbitMQ server's own script")
    parser.add_argument("--lock-fd", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--report-fd", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
