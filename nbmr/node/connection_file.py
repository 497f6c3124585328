"""The connection file: where this user's private RabbitMQ node is, and how to log in.

Owns the file ``nbmr-node.json`` in Jupyter's runtime folder. It holds a password and the signing key, so it
is written with mode 0600, and refused when somebody else could have read or written it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from nbmr import private
from nbmr.errors import ConfigError

NAME = "nbmr-node.json"


@dataclass(frozen=True)
class ConnectionInfo:
    """What a client or a worker has to know of the private node; never shows its password or key.

    Parameters
    ----------
    url
        AMQP address with user and password.
    key
        Key that signs every message, in hexadecimal digits.
    """

    #: AMQP address, with user and password.
    url: str = field(repr=False)
    #: Signing key, 64 hexadecimal digits.
    key: str = field(repr=False)
    #: Process id of the keeper, and when it started (so that a recycled pid is noticed).
    keeper_pid: int
    keeper_started: float
    #: Process id of the RabbitMQ server.
    node_pid: int
    #: The node's data folder.
    data_dir: str
    rabbitmq_version: str
    #: When the node was started, in seconds since the epoch.
    started: float

    def __reduce__(self) -> str:
        raise TypeError("a signing key doesn't travel, nor does what holds it")

    @property
    def port(self) -> int:
        """Port of the AMQP listener on 127.0.0.1."""
        return urlsplit(self.url).port or 5672


def path() -> Path:
    """Where the connection file lies: in Jupyter's runtime folder (see ``JUPYTER_RUNTIME_DIR``)."""
    from jupyter_core.paths import jupyter_runtime_dir  # noqa: PLC0415  # loaded when first used

    return Path(jupyter_runtime_dir()).absolute() / NAME


def read(file: Path | None = None) -> ConnectionInfo | None:
    """Read the connection file.

    Returns
    -------
    ConnectionInfo or None
        None where there is no file, or none that can be understood.

    Raises
    ------
    ConfigError
        The file belongs to another user, or others can read or write it.
    """
    file = file or path()
    try:
        return _parse(private.read(file, "The connection file", lambda: f"; or {_elsewhere()}"))
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        return None
    except PermissionError as e:
        raise ConfigError(f"{file} can't be read. Is it another user's? Delete it, or {_elsewhere()}") from e


def write(info: ConnectionInfo, file: Path | None = None) -> None:
    """Write the connection file at once as a whole, readable by this user only."""
    file = file or path()
    private.make_folder(file.parent)
    private.write(file, json.dumps(asdict(info), indent=1))


def remove(file: Path | None = None) -> None:
    """Remove the connection file, if there is one."""
    (file or path()).unlink(missing_ok=True)


def _parse(text: str) -> ConnectionInfo | None:
    try:
        info = ConnectionInfo(**json.loads(text))
        valid = (
            bytes.fromhex(info.key) != b""
            and info.port > 0
            and all(isinstance(pid, int) and pid > 0 for pid in (info.keeper_pid, info.node_pid))
            and isinstance(info.keeper_started, float)
            and isinstance(info.data_dir, str)
        )
    except (ValueError, TypeError, AttributeError):
        return None
    return info if valid else None


def _elsewhere() -> str:
    return "set JUPYTER_RUNTIME_DIR to a folder of your own."
