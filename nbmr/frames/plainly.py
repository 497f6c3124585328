"""What the libraries without an index have in common."""

from __future__ import annotations

import datetime as dt
import numbers
from itertools import pairwise
from typing import Any

#: So many stretches of a frame are looked at, to estimate the size of its rows.
_STRETCHES = 16
#: What isn't a container. A `decimal.Decimal` is a number, and so is what numpy holds one of.
_VALUES = (numbers.Number, str, bytes, dt.date, dt.time, dt.timedelta)


class WithoutIndex:
    """What libraries know of their frames in the same way: a row's label is its number."""

    def nbytes(self, data: Any) -> int:
        """As each library has it, see `nbmr.frames.library`."""
        raise NotImplementedError

    def labels(self, part: Any, start: int) -> tuple[str, ...]:
        """Return the first and the last number of a partition's rows, as text; () without rows."""
        return (str(start), str(start + len(part) - 1)) if len(part) else ()

    def row_bytes(self, data: Any) -> float:
        """Return how many bytes a row takes where they are largest: ranges have equally many rows."""
        rows = len(data)
        count = min(_STRETCHES, rows)
        edges = [rows * number // count for number in range(count + 1)]
        return max(
            self.nbytes(data.slice(start, stop - start)) / (stop - start) for start, stop in pairwise(edges)
        )


def is_plain_value(result: Any) -> bool:
    """Whether a result is a scalar: a number, a text, a time."""
    return isinstance(result, _VALUES) or (getattr(result, "shape", None) == () and hasattr(result, "dtype"))
