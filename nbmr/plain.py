"""Which values are plain data: they can be compared, copied and set again without surprise."""

from __future__ import annotations

from typing import Any

_SCALARS = frozenset({type(None), bool, int, float, complex, str, bytes})
_CONTAINERS = frozenset({tuple, list, set, frozenset, dict})
_OBJECTS = {
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "uuid": {"UUID"},
    "numpy": {
        "ndarray",
        "bool",
        "bool_",
        "int64",
        "int32",
        "float64",
        "float32",
        "datetime64",
        "timedelta64",
    },
    "pandas": {"DataFrame", "Series", "Index", "RangeIndex", "DatetimeIndex", "MultiIndex", "Timestamp"},
}


def is_plain(value: Any, *, most: int = 10_000) -> bool:
    """Whether a value is plain data, with at most ``most`` elements in its containers.

    Numbers, text, bytes and None, dates and times, arrays and frames, and lists, tuples, sets and dicts of
    these. Instances of other classes are not: making a second one loses identity (a sentinel), or has
    effects (a connection).

    Examples
    --------
    >>> is_plain({"limits": [1, 2.5, None]}), is_plain(object())
    (True, False)
    """
    waiting, seen = [value], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        kind = type(value)
        if seen > most:
            return False
        if kind in _SCALARS:
            continue
        if kind in _CONTAINERS:
            if len(value) > most:
                return False
            waiting.extend(value)
            if kind is dict:
                waiting.extend(value.values())
        elif not _is_plain_object(value):
            return False
    return True


def _is_plain_object(value: Any) -> bool:
    kind = type(value)
    module = kind.__module__.partition(".")[0]
    if kind.__name__ not in _OBJECTS.get(module, ()):
        return False
    dtypes: Any = getattr(value, "dtypes", getattr(value, "dtype", None))
    every = dtypes.to_numpy() if hasattr(dtypes, "to_numpy") else [dtypes]
    return all(getattr(dtype, "kind", "") != "O" or str(dtype) != "object" for dtype in every)
