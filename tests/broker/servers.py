"""RabbitMQ servers that a test starts, kills and brings back itself: named brokers, alone or as a cluster.

What runs is the server's own script, as an ordinary user, with everything on loopback and in one folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

from nbmr.node.configuration import Configuration
from nbmr.node.folder import Folder
from nbmr.node.install import find_program, search_path
from nbmr.node.probe import probe

#: Longest start of a server, in seconds, on a machine that is busy with other things.
START_SECONDS = 90.0

CONFIG = """\
loopback_users = none
listeners.tcp.1 = 127.0.0.1:{port}
default_user = tester
default_pass = {password}
heartbeat = 10
disk_free_limit.absolute = 50MB
log.console = false
log.file.level = info
{extra}
"""


class Server:
    """One RabbitMQ server.

    Parameters
    ----------
    script
        The server's own script.
    folder
        Where everything of it lies; made if need be.
    extra
        More lines for its ``rabbitmq.conf``.
    beside
        A server to form a cluster with: they share passwords, and the daemon by which Erlang finds them.
    """

    def __init__(self, script: Path, folder: Path, extra: str = "", beside: Server | None = None) -> None:
        setup = Configuration.draw(script)
        if beside:
            shared = beside._setup
            setup = replace(setup, epmd_port=shared.epmd_port, user=shared.user, password=shared.password)
        self._setup = replace(setup, user="tester")
        self.folder, self.extra, self._beside = folder, extra, beside
        self._epmd: subprocess.Popen[bytes] | None = None
        self._rabbit: subprocess.Popen[bytes] | None = None
        for sub in ("log", "data", "conf.d"):
            (folder / sub).mkdir(parents=True, exist_ok=True)
        (folder / "rabbitmq-env.conf").touch()
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / "advanced.config").write_text("[].\n")
        cookie = folder / ".erlang.cookie"
        cookie.write_text(hashlib.sha256(setup.password.encode()).hexdigest()[:20])
        cookie.chmod(0o400)

    @property
    def port(self) -> int:
        """Its AMQP port on 127.0.0.1."""
        return self._setup.port

    @property
    def name(self) -> str:
        """Erlang's name of it."""
        return self._setup.name

    @property
    def url(self) -> str:
        """Its AMQP address, with user and password."""
        return f"amqp://tester:{self._setup.password}@127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._rabbit is not None
        return self._rabbit.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._rabbit is not None and self._rabbit.poll() is None

    def launch(self) -> None:
        """Start it on the data that it has, and return at once; `wait` waits for it."""
        text = CONFIG.format(port=self.port, password=self._setup.password, extra=self.extra)
        (self.folder / "rabbitmq.conf").write_text(text)
        environment = self._setup.environment(Folder(self.folder))
        if self._beside is None and self._epmd is None:
            epmd = [find_program("epmd", self._setup.erl), "-address", "127.0.0.1"]
            self._epmd = self._run([*epmd, "-port", str(self._setup.epmd_port)], {"PATH": search_path()})
        self._rabbit = self._run([self._setup.script], environment)

    def _run(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self.folder / "log" / "out").open("ab") as out:
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip

    def wait(self) -> Self:
        """Wait until it answers."""
        until = time.monotonic() + START_SECONDS
        while probe(self.port) is None:
            assert self._rabbit is not None
            assert self._rabbit.poll() is None, f"RabbitMQ ended while it started: {self.log()}"
            assert time.monotonic() < until, f"RabbitMQ did not start: {self.log()}"
            time.sleep(0.05)
        return self

    def start(self) -> Self:
        """Start it, or start it again, and wait until it answers."""
        self.launch()
        return self.wait()

    def kill(self) -> None:
        """Kill it, as the system does when memory is short."""
        _kill(self._rabbit)

    def stop(self) -> None:
        """End it for good, with all that it started."""
        _kill(self._rabbit)
        _kill(self._epmd)

    def restart(self) -> Self:
        """Kill it, if it lives, and start it again on its data."""
        self.kill()
        return self.start()

    def pause(self) -> None:
        """Stop it from doing anything, with its connections open."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)

    def eval(self, expression: str) -> str:
        """Evaluate an Erlang expression in the server; takes a second."""
        tool = Path(self._setup.script).parent / "rabbitmqctl"
        done = subprocess.run(
            [tool, "--node", self.name, "--timeout", "30", "eval", expression],
            env=self._setup.environment(Folder(self.folder)),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def describe(self) -> str:
        """Tell what it knows of alarms, connections and queues."""
        about = "[peer_port, state, channels, recv_oct, send_oct, send_pend]"
        of_queues = "[name, state, messages_ready, messages_unacknowledged, consumers]"
        return self.eval(
            'io:format("~p~n~p~n~p~n", [rabbit_alarm:get_alarms(),'
            f" rabbit_networking:connection_info_all({about}),"
            f' rabbit_amqqueue:info_all(<<"/">>, {of_queues})]).'
        )

    def log(self) -> str:
        """Return the end of what it logged."""
        files = [*(self.folder / "log").glob("*.log"), self.folder / "log" / "out"]
        return "\n".join(file.read_text(errors="replace")[-2000:] for file in files if file.exists())


@contextlib.contextmanager
def started(script: Path, folder: Path, extra: str = "") -> Iterator[Server]:
    """Start a server, and end it when the block ends."""
    server = Server(script, folder, extra)
    try:
        yield server.start()
    finally:
        server.stop()


@contextlib.contextmanager
def cluster(script: Path, folder: Path, size: int = 3) -> Iterator[list[Server]]:
    """Start a cluster, and end it when the block ends."""
    servers = [Server(script, folder / "0")]
    servers += [Server(script, folder / str(n), beside=servers[0]) for n in range(1, size)]
    names = "\n".join(f"cluster_formation.classic_config.nodes.{n} = {s.name}" for n, s in enumerate(servers))
    peers = f"cluster_formation.peer_discovery_backend = classic_config\n{names}"
    try:
        for server in servers:
            server.extra = f"{peers}\ncluster_formation.target_cluster_size_hint = {size}"
            server.launch()
        for server in servers:
            server.wait()
        yield servers
    finally:
        for server in servers:
            server.stop()


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
