"""What other users and other processes must not see: files, folders, and secrets in the environment.

Files have mode 0600 and folders 0700, whatever the umask. What was found in a file that somebody else could
have read or written is not used: the error names the command that mends it.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable
from pathlib import Path

from nbmr.errors import ConfigError

#: Variables that hold a key, or a URL with a password: never handed on to a process that we start.
SECRETS = ("NBMR_URL", "NBMR_KEY")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def environment() -> dict[str, str]:
    """Return this process's environment without the secrets."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS}


def forget_secrets() -> None:
    """Take the secrets out of this process's environment, which every process that it starts inherits."""
    for name in SECRETS:
        os.environ.pop(name, None)


def make_folder(folder: Path) -> Path:
    """Make a folder, and those above it that are missing, for this user alone.

    Raises
    ------
    ConfigError
        If it is there and others can write to it; the message says what to run.
    """
    for place in (*reversed(folder.parents), folder):
        if not place.exists():
            place.mkdir(mode=0o700, exist_ok=True)
    status = folder.stat()
    if status.st_uid != os.getuid():
        raise ConfigError(
            f"The folder {folder} belongs to another user, who could change what is in it. Run:"
            f" chown {os.getuid()} {shlex.quote(str(folder))}"
        )
    if status.st_mode & _OTHERS_WRITE:
        raise ConfigError(
            f"Other users can write to the folder {folder} (mode {stat.S_IMODE(status.st_mode):o}). Run:"
            f" chmod go-w {shlex.quote(str(folder))}"
        )
    return folder


def opener(path: str, flags: int) -> int:
    """Open a file that only this user can read: for ``open(…, opener=opener)``."""
    return os.open(path, flags, 0o600)


def write(file: Path, text: str) -> None:
    """Write a file at once as a whole: nobody else can read it, and nobody reads half of it."""
    new = file.with_name(f".{file.name}.{os.getpid()}")
    with open(new, "w", encoding="utf-8", opener=opener) as out:
        out.write(text)
    new.replace(file)


def read(file: Path, what: str, or_else: Callable[[], str] = lambda: "") -> str:
    """Read a file that nobody but this user may read or write.

    Parameters
    ----------
    file
        The file.
    what
        What to call it in an error message.
    or_else
        Gives what else can be done, for the end of an error message.

    Raises
    ------
    ConfigError
        If it is another user's, or others can get at it; the message says what to run.
    OSError, UnicodeDecodeError
        If it can't be read.
    """
    with file.open(encoding="utf-8") as opened:
        status = os.fstat(opened.fileno())  # of what is read, whatever comes to lie there meanwhile
        quoted, mode = shlex.quote(str(file)), stat.S_IMODE(status.st_mode)
        if status.st_uid != os.getuid():
            raise ConfigError(
                f"{what} {file} belongs to another user, so it isn't trusted. Run: chown {os.getuid()}"
                f" {quoted}{or_else()}"
            )
        if status.st_mode & _OTHERS:
            raise ConfigError(
                f"{what} {file} can be read or written by others (mode {mode:o}). Run: chmod 600 {quoted}"
            )
        return opened.read()
