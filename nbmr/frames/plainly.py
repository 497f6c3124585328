"""What the libraries without an index have in common."""

from __future__ import annotations

import datetime as dt
import numbers
from collections.abc import Callable
from itertools import pairwise
from typing import Any

#: So many stretches of a frame are looked at, to estimate the size of its rows.
_STRETCHES = 16
#: What isn't a container. A `decimal.Decimal` is a number, and so is what numpy holds one of.
_VALUES = (numbers.Number, str, bytes, dt.date, dt.time, dt.timedelta)


def heaviest_stretch(data: Any, nbytes: Callable[[Any], int]) -> float:
    """Return how many bytes a row takes where they are largest: ranges have equally many rows."""
    rows = len(data)
    count = min(_STRETCHES, rows)
    edges = [rows * number // count for number in range(count + 1)]
    stretches = pairwise(edges)
    return max(nbytes(data.slice(start, stop - start)) / (stop - start) for start, stop in stretches)


def positions(start: int, rows: int) -> tuple[str, ...]:
    """Return the first and the last of the numbers of so many rows, as text; () without rows."""
    return (str(start), str(start + rows - 1)) if rows else ()


def is_plain_value(result: Any) -> bool:
    """Whether a result is a scalar: a number, a text, a time."""
    return isinstance(result, _VALUES) or (getattr(result, "shape", None) == () and hasattr(result, "dtype"))
