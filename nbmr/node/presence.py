"""Who uses a node: locks in its data folder.

These are locks by flock, which the kernel releases however a process dies.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Literal, Self

from nbmr.errors import NodeError

Role = Literal["clients", "jobs"]


class Presence:
    """Tells the node's keeper that somebody is here, for as long as it is held or until this process dies.

    A lock is shared with forked children, which would prolong it. Python's own forks (`os.fork`,
    `multiprocessing`) therefore close their copy at once, and programs that are started never get one; only a
    fork made by C code keeps the parent's presence up.

    Parameters
    ----------
    data_dir
        The node's data folder (`ConnectionInfo.data_dir`).
    role
        ``"clients"`` for a process that uses the node, ``"jobs"`` for a worker while it runs a task.

    Examples
    --------
    >>> with Presence(info.data_dir, "clients"):  # doctest: +SKIP
    ...     work()
    """

    _held: ClassVar[weakref.WeakSet[Presence]] = weakref.WeakSet()

    def __init__(self, data_dir: str | Path, role: Role) -> None:
        self._file = Path(data_dir) / f"{role}.lock"
        self._fd: int | None = None

    def hold(self) -> Self:
        """Be present; holding twice is holding once.

        Raises
        ------
        NodeError
            The node has ended meanwhile; call `ensure` again.
        """
        if self._fd is None:
            try:
                fd = os.open(self._file, os.O_RDWR)  # close-on-exec, as every file that Python opens
            except OSError as e:
                raise NodeError(f"the private node at {self._file.parent} has ended; start a new one") from e
            fcntl.flock(fd, fcntl.LOCK_SH)
            if os.fstat(fd).st_nlink == 0:  # it ended while we waited for the lock
                os.close(fd)
                raise NodeError(f"the private node at {self._file.parent} has just ended; start a new one")
            self._fd = fd
            self._held.add(self)
        return self

    def release(self) -> None:
        """Be gone; releasing twice does no harm."""
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # also for a child that a fork in C code made
        self._close()

    def __enter__(self) -> Self:
        return self.hold()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        self._held.discard(self)
        if fd is not None:
            os.close(fd)

    @classmethod
    def _forget_in_child(cls) -> None:
        for presence in list(cls._held):
            presence._close()  # noqa: SLF001  # one of ours; without unlocking: that would unlock the parent


os.register_at_fork(after_in_child=Presence._forget_in_child)  # noqa: SLF001  # this module's own


def hold(data_dir: str | Path, role: Role) -> Presence:
    """Be present at a node until ``release()`` of what this returns; see `Presence`."""
    return Presence(data_dir, role).hold()


def try_lock(fd: int) -> bool:
    """Lock this open file for us alone, unless somebody else holds its lock; whether we have it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def nobody(lock_file: Path) -> bool:
    """Whether nobody holds this lock; a file that is missing is held by nobody."""
    try:
        fd = os.open(lock_file, os.O_RDWR)
    except OSError:
        return True
    try:
        return try_lock(fd)
    finally:
        os.close(fd)
