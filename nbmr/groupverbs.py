"""What a bucket's task does for each verb of a groupby: each gets whole groups, and gives a `Table`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nbmr import groupcalls, partials, spec
from nbmr.grouping import Grouping
from nbmr.grouptasks import Grouped, Table, columns_of, table_of


def _begun(how: Grouped, frame: Any, rows: Any) -> tuple[Any, Grouping, Table]:
    """Group the rows of a bucket, and begin a table of what comes of them."""
    whole = how.whole(frame, observed=True)
    grouping = Grouping(whole)
    return whole, grouping, table_of(frame, grouping, rows)


@dataclass(frozen=True)
class Wholes:
    """Aggregates whole groups by name."""

    verb: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, how: Grouped, frame: Any, rows: Any) -> Table:
        """Aggregate; the values are None where that is for pandas alone."""
        whole, grouping, table = _begun(how, frame, rows)
        data = columns_of(how.selected(whole)._obj_with_exclusions)  # noqa: SLF001 - what pandas aggregates
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
        whole, grouping, table = _begun(how, frame, rows)
        by = how.selected(whole)
        data = by._selected_obj if self.keys else by._obj_with_exclusions  # noqa: SLF001 - what a function gets
        call = groupcalls.EachGroup(self.fn, self.args, self.kwargs, named=True)
        table.found = [result for groups in grouping.split(data, 1) for result in call.results(groups)]
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
        whole, grouping, table = _begun(how, frame, rows)
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
