"""Map-reduce by keys: what the client prepares, and what it makes of the groups' results."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from nbmr import frames, reduction
from nbmr.errors import ConfigError, NothingToReduce
from nbmr.filelist import Files
from nbmr.folding import Chunk
from nbmr.job import Job

#: Most map tasks: each is a file that a reduce task has open.
MOST_PARTITIONS = 64
#: Buckets for each slot, if the user doesn't say how many.
_PER_SLOT = 2


def check(mapper: Any, reducer: Any, by: Any, combiner: Any, reducers: Any) -> list[Any]:
    """Check what a user has given; return the names of the key columns.

    Raises
    ------
    ConfigError
        If something makes no sense; says what.
    """
    for name, fn in (("mapper", mapper), ("reducer", reducer), ("combiner", combiner)):
        if not callable(fn) and not (name == "combiner" and fn is None):
            raise ConfigError(f"{name} has to be callable; got {type(fn).__name__}.")
    if reducers is not None and (
        isinstance(reducers, bool) or not isinstance(reducers, int) or not 1 <= reducers <= MOST_PARTITIONS
    ):
        raise ConfigError(
            f"reducers={reducers!r} has to be a whole number from 1 to {MOST_PARTITIONS}, or None."
        )
    names = list(by) if isinstance(by, list) else [by]
    if not names or len(set(names)) < len(names) or not all(isinstance(name, Hashable) for name in names):
        raise ConfigError(f"by={by!r} has to be the name of a column that mapper gives, or a list of them.")
    return names


def buckets_for(reducers: int | None, slots: int) -> int:
    """Return into how many buckets to sort."""
    return reducers or min(max(_PER_SLOT * slots, 4), MOST_PARTITIONS)


def cut(data: Any, partitions: int | None) -> tuple[Any, int | None, bool]:
    """Cut data for the map tasks.

    Returns
    -------
    data, partitions, items
        What to map over, how many partitions of it, and whether a unit of it is a list of the user's items.
        The data is None if there is nothing to map.

    Raises
    ------
    ConfigError
        If the data can't be mapped over, or `partitions` makes no sense.
    """
    if isinstance(data, Job):
        return data, partitions, False
    frames.check_partitions(partitions)
    if isinstance(data, Files):
        return data, partitions, False
    if frames.is_frame(data):
        return data, min(partitions or MOST_PARTITIONS // 2, MOST_PARTITIONS), False
    try:
        chunks = reduction.first_level(data, partitions)
    except NothingToReduce:
        return None, None, True
    if isinstance(chunks, Iterator):
        chunks = list(chunks)
    while len(chunks) > MOST_PARTITIONS:  # neighbours together
        chunks = [
            Chunk([*one, *other], one.nbytes + other.nbytes)
            for one, other in zip(chunks[::2], [*chunks[1::2], *[Chunk()] * (len(chunks) % 2)], strict=True)
        ]
    return chunks, len(chunks), True


def gather(parts: Sequence[Any], by: Any, names: list[Any]) -> Any:
    """Make of the groups' results what pandas' ``groupby(by).apply`` makes of them.

    Parameters
    ----------
    parts
        Of each bucket, a frame with a row of keys for each group, and what each group gave.
    by, names
        The key columns, as the user has named them, and as a list.
    """
    import numpy as np  # noqa: PLC0415 - slow to import
    import pandas as pd  # noqa: PLC0415 - slow to import

    there = [part for part in parts if part is not None]
    if not there:
        return pd.Series([], dtype=object)
    keys = pd.concat([part[0] for part in there])
    values: list[Any] = [value for part in there for value in part[1]]
    if not values:
        return pd.Series([], index=keys.set_index(names).index, dtype=object)
    place = object()  # the name of a column that can't be one of the user's
    numbered = keys.set_axis(pd.Index(list(keys.columns), dtype=object), axis=1)
    numbered[place] = range(len(values))
    groups = numbered.groupby(by, sort=True, observed=True)
    frames = pd.DataFrame | pd.Series | pd.Index | np.ndarray
    if any(isinstance(value, frames) for value in values) or all(value is None for value in values):
        return groups[[place]].apply(lambda group: values[group.iloc[0, 0]])
    # the same for scalars, without a call for each
    places = groups[place].first()
    return pd.Series([values[number] for number in places], index=places.index)
