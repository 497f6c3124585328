"""Specs of aggregations by name: which columns and aggregations they mean, in the order of pandas' result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from nbmr.partials import Want

#: Name of the size of a group, which needs no column.
SIZE = "size"


def by_name(how: str, args: tuple[Any, ...], kwargs: dict[str, Any], by: Any) -> list[Want] | None:
    """Return what one named aggregation of all columns means, or None where only pandas knows."""
    rows = by._obj_with_exclusions  # noqa: SLF001 - what pandas aggregates
    if how == "quantile":
        q = args[0] if args else kwargs.get("q", 0.5)
        if not isinstance(q, int | float):
            return None
    if args and how != "quantile":
        return None  # positions differ between versions and verbs; pandas knows them
    columns = 1 if rows.ndim == 1 else rows.shape[1]
    return [Want(column, how) for column in range(columns)]


def wanted(func: Any, kwargs: dict[str, Any], by: Any, names: tuple[str, ...]) -> list[Want] | None:
    """Return what a spec of names means, column by column of the result, or None where only pandas knows.

    Parameters
    ----------
    func, kwargs
        The spec, or a named aggregation.
    by
        The groupby of pandas.
    names
        The aggregations that can be had.
    """
    rows = by._obj_with_exclusions  # noqa: SLF001 - what pandas aggregates
    allowed = (*names, SIZE)
    if rows.ndim == 1:
        if func is None:
            hows = list(kwargs.values())
        elif isinstance(func, list):
            hows = [how[1] if isinstance(how, tuple) and len(how) == 2 else how for how in func]  # noqa: PLR2004
        else:
            return None
        return _wants([(0, how) for how in hows], allowed)
    if not rows.columns.is_unique or isinstance(rows.columns, pd.MultiIndex):
        return None
    pairs: list[tuple[Any, Any]] = []
    if func is None:
        for value in kwargs.values():
            if getattr(value, "args", ()) or getattr(value, "kwargs", {}):
                return None
            if hasattr(value, "aggfunc"):
                pairs.append((value.column, value.aggfunc))
            elif isinstance(value, tuple) and len(value) == 2:  # noqa: PLR2004 - a column and a name
                pairs.append(value)
            else:
                return None
    elif isinstance(func, list):
        pairs = [(column, how) for column in rows.columns for how in func]
    elif isinstance(func, dict):
        for column, hows in func.items():
            pairs += [(column, how) for how in (hows if isinstance(hows, list) else [hows])]
    else:
        return None
    try:
        places = [(rows.columns.get_loc(column), how) for column, how in pairs]
    except (KeyError, TypeError):
        return None  # a grouping column, or one that isn't there: pandas knows
    return _wants(places, allowed)


def _wants(places: list[tuple[Any, Any]], allowed: tuple[str, ...]) -> list[Want] | None:
    if not places or not all(isinstance(how, str) and how in allowed for _, how in places):
        return None
    return [Want(int(column), how) for column, how in places]


def narrowed(wants: list[Want], frame: Any, rows: Any, kwargs: dict[str, Any]) -> list[Want] | None:
    """Leave out the columns that ``numeric_only`` leaves out; None where that isn't plain."""
    if kwargs.get("numeric_only"):
        numeric = [pd.api.types.is_numeric_dtype(dtype) for dtype in rows.dtypes]
        wants = [want for want in wants if numeric[want.column]]
    if frame.ndim == 1:
        return wants if len(wants) == 1 else None
    return wants if frame.shape[1] - len(wants) >= 0 else None


def filled(frame: Any, values: list[Any], count: int) -> Any:
    """Put computed columns into the place of those of a sample's result, or return None where they don't fit.

    Parameters
    ----------
    frame
        The sample's result: one row for each group, with pandas' labels; key columns stand before the others.
    values
        The columns, indexed by the numbers of their groups.
    count
        How many groups there are.
    """
    if len(frame) != count:
        return None
    before = 0 if frame.ndim == 1 else frame.shape[1] - len(values)
    arrays = []
    for number, column in enumerate(values):
        there = frame if frame.ndim == 1 else frame.iloc[:, before + number]
        if len(column) == count:
            if column.dtype != there.dtype:
                return None
            if not np.array_equal(column.index, np.arange(count)):
                column = column.sort_index()  # noqa: PLW2901 - the same column
            arrays.append(column.array)
            continue
        full = there.copy()
        try:
            full.iloc[column.index.to_numpy()] = column.array.astype(there.dtype)
        except (TypeError, ValueError):
            return None
        if full.dtype != there.dtype:
            return None
        arrays.append(full.array)
    if frame.ndim == 1:
        return type(frame)(arrays[0], index=frame.index, name=frame.name)
    out = pd.DataFrame(
        {number: frame.iloc[:, number].array for number in range(before)}
        | {before + number: array for number, array in enumerate(arrays)},
        index=frame.index,
    )
    out.columns = frame.columns
    return out
