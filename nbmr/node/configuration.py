"""How the RabbitMQ server of a node is set up: its ports, its configuration and its environment."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import psutil

from nbmr.node.connection_file import ConnectionInfo
from nbmr.node.folder import Folder
from nbmr.node.install import find_program, find_server, search_path

#: Free disk space at which RabbitMQ stops taking messages, in bytes.
DISK_LIMIT = 200_000_000

#: Where Linux tells from which port on it gives them to outgoing connections; the first one that is drawn for
#: a server, and how many are tried.
_OUTGOING, _FIRST_PORT, _PORT_TRIES = Path("/proc/sys/net/ipv4/ip_local_port_range"), 20_000, 100

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
#: Where a data folder says how its server was started; without its password.
FILE = "server.json"


@dataclass(frozen=True)
class Configuration:
    """All that decides how one server is started."""

    #: The server's own script.
    script: str
    #: Erlang's ``erl``.
    erl: str
    #: Erlang's name of the node.
    name: str
    #: Ports of 127.0.0.1: AMQP, Erlang's distribution, epmd.
    port: int
    dist_port: int
    epmd_port: int
    user: str = field(repr=False)
    password: str = field(repr=False)

    @classmethod
    def draw(cls, script: Path | None = None) -> Self:
        """Find the programs, and draw ports, name and password.

        Raises
        ------
        RabbitMQNotFound, NodeError
            RabbitMQ or Erlang is not installed.
        """
        script = script or find_server()
        erl = find_program("erl")
        name = f"nbmr-{secrets.token_hex(4)}@localhost"
        port, dist_port, epmd_port = free_ports(3)
        return cls(str(script), erl, name, port, dist_port, epmd_port, "nbmr", secrets.token_urlsafe(24))

    @classmethod
    def load(cls, info: ConnectionInfo) -> Self | None:
        """Return the configuration of this node's server; None where it can't be told."""
        url = urlsplit(info.url)
        try:
            saved = json.loads((Path(info.data_dir) / FILE).read_text(encoding="utf-8"))
            known = cls(**saved, user=url.username or "", password=url.password or "")
        except (OSError, ValueError, TypeError):
            return None
        return known if known.port == info.port else None

    def moved(self) -> Self:
        """Return the same with other ports."""
        port, dist_port, epmd_port = free_ports(3)
        return replace(self, port=port, dist_port=dist_port, epmd_port=epmd_port)

    @property
    def url(self) -> str:
        """The AMQP address, with user and password."""
        return f"amqp://{self.user}:{self.password}@127.0.0.1:{self.port}/%2F"

    def write(self, folder: Folder) -> None:
        """Write the files that the server and a later keeper read."""
        saved = {name: value for name, value in asdict(self).items() if name not in {"user", "password"}}
        (folder.path / FILE).write_text(json.dumps(saved), encoding="utf-8")
        (folder.path / "enabled_plugins").write_text("[].\n", encoding="utf-8")
        config = folder.path / "advanced.config"
        config.touch(mode=0o600)  # it holds the password, which must not show in a process list
        text = CONFIG.format(
            port=self.port,
            user=self.user,
            password=self.password,
            disk_limit=DISK_LIMIT,
            memory=memory_watermark(),
        )
        config.write_text(text, encoding="utf-8")

    def environment(self, folder: Folder) -> dict[str, str]:
        """Return the server's whole environment: nothing of the caller's or the system's RabbitMQ gets in."""
        place = folder.path
        cores = max(1, min(4, os.cpu_count() or 1))
        # The schedulers that write files would spin, too, after each of a task's messages: that is a sixth of
        # what RabbitMQ costs for a short task, and the workers need these cores.
        schedulers = f"+S {cores}:{cores} +sbwtdcpu none +sbwtdio none"
        arguments = f"{schedulers} -kernel inet_dist_use_interface {{127,0,0,1}}"
        return {
            **{k: v for k, v in os.environ.items() if k in {"TMPDIR", "TZ", "USER", "LOGNAME"}},
            "LANG": "C.UTF-8",
            "PATH": os.pathsep.join([str(Path(self.erl).parent), search_path()]),
            "HOME": str(place),  # the Erlang cookie lies there
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(place / "advanced.config"),
            "RABBITMQ_CONFIG_FILE": str(place / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(place / "conf.d" / "*.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(place / "rabbitmq-env.conf"),
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(place / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(place / "log"),
            "RABBITMQ_MNESIA_BASE": str(place / "data"),
            "RABBITMQ_NODENAME": self.name,
            # The Erlang schedulers spin for some microseconds before they sleep. That halves the start, since
            # loading code is a ping-pong of threads, and costs an idle node next to nothing.
            "RABBITMQ_SCHEDULER_BUSY_WAIT_THRESHOLD": "very_short",
            # Not bound to cores, which they share with the workers.
            "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": arguments,
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the server, in place of waiting for it
        }


def memory_watermark() -> int:
    """Return how many bytes the server may hold before it stops taking messages."""
    return int(min(psutil.virtual_memory().total * 4 // 10, 2**30))


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on.

    They lie below those that the system gives to outgoing connections, where it tells which these are: one of
    those might be taken before the server listens on it, or while that is started again.
    """
    sockets: list[socket.socket] = []
    try:
        for port in _candidates():
            s = socket.socket()
            try:
                s.bind(("127.0.0.1", port))
            except OSError:  # taken
                s.close()
                if not port:
                    raise
                continue
            sockets.append(s)
            if len(sockets) == count:
                break
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


def _candidates() -> Iterator[int]:
    """Give ports to try, in no order; at last 0, for which the system gives one, as often as it is asked."""
    try:
        end = int(_OUTGOING.read_bytes().split()[0])
    except (OSError, ValueError, IndexError):
        end = 0
    if end > _FIRST_PORT:
        for _ in range(_PORT_TRIES):
            yield _FIRST_PORT + secrets.randbelow(end - _FIRST_PORT)
    while True:
        yield 0
