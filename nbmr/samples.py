"""Samples: a few rows of each partition, by which rows of some get the types that they have among all rows.

`pandas.concat` is asked for these: what it does is too much to be told again. With pandas 2, it can make one
kind of missing value of another (None, NaN, NaT) in a column of objects, where all of a bucket's are missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

#: Whether `pandas.concat` leaves out the types of parts that have no value.
_LEAVES_OUT = int(pd.__version__.split(".")[0]) < 3  # noqa: PLR2004 - a version


def sample_of(frame: Any) -> Any:
    """Return a few rows of a partition: in the types of a concatenation, they have the same say as all of it.

    Besides types, these depend on whether there are rows; on whether a column of categories lacks some; and
    with pandas 2, on whether a column has any.
    """
    rows = [0] if len(frame) else []
    if rows:
        for number, missing in enumerate(frame.iloc[:1].isna().to_numpy()[0].tolist()):
            column = frame.iloc[:, number]
            if (missing and _LEAVES_OUT) or isinstance(column.dtype, pd.CategoricalDtype):
                other = column.isna().to_numpy() != missing
                rows.append(int(other.argmax()))  # the first row, if there is no other
    return frame.take(np.unique(np.array(rows, dtype=np.intp)))


def alike(one: Any, other: Any) -> bool:
    """Return whether two frames have the same columns and types, their indexes' included."""
    return (
        one.columns.equals(other.columns)
        and list(one.dtypes) == list(other.dtypes)
        and list(one.index.names) == list(other.index.names)
        and _level_types(one.index) == _level_types(other.index)
    )


def _level_types(index: Any) -> list[Any]:
    return index.dtypes.tolist() if isinstance(index, pd.MultiIndex) else [index.dtype]


def among(samples: Sequence[Any], pieces: Iterable[tuple[int | None, Any]]) -> Any:
    """Concatenate rows, with the types that they have among the rows of all partitions.

    Parameters
    ----------
    samples
        A few rows of each partition: see `sample_of`.
    pieces
        Rows, each with the number of the partition that they are some of; None if they are all of one, or are
        not of one.
    """
    together = list(samples)
    wanted = [np.zeros(len(sample), bool) for sample in samples]
    for place, frame in pieces:
        # or else rows that lack all values would be left out by themselves
        head = samples[place] if place is not None and _LEAVES_OUT else frame.iloc[:0]
        together.append(pd.concat([head, frame]) if len(head) else frame)
        wanted.append(np.arange(len(head) + len(frame)) >= len(head))
    return pd.concat(together).take(np.flatnonzero(np.concatenate(wanted)))
