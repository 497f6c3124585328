"""pandas' DataFrames and Series. Imports pandas."""

from __future__ import annotations

import io
import math
import pickle
import sys
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from nbmr.frames.concat import concat
from nbmr.frames.library import PARTITION_BYTES, Kind

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


class _Pandas:
    name = "pandas"

    def kind(self, of: type) -> Kind:
        if issubclass(of, pd.DataFrame):
            return "frame"
        return "series" if issubclass(of, pd.Series) else ""

    def snapshot(self, data: Any) -> Any:
        return data.copy(deep=False)

    def take(self, data: Any, start: int, stop: int) -> Any:
        return take(data, start, stop)

    def labels(self, part: Any, start: int) -> tuple[str, ...]:  # noqa: ARG002 - the index tells
        return row_labels(part)

    def row_bytes(self, data: Any) -> float:
        return row_bytes(data)

    def nbytes(self, data: Any) -> int:
        size = data.memory_usage(index=True)
        return int(size if isinstance(size, int) else size.sum())

    def is_value(self, result: Any) -> bool:
        return bool(pd.api.types.is_scalar(result))

    def of_rows(self, rows: list[dict[Any, Any]]) -> Any:
        return pd.DataFrame(rows)

    def of_values(self, values: list[Any]) -> Any:
        return pd.Series(values)

    def write(self, data: Any, file: BinaryIO, kind: str) -> None:
        if isinstance(data, pd.Series):
            data = data.to_frame(name="0" if data.name is None else str(data.name))
        if kind == "parquet":
            data.to_parquet(file)
            return
        index = any(name is not None for name in data.index.names)
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        data.to_csv(text, index=index)
        text.detach()  # flushes, and leaves the file open

    def concat(self, results: list[Any], numbers: list[int]) -> Any:
        return concat(results, numbers)


def take(data: Any, start: int, stop: int) -> Any:
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
    frame = data if isinstance(data, pd.DataFrame) else data.to_frame()
    plain = [isinstance(dtype, np.dtype) and dtype.kind != "O" for dtype in frame.dtypes]
    fixed = sum(dtype.itemsize for dtype, is_plain in zip(frame.dtypes, plain, strict=True) if is_plain)
    if all(plain) and isinstance(frame.index, pd.RangeIndex):
        return float(fixed)
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


LIBRARY = _Pandas()
