"""What workers do for a groupby whose rows never come to the kernel: those of a job's results, or of files.

Aggregations that can be put together from parts are computed for each partition (`Parts`). Otherwise rows
are sorted into buckets by their keys (`ToBuckets`), and each bucket has whole groups (`OfBucket`). What only
pandas can tell of all rows together is for one task (`Together`).

Of each group, its first row goes to the kernel, with its place in the input. So the kernel can have pandas
form the same groups, in the same order, with the same labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from nbmr import buckets, groupcalls, partials, spec, unit
from nbmr.folding import Later
from nbmr.grouping import Grouping


@dataclass(frozen=True)
class Grouped:
    """How rows are grouped, as the user has said it.

    Parameters
    ----------
    by
        Labels of columns, or one; or what else pandas takes, for `Together`.
    options
        pandas' own, as ``sort``.
    selection
        The columns that are selected; ``...`` if none are.
    """

    by: Any
    options: dict[str, Any]
    selection: Any = ...

    @property
    def labels(self) -> list[Any]:
        """The labels of the key columns."""
        return list(self.by) if isinstance(self.by, list) else [self.by]

    def whole(self, frame: Any, **others: Any) -> Any:
        """Group a frame."""
        return frame.groupby(self.by, **(self.options | others))

    def selected(self, whole: Any) -> Any:
        """Select the columns, as the user has."""
        return whole if self.selection is ... else whole[self.selection]

    def checked(self, part: Any) -> Any:
        """Return a partition, if it can be grouped by its columns; raise what is wrong otherwise."""
        if not isinstance(part, pd.DataFrame):
            raise TypeError(
                f"nbmr.groupby groups DataFrames by their columns, and number {unit.number()} of the data is"
                f" a {type(part).__name__}."
            )
        for label in self.lacking(part, self.labels):
            if label in part.index.names:
                raise ValueError(
                    f"{label!r} is a level of the index. Over a job or files, rows are grouped by columns:"
                    " make it one by reset_index() in the job."
                )
        return part

    def lacking(self, part: Any, labels: list[Any] | None = None) -> list[Any]:
        """Return the columns that are asked for, and that a partition lacks: others may have them."""
        if labels is None:
            chosen = self.selection
            labels = [*self.labels, *(chosen if isinstance(chosen, list) else [chosen] * (chosen is not ...))]
        return [label for label in labels if label not in part.columns]


@dataclass
class Table:
    """What a partition's groups, or those of a bucket, come to."""

    #: The first row of each group, in the order of the groups' numbers.
    firsts: Any
    #: Where these stand in the input, by which those of all tables are put in order.
    order: Any
    #: How many rows each group has.
    sizes: Any
    #: One row of the partition, or none: its columns and their types.
    sample: Any = None
    #: What there is to know of the groups; None if they have to be aggregated in another way.
    found: Any = None
    #: Where the rows of each group stand in the input, where all results are indexed as their groups.
    rows: list[Any] = field(default_factory=list)
    #: Whether nothing could be done, since the partition lacks columns.
    lacking: bool = False


def _table(frame: Any, grouping: Grouping, rows: Any = None) -> Table:
    """Begin a table of groups: their first rows."""
    codes = grouping.codes
    firsts = np.full(grouping.count + 1, 0)  # the last is for rows of no group
    firsts[codes[::-1]] = np.arange(len(codes))[::-1]  # the first row is written last
    firsts = firsts[:-1]
    return Table(frame.take(firsts), firsts if rows is None else rows[firsts], grouping.sizes)


# -------------------------------------------------------------------- parts of groups


class Parts:
    """Computes the parts of named aggregations that are combined in the kernel.

    Parameters
    ----------
    how
        How rows are grouped.
    verb, args, kwargs
        The verb of pandas' groupby.
    empty
        The columns and types that the partitions have together, where they differ.
    """

    def __init__(
        self, how: Grouped, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any], empty: Any = None
    ) -> None:
        self.how, self.verb, self.args, self.kwargs, self.empty = how, verb, args, kwargs, empty

    def __call__(self, part: Any) -> Table | None:
        """Aggregate one partition; the values are None if they can't be put together from parts."""
        if part is None:
            return None
        frame = self.how.checked(part)
        sample = frame.iloc[:1]
        if self.empty is not None:
            frame = buckets.typed(frame, self.empty)
        elif self.how.lacking(frame):
            return Table(None, (), (), sample, lacking=True)
        whole = self.how.whole(frame, sort=False, observed=True)
        table = _table(frame, Grouping(whole))
        table.sample = sample
        unit.tell({"mapped": len(frame)})
        rows = _columns(self.how.selected(whole)._obj_with_exclusions)  # noqa: SLF001 - what pandas aggregates
        wants = spec.of_verb(self.verb, self.args, self.kwargs, rows)
        if wants is not None and partials.separable(wants, rows, self.verb, self.args, self.kwargs):
            wants = partials.computed(wants)
            columns = {want.column: _plain(rows.iloc[:, want.column]) for want in wants}
            table.found = {}
            if wants and len(table.sizes):
                codes = Grouping(whole).codes
                table.found = partials.Partial(wants)(partials.Slice(codes, columns))
        return table


def _columns(rows: Any) -> Any:
    return rows.to_frame() if rows.ndim == 1 else rows


def _plain(column: Any) -> Any:
    return pd.Series(column.array, copy=False)


# -------------------------------------------------------------------- whole groups


class ToBuckets:
    """Sorts the rows of a partition into buckets by their keys.

    Parameters
    ----------
    how
        How rows are grouped.
    count
        How many buckets.
    every
        Whether rows whose key is missing are needed, too.
    """

    def __init__(self, how: Grouped, count: int, *, every: bool) -> None:
        self.how, self.count, self.every = how, count, every

    def __call__(self, part: Any) -> Any:
        """Return `Buckets` with numbers of rows."""
        if part is None:
            unit.tell({"mapped": 0, "rows": 0, "bytes": 0, "keys": {}})
            return None
        frame = self.how.checked(part)
        keys = (
            frame.reindex(columns=self.how.labels)
            if self.how.lacking(frame, self.how.labels)
            else frame[self.how.labels]
        )
        kept, numbers = frame, None
        if not self.every:
            there = keys.notna().all(axis=1).to_numpy()
            if not there.all():
                kept, keys, numbers = frame[there], keys[there], np.flatnonzero(there)
        made = buckets.sort_rows(kept, keys, self.count, numbered=True)
        if numbers is not None and made.rows is not None:
            made.rows = [numbers[rows] for rows in made.rows]
        made.sample = frame.iloc[:1]
        unit.tell({"mapped": len(frame)} | buckets.told(made, keys))
        return made


class OfBucket:
    """Does a verb's work on one bucket of all partitions.

    Parameters
    ----------
    how
        How rows are grouped.
    count
        How many buckets there are; the number of the unit that is worked on tells which one.
    work
        Gets the rows and where they stand in the input, and gives a `Table`.
    """

    #: It leaves its data as they are: they need not be copied to be tried again.
    only_reads = True

    def __init__(self, how: Grouped, count: int, work: Callable[[Grouped, Any, Any], Any]) -> None:
        self.how, self.count, self.work = how, count, work

    def __call__(self, parts: list[Any]) -> list[Any]:
        """Return what came of each piece of the bucket."""
        number = unit.number()
        bucket = buckets.Bucket(parts, range(self.count) if number is None else [number])
        unit.tell({"rows": bucket.length, "bytes": bucket.nbytes})
        tables = []
        for frame, rows in bucket.numbered_pieces(self.how.labels, buckets.HELD_BYTES):
            tables.append(self.work(self.how, frame, rows))
            del frame, rows
        unit.tell({"groups": sum(len(table.sizes) for table in tables)})
        return tables


@dataclass(frozen=True)
class Wholes:
    """Aggregates whole groups by name."""

    verb: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, how: Grouped, frame: Any, rows: Any) -> Table:
        """Aggregate; the values are None where that is for pandas alone."""
        whole = how.whole(frame, observed=True)
        grouping = Grouping(whole)
        table = _table(frame, grouping, rows)
        data = _columns(how.selected(whole)._obj_with_exclusions)  # noqa: SLF001 - what pandas aggregates
        wants = spec.of_verb(self.verb, self.args, self.kwargs, data)
        if wants is None or not partials.known(wants, data):
            return table
        computed = partials.computed(wants)
        data = data.iloc[:, sorted({want.column for want in computed})]
        given = partials.given(self.verb, self.args, self.kwargs)
        table.found = (
            [
                value
                for groups in grouping.split(data, 1)
                for value in partials.Whole(computed, *given)(groups)
            ]
            if computed
            else []
        )
        return table


@dataclass(frozen=True)
class Applied:
    """Calls a function once a group, as `apply` does."""

    fn: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: Whether the function gets the key columns, too.
    keys: bool

    def __call__(self, how: Grouped, frame: Any, rows: Any) -> Table:
        """Return what the function gave; and the places of the rows, if that is indexed as its groups."""
        whole = how.whole(frame, observed=True)
        grouping = Grouping(whole)
        table = _table(frame, grouping, rows)
        by = how.selected(whole)
        data = by._selected_obj if self.keys else by._obj_with_exclusions  # noqa: SLF001 - what a function gets
        call = groupcalls.EachGroup(self.fn, self.args, self.kwargs, named=True)
        table.found = [result for groups in grouping.split(data, 1) for result in call(groups)]
        if not whole.group_keys:
            ordered = np.split(grouping.order, np.cumsum(grouping.sizes)[:-1])
            pairs = zip(table.found, ordered, strict=True) if grouping.count else ()
            if all(_indexed_like(value, data.index.take(inside), data) for value, inside in pairs):
                table.rows = [rows[inside] for inside in ordered] if grouping.count else []
        return table


def _indexed_like(value: Any, index: Any, data: Any) -> bool:
    """Whether pandas takes a result for rows in the place of its group's."""
    if isinstance(value, pd.Series):
        return data.ndim == 1 and value.index.equals(index)
    return isinstance(value, pd.DataFrame) and value.index.equals(index)


@dataclass(frozen=True)
class Called:
    """Calls functions as `agg` does."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, how: Grouped, frame: Any, rows: Any) -> Table:
        """Return for each group the calls of each function; the values are None if pandas refused them."""
        whole = how.whole(frame, observed=True)
        grouping = Grouping(whole)
        table = _table(frame, grouping, rows)
        data = how.selected(whole)._obj_with_exclusions  # noqa: SLF001 - what pandas aggregates
        call = groupcalls.Recorded("agg", self.func, self.args, self.kwargs, grouping.keys)
        made = [call(groups) for groups in grouping.split(data, 1)]
        if not made:
            table.found = []
        elif not groupcalls.refused(made[0]):
            table.found = _by_group(made[0], grouping.count)
        return table


def _by_group(calls: list[list[Any]], count: int) -> list[list[list[Any]]]:
    """Return, for each group, its calls of each function; those of a column went from group to group."""
    found: list[list[list[Any]]] = [[[] for _ in calls] for _ in range(count)]
    for number, made in enumerate(calls):
        seen: Counter[Any] = Counter()
        for entry in made:
            found[seen[entry[0]] % count][number].append(entry)
            seen[entry[0]] += 1
    return found


@dataclass(frozen=True)
class Transformed:
    """Transforms the rows of whole groups."""

    fn: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, how: Grouped, frame: Any, rows: Any) -> Table:
        """Return the transformed rows; nothing where there is no group."""
        whole = how.whole(frame)
        table = Table(frame.iloc[:, :0], rows, Grouping(whole).sizes)
        if np.sum(table.sizes):
            table.found = how.selected(whole).transform(self.fn, *self.args, **self.kwargs)
        return table


@dataclass(frozen=True)
class Filtered:
    """Keeps the rows of groups for which a function says so."""

    fn: Any
    dropna: bool
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, how: Grouped, frame: Any, rows: Any) -> Table:
        """Return the rows that stay, and where they stand in the input."""
        whole = how.whole(frame)
        said: list[Any] = []

        def ask(group: Any, *args: Any, **kwargs: Any) -> Any:
            said.append(self.fn(group, *args, **kwargs))
            return said[-1]

        out = how.selected(whole).filter(ask, self.dropna, *self.args, **self.kwargs)
        if self.dropna:
            kept = np.zeros(Grouping(whole).count + 1, bool)  # the last is for rows of no group
            kept[: len(said)] = [_is_true(one) for one in said]
            rows = rows[kept[Grouping(whole).codes]]
        return Table(frame.iloc[:0], rows, (), found=out)


def _is_true(said: Any) -> bool:
    """Whether pandas takes what a function of `filter` said for a yes."""
    said = said.squeeze() if hasattr(said, "squeeze") else said
    return bool(pd.notna(said) and said)


# -------------------------------------------------------------------- all together


class Together:
    """Does what pandas does with all partitions together.

    Parameters
    ----------
    how
        How rows are grouped.
    verb, args, kwargs
        The verb of pandas' groupby.
    read
        Reads each partition, where they are the paths of files; None for others.
    """

    def __init__(
        self,
        how: Grouped,
        verb: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        read: Callable[[str], Any] | None = None,
    ) -> None:
        self.how, self.verb, self.args, self.kwargs, self.read = how, verb, args, kwargs, read

    def __call__(self, parts: list[Any]) -> Any:
        """Concatenate, group, and call."""
        there = [part for part in self._values(parts) if part is not None]
        if not there:
            raise ValueError("There is nothing to group: the data has no DataFrame.")
        for part in there:
            if not isinstance(part, pd.DataFrame | pd.Series):
                raise TypeError(
                    f"nbmr.groupby groups DataFrames and Series; the data has a {type(part).__name__}."
                )
        return getattr(self.how.selected(self.how.whole(pd.concat(there))), self.verb)(
            *self.args, **self.kwargs
        )

    def _values(self, parts: list[Any]) -> Iterator[Any]:
        for part in parts:
            if isinstance(part, Later):
                yield part.value()
            elif self.read is not None:
                yield None if part is None else self.read(part)
            else:
                yield part
