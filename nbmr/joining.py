"""The line that starts workers on another machine: names the broker and a key file, and holds no secret."""

from __future__ import annotations

import os
import shlex

from nbmr.broker import passwords
from nbmr.config import Settings
from nbmr.errors import ConfigError
from nbmr.pools import parse_bytes
from nbmr.topology import check_queue

#: What to call the key file where it isn't known how it is called here.
KEY_FILE = "nbmr.key"


def command(
    settings: Settings | None,
    queue: str = "default",
    slots: int | None = None,
    memory_limit: int | str | None = None,
    key_file: str | os.PathLike[str] | None = None,
    *,
    with_password: bool = False,
) -> str:
    """Return the command that joins a broker as a worker; see `nbmr.join_command`.

    Parameters
    ----------
    settings
        The broker; None for a private node that doesn't run.
    queue, slots, memory_limit, key_file, with_password
        As for `nbmr.join_command`.

    Raises
    ------
    ConfigError
        For the private node, which no other machine can reach; or if an option makes no sense.
    """
    options = _options(queue, slots, memory_limit)
    if settings is None or settings.node:
        raise ConfigError(
            "No other machine can join: your broker is the private RabbitMQ node, which listens on 127.0.0.1"
            " alone. Name a broker that both machines reach, by nbmr.connect(url, key=…) or NBMR_URL, and ask"
            " again. On this machine, `nbmr.workers(n)` in a cell starts workers for the private"
            f" node, or in a terminal: {' '.join(['nbmr worker', *options])}"
        )
    place = _quoted(os.fspath(key_file or settings.key_file or KEY_FILE))
    if with_password:
        words = [f"NBMR_URL={shlex.quote(settings.url)}", "nbmr worker"]
    else:
        words = ["nbmr worker --url", shlex.quote(passwords.without(settings.url))]
    return " ".join([*words, "--key-file", place, *options])


def _options(queue: str, slots: int | None, memory_limit: int | str | None) -> list[str]:
    words = [] if check_queue(queue) == "default" else ["--queue", queue]
    if slots is not None:
        if isinstance(slots, bool) or not isinstance(slots, int) or slots < 1:
            raise ConfigError(f"slots={slots!r} has to be a whole number of at least 1.")
        words += ["--slots", str(slots)]
    if parse_bytes(memory_limit) is not None:
        words += ["--memory-limit", shlex.quote(str(memory_limit))]
    return words


def _quoted(file: str) -> str:
    """Quote a file's name for a shell, which is still to find the home folder of the other machine."""
    return f"~/{shlex.quote(file[2:])}" if file.startswith("~/") else shlex.quote(file)
