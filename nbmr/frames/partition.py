"""Partitions: which rows go into which task."""

from __future__ import annotations

import math
import numbers
from itertools import pairwise
from typing import Any

from nbmr.errors import ConfigError
from nbmr.frames.dispatch import library_of
from nbmr.frames.library import PARTITION_BYTES, Library

#: Tasks for each worker slot, where there are rows enough: many small tasks balance well.
TASKS_PER_SLOT = 8


def check_partitions(partitions: Any) -> None:
    """Refuse a number of partitions that makes no sense.

    Raises
    ------
    ConfigError
        If it isn't None, or a whole number of at least 1.
    """
    if partitions is not None and (
        isinstance(partitions, bool) or not isinstance(partitions, numbers.Integral) or partitions < 1
    ):
        raise ConfigError(f"partitions={partitions!r} has to be a whole number of at least 1, or None.")


def row_bounds(data: Any, partitions: int | None, slots: int) -> list[tuple[int, int]]:
    """Choose the row ranges of the partitions.

    Parameters
    ----------
    data
        The frame or series to cut, of any library.
    partitions
        How many partitions to make; never more than there are rows. None chooses by rows, bytes
        and worker slots.
    slots
        How many tasks the workers run at the same time.

    Returns
    -------
    list of (int, int)
        Half-open ranges that cover all rows in order. None is empty, and their sizes differ by one
        at most. A frame without rows gives ``[(0, 0)]``, so that the function is called once.

    Raises
    ------
    ConfigError
        ``partitions`` is not a whole number above zero.

    Examples
    --------
    >>> row_bounds(pd.Series(range(10)), 3, slots=2)
    [(0, 4), (4, 7), (7, 10)]

    """
    check_partitions(partitions)
    rows = len(data)
    if rows == 0:
        return [(0, 0)]
    if partitions is None:
        by_size = math.ceil(rows * _library(data).row_bytes(data) / PARTITION_BYTES)
        partitions = max(TASKS_PER_SLOT * max(slots, 1), by_size)
    count = min(int(partitions), rows)
    size, larger = divmod(rows, count)
    edges = [number * size + min(number, larger) for number in range(count + 1)]
    return list(pairwise(edges))


def take(data: Any, start: int, stop: int) -> Any:
    """Cut one partition out of a frame or series.

    Parameters
    ----------
    data
        The frame or series, of any library.
    start, stop
        Half-open range of row positions.

    Returns
    -------
    object
        Of the type of `data`; a view wherever its library makes one of a slice.
    """
    return _library(data).take(data, start, stop)


def snapshot(data: Any) -> Any:
    """Return a frame or series as it is now, whatever its owner does to it later; its rows aren't copied."""
    return _library(data).snapshot(data)


def row_labels(partition: Any, start: int = 0) -> tuple[str, ...]:
    """Give the first and the last label of a partition as short text.

    Parameters
    ----------
    partition
        A frame or series; anything else has no labels.
    start
        The number of its first row, which is its label where the library has no index.

    Returns
    -------
    tuple of str
        Two texts of at most 80 characters, or nothing where there are no rows. Never raises.
    """
    library = library_of(partition)
    return library.labels(partition, start) if library else ()


def _library(data: Any) -> Library:
    library = library_of(data)
    assert library is not None  # noqa: S101 - nothing else is cut
    return library
