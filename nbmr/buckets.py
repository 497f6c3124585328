"""What workers do for `nbmr.map_reduce`: map, sort rows into buckets by their keys, and reduce buckets."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Sequence
from typing import Any

from nbmr import codec, unit

#: The key of pandas' hashing of texts: the same everywhere, whatever its default becomes.
_HASH_KEY = "nbmr shuffle key"


class Buckets:
    """The rows that one partition gave, sorted into buckets; each is decoded only when it is asked for.

    Parameters
    ----------
    encoded
        For each bucket, its encoded frame's buffers; none where the bucket is empty.
    empty
        The partition's columns and their types, without rows.
    """

    def __init__(self, encoded: Sequence[Sequence[codec.Buffer]], empty: Any) -> None:
        self.encoded, self.empty = [list(buffers) for buffers in encoded], empty

    def __reduce_ex__(self, _protocol: Any) -> Any:
        wrapped = [[pickle.PickleBuffer(buffer) for buffer in buffers] for buffers in self.encoded]
        return Buckets, (wrapped, self.empty)

    def frame(self, number: int) -> Any:
        """Return the rows of one bucket."""
        buffers = self.encoded[number]
        return codec.decode([memoryview(buffer) for buffer in buffers]) if buffers else self.empty


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

    def __call__(self, part: Any) -> Buckets:
        """Map, combine and sort."""
        import numpy as np  # noqa: PLC0415 - slow to import
        import pandas as pd  # noqa: PLC0415 - slow to import

        mapped = [self.mapper(one) for one in part] if self.items else [self.mapper(part)]
        frames = [self._checked(frame, "mapper") for frame in mapped if frame is not None]
        if not frames:
            return Buckets([[]] * self.count, None)
        frame = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
        if self.combiner is not None:
            columns = frame.columns
            frame = self._checked(self.combiner(frame), "combiner")
            if not frame.columns.equals(columns):
                raise ValueError(
                    f"combiner has to give the columns that it gets, {list(columns)}, and gave"
                    f" {list(frame.columns)}."
                )
        frame = frame[frame[self.by].notna().all(axis=1).to_numpy()]
        places = bucket_of(frame[self.by], self.count)
        order = np.argsort(places, kind="stable")  # within a bucket, rows keep their order
        ends = np.searchsorted(places[order], np.arange(self.count + 1))
        encoded = []
        for start, stop in itertools.pairwise(ends):
            rows = frame.iloc[order[start:stop]]
            encoded.append(codec.encode(rows) if len(rows) else [])
        return Buckets(encoded, frame.iloc[:0])

    def _checked(self, frame: Any, who: str) -> Any:
        import pandas as pd  # noqa: PLC0415 - slow to import

        if not isinstance(frame, pd.DataFrame):
            hint = " Return its .to_pandas()." if hasattr(frame, "to_pandas") else ""
            raise TypeError(f"{who} has to give a DataFrame of pandas; it gave a {_name(frame)}.{hint}")
        for name in self.by:
            if name not in frame.columns:
                raise KeyError(f"{who} gave no column {name!r}, by which to reduce: {list(frame.columns)}.")
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
    """

    def __init__(self, reducer: Callable[[Any], Any], by: Any, count: int) -> None:
        self.reducer, self.by, self.count = reducer, by, count

    def __call__(self, parts: list[Buckets]) -> tuple[Any, list[Any]] | None:
        """Return a frame with a row of keys for each group, and what the function gave for each.

        Outside of a worker, where a failure is run again, all buckets are reduced.
        """
        import numpy as np  # noqa: PLC0415 - slow to import

        number = unit.number()
        wanted = range(self.count) if number is None else [number]
        frame = joined([part.frame(bucket) for bucket in wanted for part in parts])
        if frame is None:
            return None
        values: list[Any] = []

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
        return frame[self._names].iloc[firsts[codes >= 0]], values

    @property
    def _names(self) -> list[Any]:
        return self.by if isinstance(self.by, list) else [self.by]


def joined(frames: Sequence[Any]) -> Any:
    """Concatenate frames as pandas does; those without rows only if there are no others. None for none."""
    import pandas as pd  # noqa: PLC0415 - slow to import

    there = [frame for frame in frames if frame is not None]
    there = [frame for frame in there if len(frame)] or there[:1]
    if not there:
        return None
    return there[0] if len(there) == 1 else pd.concat(there)


def bucket_of(keys: Any, count: int) -> Any:
    """Return the bucket of each row: the same for keys that pandas takes for equal, in every process.

    Parameters
    ----------
    keys
        A DataFrame of key columns, none of whose values is missing.
    count
        How many buckets.
    """
    import numpy as np  # noqa: PLC0415 - slow to import

    hashed = np.zeros(len(keys), "uint64")
    for number in range(keys.shape[1]):
        hashed = hashed * np.uint64(1_000_003) + _hashed(keys.iloc[:, number])
    return (hashed % np.uint64(count)).astype("int64")


def _hashed(column: Any) -> Any:
    """Hash a column: numbers by their value, whatever their type; the same for texts, dates and others."""
    import pandas as pd  # noqa: PLC0415 - slow to import

    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        of_categories = _hashed(pd.Series(column.cat.categories))
        return of_categories[column.cat.codes.to_numpy()]
    if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype):
        return _hash_numbers(column.to_numpy("float64"))
    if pd.api.types.is_object_dtype(dtype):
        return _hash_objects(column)
    if pd.api.types.is_datetime64_any_dtype(dtype):
        if isinstance(dtype, pd.DatetimeTZDtype):
            column = column.dt.tz_convert("UTC").dt.tz_localize(None)
        return _hash_numbers(_whole_seconds(column.to_numpy()))
    if pd.api.types.is_timedelta64_dtype(dtype):
        return _hash_numbers(_whole_seconds(column.to_numpy()))
    return _hash_texts(column.astype(object).map(str))


def _whole_seconds(times: Any) -> Any:
    """Return dates' or durations' seconds: the same for equal ones, whatever unit they are stored in."""
    import numpy as np  # noqa: PLC0415 - slow to import

    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[np.datetime_data(times.dtype)[0]]
    return (times.astype("int64") // per_second).astype("float64")


def _hash_numbers(values: Any) -> Any:
    import pandas as pd  # noqa: PLC0415 - slow to import

    return pd.util.hash_array(values + 0.0)  # no -0.0


def _hash_texts(column: Any) -> Any:
    import numpy as np  # noqa: PLC0415 - slow to import
    import pandas as pd  # noqa: PLC0415 - slow to import

    return pd.util.hash_array(np.array(column, dtype=object), hash_key=_HASH_KEY)


def _hash_objects(column: Any) -> Any:
    """Hash objects of any type: by value those that are equal to numbers and dates, others by their text."""
    import datetime as dt  # noqa: PLC0415 - with the others
    import numbers  # noqa: PLC0415 - with the others

    import numpy as np  # noqa: PLC0415 - slow to import
    import pandas as pd  # noqa: PLC0415 - slow to import

    def alike(value: Any) -> Any:
        if isinstance(value, numbers.Number) and not isinstance(value, complex):
            try:
                return float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError, OverflowError):
                return str(value)
        if isinstance(value, np.bool_):
            return float(value)
        if isinstance(value, dt.datetime | np.datetime64):
            stamp = pd.Timestamp(value)
            stamp = stamp.tz_convert("UTC").tz_localize(None) if stamp.tzinfo else stamp
            return float(stamp.timestamp() // 1)
        if isinstance(value, dt.timedelta | np.timedelta64):
            return float(pd.Timedelta(value).total_seconds() // 1)
        return str(value)

    values = [alike(value) for value in column]
    numeric = np.array([isinstance(value, float) for value in values], bool)
    hashed = np.empty(len(values), "uint64")
    hashed[numeric] = _hash_numbers(np.array([v for v in values if isinstance(v, float)], "float64"))
    hashed[~numeric] = _hash_texts([v for v in values if not isinstance(v, float)])
    return hashed
