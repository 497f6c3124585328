"""Gathering: the rules by which the results of a job's partitions become one object."""

from __future__ import annotations

import sys
from typing import Any

from nbmr.errors import ConfigError, GatherError

#: The values that ``gather`` takes.
HOW = ("auto", "list", "concat")


def check_how(how: str) -> None:
    """Refuse an unknown value of ``gather``, before any work is done.

    Raises
    ------
    ConfigError
        ``how`` is none of "auto", "list" and "concat".

    """
    if how not in HOW:
        raise ConfigError(f"gather={how!r}: pass one of {', '.join(map(repr, HOW))}")


def gather(results: list[Any], *, of_frame: bool, how: str = "auto") -> Any:
    """Make one object of the results of all partitions.

    DataFrames, and Series, are concatenated in order. From a frame, one dict a partition makes one
    row each, and one scalar a partition makes a Series. Anything else is a list in order. ``None``
    results are dropped, unless it ends as a list. Results without rows don't influence dtypes.

    Parameters
    ----------
    results
        What the function returned, in the order of the partitions. **It is consumed**: an entry is
        set to None as soon as its rows are copied, so that memory holds the result and little more.
    of_frame
        Whether the job's data was a DataFrame or Series.
    how
        "auto" as above; "list" is always the list; "concat" raises where "auto" gives a list.

    Returns
    -------
    DataFrame, Series or list
        For a function that works row by row, what pandas gives for the whole frame. Its arrays are
        its own and writable, except where there was one result only: that is returned as it is.

    Raises
    ------
    GatherError
        ``how="concat"``, and the results can't be concatenated.
    ConfigError
        ``how`` is unknown.

    Examples
    --------
    >>> gather([{"rows": 2}, {"rows": 3}], of_frame=True)
       rows
    0     2
    1     3

    """
    check_how(how)
    if how == "list":
        return results
    present = [number for number, result in enumerate(results) if result is not None]
    kinds = {number: _kind(results[number], of_frame=of_frame) for number in present}
    numbers = _with_rows(results, present)
    kind = kinds[numbers[0]] if numbers else "other"
    odd = next((number for number in numbers if kind == "other" or kinds[number] != kind), None)
    if odd is not None or not numbers:
        if how == "concat":
            raise GatherError(_misfit(results, numbers[0] if numbers else None, odd))
        return results
    if kind in ("frame", "series"):
        return _concat(results, numbers, how)
    import pandas as pd  # noqa: PLC0415 -- loaded already: the data was a frame

    values = [results[number] for number in numbers]
    results[:] = [None] * len(results)
    return pd.DataFrame(values) if kind == "row" else pd.Series(values)


def _kind(result: Any, *, of_frame: bool) -> str:
    # Where pandas is not loaded no result can be of pandas, and a job over a list must not load it.
    pd = sys.modules.get("pandas")
    if pd is not None:
        if isinstance(result, pd.DataFrame):
            return "frame"
        if isinstance(result, pd.Series):
            return "series"
        if of_frame and isinstance(result, dict):
            return "row"
        if of_frame and pd.api.types.is_scalar(result):
            return "value"
    return "other"


def _with_rows(results: list[Any], present: list[int]) -> list[int]:
    """Leave out frames without rows, unless all are: their type and dtypes say nothing.

    (``apply(axis=1)`` of an empty frame gives a DataFrame where it else gives a Series, and a column
    computed from no rows is of dtype object.) Of frames that all are without rows, the first stays.
    """
    pd = sys.modules.get("pandas")
    if pd is None:
        return present
    if not all(isinstance(results[number], (pd.DataFrame, pd.Series)) for number in present):
        return present
    return [number for number in present if len(results[number])] or present[:1]


def _concat(results: list[Any], numbers: list[int], how: str) -> Any:
    from nbmr.frames.concat import UnjoinableError, concat  # noqa: PLC0415 -- it imports pandas

    if len(numbers) == 1 and (len(results) == 1 or len(results[numbers[0]]) == 0):
        joined = results[numbers[0]]
        results[:] = [None] * len(results)
        return joined
    try:
        return concat(results, numbers)
    except UnjoinableError as error:
        if how == "concat":
            raise GatherError(f"gather='concat': pandas can't concatenate the results: {error}") from error
        return results


def _misfit(results: list[Any], first: int | None, odd: int | None) -> str:
    if first is None or odd is None:
        return (
            "gather='concat': there is nothing to concatenate, since every partition gave None; "
            "return a DataFrame or Series, or pass gather='auto'"
        )
    found = f"gather='concat': partition {odd} gave {_type_name(results[odd])}"
    if odd == first:
        return f"{found}, which can't be concatenated; return a DataFrame or Series, or pass gather='auto'"
    return (
        f"{found}, but partition {first} gave {_type_name(results[first])}; "
        "return the same kind from every partition, or pass gather='auto'"
    )


def _type_name(value: object) -> str:
    kind = type(value)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return f"a value of type {module}{kind.__qualname__}"
