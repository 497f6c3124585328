"""Payloads in shared memory: files that everybody on this host maps, in place of bytes in messages.

Where the broker is this user's private node, every worker is on this host. There a large payload is written
into memory once, and the message that stands for it, signed like any other, says where it lies, how long it
is, and its digest. Whoever reads it verifies that, and maps the file without copying.

A job's files lie in a folder of its own, inside its node's. The kernel that sends the job makes it; it goes
with the job, and the node's with the node, so nobody's death leaves anything for good. Files that are done
with are written again, see `nbmr.spares`. What finds no room travels in messages.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import psutil
from blake3 import blake3

from nbmr import spares
from nbmr.errors import NbmrError

#: Where files are memory.
MEMORY = Path("/dev/shm")  # noqa: S108 - the folder inside is private, and checked
#: Bytes from which on a payload lies there. Smaller ones are no slower in a message.
LEAST_BYTES = 64 << 10
#: The folder of spare files, beside those of jobs.
_SPARE = "spare"
#: Bytes that are written, and hashed, at a time: while they are in the processor's cache.
_PIECE_BYTES = 1 << 20
#: How much of the file system stays free: a share, and the most bytes.
_FREE_SHARE, _FREE_BYTES = 4, 4 << 30
#: The share of the memory which is available that one payload may take.
_AVAILABLE_SHARE = 4


class SharedGone(NbmrError):
    """A payload in shared memory isn't there any more, or isn't what it was."""


def node_folder(data_dir: Path) -> Path:
    """Return the folder of a private node's payloads; inside its data folder where there is no `MEMORY`."""
    if MEMORY.is_dir():
        return MEMORY / f"nbmr-{os.getuid()}-{data_dir.name}"
    return data_dir / "shared"


def make_folder(data_dir: str, job: str) -> str:
    """Make the folder of a job's payloads.

    Parameters
    ----------
    data_dir
        Data folder of the private node; empty for another broker.
    job
        The job's id.

    Returns
    -------
    str
        Its path; empty where payloads have to travel in messages.
    """
    if not data_dir:
        return ""
    node = node_folder(Path(data_dir))
    try:
        with contextlib.suppress(FileExistsError):
            node.mkdir(mode=0o700)
        found = node.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            return ""  # somebody else was here first
        folder = node / job
        folder.mkdir(mode=0o700)
    except OSError:
        return ""
    return str(folder)


def write(folder: str, name: str, parts: Sequence[bytes | bytearray | memoryview]) -> dict[str, Any] | None:
    """Write a payload, if it is large and there is room.

    Parameters
    ----------
    folder
        The job's, as `make_folder` gave it.
    name
        A new name inside it.
    parts
        The payload, in pieces that follow one another.

    Returns
    -------
    dict or None
        What the message says of it: ``name``, ``file``, ``size`` in bytes, and ``sum``, the BLAKE3 digest.
        None if it has to travel in messages.
    """
    size = sum(memoryview(part).nbytes for part in parts)
    if not folder or size < LEAST_BYTES or not _room(folder, size):
        return None
    file = Path(folder, name)
    written = None if file.exists() else spares.take(file, size, file.parent.parent / _SPARE)
    if written is None:
        try:
            written = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError:  # the job is over, for instance
            return None
    try:
        os.ftruncate(written, size)  # one that is written again may be longer
        digest = blake3()
        for part in parts:
            view = memoryview(part).cast("B")
            for start in range(0, len(view), _PIECE_BYTES):
                piece = view[start : start + _PIECE_BYTES]
                digest.update(piece)
                while piece:
                    piece = piece[os.write(written, piece) :]
    except OSError:  # full
        file.unlink()
        return None
    except BaseException:
        file.unlink()
        raise
    finally:
        os.close(written)
    return {"name": name, "file": str(file), "size": size, "sum": digest.hexdigest()}


def open_file(reference: dict[str, Any]) -> int:
    """Open a payload, and verify it; the caller closes the file descriptor.

    Parameters
    ----------
    reference
        What `write` returned, from a message that is genuine.

    Raises
    ------
    SharedGone
        If it isn't there, or not what it was.
    """
    file, mapped = _verified(reference)
    mapped.close()
    return file


def map_file(reference: dict[str, Any]) -> memoryview:
    """Map a payload for reading, and verify it; the pages stay as long as there is a view of them.

    Raises
    ------
    SharedGone
        If it isn't there, or not what it was.
    """
    file, mapped = _verified(reference)
    os.close(file)
    return memoryview(mapped)


def _verified(reference: dict[str, Any]) -> tuple[int, mmap.mmap]:
    """Open and map a payload, and raise if it is not what it was."""
    try:
        file = os.open(reference["file"], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise SharedGone(f"a payload in shared memory is gone: {exc}") from exc
    try:
        size = os.fstat(file).st_size
        if size == reference["size"]:
            mapped = mmap.mmap(file, size, prot=mmap.PROT_READ)
            with memoryview(mapped) as view:
                if blake3(view).hexdigest() == reference["sum"]:
                    return file, mapped
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    raise SharedGone(f"a payload in shared memory was altered: {reference['file']}")


def is_gone(reference: dict[str, Any]) -> bool:
    """Whether a payload lies in shared memory, and its job's folder is gone: somebody forgot the job."""
    return "file" in reference and not Path(reference["file"]).parent.exists()


def remove_file(reference: dict[str, Any] | None) -> None:
    """Remove a payload that nobody will ask for any more; no harm if it isn't in shared memory."""
    if reference and "file" in reference:
        file = Path(reference["file"])
        if _is_ours(file.parent):
            _let_go([file], file.parent.parent)


def remove_folder(folder: str) -> None:
    """Remove a job's payloads; no harm if there are none."""
    if folder and _is_ours(Path(folder)):
        doomed = Path(f"{folder}.gone")
        with contextlib.suppress(OSError):
            Path(folder).rename(doomed)  # so that nobody puts anything new into it
            _let_go(doomed.iterdir(), doomed.parent)
        shutil.rmtree(doomed, ignore_errors=True)


def sweep(data_dir: str) -> None:
    """Remove what is left of spare files, if whoever kept them was killed.

    Parameters
    ----------
    data_dir
        Data folder of the private node; empty for another broker.
    """
    if data_dir:
        spares.sweep(node_folder(Path(data_dir)) / _SPARE)


def remove_node(data_dir: Path) -> None:
    """Remove what is left of a private node's payloads."""
    shutil.rmtree(node_folder(data_dir), ignore_errors=True)


def _let_go(files: Iterable[Path], node: Path) -> None:
    """Hand on files that are done with; those on a disk are removed."""
    if node.parent == MEMORY:
        spares.keep(files, node / _SPARE)
        return
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink()


def _is_ours(folder: Path) -> bool:
    """Whether it is a job's folder, as `make_folder` makes them: nothing else is ever removed."""
    node = folder.parent
    return (node.parent == MEMORY and node.name.startswith(f"nbmr-{os.getuid()}-node-")) or (
        node.name == "shared" and node.parent.name.startswith("node-")
    )


def _room(folder: str, size: int) -> bool:
    """Whether a payload fits: not the last of the file system, nor of the memory."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    reserve = min(total // _FREE_SHARE, _FREE_BYTES)
    return size + reserve <= free and size <= psutil.virtual_memory().available // _AVAILABLE_SHARE
