"""Destinations: what the rows of one column, or of neighbours of one dtype, are copied into.

A destination takes partition after partition. Where numpy holds the values, all memory for them is
allocated at once but touched only as it fills; so as partitions are dropped one after the other, no
more than the result and one partition is ever held. What can't be filled piece by piece is kept as
pieces: `flush` copies these out of their partitions, which may be views of a received message.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd

from nbmr.frames.memory import empty

#: A larger sum of Arrow buffers might overflow the 32-bit offsets of one array.
_ONE_ARROW_ARRAY = 1 << 30

#: Below this size in bytes of a partition's column, it costs more to find it than to copy it twice.
_SMALL_COLUMN = 1 << 16

#: The system gives large arrays memory in pages of 2 MiB. Columns that aren't much longer, in a block
#: of many bytes, lie row after row: else the first partition would touch the pages of all of it.
_SHORT_COLUMN = 8 << 20
_LARGE_BLOCK = 64 << 20


class Destination(Protocol):
    """Takes the rows of one column, or of several of one dtype, partition after partition."""

    def put(self, values: Any, start: int) -> int:
        """Take a partition's Series (for several columns, DataFrame), to begin at row ``start``.

        Gives the number of its bytes.
        """

    def flush(self) -> None:
        """Let go of all partitions taken so far."""

    def finish(self) -> Any:
        """Give the whole column as Series, or a numpy array: of one or (columns by rows) two dimensions."""


def destination(dtypes: list[Any], rows: int, width: int = 1) -> Destination:
    """Choose the destination for columns that have these dtypes in the partitions.

    Parameters
    ----------
    dtypes
        The dtype in each partition; all are the same where there are several columns.
    rows
        Length of the result.
    width
        Number of columns.

    """
    dtype = dtypes[0]
    if not all(same_dtype(dtype, other) for other in dtypes):
        return _Pieces(same=False)
    if isinstance(dtype, np.dtype):
        return _Block(dtype, rows, width)
    if isinstance(dtype, pd.CategoricalDtype | pd.DatetimeTZDtype | pd.PeriodDtype):
        return _Backed(dtype, rows)
    kind = dtype.construct_array_type()
    if kind in (pd.arrays.IntegerArray, pd.arrays.FloatingArray, pd.arrays.BooleanArray):
        return _Masked(kind, dtype.numpy_dtype, rows)
    return _Pieces(same=True)


class _Block:
    """Columns of one numpy dtype, side by side in one array."""

    def __init__(self, dtype: np.dtype[Any], rows: int, width: int) -> None:
        column = rows * dtype.itemsize
        self.by_row = column < _SHORT_COLUMN and column * width > _LARGE_BLOCK
        order: Literal["F", "C"] = "F" if self.by_row else "C"
        self.values: np.ndarray[Any, Any] = empty((width, rows), dtype, order)

    def put(self, values: Any, start: int) -> int:
        width, stop = len(self.values), start + len(values)
        if width == 1:
            self.values[0, start:stop] = values.to_numpy().reshape(-1)
        elif self.by_row or len(values) * self.values.itemsize < _SMALL_COLUMN:
            self.values[:, start:stop] = values.to_numpy().T
        else:  # one by one, since pandas copies columns that don't lie side by side to show them as one
            for number in range(width):
                self.values[number, start:stop] = values.iloc[:, number].to_numpy()
        return width * len(values) * self.values.itemsize

    def flush(self) -> None:
        """Nothing is held."""

    def finish(self) -> Any:
        return self.values if len(self.values) > 1 else self.values[0]


class _Backed:
    """A column whose extension array lies over one numpy array: categories, time zones, periods."""

    def __init__(self, dtype: Any, rows: int) -> None:
        self.values: Any = detached_dtype(dtype).empty((rows,))

    def put(self, values: Any, start: int) -> int:
        self.values[start : start + len(values)] = values.array
        return _bytes_of(values)

    def flush(self) -> None:
        """Nothing is held."""

    def finish(self) -> Any:
        return pd.Series(self.values, copy=False)


class _Masked:
    """A nullable column of numbers or bools: values, and a mask of what is missing."""

    def __init__(self, kind: Any, dtype: np.dtype[Any], rows: int) -> None:
        self.kind = kind
        self.values: np.ndarray[Any, Any] = np.empty(rows, dtype)
        self.mask: np.ndarray[Any, Any] = np.empty(rows, bool)

    def put(self, values: Any, start: int) -> int:
        dtype, stop = self.values.dtype, start + len(values)
        self.mask[start:stop] = values.array.isna()
        self.values[start:stop] = values.array.to_numpy(dtype, na_value=dtype.type(0))
        return _bytes_of(values)

    def flush(self) -> None:
        """Nothing is held."""

    def finish(self) -> Any:
        return pd.Series(self.kind(self.values, self.mask, copy=False), copy=False)


class _Pieces:
    """A column that pandas concatenates at the end; ``same`` says that all pieces have one dtype."""

    def __init__(self, *, same: bool) -> None:
        self.same = same
        self.pieces: list[Any] = []
        self.flushed = 0

    def put(self, values: Any, start: int) -> int:  # noqa: ARG002 -- the order is enough here
        self.pieces.append(values)
        return _bytes_of(values)

    def flush(self) -> None:
        held = self.pieces[self.flushed :]
        if self.same and held and is_arrow(held[0].dtype):
            held = [_merged(held)]
        else:
            held = [detached(piece) for piece in held]
        self.pieces[self.flushed :] = held
        self.flushed = len(self.pieces)

    def finish(self) -> Any:
        # Arrow chunks are put in a row without a copy, whatever memory they lie in: so copy them out.
        if len(self.pieces) == 1 or any(is_arrow(piece.dtype) for piece in self.pieces):
            self.flush()
        pieces, self.pieces = self.pieces, []
        return pieces[0].reset_index(drop=True) if len(pieces) == 1 else concat_columns(pieces)


def _bytes_of(column: Any) -> int:
    """Give the bytes of a Series without its categories, which warn when they are asked for theirs."""
    return int((column.cat.codes if isinstance(column.dtype, pd.CategoricalDtype) else column).nbytes)


def concat_columns(pieces: list[Any]) -> Any:
    """Concatenate one column's pieces, whose dtypes may have drifted apart.

    pandas' rules hold, with two exceptions that make the result what the same function gives for
    the whole: unordered categoricals get the union of their categories; and a column that becomes
    object only because the dtypes of the pieces differ is inferred again, over all rows.
    """
    dtypes = [piece.dtype for piece in pieces]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about rules of pandas that change: the user wrote no concat
        try:
            joined = pd.concat(_recoded(pieces), ignore_index=True)
        except (TypeError, ValueError):  # the job is done: objects are better than no answer
            joined = pd.concat([piece.astype(object) for piece in pieces], ignore_index=True)
    return joined.infer_objects() if drifted(joined.dtype, dtypes) else joined


def _recoded(pieces: list[Any]) -> list[Any]:
    """Prepare pieces whose dtypes differ, where pandas would concatenate them to something else."""
    dtypes: list[Any] = [piece.dtype for piece in pieces]
    if all(same_dtype(dtypes[0], dtype) for dtype in dtypes):
        return pieces
    if all(isinstance(dtype, pd.CategoricalDtype) and not dtype.ordered for dtype in dtypes):
        union: Any = pd.CategoricalDtype(union_of([dtype.categories for dtype in dtypes]))
        return [piece.astype(union) for piece in pieces]
    if all(isinstance(dtype, np.dtype) for dtype in dtypes):
        # pandas 2.2 makes 1 of True beside integers.
        return [piece.astype(object) if piece.dtype.kind == "b" else piece for piece in pieces]
    return pieces


def drifted(joined: Any, dtypes: list[Any]) -> bool:
    """Say whether a column became object although some of its pieces were not."""
    return bool(is_object(joined) and not all(map(is_object, dtypes)))


def union_of(indexes: list[Any]) -> Any:
    """Give the distinct values of some indexes as an index, sorted if pandas can: as categories are."""
    indexes = [index for index in indexes if len(index)] or indexes[:1]
    joined = concat_columns([pd.Series(index, dtype=index.dtype) for index in indexes])
    union = pd.Index(joined, dtype=joined.dtype, tupleize_cols=False).unique()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about values that can't be sorted
        try:
            return pd.factorize(union, sort=True)[1]
        except TypeError:
            return union


def is_object(dtype: Any) -> bool:
    """Say whether a dtype is numpy's object."""
    return isinstance(dtype, np.dtype) and dtype.kind == "O"


def same_dtype(left: Any, right: Any) -> bool:
    """Compare two dtypes, of numpy or pandas."""
    return left is right or (type(left) is type(right) and bool(left == right))


def is_arrow(dtype: Any) -> bool:
    """Say whether arrays of a dtype are Arrow's, which are immutable and so never copied by pandas."""
    return isinstance(dtype, pd.ArrowDtype) or (
        isinstance(dtype, pd.StringDtype) and str(dtype.storage).startswith("pyarrow")
    )


def detached(column: Any) -> Any:
    """Copy a Series so that it shares no memory with what it was cut from."""
    if is_arrow(column.dtype):
        return _merged([column])
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes = np.array(column.cat.codes)
        dtype = detached_dtype(column.dtype)
        return pd.Series(pd.Categorical.from_codes(codes, dtype=dtype, validate=False))
    return column.copy()


def detached_dtype(dtype: Any) -> Any:
    """Copy the categories of a categorical dtype; other dtypes hold no data."""
    if isinstance(dtype, pd.CategoricalDtype):
        return pd.CategoricalDtype(detached_index(dtype.categories), dtype.ordered)
    return dtype


def detached_index(index: Any) -> Any:
    """Copy an index so that it shares no memory with what it was cut from."""
    if isinstance(index, pd.MultiIndex):
        levels = [detached_index(level) for level in index.levels]
        codes: Any = [np.array(level_codes) for level_codes in index.codes]
        return pd.MultiIndex(levels=levels, codes=codes, names=index.names, verify_integrity=False)
    if is_arrow(index.dtype) or isinstance(index.dtype, pd.CategoricalDtype):
        column = detached(pd.Series(index, dtype=index.dtype))
        return pd.Index(column, dtype=index.dtype, name=index.name)
    return index.copy(deep=True)


def _merged(columns: list[Any]) -> Any:
    """Copy Series of one Arrow dtype into one Series of one chunk."""
    import pyarrow as pa  # noqa: PLC0415 -- optional; it is here, since these columns are its

    arrays = [column.array.__arrow_array__() for column in columns]
    chunks = [chunk for array in arrays for chunk in getattr(array, "chunks", [array])]
    one = sum(chunk.nbytes for chunk in chunks) < _ONE_ARROW_ARRAY
    groups = [chunks] if one and chunks else [[chunk] for chunk in chunks]
    with contextlib.suppress(pa.ArrowNotImplementedError):  # a rare type stays where it is
        chunks = [pa.concat_arrays(group) for group in groups]
    dtype = columns[0].dtype
    return pd.Series(dtype.__from_arrow__(pa.chunked_array(chunks, type=arrays[0].type)), dtype=dtype)
