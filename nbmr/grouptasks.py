"""What workers do for a groupby whose rows never come to the kernel: those of a job's results, or of files.

Aggregations that can be put together from parts are computed for each partition (`Parts`). Otherwise rows
are sorted into buckets by their keys (`ToBuckets`), and each bucket has whole groups (`OfBucket`), on which
`nbmr.groupverbs` does the work. What only pandas can tell of all rows together is for one task (`Together`).

Of each group, its first row goes to the kernel, with its place in the input. So the kernel can have pandas
form the same groups, in the same order, with the same labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from nbmr import buckets, partials, spec, unit
from nbmr.folding import Later
from nbmr.grouping import Grouping
from nbmr.samples import among, sample_of


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
    #: A few rows of the partition, or none: see `nbmr.samples`.
    sample: Any = None
    #: What there is to know of the groups; None if they have to be aggregated in another way.
    found: Any = None
    #: Where the rows of each group stand in the input, where all results are indexed as their groups.
    rows: list[Any] = field(default_factory=list)
    #: Whether nothing could be done, since the partition lacks columns.
    lacking: bool = False


def table_of(frame: Any, grouping: Grouping, rows: Any = None) -> Table:
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
    samples
        A few rows of each partition, where their columns or types differ: see `nbmr.samples`.
    """

    def __init__(
        self,
        how: Grouped,
        verb: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        samples: list[Any] | None = None,
    ) -> None:
        self.how, self.verb, self.args, self.kwargs, self.samples = how, verb, args, kwargs, samples

    def __call__(self, part: Any) -> Table | None:
        """Aggregate one partition; the values are None if they can't be put together from parts."""
        if part is None:
            return None
        frame = self.how.checked(part)
        sample = sample_of(frame)
        if self.samples is not None:
            frame = among(self.samples, [(None, frame)])
        elif self.how.lacking(frame):
            return Table(None, (), (), sample, lacking=True)
        whole = self.how.whole(frame, sort=False, observed=True)
        table = table_of(frame, Grouping(whole))
        table.sample = sample
        unit.tell({"mapped": len(frame)})
        rows = columns_of(self.how.selected(whole)._obj_with_exclusions)  # noqa: SLF001 - what pandas aggregates
        wants = spec.of_verb(self.verb, self.args, self.kwargs, rows)
        if wants is not None and partials.separable(wants, rows, self.verb, self.args, self.kwargs):
            wants = partials.computed(wants)
            columns = {want.column: _plain(rows.iloc[:, want.column]) for want in wants}
            table.found = {}
            if wants and len(table.sizes):
                codes = Grouping(whole).codes
                table.found = partials.Partial(wants)(partials.Slice(codes, columns))
        return table


def columns_of(rows: Any) -> Any:
    """Return rows as a DataFrame."""
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
        made = buckets.sort_rows(kept, keys, self.count, numbered=True, whole=frame)
        if numbers is not None and made.rows is not None:
            made.rows = [numbers[rows] for rows in made.rows]
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
