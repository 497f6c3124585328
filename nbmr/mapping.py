"""What workers do for `nbmr.map_reduce`: map and sort rows into buckets by their keys; and reduce buckets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nbmr import unit


class Map:
    """Maps a partition, or each of some items, and sorts the rows into buckets.

    Parameters
    ----------
    mapper
        Gives a DataFrame for a partition, or an item.
    by
        Names of the key columns.
    combiner
        Makes fewer rows of a DataFrame, with the same columns; None for nothing.
    count
        How many buckets.
    items
        Whether it gets a list of items.
    """

    def __init__(
        self,
        mapper: Callable[..., Any],
        by: list[Any],
        combiner: Callable[[Any], Any] | None,
        count: int,
        *,
        items: bool,
    ) -> None:
        self.mapper, self.by, self.combiner = mapper, by, combiner
        self.count, self.items = count, items

    def __call__(self, part: Any) -> Any:
        """Map, combine and sort; return `Buckets`, or None where there is nothing."""
        import pandas as pd  # noqa: PLC0415 - slow to import

        from nbmr.buckets import sort_rows, told  # noqa: PLC0415 - it imports pandas

        mapped = [self.mapper(one) for one in part] if self.items else [self.mapper(part)]
        frames = [checked(frame, self.by, "mapper") for frame in mapped if frame is not None]
        if not frames:
            unit.tell({"mapped": 0, "rows": 0, "bytes": 0, "keys": {}})
            return None
        frame = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
        count = len(frame)
        if self.combiner is not None:
            frame = combine(self.combiner, frame, self.by)
        kept = frame[frame[self.by].notna().all(axis=1).to_numpy()]
        buckets = sort_rows(kept, kept[self.by], self.count, whole=frame)
        unit.tell({"mapped": count} | told(buckets, kept[self.by]))
        return buckets


def combine(combiner: Callable[[Any], Any], frame: Any, by: list[Any]) -> Any:
    """Make fewer rows of a frame; raise if what comes isn't a frame with the same columns."""
    columns = frame.columns
    combined = checked(combiner(frame), by, "combiner")
    if not combined.columns.equals(columns):
        raise ValueError(
            f"combiner has to give the columns that it gets, {list(columns)}, and gave"
            f" {list(combined.columns)}."
        )
    return combined


def checked(frame: Any, by: list[Any], who: str) -> Any:
    """Return what a user's function gave, if it is a frame with the key columns; raise otherwise."""
    import pandas as pd  # noqa: PLC0415 - slow to import

    if not isinstance(frame, pd.DataFrame):
        hint = " Return its .to_pandas()." if hasattr(frame, "to_pandas") else ""
        raise TypeError(f"{who} has to give a DataFrame of pandas; it gave a {_name(frame)}.{hint}")
    for name in by:
        count = sum(name == column for column in frame.columns)
        if not count:
            raise KeyError(f"{who} gave no column {name!r}, by which to reduce: {list(frame.columns)}.")
        if count > 1:
            raise ValueError(f"{who} gave {count} columns {name!r}, by which to reduce.")
    return frame


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class Reduce:
    """Reduces one bucket of all partitions: calls a function once for each key.

    Parameters
    ----------
    reducer
        Gets all rows of a key.
    by
        The key columns, as the user has named them.
    count
        How many buckets there are; the number of the unit that is worked on tells which one.
    combiner
        As for `Map`; called where a bucket is large.
    held
        How many bytes of rows to have in memory at a time; None for the usual.
    """

    #: It leaves its data as they are: they need not be copied to be tried again.
    only_reads = True

    def __init__(
        self,
        reducer: Callable[[Any], Any],
        by: Any,
        count: int,
        combiner: Callable[[Any], Any] | None = None,
        held: int | None = None,
    ) -> None:
        self.reducer, self.by, self.count = reducer, by, count
        self.combiner, self.held = combiner, held

    def __call__(self, parts: list[Any]) -> tuple[Any, list[Any]] | None:
        """Return a frame with a row of keys for each group, and what the function gave for each.

        Outside of a worker, where a failure is run again, all buckets are reduced.
        """
        import pandas as pd  # noqa: PLC0415 - slow to import

        from nbmr.buckets import HELD_BYTES, Bucket  # noqa: PLC0415 - it imports pandas

        number = unit.number()
        bucket = Bucket(parts, range(self.count) if number is None else [number])
        held = HELD_BYTES if self.held is None else self.held
        unit.tell({"rows": bucket.length, "bytes": bucket.nbytes})
        keys: list[Any] = []
        values: list[Any] = []
        for frame in self._frames(bucket, held):
            keys.append(self._reduce(frame, values))
            del frame
        if not keys:
            return None
        unit.tell({"groups": len(values)})
        return (keys[0] if len(keys) == 1 else pd.concat(keys)), values

    def _frames(self, bucket: Any, held: int) -> Any:
        """Return the rows, in as many pieces as it takes; combined, where that helps."""
        combiner = self.combiner
        if combiner is not None and bucket.nbytes > held:
            combined = bucket.combined(lambda frame: combine(combiner, frame, self._names), held)
            if combined is not None:
                return [combined]
        return bucket.pieces(self._names, held)

    def _reduce(self, frame: Any, values: list[Any]) -> Any:
        """Reduce the groups of a frame: add what the function gives for each, and return their keys."""
        import numpy as np  # noqa: PLC0415 - slow to import

        def call(group: Any) -> None:  # as pandas gives it: with its key as name, and without key columns
            try:
                values.append(self.reducer(group))
            except Exception as exc:
                exc.add_note(f"in the group of the key {group.name!r}, which has {len(group)} rows")
                raise

        groups = frame.groupby(self.by, sort=True, observed=True)
        if len(frame):
            groups[[name for name in frame.columns if name not in self._names]].apply(call)
        codes, firsts = np.unique(groups.ngroup().to_numpy(), return_index=True)
        return frame[self._names].iloc[firsts[codes >= 0]]

    @property
    def _names(self) -> list[Any]:
        return self.by if isinstance(self.by, list) else [self.by]
