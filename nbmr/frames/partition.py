"""Partitions: which rows go into which task, and the part of a frame that travels."""

from __future__ import annotations

import math
import numbers
import pickle
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from nbmr.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    Frame = TypeVar("Frame", pd.DataFrame, pd.Series[Any])

#: Tasks for each worker slot, where there are rows enough: many small tasks balance well.
TASKS_PER_SLOT = 8
#: Encoded size, in bytes, that a partition should stay under: half of what one message may hold.
PARTITION_BYTES = 4 << 20
#: The longest text of one index label in an error message.
LABEL_LENGTH = 80

# The size of rows is estimated from a sample: so many stretches of the frame, so many rows in each.
_STRETCHES = 16
_ROWS_A_STRETCH = 32
# So many columns at most are looked at.
_COLUMNS = 64
# Of cells that together are huge, these few are looked at.
_HUGE_CELLS = 16
_HUGE_BYTES = 1 << 20


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


def row_bounds(
    data: pd.DataFrame | pd.Series[Any], partitions: int | None, slots: int
) -> list[tuple[int, int]]:
    """Choose the row ranges of the partitions.

    Parameters
    ----------
    data
        The DataFrame or Series to cut.
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
        by_size = math.ceil(rows * row_bytes(data) / PARTITION_BYTES)
        partitions = max(TASKS_PER_SLOT * max(slots, 1), by_size)
    count = min(int(partitions), rows)
    size, larger = divmod(rows, count)
    edges = [number * size + min(number, larger) for number in range(count + 1)]
    return list(pairwise(edges))


def take(data: Frame, start: int, stop: int) -> Frame:
    """Cut one partition out of a frame.

    Parameters
    ----------
    data
        A DataFrame or Series, or an instance of a subclass.
    start, stop
        Half-open range of row positions.

    Returns
    -------
    DataFrame or Series
        Of the type of ``data``, with its ``attrs``; a view wherever pandas makes one of a slice.
        Equal to ``data.iloc[start:stop]``, but a MultiIndex drops the level values that the rows
        don't use, which else would travel with every partition.

    """
    import pandas as pd  # noqa: PLC0415 -- `import nbmr` must not load pandas

    part = data.iloc[start:stop]
    if isinstance(part.index, pd.MultiIndex) and len(part) < len(data):
        compacted = _compact(part.index)
        if compacted is not part.index:
            part.index = compacted
    return part


def row_labels(partition: object) -> tuple[str, ...]:
    """Give the first and the last index label of a partition as short text.

    Parameters
    ----------
    partition
        A DataFrame or Series; anything else has no labels.

    Returns
    -------
    tuple of str
        Two texts of at most 80 characters, or nothing where there are no rows. Never raises.

    """
    try:
        index = partition.index  # type: ignore[attr-defined]
        if len(index) == 0:
            return ()
        return _label(index[0]), _label(index[-1])
    except Exception:  # noqa: BLE001 -- this helps to tell of another error, and must not hide it
        return ()


def row_bytes(data: pd.DataFrame | pd.Series[Any]) -> float:
    """Estimate how many bytes a row takes when encoded, from a sample of some hundred rows.

    The stretch of the frame that has the largest rows counts, since ranges have equally many rows.
    What every partition carries whole (the categories of a categorical) doesn't count.
    """
    import numpy as np  # noqa: PLC0415 -- `import nbmr` must not load pandas
    import pandas as pd  # noqa: PLC0415 -- see above

    frame = data if isinstance(data, pd.DataFrame) else data.to_frame()
    plain = [isinstance(dtype, np.dtype) and dtype.kind != "O" for dtype in frame.dtypes]
    fixed = sum(dtype.itemsize for dtype, is_plain in zip(frame.dtypes, plain, strict=True) if is_plain)
    rows = len(frame)
    stretches = min(_STRETCHES, rows)
    each = min(_ROWS_A_STRETCH, rows // stretches)
    # The positions of the sample: in every stretch as many, evenly spread.
    positions = np.arange(stretches * each) * (rows - 1) // max(stretches * each - 1, 1)
    others = [number for number, is_plain in enumerate(plain) if not is_plain]
    some = others[:: math.ceil(len(others) / _COLUMNS) or 1]
    sample = frame.iloc[:, some].iloc[positions]
    columns = [sample.iloc[:, number] for number in range(sample.shape[1])]
    weights = [len(others) / len(some)] * len(some) if some else []
    if not isinstance(frame.index, pd.RangeIndex):
        labels = frame.index[positions]
        levels = [labels.get_level_values(number) for number in range(labels.nlevels)]
        columns += [pd.Series(level, dtype=level.dtype) for level in levels]
        weights += [1.0] * len(levels)
    sizes = [
        sum(
            weight * _column_bytes(column.iloc[number * each : (number + 1) * each])
            for column, weight in zip(columns, weights, strict=True)
        )
        for number in range(stretches)
    ]
    return float(fixed + max(sizes) / each)


def _column_bytes(column: pd.Series[Any]) -> float:
    """Estimate how many bytes a short column takes when encoded."""
    import numpy as np  # noqa: PLC0415 -- `import nbmr` must not load pandas
    import pandas as pd  # noqa: PLC0415 -- see above

    dtype: Any = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return column.cat.codes.nbytes
    is_object = isinstance(dtype, np.dtype) and dtype.kind == "O"
    if not is_object and not (isinstance(dtype, pd.StringDtype) and dtype.storage == "python"):
        return column.nbytes
    seen = size = 0
    for cell in column:
        seen += 1
        size += min(_cell_bytes(cell), PARTITION_BYTES)  # one huge cell can't be split
        if size > _HUGE_BYTES and seen >= _HUGE_CELLS:
            break
    return size * len(column) / max(seen, 1)


def _cell_bytes(cell: object) -> int:
    try:
        return len(pickle.dumps(cell, protocol=5))
    except Exception:  # noqa: BLE001 -- whatever a user's object raises here, it is told when it is sent
        return sys.getsizeof(cell, 100)


def _compact(index: pd.MultiIndex) -> pd.MultiIndex:
    """Drop unused values of levels that are longer than the index itself.

    Like ``remove_unused_levels``, but its time depends on the rows of the partition alone.
    """
    import numpy as np  # noqa: PLC0415 -- `import nbmr` must not load pandas
    import pandas as pd  # noqa: PLC0415 -- see above

    if all(len(level) <= len(index) for level in index.levels):
        return index
    levels: Any = []
    codes: Any = []
    for level, level_codes in zip(index.levels, index.codes, strict=True):
        used, compact = np.unique(level_codes, return_inverse=True)
        missing = int(used.size > 0 and used[0] == -1)
        levels.append(level.take(used[missing:]))
        codes.append(compact - missing)
    return pd.MultiIndex(levels=levels, codes=codes, names=index.names, verify_integrity=False)


def _label(label: Any) -> str:
    if isinstance(label, tuple):
        text = f"({', '.join(_plain_repr(part) for part in label)})"
    else:
        text = _plain_repr(label)
    return text if len(text) <= LABEL_LENGTH else text[: LABEL_LENGTH - 1] + "…"


def _plain_repr(value: Any) -> str:
    """Give the repr of a value, and of a numpy scalar that of the Python value: 3, not np.int64(3)."""
    item = getattr(value, "item", None)
    return repr(item() if callable(item) else value)
