"""How arrays and tables are reduced for pickle: their data out of band, and of a slice only its own rows.

No library is imported here before something of it is reduced, or restored.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import pickle
import sys
from collections.abc import Callable
from io import BytesIO
from typing import Any

Reduced = tuple[Any, ...]
Reducers = dict[type, Callable[[Any], Reduced]]

#: Bytes of others' rows from which on an Arrow array is copied without them.
_FOREIGN_BYTES = 4096


def reducers() -> Reducers:
    """Return the entries of a dispatch table for the libraries that are loaded."""
    found: Reducers = {}
    if sys.modules.get("numpy"):
        found |= _of_numpy()
    if sys.modules.get("pyarrow"):
        found |= _of_arrow()
    if sys.modules.get("polars"):
        found |= _of_polars()
    return found


def times_from_integers(integers: Any, dtype: Any) -> Any:
    """Undo `reduce_array` for dates and durations."""
    return integers.view(dtype)


def reduce_array(array: Any) -> Reduced:
    """Reduce a numpy array so that its data is always out of band.

    Left alone, dates and durations are copied into the stream, since numpy exports no buffer for them; so
    are slices of a frame's block, which aren't contiguous, by numpy 1. Either costs two copies.
    """
    if array.dtype.kind in "mM":
        return times_from_integers, (array.view("i8"), array.dtype)
    flags = array.flags
    if not (flags.c_contiguous or flags.f_contiguous or array.dtype.hasobject):
        array = array.copy()  # keeps the order of the axes
    reduced: Reduced = array.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    return reduced


def reduce_memmap(array: Any) -> Reduced:
    """Reduce an array that lies in a file to its values: the file is not on every worker's machine."""
    return reduce_array(sys.modules["numpy"].asarray(array))


def reduce_arrow_array(array: Any) -> Reduced:
    """Reduce an Arrow array, with its own rows only; tables, batches and chunked arrays consist of arrays.

    Left alone, a slice takes along all of what it was cut from. (pyarrow can't part unions; they do.)
    """
    import pyarrow as pa  # noqa: PLC0415 - see above

    with contextlib.suppress(pa.ArrowException):
        own = array.nbytes
        if array.get_total_buffer_size() > own + own // 8 + _FOREIGN_BYTES:
            array = pa.concat_arrays([array])  # copies its rows
    reduced: Reduced = array.__reduce__()
    return reduced


def reduce_arrow_table(table: Any) -> Reduced:
    """Reduce an Arrow table or record batch; pyarrow forgets how many rows one without columns has."""
    if table.num_columns == 0:
        return table_without_columns, (table.schema, len(table), type(table).__name__ == "RecordBatch")
    reduced: Reduced = table.__reduce__()
    return reduced


def table_without_columns(schema: Any, rows: int, batch: bool = False) -> Any:
    """Make an Arrow table (or record batch) that has rows, and no columns.

    Parameters
    ----------
    schema
        Its schema, which has no fields, and perhaps metadata.
    rows
        How many rows.
    batch
        Whether to make a record batch.
    """
    import pyarrow as pa  # noqa: PLC0415 - see above

    kind = pa.RecordBatch if batch else pa.Table
    one = pa.schema([("", pa.null())], metadata=schema.metadata)
    return kind.from_arrays([pa.nulls(rows)], schema=one).select([])


def reduce_polars(frame: Any) -> Reduced:
    """Reduce a polars DataFrame; left alone, its data is copied into the stream once more."""
    return polars_frame, (pickle.PickleBuffer(frame.serialize()),)


def reduce_polars_series(series: Any) -> Reduced:
    """Reduce a polars Series, as a DataFrame of one column."""
    return polars_series, (pickle.PickleBuffer(series.to_frame().serialize()),)


def polars_frame(data: Any) -> Any:
    """Undo `reduce_polars`."""
    import polars as pl  # noqa: PLC0415 - see above

    return pl.DataFrame.deserialize(BytesIO(data))


def polars_series(data: Any) -> Any:
    """Undo `reduce_polars_series`."""
    return polars_frame(data).to_series()


def _of_numpy() -> Reducers:
    numpy = sys.modules["numpy"]
    return {numpy.ndarray: reduce_array, numpy.memmap: reduce_memmap}


@functools.cache
def _of_arrow() -> Reducers:
    import pyarrow as pa  # noqa: PLC0415 - see above

    arrays = dict.fromkeys(_kinds_of(pa.Array), reduce_arrow_array)
    return arrays | dict.fromkeys((pa.Table, pa.RecordBatch), reduce_arrow_table)


@functools.cache
def _of_polars() -> Reducers:
    import polars as pl  # noqa: PLC0415 - see above

    return {pl.DataFrame: reduce_polars, pl.Series: reduce_polars_series}


def _kinds_of(kind: type) -> set[type]:
    """Return a class with all of those that derive from it."""
    return {kind, *itertools.chain.from_iterable(map(_kinds_of, kind.__subclasses__()))}
