"""The installed RabbitMQ and Erlang: where their programs are, and how to install them."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from nbmr.errors import NodeError, RabbitMQNotFound

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
        # Debian's wrapper has another name.
        if script.name == "rabbitmq-server" and os.access(script, os.X_OK):
            return script
    raise RabbitMQNotFound(
        "RabbitMQ is not installed on this machine. nbmr needs it to start a private node. "
        f"{_how_to_install()} Or set NBMR_URL to use a RabbitMQ broker that runs elsewhere."
    )


def server_version(script: Path) -> str:
    """Return the version of a RabbitMQ server, by how its files are named; empty if they don't tell.

    Examples
    --------
    >>> server_version(Path("/usr/lib/rabbitmq/lib/rabbitmq_server-3.10.8/sbin/rabbitmq-server"))
    '3.10.8'
    """
    for name in (str(script), str(script.resolve())):
        if found := re.search(r"rabbitmq(?:_server|-server|/Cellar/rabbitmq)?[-_/](\d+\.\d+[\w.\-]*)/", name):
            return found[1]
    plugins = script.resolve().parent.parent / "plugins"
    for place in sorted(plugins.glob("rabbit-[0-9]*")):
        return place.name.removeprefix("rabbit-").removesuffix(".ez")
    return ""


def search_path() -> str:
    """Return this process's PATH, and the folders that a kernel's PATH may lack."""
    brewed = [str(p) for top in ("/opt/homebrew", "/usr/local") for p in Path(top).glob("opt/erlang*/bin")]
    return os.pathsep.join([os.environ.get("PATH", ""), *PROGRAMS, *brewed])


def find_program(name: str, beside: str | None = None) -> str:
    """Find a program of Erlang's, first beside another one.

    Raises
    ------
    NodeError
        It is not there.
    """
    path = os.pathsep.join([*([str(Path(beside).resolve().parent)] if beside else []), search_path()])
    if found := shutil.which(name, path=path):
        return found
    raise NodeError(
        f"Erlang's program {name}, which RabbitMQ needs, is not found. Install Erlang, or put it on PATH."
    )


def _how_to_install() -> str:
    if sys.platform == "darwin":
        return "Install it with: brew install rabbitmq"
    if shutil.which("apt-get", path=search_path()):
        return "Install it with: sudo apt-get install rabbitmq-server"
    return "Install RabbitMQ 3.10 or newer (most package managers call it rabbitmq-server or rabbitmq)."
