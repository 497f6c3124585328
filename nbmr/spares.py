"""Files of shared memory that nobody needs any more, kept for a moment for who writes the next ones.

Memory that the system has to find and to clear first takes two to ten times as long to write as memory
that is there: 128 MB took 48 ms, and 20 ms over again (more on a virtual machine, whose host has to find it,
too). So a file that is done with is handed on.

Its old readers may still have it mapped: a function that keeps its partition, say. Linux tells: it gives a
lease for writing only to who is alone with a file, mappings included (fcntl(2), F_SETLEASE). A file that
isn't given one is removed, and goes with its last reader.

Spare files are removed some seconds later: by the process that kept them, at the latest when it ends; if it
was killed, by any worker; and with their node.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

#: Seconds for which a file is kept.
KEEP_SECONDS = 5.0
#: The most files that are kept, and bytes: so many, and a share of the memory that is available.
_MOST_FILES, _MOST_BYTES, _SHARE = 100, 512 << 20, 16

_lock = threading.Lock()
#: Folders that this process will sweep.
_to_sweep: set[Path] = set()


def keep(files: Iterable[Path], folder: Path) -> None:
    """Keep files for who writes next, and remove those that are too many. No harm if one is gone.

    Parameters
    ----------
    files
        Files that only this user can read.
    folder
        Where spare files lie; in the same file system.
    """
    known = _known(folder)
    number, room = len(known), _most() - sum(size for _, size in known)
    for file in files:
        with contextlib.suppress(OSError):
            size = file.lstat().st_size
            if number >= _MOST_FILES or size > room:
                file.unlink()
                continue
            folder.mkdir(mode=0o700, exist_ok=True)
            os.utime(file)
            file.rename(folder / f"{size}-{secrets.token_hex(8)}")
            number, room = number + 1, room - size
            _sweep_later(folder)


def take(target: Path, size: int, folder: Path) -> int | None:
    """Take a spare file, and give it a name; return it opened for writing over.

    Parameters
    ----------
    target
        Its new name; there is no such file yet.
    size
        About how many bytes it is to have; those that it has may be anything, and more or fewer.
    folder
        Where spare files lie.

    Returns
    -------
    int or None
        A file descriptor; None if there is none that fits.
    """
    fitting = [
        (known < size, abs(known - size), name)
        for name, known in _known(folder)
        if size / 2 <= known <= 2 * size
    ]
    for _, _, name in sorted(fitting):
        # an error says that somebody else has it; or that the job is over, and its folder on its way out
        with contextlib.suppress(OSError):
            Path(folder, name).rename(target)
            opened = os.open(target, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            if _is_alone(opened):
                return opened
            os.close(opened)
            target.unlink()
    return None


def sweep(folder: Path, seconds: float = KEEP_SECONDS) -> bool:
    """Remove spare files that were kept for longer; return whether there are others."""
    left = False
    with contextlib.suppress(OSError):
        for file in folder.iterdir():
            with contextlib.suppress(OSError):  # somebody took it
                if time.time() - file.stat().st_mtime < seconds:
                    left = True
                else:
                    file.unlink()
        if not left:
            folder.rmdir()
    return left


def _known(folder: Path) -> list[tuple[str, int]]:
    """Return the names of spare files, and their sizes in bytes."""
    try:
        names = os.listdir(folder)  # noqa: PTH208 - there may be a hundred, and no need for their paths
        return [(name, int(name.partition("-")[0])) for name in names]
    except OSError:
        return []


def _most() -> int:
    return min(_MOST_BYTES, psutil.virtual_memory().available // _SHARE)


def _is_alone(opened: int) -> bool:
    """Whether no other process, and nothing else in this one, has a file open or mapped."""
    if not hasattr(fcntl, "F_SETLEASE"):
        return False
    try:
        # who opens it meanwhile has to wait, and we would be told by SIGIO, which ends a process
        fcntl.fcntl(opened, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return False
    return True


def _sweep_later(folder: Path) -> None:
    with _lock:
        if folder in _to_sweep:
            return
        _to_sweep.add(folder)
    timer = threading.Timer(KEEP_SECONDS, _sweep_now, [folder])
    timer.daemon = True
    timer.start()


def _sweep_now(folder: Path) -> None:
    with _lock:
        _to_sweep.discard(folder)
    if sweep(folder):
        _sweep_later(folder)


@atexit.register
def _sweep_all() -> None:
    """Leave nothing behind; others that work here lose nothing but time."""
    for folder in list(_to_sweep):
        sweep(folder, 0.0)


def _after_fork() -> None:
    """Know that the timers are the parent's."""
    global _lock  # noqa: PLW0603 - somebody may have held it
    _lock = threading.Lock()
    _to_sweep.clear()


os.register_at_fork(after_in_child=_after_fork)
