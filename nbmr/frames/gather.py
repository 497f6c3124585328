"""Gathering: the rules by which the results of a job's partitions become one object."""

from __future__ import annotations

from typing import Any

from nbmr.errors import ConfigError, GatherError
from nbmr.frames import dispatch
from nbmr.frames.dispatch import FRAMES
from nbmr.frames.library import Library, UnjoinableError

#: The values that ``gather`` takes.
HOW = ("auto", "list", "concat")
#: The kind of what can't be joined.
_OTHER = ("", "")


def check_how(how: str) -> None:
    """Refuse an unknown value of ``gather``, before any work is done.

    Raises
    ------
    ConfigError
        ``how`` is none of "auto", "list" and "concat".

    """
    if how not in HOW:
        raise ConfigError(f"gather={how!r}: pass one of {', '.join(map(repr, HOW))}")


def gather(results: list[Any], *, of_frame: bool, how: str = "auto", library: str = "pandas") -> Any:
    """Make one object of the results of all partitions.

    DataFrames, Series, and tables are concatenated in order, by their own library. From a frame, one dict a
    partition makes one row each, and one scalar a partition makes a Series, of the library of that frame.
    Anything else is a list in order. ``None`` results are dropped, unless it ends as a list. Results without
    rows don't influence dtypes.

    Parameters
    ----------
    results
        What the function returned, in the order of the partitions. **It is consumed**: an entry is
        set to None as soon as its rows are copied, so that memory holds the result and little more.
    of_frame
        Whether the job's data was a frame.
    how
        "auto" as above; "list" is always the list; "concat" raises where "auto" gives a list.
    library
        Whose frame it was.

    Returns
    -------
    DataFrame, Series, table or list
        For a function that works row by row, what it gives for the whole frame. The arrays of pandas' are
        their own and writable, except where there was one result only: that is returned as it is.

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
    home = dispatch.library(library) if of_frame else None
    present = [number for number, result in enumerate(results) if result is not None]
    kinds = {number: _kind(results[number], home) for number in present}
    numbers = _with_rows(results, present)
    kind = kinds[numbers[0]] if numbers else _OTHER
    odd = next((number for number in numbers if kind == _OTHER or kinds[number] != kind), None)
    if odd is not None or not numbers:
        if how == "concat":
            raise GatherError(_misfit(results, numbers[0] if numbers else None, odd))
        return results
    try:
        return _joined(results, numbers, kind, home)
    except UnjoinableError as error:
        if how == "concat":
            raise GatherError(f"gather='concat': {kind[0]} can't concatenate the results: {error}") from error
        return results


def _kind(result: Any, home: Library | None) -> tuple[str, str]:
    """Return the library that can join a result with others of its kind, and which kind that is."""
    name, kind = dispatch.kind_of(result)
    if kind in FRAMES or kind == "lazy":
        return name, kind
    if home is None:
        return _OTHER
    if kind == "array":
        return (name, kind) if name == home.name else _OTHER
    if isinstance(result, dict):
        return home.name, "row"
    return (home.name, "value") if home.is_value(result) else _OTHER


def _with_rows(results: list[Any], present: list[int]) -> list[int]:
    """Leave out frames without rows, unless all are: their type and dtypes say nothing.

    (``apply(axis=1)`` of an empty frame gives a DataFrame where it else gives a Series, and a column
    computed from no rows is of dtype object.) Of frames that all are without rows, the first stays.
    """
    if not all(dispatch.is_frame(results[number]) for number in present):
        return present
    return [number for number in present if len(results[number])] or present[:1]


def _joined(results: list[Any], numbers: list[int], kind: tuple[str, str], home: Library | None) -> Any:
    library = dispatch.library(kind[0])
    if kind[1] in ("row", "value"):
        values = [results[number] for number in numbers]
        joined = library.of_rows(values) if kind[1] == "row" else library.of_values(values)
    elif len(results) == 1 or (len(numbers) == 1 and kind[1] in FRAMES and not len(results[numbers[0]])):
        joined = results[numbers[0]]
    elif home is not None and home.name != library.name == "pandas":
        # Each partition's rows were numbered anew, where pandas' own partitions keep their labels.
        fresh = all(_is_numbered(results[number].index) for number in numbers)
        joined = library.concat(results, numbers)
        if fresh:
            joined = joined.reset_index(drop=True)
    else:
        return library.concat(results, numbers)
    results[:] = [None] * len(results)
    return joined


def _is_numbered(index: Any) -> bool:
    """Whether a pandas index has no labels of its own: rows from 0 on."""
    import pandas as pd  # noqa: PLC0415 -- loaded already: it is of pandas

    return isinstance(index, pd.RangeIndex) and index.equals(pd.RangeIndex(len(index))) and index.name is None


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
