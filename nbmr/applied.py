"""What pandas makes of the results of ``apply``, where that is plain: numbers, and rows of numbers.

pandas gets other results by a call of `apply` on the same data, which makes a Series of each row once more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from nbmr.applying import Packed


def put_together(data: Any, packed: list[Packed]) -> Any:
    """Make of rows' results what pandas does, where that is plain.

    Parameters
    ----------
    data
        The frame whose rows a function was called with.
    packed
        What it returned, in order.

    Returns
    -------
    Series, DataFrame or None
        A Series of numbers or other objects, a frame of rows of numbers; None where only pandas can tell.
    """
    import numpy as np  # noqa: PLC0415 - slow to import
    import pandas as pd  # noqa: PLC0415 - slow to import

    if type(data) is not pd.DataFrame or not packed:
        return None
    first = packed[0]
    if all(one.index is None and _are_numbers(one.results) for one in packed):
        if len({one.results.dtype for one in packed}) == 1:
            return pd.Series(np.concatenate([one.results for one in packed]), index=data.index)
    elif first.index is not None:
        if all(
            one.index is not None
            and one.results.dtype == first.results.dtype
            and one.index.identical(first.index)
            for one in packed
        ):
            rows = np.concatenate([one.results for one in packed])
            return pd.DataFrame(rows, index=data.index, columns=first.index)
        return None
    if first.count and not _is_sequence(first.results[0]):
        return pd.Series(dict(enumerate(unpack(packed)))).set_axis(data.index)
    return None


def _are_numbers(results: Any) -> bool:
    """Whether pandas makes a Series of just these out of them, one by one."""
    return hasattr(results, "dtype") and results.ndim == 1 and results.dtype in ("f8", "i8", "?")


def _is_sequence(value: Any) -> bool:
    """Whether pandas may make a row of it, if it is the first result."""
    try:
        iter(value)
        len(value)
    except (TypeError, AttributeError):
        return False
    return not isinstance(value, str | bytes)


def unpack(packed: list[Packed]) -> Iterator[Any]:
    """Give the results one by one, as the function returned them."""
    return itertools.chain.from_iterable(one.unpack() for one in packed)
