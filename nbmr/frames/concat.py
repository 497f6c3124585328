"""Concatenating DataFrames or Series in order, within the memory of the result and one partition."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import warnings
from collections.abc import Callable
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from nbmr.frames.destination import Destination, destination, detached_index, drifted, is_object, same_dtype
from nbmr.frames.index import common_names, labels
from nbmr.frames.library import UnjoinableError

#: So many bytes of partitions may be held by columns that keep pieces, or by malloc after their end.
_HELD_BYTES = 32 << 20


def concat(results: list[Any], numbers: list[int]) -> Any:
    """Concatenate those results that have the given numbers, all of them frames or all series.

    Parameters
    ----------
    results
        The results of all partitions, in order. Consumed: each entry is set to None as soon as its
        rows are copied.
    numbers
        Which of them to concatenate: those that have rows.

    Raises
    ------
    UnjoinableError
        pandas refuses; nothing was consumed then.

    """
    wanted = set(numbers)
    empty = [part.index for number, part in enumerate(results) if part is not None and number not in wanted]
    plan = _Plan([results[number] for number in numbers], empty)
    if not plan.alike:
        joined = _by_pandas([results[number] for number in numbers])
        results[:] = [None] * len(results)
        return joined
    held = 0
    for number in numbers:
        part = results[number]
        results[number] = None
        held += plan.put(part)
        del part  # else it would live until the next one is there
        if held >= _HELD_BYTES:
            held = 0
            plan.flush()
            _trim()
    results[:] = [None] * len(results)
    return plan.finish()


class _Plan:
    """Where the columns of partitions that all have the same columns go to."""

    def __init__(self, parts: list[Any], empty: list[Any]) -> None:
        first = parts[0]
        self.alike = _alike(parts)
        if not self.alike:
            return
        rows = sum(map(len, parts))
        self.is_frame = isinstance(first, pd.DataFrame)
        #: The columns of a frame, or the name of a series.
        self.columns = (
            detached_index(first.columns) if self.is_frame else _common(part.name for part in parts)
        )
        self.attrs = _common_attrs(parts)
        self.allows_duplicate_labels = all(part.flags.allows_duplicate_labels for part in parts)
        self.names = common_names([part.index for part in parts])
        self.index = labels([part.index for part in parts], empty, rows)
        #: First column, the one after the last, and what takes them.
        self.runs: list[tuple[int, int, Destination]] = []
        columns = zip(*[part.dtypes if self.is_frame else [part.dtype] for part in parts], strict=True)
        start = 0
        for _, run in groupby(_with_run(columns), key=lambda item: item[0]):
            dtypes = [dtypes for _, dtypes in run]
            stop = start + len(dtypes)
            self.runs.append((start, stop, destination(dtypes[0], rows, stop - start)))
            start = stop
        self.row = 0

    def put(self, part: Any) -> int:
        """Take the next partition's rows, and give the number of their bytes."""
        size = self.index.put(part.index, self.row)
        for start, stop, target in self.runs:
            if not self.is_frame:
                size += target.put(part, self.row)
            elif stop - start == 1:
                size += target.put(part.iloc[:, start], self.row)
            else:
                size += target.put(part.iloc[:, start:stop], self.row)
        self.row += len(part)
        return size

    def flush(self) -> None:
        self.index.flush()
        for _, _, target in self.runs:
            target.flush()

    def finish(self) -> Any:
        index = self.index.finish()
        index.names = self.names
        if self.is_frame:
            joined = self._frame(index)
        else:
            joined = _series(self.runs[0][2].finish(), index)
            joined.name = self.columns
        joined.attrs = self.attrs
        if not self.allows_duplicate_labels:
            with contextlib.suppress(pd.errors.DuplicateLabelError):
                joined.flags.allows_duplicate_labels = False
        return joined

    def _frame(self, index: Any) -> Any:
        blocks = []
        while self.runs:
            values = self.runs.pop(0)[2].finish()
            if isinstance(values, np.ndarray) and values.ndim > 1:
                blocks.append(pd.DataFrame(values.T, index=index, dtype=values.dtype, copy=False))
            else:
                blocks.append(_series(values, index).to_frame())
        if not blocks:
            return pd.DataFrame(index=index, columns=self.columns)
        # pandas 3 doesn't copy here, and warns if told so.
        options: Any = {} if int(pd.__version__.split(".")[0]) > 2 else {"copy": False}  # noqa: PLR2004
        joined = blocks[0] if len(blocks) == 1 else pd.concat(blocks, axis=1, **options)
        joined.columns = self.columns
        return joined


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # not glibc
        return None
    return trim


def _trim() -> None:
    """Have glibc give freed memory back to the system.

    It keeps what is freed below something that is still in use. Partitions of some MiB lie there one
    after the other, and they are freed from the lowest: without this, all of them would stay.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def _series(values: Any, index: Any) -> Any:
    if isinstance(values, np.ndarray):
        return pd.Series(values, index=index, dtype=values.dtype, copy=False)
    values.index = index
    return values


def _with_run(columns: Any) -> Any:
    """Give each column the number of its run: neighbours of one numpy dtype share a destination."""
    run, before = 0, None
    for dtypes in columns:
        one = isinstance(dtypes[0], np.dtype) and all(same_dtype(dtypes[0], dtype) for dtype in dtypes)
        if not (one and before is not None and same_dtype(before, dtypes[0])):
            run += 1
        before = dtypes[0] if one else None
        yield run, list(dtypes)


def _alike(parts: list[Any]) -> bool:
    """Say whether parts are of pandas' own type and have the same columns and as many index levels."""
    first = parts[0]
    kind: Any = pd.DataFrame if isinstance(first, pd.DataFrame) else pd.Series
    return all(
        type(part) is kind
        and part.index.nlevels == first.index.nlevels
        and isinstance(part.index, pd.MultiIndex) == isinstance(first.index, pd.MultiIndex)
        and (kind is pd.Series or part.columns.identical(first.columns))
        for part in parts
    )


def _by_pandas(parts: list[Any]) -> Any:
    """Let pandas concatenate parts that differ in their columns, or are of the user's own type."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about rules of pandas that change: the user wrote no concat
            joined = pd.concat(parts)
    except (ValueError, TypeError, pd.errors.InvalidIndexError) as error:
        raise UnjoinableError(str(error)) from error
    if isinstance(joined, pd.DataFrame):
        for number, name in enumerate(joined.columns):
            here = joined.iloc[:, number]
            if is_object(here.dtype) and joined.columns.is_unique:
                dtypes = [part[name].dtype for part in parts if name in part.columns]
                if drifted(here.dtype, dtypes):
                    inferred: Any = here.infer_objects()
                    joined.isetitem(number, inferred)
    elif drifted(joined.dtype, [part.dtype for part in parts]):
        joined = joined.infer_objects()
    return joined


def _common(values: Any) -> Any:
    first, *others = values
    return first if all(other == first for other in others) else None


def _common_attrs(parts: list[Any]) -> dict[Any, Any]:
    first: dict[Any, Any] = parts[0].attrs
    try:
        same = bool(first) and all(part.attrs == first for part in parts)
    except ValueError:  # arrays among them can't be compared
        same = False
    return copy.deepcopy(first) if same else {}
