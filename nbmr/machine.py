"""How much memory there is for this process: the machine's, or less where a container has a limit."""

from __future__ import annotations

from pathlib import Path

import psutil

_ROOT = Path("/sys/fs/cgroup")
#: Where Linux tells a control group's limit: version 2, version 1.
_FILES = ("memory.max", "memory/memory.limit_in_bytes")


def memory_total() -> int:
    """Return the machine's memory in bytes."""
    return int(psutil.virtual_memory().total)


def memory_available() -> int:
    """Return how many bytes can be taken before the machine swaps."""
    return int(psutil.virtual_memory().available)


def memory_limit(root: Path = _ROOT) -> int | None:
    """Return the limit of the container that this runs in, in bytes; None if it has none, or that is unknown.

    Parameters
    ----------
    root
        Where control groups are told of. In a container, its own is seen there.
    """
    for name in _FILES:
        try:
            limit = int((root / name).read_text())
        except (OSError, ValueError):  # not there, or "max"
            continue
        if 0 < limit < memory_total():  # version 1 has a huge number where there is no limit
            return limit
    return None
