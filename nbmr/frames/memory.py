"""Memory for large arrays: a piece that is done with is kept for a moment, for who needs the next one.

Memory that the system has to find and to clear takes three times as long to fill as memory that is there:
128 MB took 70 ms, and 20 ms over again. So when the last array in a piece of memory is gone, the piece is
kept for some seconds.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
import queue
import threading
import time
import weakref
from collections import deque
from typing import Any, Literal

import numpy as np
import psutil

#: Seconds for which a piece is kept.
KEEP_SECONDS = 5.0
#: The most bytes that are kept, and the share of the memory that is available.
_MOST_BYTES, _SHARE = 512 << 20, 16
#: Bytes from which on an array has a piece of its own; from here on, numpy asks for pages of 2 MiB.
_LEAST_BYTES = 4 << 20


class _Pool:
    """Pieces that are kept.

    An array may end anywhere, also while its thread holds the lock: so what is let go lies ready until
    somebody has the lock. ``deque.append`` and ``SimpleQueue.put`` can be called there.
    """

    def __init__(self) -> None:
        #: Pieces that were let go, and when, by the monotonic clock; and what wakes the thread for each.
        self._returned: deque[tuple[mmap.mmap, float]] = deque()
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        #: The pieces, and since when each is kept, by the monotonic clock; oldest first.
        self._kept: list[tuple[mmap.mmap, float]] = []
        self._sweeper: threading.Thread | None = None

    def take(self, size: int) -> mmap.mmap:
        """Return a piece of at least so many bytes: one that was kept, if one fits."""
        with self._lock:
            if self._sweeper is None:
                self._sweeper = threading.Thread(target=self._sweep, name="nbmr memory", daemon=True)
                self._sweeper.start()
            self._collect()
            fitting = [piece for piece, _ in self._kept if size <= len(piece) <= 2 * size]
            if fitting:
                best = min(fitting, key=len)
                self._kept = [kept for kept in self._kept if kept[0] is not best]
                return best
        # private: a process that is forked off must not write into it
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def let_go(self, piece: mmap.mmap) -> None:
        """Take a piece back that nobody uses any more."""
        self._returned.append((piece, time.monotonic()))
        self._wake.put(None)

    def _collect(self) -> None:
        """Keep what was let go; with the lock held."""
        while self._returned:
            self._kept.append(self._returned.popleft())
        most = min(_MOST_BYTES, psutil.virtual_memory().available // _SHARE)
        while sum(len(kept) for kept, _ in self._kept) > most:
            self._kept.pop(0)  # unmapped, since nobody has it

    def _sweep(self) -> None:
        """Unmap pieces that were kept for long; in a thread of its own."""
        while True:
            with self._lock:
                self._collect()
                now = time.monotonic()
                self._kept = [kept for kept in self._kept if now - kept[1] < KEEP_SECONDS]
                due = self._kept[0][1] + KEEP_SECONDS - now if self._kept else None
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=due)


_pool = _Pool()


def empty(
    shape: tuple[int, ...], dtype: np.dtype[Any], order: Literal["C", "F"] = "C"
) -> np.ndarray[Any, Any]:
    """Return an array of arbitrary values, whose memory is touched as it is filled, and not before.

    numpy asks for pages of 2 MiB. Where memory is fragmented, by a file cache say, Linux compacts it for each
    of them, and a virtual machine whose host has taken free memory back gets it for each of them anew: 0.3 s
    for 128 MB, against 0.07 s with small pages. (With large pages at hand it would be 0.01 s.)
    """
    size = math.prod(shape) * dtype.itemsize
    if size < _LEAST_BYTES or dtype.hasobject:
        return np.empty(shape, dtype, order)
    piece = _pool.take(size)
    # every array that lies in it holds this, and it holds the piece
    held = (ctypes.c_char * size).from_buffer(piece)
    weakref.finalize(held, _pool.let_go, piece).atexit = False
    return np.ndarray(shape, dtype, memoryview(held), order=order)


def _after_fork() -> None:
    """Know that the pieces and the thread are the parent's."""
    global _pool  # noqa: PLW0603 - somebody may have held its lock
    _pool = _Pool()


os.register_at_fork(after_in_child=_after_fork)
