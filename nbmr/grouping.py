"""The groups of a frame as pandas forms them: codes, names, and how rows are split for workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from nbmr.buckets import key_text

#: Tasks that rows are cut into, at most; and how many of the smallest tasks all groups would make.
MOST_TASKS = 64
#: Bytes of rows that a task of many groups should not exceed.
TASK_BYTES = 16 << 20
#: Fewest tasks that rows are cut into, and rows that a task should have.
FEWEST_TASKS, TASK_ROWS = 4, 1_000_000
#: Whether this is pandas 3, which hands the grouping columns to `apply` no longer.
PANDAS_3 = int(pd.__version__.split(".")[0]) >= 3  # noqa: PLR2004 - a version


@dataclass(frozen=True)
class Groups:
    """Whole groups, for one task, in pandas' order.

    ``data`` has their rows group by group, each group's in the order of the input.
    """

    #: Number of the first group.
    first: int
    #: How many rows each has; 0 for a category that is not observed.
    sizes: Any
    #: The rows: a DataFrame or a Series.
    data: Any
    #: The keys of the groups.
    names: list[Any]
    #: Roughly how many bytes the rows take, for who puts items into tasks.
    nbytes: int
    #: Whether the first group of all stands before them, as a sample.
    led: bool = False

    @property
    def codes(self) -> Any:
        """The number of each row's group among these."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)

    def __iter__(self) -> Iterator[Any]:
        """Yield each group's rows."""
        for start, stop in pairwise([0, *np.cumsum(self.sizes).tolist()]):
            yield self.data.iloc[start:stop]


class Grouping:
    """What pandas' groupby made of the keys.

    Parameters
    ----------
    by
        A groupby of pandas, in which the keys are evaluated.
    """

    def __init__(self, by: Any) -> None:
        grouper = by._grouper  # noqa: SLF001 - pandas shows codes that fit its results nowhere else
        #: Whether groups are bins of a sorted axis, as of ``pd.Grouper(freq=…)``, whose rows pandas reorders.
        self.binned = hasattr(grouper, "bins") or any(
            isinstance(key, pd.Grouper) and getattr(key, "freq", None) is not None for key in _listed(by.keys)
        )
        self._grouper = grouper

    @cached_property
    def codes(self) -> Any:
        """The number of each row's group, -1 where its key is dropped."""
        return self._grouper.ids if hasattr(self._grouper, "ids") else self._grouper.group_info[0]

    @cached_property
    def count(self) -> int:
        """How many groups there are, with those that are not observed where pandas shows them."""
        return int(self._grouper.ngroups)

    @cached_property
    def keys(self) -> int:
        """How many keys a group has."""
        return len(self._grouper.groupings)

    @property
    def categorical(self) -> bool:
        """Whether a key is categorical."""
        dtypes = [getattr(key.grouping_vector, "dtype", None) for key in self._grouper.groupings]
        return any(isinstance(dtype, pd.CategoricalDtype) for dtype in dtypes)

    @cached_property
    def complete(self) -> bool:
        """Whether every row belongs to a group."""
        return not len(self.codes) or bool(self.codes.min() >= 0)

    @cached_property
    def sizes(self) -> Any:
        """How many rows each group has."""
        codes = self.codes if self.complete else self.codes[self.codes >= 0]
        return np.bincount(codes, minlength=self.count)

    @cached_property
    def order(self) -> Any:
        """The rows that belong to groups, group by group, each group's in the order of the input."""
        rows = np.argsort(small(self.codes, self.count), kind="stable")
        return rows[len(self.codes) - int(self.sizes.sum()) :]

    @property
    def names(self) -> Any:
        """The keys of the groups, as pandas hands them to functions."""
        return self._grouper.result_index if PANDAS_3 else self._grouper.group_keys_seq

    def split(
        self, data: Any, partitions: int | None = None, slots: int = 1, *, led: bool = False
    ) -> list[Groups]:
        """Deal whole groups out to tasks, by rows and by numbers of groups.

        Parameters
        ----------
        data
            A DataFrame or Series with the rows that were grouped.
        partitions
            How many tasks at most, all of about the same size; None to choose: then they become smaller.
        slots
            How many tasks the workers run at the same time.
        led
            Whether each later task gets the first group of all, too, before its own.
        """
        sizes = self.sizes
        if not len(sizes):
            return []
        weights = np.cumsum(self._weights(sizes))
        nbytes = _nbytes(data) / max(len(data), 1)
        if partitions:
            count = min(partitions, len(sizes))
            shares = np.arange(1, count) / count
        else:
            shares = np.array(_shrinking(slots, TASK_BYTES / max(nbytes * sizes.sum(), 1)))
        cuts = np.searchsorted(weights, weights[-1] * shares, side="left") + 1
        edges = np.unique([0, *np.minimum(cuts, len(sizes)), len(sizes)]).tolist()
        if led and len(sizes) > 1 and 1 in edges:
            edges.remove(1)  # pandas chooses otherwise where there is one group only
        ends = np.concatenate([[0], np.cumsum(sizes)])
        names = list(self.names)
        tasks = []
        for first, last in pairwise(edges):
            rows, chosen = self.order[ends[first] : ends[last]], list(range(first, last))
            if led and first:
                rows, chosen = np.concatenate([self.order[: ends[1]], rows]), [0, *chosen]
            part = data.take(rows)
            tasks.append(
                Groups(
                    first, sizes[chosen], part, [names[number] for number in chosen],
                    int(nbytes * len(rows)), led=led and first > 0,
                )
            )  # fmt: skip
        return tasks

    def shares(self, tasks: list[Groups]) -> list[float]:
        """Say how much of the work each task is."""
        return [float(self._weights(task.sizes).sum()) for task in tasks]

    def _weights(self, sizes: Any) -> Any:
        """Weigh groups of these sizes: a group costs something by itself, and its rows cost something."""
        return sizes / max(self.sizes.sum(), 1) + 1 / len(self.sizes)

    def dealt(self, tasks: list[Any]) -> dict[str, Any]:
        """Say how many rows and bytes tasks have, and which group has very many: see `nbmr.stages`."""
        if not tasks or not all(isinstance(task, Groups) for task in tasks):
            return {}
        rows, largest = int(self.sizes.sum()), int(self.sizes.argmax())
        least = rows * min(2 / len(tasks), 0.5)
        large = {key_text(list(self.names)[largest]): int(self.sizes[largest])}
        return {
            "rows": rows,
            "bytes": sum(task.nbytes for task in tasks),
            "buckets": len(tasks),
            "keys": large if self.sizes[largest] > max(least, rows / 8) else {},
        }

    def sample(self, whole: Any, selection: Any = ...) -> Any:
        """Return a groupby of the same keys and options over one row of each group, or None.

        It has the labels, the index and the categories that results over all rows have.

        Parameters
        ----------
        whole
            The groupby without a selection of columns.
        selection
            The columns that were selected; ``...`` if none were.

        Returns
        -------
        DataFrameGroupBy, SeriesGroupBy or None
            None where keys can't be taken apart from their rows.
        """
        if type(whole.obj) not in (pd.DataFrame, pd.Series):
            return None  # a subclass has its own ideas of what becomes of it
        firsts = np.full(self.count + 1, -1)  # the last is for rows of no group
        firsts[self.codes[::-1]] = np.arange(len(self.codes))[::-1]  # the first row is written last
        firsts = np.sort(firsts[:-1][self.sizes > 0])
        rows = whole.obj.take(firsts)
        by: list[Any] = []
        for key in self._grouper.groupings:
            kept = {name: getattr(key, f"_{name}", None) for name in ("sort", "observed", "dropna")}
            if any(kept[name] not in (None, getattr(whole, name)) for name in kept):
                return None  # a pd.Grouper with options of its own
            if key.in_axis and key.name is not None and not isinstance(whole.obj, pd.Series):
                if not _is_its_column(key, whole.obj):
                    return None
                by.append(key.name)
                continue
            values = key.grouping_vector
            if isinstance(getattr(values, "dtype", None), pd.CategoricalDtype):
                return None  # pandas has recoded it
            by.append(pd.Series(pd.Index(values).take(firsts), index=rows.index, name=key.name))
        try:
            made = rows.groupby(
                by, sort=whole.sort, dropna=whole.dropna, observed=whole.observed, as_index=whole.as_index,
                group_keys=whole.group_keys,
            )  # fmt: skip
        except (KeyError, ValueError, TypeError):
            return None
        return made if selection is ... else made[selection]


def _is_its_column(key: Any, data: Any) -> bool:
    """Whether a key that pandas takes for a column has its type: one that was made of it may have another."""
    values = key.grouping_vector
    dtype = getattr(values, "dtype", None)
    if isinstance(dtype, pd.CategoricalDtype):  # whose unused categories may have been left out
        column = data[key.name].dtype
        return isinstance(column, pd.CategoricalDtype) and set(dtype.categories) <= set(column.categories)
    return bool(dtype == data[key.name].dtype)


def small(codes: Any, count: int) -> Any:
    """Return codes in the smallest type that holds them."""
    for kind in (np.int8, np.int16, np.int32):
        if count <= np.iinfo(kind).max:
            return codes.astype(kind)
    return codes


def row_cuts(rows: int, partitions: int | None) -> list[int]:
    """Return where rows are cut into tasks; it depends on their number alone, and not on workers."""
    chosen = min(max(-(-rows // TASK_ROWS), FEWEST_TASKS), MOST_TASKS)
    count = max(min(partitions or chosen, rows), 1)
    return [rows * number // count for number in range(count + 1)]


def _shrinking(slots: int, most: float) -> list[float]:
    """Return where all of something, 1.0, is cut into tasks, large ones first: guided self-scheduling.

    Each task costs some milliseconds, and the last ones decide how evenly the workers end
    (Polychronopoulos & Kuck, 1987).

    Parameters
    ----------
    slots
        How many tasks run at the same time.
    most
        How large a task may be; the smallest ones may be larger.
    """
    fewest = max(slots, 2)
    least = 1 / max(MOST_TASKS, 4 * fewest)
    cuts, left = list[float](), 1.0
    while left > 1.5 * least:
        left -= max(least, min(left / (4 * fewest), most))
        cuts.append(1.0 - left)
    return cuts


def _nbytes(data: Any) -> int:
    usage = data.memory_usage(index=True)
    return int(usage if isinstance(data, pd.Series) else usage.sum())


def _listed(keys: Any) -> list[Any]:
    return list(keys) if isinstance(keys, list) else [keys]
