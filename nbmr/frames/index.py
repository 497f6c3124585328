"""Joining the indexes of partitions into the index that the whole frame would have."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

import numpy as np
import pandas as pd

from nbmr.frames.destination import destination, detached_index, union_of


class Labels(Protocol):
    """Takes the indexes of partitions, one after the other."""

    def put(self, index: Any, start: int) -> int:
        """Take a partition's index, whose first label is that of row ``start``; give its bytes."""

    def flush(self) -> None:
        """Let go of all indexes taken so far."""

    def finish(self) -> Any:
        """Give the whole index, without names."""


def labels(indexes: list[Any], empty: list[Any], rows: int) -> Labels:
    """Choose how to join these indexes; ``empty`` are those of partitions that have no rows."""
    if isinstance(indexes[0], pd.MultiIndex):
        return _Levels()
    if all(isinstance(index, pd.RangeIndex) for index in indexes) and not any(
        # Before pandas 3, a mask makes integers of a range, except where it drops nothing.
        index.dtype == "int64" and not isinstance(index, pd.RangeIndex)
        for index in empty
    ):
        return _Ranges()
    return _Flat([index.dtype for index in indexes], rows)


def common_names(indexes: list[Any]) -> list[Any]:
    """Give the names of the joined index: at each level the common one, or None."""
    names = [list(index.names) for index in indexes]
    return [same[0] if all(name == same[0] for name in same) else None for same in zip(*names, strict=True)]


class _Ranges:
    """RangeIndexes: still one if they are consecutive."""

    def __init__(self) -> None:
        self.ranges: list[Any] = []

    def put(self, index: Any, start: int) -> int:  # noqa: ARG002 -- the order is enough here
        self.ranges.append(index)
        return 0

    def flush(self) -> None:
        """Ranges hold no data."""

    def finish(self) -> Any:
        return self.ranges[0].append(self.ranges[1:])


class _Flat:
    """Any index of one level: a column, which may also have a frequency."""

    def __init__(self, dtypes: list[Any], rows: int) -> None:
        self.column = destination(dtypes, rows)
        self.freqs: list[Any] = []
        self.lengths: list[int] = []

    def put(self, index: Any, start: int) -> int:
        self.freqs.append(getattr(index, "freq", None))
        self.lengths.append(len(index))
        return self.column.put(pd.Series(index, dtype=index.dtype), start)

    def flush(self) -> None:
        self.column.flush()

    def finish(self) -> Any:
        values = self.column.finish()
        index = pd.Index(values, dtype=values.dtype, copy=False, tupleize_cols=False)
        if isinstance(index, pd.DatetimeIndex | pd.TimedeltaIndex):
            self._set_freq(index)
        return index

    def _set_freq(self, index: Any) -> None:
        """Set the frequency that the partitions have, if the rows go on from one to the next."""
        if None in self.freqs:
            return
        # A slice of one row doesn't tell the frequency of the rows around it.
        freqs = [freq for freq, length in zip(self.freqs, self.lengths, strict=True) if length > 1]
        freq = (freqs or self.freqs)[0]
        if any(other != freq for other in freqs):
            return
        with contextlib.suppress(ValueError):  # raised where rows are missing in between
            index.freq = freq


class _Levels:
    """MultiIndexes: the codes of each level are joined, and its values united where they differ."""

    def __init__(self) -> None:
        #: For each level, the distinct values that partitions have of it.
        self.levels: list[list[Any]] = []
        #: For each level and partition, which of these it is, and the codes.
        self.codes: list[list[tuple[int, Any]]] = []

    def put(self, index: Any, start: int) -> int:  # noqa: ARG002 -- the order is enough here
        if not self.levels:
            self.levels = [[] for _ in index.levels]
            self.codes = [[] for _ in index.levels]
        for level, codes, known, joined in zip(
            index.levels, index.codes, self.levels, self.codes, strict=True
        ):
            if not (known and known[-1].identical(level)):
                known.append(detached_index(level))
            joined.append((len(known) - 1, np.array(codes)))
        return sum(codes.nbytes for codes in index.codes)

    def flush(self) -> None:
        """Everything is copied at once."""

    def finish(self) -> Any:
        levels: Any = []
        codes: Any = []
        for known in self.levels:
            level = known[0] if len(known) == 1 else union_of(known)
            # The last entry stands for what is missing, whose code is -1.
            maps = [np.append(level.get_indexer(values), -1) for values in known] if len(known) > 1 else []
            pieces = self.codes.pop(0)
            joined = np.concatenate([maps[which][piece] if maps else piece for which, piece in pieces])
            levels.append(level)
            codes.append(joined)
        return pd.MultiIndex(levels=levels, codes=codes, verify_integrity=False)
