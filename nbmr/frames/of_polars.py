"""polars' DataFrames and Series. Imported only where polars is loaded, or a job's data were its frames."""

from __future__ import annotations

from typing import Any, BinaryIO

import polars as pl

from nbmr.frames.library import Kind, UnjoinableError
from nbmr.frames.plainly import WithoutIndex, is_plain_value

#: What polars raises where types or columns don't fit.
_UNFIT = (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError)

_VIEW_BYTES = 16


class _Polars(WithoutIndex):
    name = "polars"

    def kind(self, of: type) -> Kind:
        if issubclass(of, pl.DataFrame):
            return "frame"
        if issubclass(of, pl.Series):
            return "series"
        return "lazy" if issubclass(of, pl.LazyFrame) else ""

    def snapshot(self, data: Any) -> Any:
        return data.clone()

    def take(self, data: Any, start: int, stop: int) -> Any:
        return data.slice(start, stop - start)

    def nbytes(self, data: Any) -> int:
        # what polars estimates leaves out the view that each text or binary value has
        columns = data.get_columns() if isinstance(data, pl.DataFrame) else [data]
        viewed = sum(column.dtype in (pl.String, pl.Binary) for column in columns)
        return int(data.estimated_size()) + viewed * len(data) * _VIEW_BYTES

    def is_value(self, result: Any) -> bool:
        return is_plain_value(result)

    def of_rows(self, rows: list[dict[Any, Any]]) -> Any:
        for name in dict.fromkeys(name for row in rows for name in row):
            texts = {isinstance(row[name], str) for row in rows if row.get(name) is not None}
            if len(texts) > 1:
                raise UnjoinableError(f"{name!r} is text in some rows, and something else in others")
        try:
            return pl.DataFrame(rows, infer_schema_length=None)
        except _UNFIT as error:
            raise UnjoinableError(str(error)) from error

    def of_values(self, values: list[Any]) -> Any:
        return self.of_rows([{"": value} for value in values]).to_series()

    def write(self, data: Any, file: BinaryIO, kind: str) -> None:
        if isinstance(data, pl.Series):
            data = data.to_frame()
        if kind == "parquet":
            data.write_parquet(file)
        else:
            data.write_csv(file)

    def concat(self, results: list[Any], numbers: list[int]) -> Any:
        parts = [results[number] for number in numbers]
        if isinstance(parts[0], pl.Series):
            names = {part.name for part in parts}
            joined = _joined([part.alias("").to_frame() for part in parts]).to_series()
            joined = joined.alias(names.pop() if len(names) == 1 else "")
        else:
            joined = _joined(parts)
        results[:] = [None] * len(results)
        return joined


def _joined(parts: list[Any]) -> Any:
    """Put frames under one another: by the names of their columns, whose types become a common one."""
    schemas = [part.collect_schema() for part in parts]
    # in order, too: a schema that only has the same columns is equal
    alike = all(list(schema.items()) == list(schemas[0].items()) for schema in schemas)
    try:
        joined = pl.concat(parts, how="vertical" if alike else "diagonal_relaxed")
        whole = joined.collect_schema()
    except _UNFIT as error:
        raise UnjoinableError(str(error)) from error
    for schema in schemas:
        for name, dtype in schema.items():
            if not _keeps(dtype, whole[name]):
                raise UnjoinableError(
                    f"column {name!r} is {dtype} in one partition, and {whole[name]} in another"
                )
    return joined


def _keeps(dtype: Any, common: Any) -> bool:
    """Whether values are what they were in the common type: polars would make text of numbers, too."""
    if dtype in (common, pl.Null):
        return True
    if isinstance(common, pl.Struct) and isinstance(dtype, pl.Struct):
        fields = {field.name: field.dtype for field in common.fields}
        return all(_keeps(field.dtype, fields[field.name]) for field in dtype.fields)
    if isinstance(common, pl.List | pl.Array) and isinstance(dtype, pl.List | pl.Array):
        return _keeps(dtype.inner, common.inner)
    return common != pl.String or isinstance(dtype, pl.Categorical | pl.Enum)


LIBRARY = _Polars()
