"""What workers told the kernel of all groups, whose rows it never sees: the groups, and what came of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from nbmr import partials
from nbmr.grouping import Grouping
from nbmr.grouptasks import Grouped, Table


class Told:
    """What tables tell of all groups together.

    Parameters
    ----------
    how
        How rows are grouped.
    tables
        What workers found: of each group or part of one its first row, and what came of it.
    """

    def __init__(self, how: Grouped, tables: list[Table]) -> None:
        self.how, self.tables = how, tables
        order = np.concatenate([table.order for table in tables])
        places = np.argsort(order, kind="stable")
        self._firsts = pd.concat([table.firsts for table in tables]).take(places)
        self.whole = how.whole(self._firsts)
        self.by = how.selected(self.whole)
        self.grouping = Grouping(self.whole)
        codes = np.empty(len(order), np.int64)
        codes[places] = self.grouping.codes
        #: The number of each group, table by table.
        self.codes = np.split(codes, np.cumsum([len(table.order) for table in tables])[:-1])
        sizes = np.zeros(self.grouping.count, np.int64)
        for numbers, table in zip(self.codes, tables, strict=True):
            np.add.at(sizes, numbers, np.asarray(table.sizes, np.int64))
        self.grouping.sizes = sizes

    @property
    def complete(self) -> bool:
        """Whether it is known what came of each group: of categories that are not observed, nothing is."""
        return bool((self.grouping.sizes > 0).all()) and all(table.found is not None for table in self.tables)

    def in_order(self) -> list[Any]:
        """Return what came of each whole group, in pandas' order."""
        found: list[Any] = [None] * self.grouping.count
        for numbers, table in zip(self.codes, self.tables, strict=True):
            for number, value in zip(numbers, table.found, strict=True):
                found[number] = value
        return found

    def standing(self) -> Any:
        """Return a groupby of rows that stand for all, by which pandas puts the results of `apply` together.

        If each result is indexed as its group, pandas gives the rows back in the order of the input, so there
        is a row for each of those. Otherwise there is one for each group, whose label is like none else.
        """
        if self.whole.group_keys or not self.grouping.count:
            return self.by
        rows = self._firsts
        if all(len(table.rows) == len(table.sizes) for table in self.tables):
            pairs = [
                (number, places, value.index)
                for numbers, table in zip(self.codes, self.tables, strict=True)
                for number, places, value in zip(numbers, table.rows, table.found, strict=True)
            ]
            order = np.argsort(np.concatenate([places for _, places, _ in pairs]))
            index = pairs[0][2].append([index for _, _, index in pairs[1:]]).take(order)
            groups = np.concatenate([np.full(len(places), number) for number, places, _ in pairs])
            first_of = np.empty(self.grouping.count, np.int64)
            first_of[self.grouping.codes] = np.arange(len(rows))
            rows = rows.take(first_of[groups[order]]).set_axis(index)
        else:
            rows = rows.set_axis(pd.Index([object() for _ in range(len(rows))], dtype=object))
        return self.how.selected(self.how.whole(rows))

    def combined(self, wants: list[partials.Want], ddof: int) -> list[Any]:
        """Return a Series for each wanted column, indexed by the numbers of the groups."""
        pairs = [pair for pair in zip(self.codes, self.tables, strict=True) if len(pair[1].sizes)]
        if isinstance(self.tables[0].found, dict):
            parts = [
                {key: value.set_axis(numbers[value.index]) for key, value in table.found.items()}
                for numbers, table in pairs
            ]
            return partials.combine(parts, wants, ddof)
        columns = zip(
            *[[value.set_axis(numbers[value.index]) for value in table.found] for numbers, table in pairs],
            strict=True,
        )
        return [pd.concat(column) for column in columns]
