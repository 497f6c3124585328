"""The RabbitMQ server of a node, and the epmd that Erlang needs: started, adopted, brought back."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import psutil

from nbmr.errors import NodeError
from nbmr.node.configuration import Configuration
from nbmr.node.connection_file import ConnectionInfo
from nbmr.node.folder import Folder
from nbmr.node.install import find_program, search_path
from nbmr.node.logs import last_words, log, logged
from nbmr.node.probe import probe
from nbmr.node.processes import living, start_time

#: Longest start of the server, in seconds; a loaded machine takes its time.
START_TIMEOUT = 120.0
#: How often a start is tried when somebody was faster to take a port.
PORT_TRIES = 3
#: Seconds that a killed process may take to end.
_END_SECONDS = 10.0


class ServerDied(NodeError):
    """The server ended while it started."""


class Program:
    """A process that belongs to a server: a child of ours, or one that a former keeper started."""

    def __init__(self, process: psutil.Process, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid, self._created = process.pid, start_time(process.pid)
        self._child = child

    @classmethod
    def start(cls, command: list[str], folder: Path, environment: Mapping[str, str], output: Path) -> Self:
        """Start a child in a session of its own."""
        with output.open("ab") as out:
            child = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        return cls(psutil.Process(child.pid), child)

    @property
    def is_child(self) -> bool:
        """Whether its end wakes us up."""
        return self._child is not None

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        if self._child:
            return self._child.poll() is not None
        return living(self.pid, self._created) is None

    def wait(self) -> None:
        """Wait for its end, for some seconds, if it is a child."""
        if self._child:
            self._child.wait(_END_SECONDS)


class Server:
    """One node's server.

    Parameters
    ----------
    folder
        The node's data folder.
    configuration
        How it is to be started, or was.
    pause
        Waits that many seconds; may raise in order to break off.
    note
        Notes a line on what happens; by default in the keeper's log.
    """

    def __init__(
        self,
        folder: Folder,
        configuration: Configuration,
        pause: Callable[[float], None],
        note: Callable[[str], None] = log,
    ) -> None:
        self.folder, self.configuration, self._pause, self._note = folder, configuration, pause, note
        self.version = ""
        self._epmd: Program | None = None
        self._rabbit: Program | None = None

    @property
    def pid(self) -> int:
        """Process id of the server, 0 before it was started."""
        return self._rabbit.pid if self._rabbit else 0

    @property
    def dead(self) -> list[str]:
        """Which of ``epmd`` and ``server`` don't live."""
        programs = {"epmd": self._epmd, "server": self._rabbit}
        return [name for name, program in programs.items() if program is None or program.ended]

    @property
    def wakes(self) -> bool:
        """Whether this process is told when one of its programs ends; it has to look otherwise."""
        return all(program and program.is_child for program in (self._epmd, self._rabbit))

    def start(self) -> None:
        """Start what is dead of it and wait until it answers, on other ports where somebody took one.

        Raises
        ------
        NodeError
            It can't be started; says why.
        """
        for attempt in range(PORT_TRIES):
            try:
                self.revive()
                break
            except ServerDied as e:
                taken = re.search("eaddrinuse|in use|already", logged(self.folder.path / "log"))
                if attempt == PORT_TRIES - 1 or not taken:
                    raise
                self._note(f"trying other ports: {e}")
                shutil.rmtree(self.folder.path / "data", ignore_errors=True)
                self.configuration = self.configuration.moved()

    def adopt(self, info: ConnectionInfo) -> None:
        """Take over what a former keeper started; what has ended meanwhile, or doesn't answer, is dead."""
        if probe(info.port) is None:
            self.folder.kill()
        self.version = info.rabbitmq_version
        for process in self.folder.recorded("epmd"):
            self._epmd = Program(process)
        for process in self.folder.recorded("server"):
            self._rabbit = Program(process)

    def revive(self) -> None:
        """Start what is dead of it; return when it answers.

        Raises
        ------
        ServerDied
            It ended while it started.
        """
        dead = self.dead
        if "epmd" in dead:
            self._start_epmd()
        if "server" in dead:
            self._start_rabbit()

    def forget(self) -> None:
        """Take note of the end of its programs, so that the system forgets them too."""
        for program in (self._epmd, self._rabbit):
            if program:
                program.wait()

    def why(self) -> str:
        """Return the last words of a server that died."""
        return last_words(logged(self.folder.path / "log"))

    def _start_epmd(self) -> None:
        """Start our own epmd in the foreground; the server would otherwise leave a daemon behind."""
        setup, place = self.configuration, self.folder.path
        command = [find_program("epmd", setup.erl), "-address", "127.0.0.1", "-port", str(setup.epmd_port)]
        self._epmd = Program.start(command, place, {"PATH": search_path()}, place / "log" / "epmd.log")
        self.folder.record("epmd", self._epmd.pid)

    def _start_rabbit(self) -> None:
        setup, place = self.configuration, self.folder.path
        setup.write(self.folder)
        environment = setup.environment(self.folder)
        self._rabbit = Program.start([setup.script], place, environment, place / "log" / "server.out")
        self.folder.record("server", self._rabbit.pid)
        until = time.monotonic() + START_TIMEOUT
        while (version := probe(setup.port)) is None:
            self._pause(0.03)
            if self.dead:
                self.folder.kill()
                raise ServerDied(f"RabbitMQ ended while it started: {self.why()}")
            if time.monotonic() > until:
                raise NodeError(f"RabbitMQ did not start within {START_TIMEOUT:g} s: {self.why()}")
        self._note(f"RabbitMQ {version} answers on port {setup.port}, pid {self._rabbit.pid}")
        self.version = version


def orphaned(info: ConnectionInfo) -> bool:
    """Whether this node has lost its keeper, and a new one can take it over, with or without its server."""
    return not living(info.keeper_pid, info.keeper_started) and Configuration.load(info) is not None
