"""Arrow's tables and record batches, as pyarrow has them; and arrays, as results.

What is joined is not copied: the result's chunks are those of the partitions.
"""

from __future__ import annotations

from typing import Any, BinaryIO

import pyarrow as pa

from nbmr.frames.library import Kind, UnjoinableError
from nbmr.frames.plainly import WithoutIndex, is_plain_value
from nbmr.reducers import table_without_columns


class _Arrow(WithoutIndex):
    name = "pyarrow"

    def kind(self, of: type) -> Kind:
        if issubclass(of, pa.Table | pa.RecordBatch):
            return "frame"
        return "array" if issubclass(of, pa.Array | pa.ChunkedArray) else ""

    def snapshot(self, data: Any) -> Any:
        return data  # nothing changes it

    def take(self, data: Any, start: int, stop: int) -> Any:
        if data.num_columns == 0:  # pyarrow takes each slice of it for the whole
            return table_without_columns(data.schema, stop - start, isinstance(data, pa.RecordBatch))
        return data.slice(start, stop - start)

    def nbytes(self, data: Any) -> int:
        return sum(_nbytes(chunk) for column in data.columns for chunk in getattr(column, "chunks", [column]))

    def is_value(self, result: Any) -> bool:
        return isinstance(result, pa.Scalar) or is_plain_value(result)

    def of_rows(self, rows: list[dict[Any, Any]]) -> Any:
        names = list(dict.fromkeys(name for row in rows for name in row))
        if not all(isinstance(name, str) for name in names):
            raise UnjoinableError("the names of columns have to be text")
        if not names:
            return table_without_columns(pa.schema([]), len(rows))
        return pa.table({name: self._array([row.get(name) for row in rows]) for name in names})

    def of_values(self, values: list[Any]) -> Any:
        return self._array(values)

    @staticmethod
    def _array(values: list[Any]) -> Any:
        try:
            if any(isinstance(value, pa.Scalar) for value in values):
                arrays = [pa.array([value]) for value in values]
                joined = _joined([pa.table({"": array}) for array in arrays]).column(0)
                return joined.combine_chunks()
            return pa.array(values)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise UnjoinableError(str(error)) from error

    def write(self, data: Any, file: BinaryIO, kind: str) -> None:
        from pyarrow import csv, parquet  # noqa: PLC0415 - they take a while

        if kind == "parquet":
            parquet.write_table(_table(data), file)
        else:
            csv.write_csv(_table(data), file)

    def concat(self, results: list[Any], numbers: list[int]) -> Any:
        parts = [results[number] for number in numbers]
        if isinstance(parts[0], pa.Table | pa.RecordBatch):
            batches = all(isinstance(part, pa.RecordBatch) for part in parts)
            joined = _joined(list(map(_table, parts)))
            joined = _one_batch(joined) if batches else joined
        else:
            joined = _joined([pa.table({"": part}) for part in parts]).column(0)
            if all(isinstance(part, pa.Array) for part in parts):
                joined = joined.combine_chunks()
        results[:] = [None] * len(results)
        return joined


def _joined(tables: list[Any]) -> Any:
    """Put tables under one another: by the names of their columns, whose types become a common one."""
    first = tables[0].schema
    if not any(table.num_columns for table in tables):
        return table_without_columns(first, sum(map(len, tables)))
    try:
        if all(table.schema.equals(first) for table in tables):
            return pa.concat_tables(tables)
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise UnjoinableError(str(error)) from error


def _table(part: Any) -> Any:
    return pa.Table.from_batches([part]) if isinstance(part, pa.RecordBatch) else part


def _one_batch(table: Any) -> Any:
    """Return a table as one record batch, or as it is if that would be too large."""
    batches = table.combine_chunks().to_batches()
    return batches[0] if len(batches) == 1 else table


def _nbytes(array: Any) -> int:
    """Return the bytes of an array's own rows; a dictionary, which every partition carries, doesn't count."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if isinstance(array, pa.DictionaryArray):
        array = array.indices
    return int(array.nbytes)


LIBRARY = _Arrow()
