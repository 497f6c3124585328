"""The tree of a reduction: which neighbours are folded by one call, on each level.

It depends on the data alone, and not on how many workers there are or how fast they are: so the same call
gives the same answer to the last bit, even where a function is only nearly associative, as adding floats is.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from nbmr import frames
from nbmr.errors import NothingToReduce
from nbmr.folding import Chunk
from nbmr.tasks import check_iterable, weight

#: Stands for an `initial` that was not given: None is a value like others.
MISSING: Any = inspect.Parameter.empty
#: Chunks that data of known length is cut into, where its bytes ask for no more.
CHUNKS = 64
#: Partial results that one call folds; and partitions, which are large.
FAN_IN, PARTITIONS = 8, 2
#: Items of data of unknown length, and bytes, at which a chunk is closed.
_ITEMS, _BYTES = 1_000, 1 << 20
#: Slots to cut a frame for, wherever it is reduced.
_SLOTS = 16


def first_level(data: Any, partitions: int | None, initial: Any = MISSING) -> list[Chunk] | Iterator[Chunk]:
    """Cut data into the chunks that are folded first.

    Parameters
    ----------
    data
        A DataFrame or Series, whose partitions are folded, or any iterable, whose items are.
    partitions
        How many partitions, or chunks of items; None to choose. Chunks of items of unknown length are chosen.
    initial
        What stands before the first.

    Returns
    -------
    list or iterator of Chunk
        An iterator where the data is one. None of the chunks is empty, and there is one at least.

    Raises
    ------
    NothingToReduce
        If there is nothing at all.
    ConfigError
        If the data can't be reduced, or `partitions` makes no sense.
    """
    head = [] if initial is MISSING else [initial]
    if frames.is_frame(data):
        bounds = frames.row_bounds(data, partitions, _SLOTS)
        parts = [frames.take(data, start, stop) for start, stop in bounds] if len(data) else []
        return list(_of_size(PARTITIONS, _some(itertools.chain(head, parts))))
    check_iterable(data)
    frames.check_partitions(partitions)
    values = _some(itertools.chain(head, data))
    if not isinstance(data, Sized):
        return _by_weight(_ITEMS, values)
    size = -(-(len(head) + len(data)) // (partitions or CHUNKS))
    return list(_of_size(size, values) if partitions else _by_weight(max(size, 2), values))


def next_level(partial: list[Any]) -> list[Chunk]:
    """Put partial results, in their order, into the chunks of the level above."""
    return list(_of_size(FAN_IN, partial))


def some(initial: Any, partial: list[Any]) -> list[Any]:
    """Return partial results, behind what stands before them if that is given.

    Raises
    ------
    NothingToReduce
        If there is nothing at all.
    """
    head = [] if initial is MISSING else [initial]
    return list(_some(itertools.chain(head, partial)))


def _some(values: Iterable[Any]) -> Iterator[Any]:
    """Return an iterator over the same values, of which there has to be one."""
    values = iter(values)
    for first in values:
        return itertools.chain([first], values)
    raise NothingToReduce("There is nothing to reduce: data is empty, and no initial=… is given.")


def _of_size(size: int, values: Iterable[Any]) -> Iterator[Chunk]:
    values = iter(values)
    while chunk := list(itertools.islice(values, size)):
        yield Chunk(chunk, sum(map(weight, chunk)))


def _by_weight(most: int, values: Iterable[Any]) -> Iterator[Chunk]:
    """Close a chunk when it has so many items, or two and is heavy."""
    chunk = Chunk()
    for value in values:
        chunk.append(value)
        chunk.nbytes += weight(value)
        if len(chunk) >= most or (chunk.nbytes >= _BYTES and len(chunk) > 1):
            yield chunk
            chunk = Chunk()
    if chunk:
        yield chunk


def label(fn: Callable[..., Any], name: str | None, level: int) -> str:
    """Return what to call the job of a level."""
    name = name if name is not None else getattr(fn, "__qualname__", type(fn).__name__)
    return name if level == 1 else f"{name} (level {level})"
