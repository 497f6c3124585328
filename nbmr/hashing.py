"""Which bucket a row belongs to: by a hash of its keys that is the same in every process.

Keys that are equal have to meet, whatever types they have in the partitions that they come from: numbers are
hashed by their value, texts by their characters, dates by their second. Of what has no hash that is sure to
be the same everywhere (objects of other classes), all values share one bucket.
"""

from __future__ import annotations

import datetime as dt
import numbers
import pathlib
import uuid
from typing import Any

import numpy as np
import pandas as pd

#: The key of pandas' hashing of texts: the same everywhere, whatever its default becomes.
_HASH_KEY = "nbmr shuffle key"
#: What missing values, and objects that can't be told apart here, are hashed as.
_MISSING, _OTHER = "nbmr missing", "nbmr other"
#: Objects whose text tells them apart, and is the same for those that are equal.
_TEXTUAL = (dt.date, dt.time, uuid.UUID, pathlib.PurePath, pd.Period)


def bucket_of(keys: Any, count: int) -> Any:
    """Return the bucket of each row: the same for keys that pandas takes for equal, in every process.

    Parameters
    ----------
    keys
        A DataFrame of key columns. Missing values are all alike.
    count
        How many buckets.

    Examples
    --------
    >>> list(bucket_of(pd.DataFrame({"k": [1.0, 2.0]}), 8)) == list(bucket_of(pd.DataFrame({"k": [1, 2]}), 8))
    True
    """
    return (_hash(keys) % np.uint64(count)).astype("int64")


def piece_of(keys: Any, count: int, pieces: int) -> Any:
    """Return the piece of its bucket that each row belongs to, the same for equal keys.

    Parameters
    ----------
    keys, count
        As for `bucket_of`.
    pieces
        How many pieces a bucket has, at most 65,536.
    """
    return (_hash(keys) // np.uint64(count) % np.uint64(pieces)).astype("uint16")


def _hash(keys: Any) -> Any:
    hashed = np.zeros(len(keys), "uint64")
    for number in range(keys.shape[1]):
        column = keys.iloc[:, number]
        missing = column.isna().to_numpy()
        if missing.any():
            found = np.full(len(column), _hash_texts([_MISSING])[0], "uint64")
            found[~missing] = _hashed(column[~missing])
        else:
            found = _hashed(column)
        hashed = hashed * np.uint64(1_000_003) + found
    return hashed


def _hashed(column: Any) -> Any:  # noqa: PLR0911 - a list of cases
    """Hash a column without missing values."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        of_categories = _hashed(pd.Series(column.cat.categories))
        return of_categories[column.cat.codes.to_numpy()]
    if isinstance(dtype, np.dtype):
        if dtype.kind in "biuf":
            return _hash_numbers(column.to_numpy("float64"))
        if dtype.kind == "c":
            return _hash_numbers(column.to_numpy().real.astype("float64"))
        if dtype.kind in "mM":
            return _hash_numbers(_whole_seconds(column.to_numpy()))
    if isinstance(dtype, pd.DatetimeTZDtype):
        return _hash_numbers(_whole_seconds(column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()))
    if isinstance(dtype, pd.StringDtype):
        return _hash_texts(column.astype(object))
    if isinstance(getattr(dtype, "numpy_dtype", None), np.dtype) and getattr(dtype, "kind", "") in "biuf":
        return _hash_numbers(column.to_numpy("float64"))
    return _hash_objects(list(column))


def _whole_seconds(times: Any) -> Any:
    """Return dates' or durations' seconds: the same for equal ones, whatever unit they are stored in."""
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[np.datetime_data(times.dtype)[0]]
    return (times.astype("int64") // per_second).astype("float64")


def _hash_numbers(values: Any) -> Any:
    return pd.util.hash_array(values + 0.0)  # no -0.0


def _hash_texts(values: Any) -> Any:
    return pd.util.hash_array(np.array(values, dtype=object), hash_key=_HASH_KEY)


def _hash_objects(values: list[Any]) -> Any:
    """Hash objects of any type, as columns of one type are hashed."""
    like = [_like(value) for value in values]
    numeric = np.array([isinstance(value, float) for value in like], bool)
    hashed = np.empty(len(like), "uint64")
    hashed[numeric] = _hash_numbers(np.array([v for v in like if isinstance(v, float)], "float64"))
    hashed[~numeric] = _hash_texts([v for v in like if not isinstance(v, float)])
    return hashed


def _like(value: Any) -> float | str:  # noqa: PLR0911 - a list of cases
    """Return a number or a text that is the same for values that are equal."""
    if isinstance(value, str):
        return str.__str__(value)  # of a class of its own, too, as an Enum's
    if isinstance(value, numbers.Number | np.bool_):  # Decimal is one, too
        return _like_number(value)
    if isinstance(value, dt.datetime | np.datetime64):
        stamp = pd.Timestamp(value)
        stamp = stamp.tz_convert("UTC").tz_localize(None) if stamp.tzinfo else stamp
        return float(stamp.timestamp() // 1)
    if isinstance(value, dt.timedelta | np.timedelta64):
        return float(pd.Timedelta(value).total_seconds() // 1)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return _like_tuple(value)
    if isinstance(value, frozenset):
        return " ".join(sorted(str(_like(one)) for one in value))
    if isinstance(value, pd.Interval):
        return _like_tuple((value.left, value.right))
    if isinstance(value, _TEXTUAL):
        return str(value)
    return _OTHER


def _like_number(value: Any) -> float | str:
    try:
        # one that is equal to a number without an imaginary part meets it
        found = float(value.real if isinstance(value, numbers.Complex) else value) + 0.0
    except (TypeError, ValueError, ArithmeticError):  # too large for a float, say
        return _OTHER
    return found if np.isfinite(found) or isinstance(value, float | np.floating) else _OTHER


def _like_tuple(values: tuple[Any, ...]) -> str:
    return f"({', '.join(repr(_MISSING if _is_missing(one) else _like(one)) for one in values)})"


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and value != value)  # noqa: PLR0124 - NaN
