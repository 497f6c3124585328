"""Which broker, and which key: an explicit argument, then ``NBMR_*``, then the private node.

Resolved when a client is made, never at import.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nbmr import compression, private
from nbmr.errors import ConfigError

#: Seconds that a job stays on the broker after the last sign of life; ``NBMR_JOB_TTL`` says otherwise.
JOB_TTL = 86_400.0


@dataclass(frozen=True)
class Settings:
    """Where to connect."""

    url: str = field(repr=False)
    key: str = field(repr=False)
    #: Data folder of the private node; empty for a named broker.
    node: str = ""
    #: Seconds without a sign of life after which a job that nobody forgot is deleted.
    job_ttl: float = JOB_TTL
    #: Whether payloads are compressed: one of `nbmr.compression.MODES`; ``NBMR_COMPRESSION`` says so.
    compression: str = "auto"
    #: The file that the key was read from, if it was.
    key_file: str = field(default="", compare=False, repr=False)

    def __reduce__(self) -> str:
        raise TypeError("a signing key doesn't travel, nor does what holds it")

    def alive(self) -> bool:
        """Whether the broker may come back if it doesn't answer: a private node that was stopped won't."""
        return not self.node or Path(self.node).exists()


def resolve(
    url: str | None = None,
    key: str | None = None,
    key_file: str | os.PathLike[str] | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Settings:
    """Find the broker and the key; start the private node if no broker is named.

    Parameters
    ----------
    url
        The broker's URL; by default ``NBMR_URL``, and without that the private node's.
    key
        The signing key; by default that of `key_file`, or ``NBMR_KEY``, or the file ``NBMR_KEY_FILE``.
    key_file
        A file with the key in it, readable by its owner alone.
    on_progress
        Called with a line to show while the private node starts.

    Raises
    ------
    ConfigError
        If a broker is named and no key is given, the key file is readable by others, or ``NBMR_JOB_TTL`` is
        no number of seconds.
    NodeError
        If the private node can't be started.
    """
    url = url or os.environ.get("NBMR_URL") or None
    if url is None:
        if key or key_file:
            raise ConfigError(
                "A key is given, but no broker. Name one by url=… (or NBMR_URL); the private"
                " node, used where none is named, has a key of its own."
            )
        return _private_node(on_progress)
    if not (key or key_file) and "NBMR_KEY" in os.environ:
        key = os.environ["NBMR_KEY"]
    elif not (key or key_file) and "NBMR_KEY_FILE" in os.environ:
        key_file = os.environ["NBMR_KEY_FILE"]
    if key_file:
        key = read_key(Path(key_file))
    if not key:
        raise ConfigError(
            "A broker is named, but no signing key: whoever can send tasks runs code on the workers. Give"
            " key=…, NBMR_KEY, NBMR_KEY_FILE or --key-file, the same on every side."
            ' Make one with: python -c "import secrets; print(secrets.token_hex(32))"'
        )
    return Settings(
        url, key, job_ttl=_job_ttl(), compression=compression.mode(), key_file=os.fspath(key_file or "")
    )


def read_key(file: Path) -> str:
    """Read a key from a file that nobody but its owner may read.

    Raises
    ------
    ConfigError
        If it can't be read, is another user's, or others can get at it; the message says what to run.
    """
    try:
        return private.read(file, "The key file").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"The key file {file} can't be read: {exc}") from exc


def _job_ttl() -> float:
    text = os.environ.get("NBMR_JOB_TTL") or JOB_TTL
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ConfigError(f"NBMR_JOB_TTL={text!r} has to be a number of seconds, more than 0.")
    return seconds


def _private_node(on_progress: Callable[[str], None] | None) -> Settings:
    from nbmr import node  # noqa: PLC0415 - psutil and the rest, only where there is a private node

    info = node.ensure(on_progress)
    key = info.key if isinstance(info.key, str) else info.key.hex()
    return Settings(info.url, key, str(info.data_dir), _job_ttl())
