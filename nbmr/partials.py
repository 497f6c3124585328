"""Named aggregations on workers: what a task computes, and how partial results combine.

Where an aggregation can be put together exactly from those of parts of a group, rows travel as they stand
(a `Slice`), and the small tables that come back are combined. Otherwise whole groups travel (`Groups`).
Columns are known by their position, groups by their number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from nbmr.grouping import Groups


class Want(NamedTuple):
    """One column of a result."""

    #: Position of the column that is aggregated.
    column: int
    #: Name of the aggregation, as pandas has it.
    how: str


@dataclass(frozen=True)
class Slice:
    """Some rows as they stand: the number of each one's group, and the columns that are aggregated."""

    codes: Any
    columns: dict[int, Any]

    @property
    def nbytes(self) -> int:
        """Roughly how many bytes it takes, for who puts items into tasks."""
        return int(self.codes.nbytes + sum(column.nbytes for column in self.columns.values()))


#: Aggregations that are known by name.
REDUCTIONS = (
    "sum", "mean", "min", "max", "count", "std", "var", "sem", "first", "last", "nunique", "median",
    "quantile", "prod", "any", "all",
)  # fmt: skip
#: What each aggregation needs of every part of a group.
PARTS = {
    "sum": ("sum",),
    "prod": ("prod",),
    "min": ("min",),
    "max": ("max",),
    "count": ("count",),
    "first": ("first",),
    "last": ("last",),
    "any": ("any",),
    "all": ("all",),
    "mean": ("count", "total"),
    "var": ("count", "pivot", "offset", "m2"),
    "std": ("count", "pivot", "offset", "m2"),
    "sem": ("count", "pivot", "offset", "m2"),
}
#: How the parts of a group become one; the moments have their own formula.
_COMBINED = {"count": "sum", "total": "sum"}
#: Parts that are never missing, but for sums like inf - inf.
_ADDED = ("sum", "total", "prod")
_MOMENTS = ("pivot", "offset", "m2")
#: Aggregations whose parts combine exactly, by what numpy calls the kind of a type.
_NUMBERS = {"sum", "prod", "min", "max", "first", "last", "any", "all", "mean", "var", "std", "sem"}
_ORDERED = {"min", "max", "first", "last"}
_OF_KIND = {
    "i": _NUMBERS,
    "u": _NUMBERS,
    "b": {"sum", "min", "max", "first", "last", "any", "all"},
    "f": _ORDERED | {"any", "all"},
    "M": _ORDERED,
    "m": _ORDERED | {"sum"},
}


def decomposable(dtype: Any, how: str) -> bool:
    """Whether an aggregation of such a column can be combined from parts of groups without a difference.

    But for the last bits of a float's sum, prod, mean, var, std and sem, which depend on the order of adding.

    Parameters
    ----------
    dtype
        Type of the column.
    how
        Name of the aggregation.
    """
    if how == "count":
        return True
    if isinstance(dtype, np.dtype):
        if dtype == np.float64:
            return how in _NUMBERS
        return how in _OF_KIND.get(dtype.kind, ())
    if isinstance(dtype, pd.DatetimeTZDtype | pd.StringDtype):
        return how in _ORDERED
    if isinstance(getattr(dtype, "numpy_dtype", None), np.dtype) and not isinstance(dtype, pd.ArrowDtype):
        exact = dtype.kind in "iub" or dtype == "Float64"
        return how in _ORDERED or (how == "sum" and exact)
    return False


#: The size, which needs no column; and aggregations that work on Python objects, whatever these are.
SIZE = "size"
_OF_OBJECTS = ("count", SIZE, "nunique")


def computed(wants: list[Want]) -> list[Want]:
    """Return what is to be computed: all but sizes, each once."""
    return [want for want in dict.fromkeys(wants) if want.how != SIZE]


def known(wants: list[Want], rows: Any) -> bool:
    """Whether what pandas makes of these columns doesn't depend on their values."""
    dtypes = list(rows.dtypes)
    return all(want.how in _OF_OBJECTS or not odd(dtypes[want.column]) for want in wants)


def odd(dtype: Any) -> bool:
    """Whether what pandas makes of such values depends on the values."""
    return isinstance(dtype, np.dtype) and dtype.kind in "OcV"


def given(verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of each column's aggregation."""
    if verb == "agg":
        return (), {}
    return args, {name: value for name, value in kwargs.items() if name != "numeric_only"}


def separable(wants: list[Want], rows: Any, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether all of it can be combined from parts of groups.

    Parameters
    ----------
    wants
        The columns of the result.
    rows
        The DataFrame that is aggregated.
    verb, args, kwargs
        The verb of pandas' groupby.
    """
    dtypes = list(rows.dtypes)
    values, names = given(verb, args, kwargs)
    return (
        known(wants, rows)
        and not (values or names.keys() - {"ddof"})
        and all(decomposable(dtypes[want.column], want.how) for want in computed(wants))
    )


@dataclass(frozen=True)
class Partial:
    """What a task does with a `Slice`: the parts that the wanted columns need.

    Returns a dict of Series by column and part, each indexed by the numbers of its groups.
    """

    wants: list[Want]

    def __call__(self, rows: Slice) -> dict[tuple[int, str], Any]:
        """Compute the parts."""
        parts = dict.fromkeys((want.column, part) for want in self.wants for part in PARTS[want.how])
        columns: dict[Any, Any] = dict(rows.columns)
        for column in {column for column, part in parts if part in ("total", *_MOMENTS)}:
            columns[column, "float"] = pd.Series(
                np.asarray(rows.columns[column], dtype=np.float64), copy=False
            )
        frame = pd.DataFrame(dict(enumerate(columns.values())), copy=False)
        places = {column: place for place, column in enumerate(columns)}
        by = frame.groupby(rows.codes, sort=True)
        found: dict[tuple[int, str], Any] = {}
        for column, part in parts:
            if part in _MOMENTS:
                if (column, part) not in found:
                    values = columns[column, "float"]
                    for name, moment in zip(_MOMENTS, _moments(values, rows.codes), strict=True):
                        found[column, name] = moment
                continue
            place = places[(column, "float") if part == "total" else column]
            values = by[place]
            found[column, part] = getattr(values, "sum" if part == "total" else part)()
        return {key: value[value.index >= 0] for key, value in found.items()}


def _moments(values: Any, codes: Any) -> tuple[Any, Any, Any]:
    """Return a value of each group, how far the mean is from it, and the sum of squared distances from that.

    Distances from a value of the group's own are exact where values are large and near to each other, and
    0.0 where they are equal.
    """
    pivot = values.groupby(codes, sort=True).first()
    near = np.full(pivot.index.max() + 2, np.nan)
    near[pivot.index] = pivot  # the code -1 finds its own at the end, if there is one
    with np.errstate(invalid="ignore", over="ignore"):
        by = pd.Series(values.to_numpy() - near[codes], copy=False).groupby(codes, sort=True)
        return pivot, by.mean(), by.var(ddof=0) * by.count()


@dataclass(frozen=True)
class Whole:
    """What a task does with whole groups: the aggregations themselves, by pandas.

    Returns a list of Series, one for each wanted column, each indexed by the numbers of its groups.
    """

    wants: list[Want]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __call__(self, groups: Groups) -> list[Any]:
        """Aggregate the groups that have rows."""
        frame = groups.data.set_axis(range(groups.data.shape[1]), axis=1)
        by = frame.groupby(groups.codes + groups.first, sort=True)
        columns = sorted({want.column for want in self.wants})
        place = {column: number for number, column in enumerate(columns)}
        return [getattr(by[place[want.column]], want.how)(*self.args, **self.kwargs) for want in self.wants]


@dataclass(frozen=True)
class NamedTransform:
    """What a task does with whole groups for a transform that pandas knows by name."""

    how: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, groups: Groups) -> Any:
        """Transform; the result has the rows of `groups`, in their order."""
        return groups.data.groupby(groups.codes, sort=True).transform(self.how, *self.args, **self.kwargs)


class Entire:
    """What one task does with a whole groupby, where it can't be parted."""

    def __init__(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.verb, self.args, self.kwargs = verb, args, kwargs

    def __call__(self, by: Any) -> Any:
        """Do what pandas does."""
        return getattr(by, self.verb)(*self.args, **self.kwargs)


def combine(tables: list[dict[tuple[int, str], Any]], wants: list[Want], ddof: int) -> list[Any]:
    """Combine the parts of groups into results.

    Parameters
    ----------
    tables
        What each task's `Partial` returned, in the order of the rows.
    wants
        The columns of the result.
    ddof
        Delta degrees of freedom of var, std and sem.

    Returns
    -------
    list of Series
        One for each wanted column, indexed by the numbers of the groups.
    """
    known: dict[tuple[int, str], Any] = {}

    def part(column: int, name: str) -> Any:
        if (column, name) not in known:
            values = pd.concat([table[column, name] for table in tables])
            by = values.groupby(values.index, sort=True)
            combined = getattr(by, _COMBINED.get(name, name))()
            if name in _ADDED and (missing := values.isna()).any():
                # A part without values adds 0: one that is NaN had infinities, and pandas would skip it.
                combined[missing.groupby(missing.index, sort=True).any()] = None
            known[column, name] = combined
        return known[column, name]

    results = []
    for column, how in wants:
        if how == "mean":
            with np.errstate(invalid="ignore", divide="ignore"):
                results.append(part(column, "total") / part(column, "count"))
        elif how in ("var", "std", "sem"):
            moments = [[table[column, name] for name in PARTS[how]] for table in tables]
            results.append(_spread(moments, how, ddof))
        else:
            results.append(part(column, how))
    return results


def _spread(tables: list[list[Any]], how: str, ddof: int) -> Any:
    """Combine counts, means and squared distances (Chan, Golub & LeVeque, 1979), group by group."""
    index = pd.Index(np.unique(np.concatenate([table[0].index.to_numpy() for table in tables])))
    pivot, count, mean, m2 = np.zeros((4, len(index)))  # means are distances from the pivot
    with np.errstate(all="ignore"):
        for table in tables:
            n, near, other, squares = (values.to_numpy(dtype=np.float64) for values in table)
            at = index.get_indexer(table[0].index)
            there = n > 0  # a group of missing values says nothing
            at, n, near, other, squares = (values[there] for values in (at, n, near, other, squares))
            pivot[at] = np.where(count[at] > 0, pivot[at], near)
            other = near - pivot[at] + other
            both = count[at] + n
            apart = np.where(count[at] > 0, other - mean[at], 0.0)
            m2[at] += squares + apart * apart * count[at] * n / both
            mean[at] = np.where(count[at] > 0, mean[at] + apart * n / both, other)
            count[at] = both
        values = np.where(count > ddof, m2 / (count - ddof), np.nan)
        if how != "var":
            values = np.sqrt(values)
        if how == "sem":
            values = values / np.sqrt(count)
    return pd.Series(values, index=index)
