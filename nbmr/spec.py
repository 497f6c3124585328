"""Specs of aggregations by name: which columns and aggregations they mean, in the order of pandas' result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from nbmr.grouping import PANDAS_3
from nbmr.partials import REDUCTIONS, SIZE, Want


def of_verb(verb: str, args: tuple[Any, ...], kwargs: dict[str, Any], rows: Any) -> list[Want] | None:
    """Return what a verb of pandas' groupby means for each column, or None where only pandas knows.

    Parameters
    ----------
    verb, args, kwargs
        ``"agg"`` with a spec, or the name of an aggregation; and its arguments.
    rows
        The DataFrame or Series that is aggregated.
    """
    if verb == SIZE:
        return []
    if verb == "agg":
        func = args[0] if args else None
        plain = len(args) <= 1 and (func is None or not kwargs)
        return wanted(func, kwargs, rows) if plain else None
    wants = by_name(verb, args, kwargs, rows)
    if wants is not None and kwargs.get("numeric_only") is True:
        dtypes = [rows.dtype] if rows.ndim == 1 else list(rows.dtypes)
        wants = [want for want in wants if pd.api.types.is_numeric_dtype(dtypes[want.column])]
    return wants


def by_name(how: str, args: tuple[Any, ...], kwargs: dict[str, Any], rows: Any) -> list[Want] | None:
    """Return what one named aggregation of all columns means, or None where only pandas knows.

    Parameters
    ----------
    how, args, kwargs
        The aggregation, and its arguments.
    rows
        The DataFrame or Series that is aggregated.
    """
    if how == "quantile":
        q = args[0] if args else kwargs.get("q", 0.5)
        if not isinstance(q, int | float):
            return None
    elif args:
        return None  # positions differ between versions and verbs; pandas knows them
    return [Want(column, how) for column in range(1 if rows.ndim == 1 else rows.shape[1])]


def wanted(func: Any, kwargs: dict[str, Any], rows: Any) -> list[Want] | None:
    """Return what a spec of names means, column by column of the result, or None where only pandas knows.

    Parameters
    ----------
    func, kwargs
        The spec, or a named aggregation.
    rows
        The DataFrame or Series that is aggregated.
    """
    if rows.ndim == 1:
        pairs = _of_series(func, kwargs)
    elif rows.columns.is_unique and not isinstance(rows.columns, pd.MultiIndex):
        pairs = _of_frame(func, kwargs, rows.columns)
    else:
        pairs = None
    allowed = (*REDUCTIONS, SIZE)
    if not pairs or not all(isinstance(how, str) and how in allowed for _, how in pairs):
        return None
    return [Want(int(column), how) for column, how in pairs]


def hows(func: Any, kwargs: dict[str, Any]) -> Iterator[Any]:
    """Yield the aggregations of a spec, or of a named aggregation: names and functions."""
    if func is None:
        for value in kwargs.values():
            yield value.aggfunc if hasattr(value, "aggfunc") else value[1] if _is_pair(value) else value
    elif isinstance(func, dict | pd.Series):
        for value in func.values():  # type: ignore[operator, unused-ignore]
            yield from hows(value, {})
    elif isinstance(func, list | tuple):
        for value in func:
            yield value[1] if _is_pair(value) else value
    else:
        yield func


def _of_series(func: Any, kwargs: dict[str, Any]) -> list[tuple[int, Any]] | None:
    if func is None:
        return [(0, how) for how in kwargs.values()]
    if isinstance(func, list):
        return [(0, how[1] if _is_pair(how) else how) for how in func]
    return None


def _of_frame(func: Any, kwargs: dict[str, Any], columns: Any) -> list[tuple[int, Any]] | None:
    if func is None:
        pairs = [_named(value) for value in kwargs.values()]
    elif isinstance(func, list):
        pairs = [(column, how) for column in columns for how in func]
    elif isinstance(func, dict):
        listed = {column: hows if isinstance(hows, list) else [hows] for column, hows in func.items()}
        pairs = [(column, how) for column, hows in listed.items() for how in hows]
    else:
        return None
    try:
        return [(columns.get_loc(column), how) for column, how in pairs]
    except (KeyError, TypeError):
        return None  # a grouping column, or one that isn't there: pandas knows


def _named(value: Any) -> tuple[Any, Any]:
    """Return the column and aggregation of a named one; None for one with arguments of its own."""
    if getattr(value, "args", ()) or getattr(value, "kwargs", {}):
        return None, None
    if hasattr(value, "aggfunc"):
        return value.column, value.aggfunc
    return value if _is_pair(value) else (None, None)


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2  # noqa: PLR2004 - a column, or a label, and a name


def filled(frame: Any, values: list[Any], count: int, keys: int) -> Any:
    """Put computed columns into the place of those of a sample's result, or return None where they don't fit.

    Parameters
    ----------
    frame
        The sample's result: one row for each group, with pandas' labels; key columns stand before the others.
    values
        The columns, indexed by the numbers of their groups.
    count
        How many groups there are.
    keys
        How many columns there may be before them.
    """
    before = 0 if frame.ndim == 1 else frame.shape[1] - len(values)
    if len(frame) != count or not 0 <= before <= keys or (frame.ndim == 1 and len(values) != 1):
        return None
    arrays: list[Any] = []
    for number, column in enumerate(values):
        arrays.append(_filled(frame if frame.ndim == 1 else frame.iloc[:, before + number], column))
        if arrays[-1] is None:
            return None
    if frame.ndim == 1:
        return pd.Series(arrays[0], index=frame.index, name=frame.name).__finalize__(frame)
    labels = [frame.iloc[:, number].array for number in range(before)]
    out = pd.DataFrame(dict(enumerate([*labels, *arrays])), index=frame.index)
    out.columns = frame.columns
    return out.__finalize__(frame)  # type: ignore[operator]


def _filled(there: Any, column: Any) -> Any:
    """Return one column's values; groups that are not observed have what pandas gives them in the sample."""
    if len(column) == len(there):
        return column.sort_index().array if column.dtype == there.dtype else None
    if not PANDAS_3 and column.dtype != there.dtype:
        return None  # pandas 2 chooses the type by the values
    full = there.copy()
    try:
        full.iloc[column.index.to_numpy()] = column.array.astype(there.dtype)
    except (TypeError, ValueError):
        return None
    return full.array if full.dtype == there.dtype else None
