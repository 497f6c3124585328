"""The groups of a job's results, or of files: their rows never come to the kernel.

Workers read the partitions where they are: see `nbmr.grouptasks`. To the kernel come small tables, the first
row of each group, and what functions gave. pandas puts these together, as it would where it had all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from nbmr import groupcalls, grouptasks, groupverbs, partials, spec
from nbmr.errors import ConfigError, TaskError
from nbmr.filelist import Files
from nbmr.grouping import PANDAS_3
from nbmr.grouprunner import NOTHING, Runner
from nbmr.groups import GroupBy, Unsupported, check_options
from nbmr.grouptasks import Grouped, Table
from nbmr.grouptold import Told
from nbmr.groupwork import NAMED_TRANSFORMS, Groupwork
from nbmr.job import Job
from nbmr.samples import alike


def grouped(data: Job | Files, by: Any, options: dict[str, Any], client: Callable[[], Any]) -> JobGroupBy:
    """Group the rows of a job's results, or of files; what can be found wrong with the keys is raised here.

    Parameters
    ----------
    data, by, options
        As for `nbmr.groupby`.
    client
        Returns the client whose ``map`` and ``shuffle`` do the work.

    Raises
    ------
    ConfigError
        If rows can't be grouped so where they are.
    """
    pandas, jobs = check_options(options)
    if isinstance(data, Job) and jobs.get("partitions") is not None:
        raise ConfigError(
            f"partitions={jobs['partitions']!r}: the data is a job's results, which come as it has cut them."
            " Say partitions=… where that job is submitted."
        )
    for key in by if isinstance(by, list) else [by]:
        if isinstance(key, pd.Series | pd.Index | np.ndarray | pd.api.extensions.ExtensionArray):
            raise ConfigError(
                f"A key is a {type(key).__name__}, with a value for each row; but the rows are not here. Add"
                " a column to them in a job, and group by its name."
            )
    return JobGroupBy(Jobwork(Grouped(by, pandas), Runner(data, jobs, client)))


class JobGroupBy(GroupBy):
    """Groups of a job's results, or of files; `nbmr.groupby` makes it. Its verbs are those of `GroupBy`.

    Examples
    --------
    >>> clean = nbmr.submit(flights, drop_cancelled)  # doctest: +SKIP
    >>> nbmr.groupby(clean, "carrier")["arr_delay"].mean()  # doctest: +SKIP
    >>> nbmr.groupby(nbmr.files("flights/*.parquet"), "carrier").size()  # doctest: +SKIP
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if hasattr(pd.api.typing.DataFrameGroupBy, name):
            raise Unsupported(f"nbmr.groupby has no {name}. Use .apply(lambda group: …).")
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}. For a column, write [{name!r}]: which"
            " ones there are is not known here."
        )

    def __dir__(self) -> list[str]:
        return list(object.__dir__(self))

    def __iter__(self) -> Iterator[Any]:
        """Refuse: the rows are not here."""
        _not_here()

    @property
    def ngroups(self) -> int:
        """Refuse: the rows are not here."""
        _not_here()

    def __len__(self) -> int:  # noqa: PLE0303 - it raises
        _not_here()

    def __bool__(self) -> bool:
        return True

    def size(self) -> Any:
        """How many rows each group has."""
        return self._work.reduce("size", (), {})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} by {self._work.how.by!r}>"


def _not_here() -> NoReturn:
    raise ConfigError(
        "The rows are with the workers, and not here. .size() tells how many each group has; to go through"
        " the groups here, group job.result() by pandas."
    )


class Jobwork:
    """Does the work of the verbs, as `Groupwork` does it for a frame.

    Parameters
    ----------
    how
        How rows are grouped.
    run
        What runs it on workers.
    """

    def __init__(self, how: Grouped, run: Runner) -> None:
        self.how, self._run = how, run
        keys = how.by if isinstance(how.by, list) else [how.by]
        #: Whether the keys are columns, by their labels; other keys only pandas evaluates, over all rows.
        self._by_columns = (
            bool(keys)
            and all(isinstance(key, Hashable) and key is not None and not callable(key) for key in keys)
            and not any(isinstance(key, pd.Grouper | dict) for key in keys)
            and len(set(keys)) == len(keys)
            and how.options.get("level") is None
        )

    def select(self, selection: Any) -> Jobwork:
        """Return the same for selected columns; whether there are such is seen by the workers."""
        if self.how.selection is not ...:
            raise IndexError(f"Column(s) {self.how.selection} already selected")
        return Jobwork(replace(self.how, selection=selection), self._run)

    # ---------------------------------------------------------------- verbs

    def reduce(self, how: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Aggregate by one name."""
        __tracebackhide__ = True
        return self._aggregated(how, args, kwargs, [how])

    def agg(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Aggregate by a spec that isn't a single name."""
        __tracebackhide__ = True
        hows = list(spec.hows(func, kwargs))
        if not groupcalls.has_functions(func, kwargs):
            return self._aggregated("agg", (func, *args), kwargs, hows)
        by_name = any(isinstance(how, str) or groupcalls.is_pandas_own(how) for how in hows)
        if by_name or not self._parted(kwargs):  # pandas computes names where it has all rows
            return self.entire("agg", (func, *args), kwargs)
        told = self._told(self._shuffled(groupverbs.Called(func, args, kwargs), "agg", func))
        if not told.complete:
            return self.entire("agg", (func, *args), kwargs)
        if not told.grouping.count:
            return told.by.agg(func, *args, **kwargs)
        replay = groupcalls.Replay(told.in_order(), "agg", [1] * told.grouping.count)
        try:
            put, named = groupcalls.replaced(func, kwargs, replay.next)
            out = told.by.agg(put, *args, **named)
            replay.finish()
        except groupcalls.OutOfStep:
            return self.entire("agg", (func, *args), kwargs)
        return out

    def apply(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function once a group."""
        __tracebackhide__ = True
        _check(fn)
        if PANDAS_3 and kwargs.get("include_groups"):
            raise ConfigError("This version of pandas takes include_groups=True no longer. Leave it out.")
        if not self._by_columns:
            return self.entire("apply", (fn, *args), kwargs)
        given, shown = dict(kwargs), {}
        if "include_groups" in given:
            shown["include_groups"] = given.pop("include_groups")
        excluded = PANDAS_3 or shown.get("include_groups") is False
        work = groupverbs.Applied(fn, args, given, keys=not excluded)
        told = self._told(self._shuffled(work, "apply", fn))
        if not told.complete:
            return self.entire("apply", (fn, *args), kwargs)
        put, finish = groupcalls.in_turn(told.in_order())
        try:
            out = told.standing().apply(put, **({} if PANDAS_3 else shown))
            finish()
        except groupcalls.OutOfStep:
            return self.entire("apply", (fn, *args), kwargs)
        return out

    def filter(self, fn: Any, dropna: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Ask a function once a group."""
        __tracebackhide__ = True
        if isinstance(fn, str) or not self._by_columns:
            return self.entire("filter", (fn, dropna, *args), kwargs)
        _check(fn)
        work = groupverbs.Filtered(fn, dropna, args, kwargs)
        tables = self._shuffled(work, "filter", fn, every=True)
        return _in_place([table.found for table in tables], [table.order for table in tables])

    def transform(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Transform by a function, or by name."""
        __tracebackhide__ = True
        known = callable(fn) or (isinstance(fn, str) and fn in {*NAMED_TRANSFORMS, *partials.REDUCTIONS})
        if not self._parted(kwargs) or not known:
            return self.entire("transform", (fn, *args), kwargs)
        tables = self._shuffled(groupverbs.Transformed(fn, args, kwargs), "transform", fn, every=True)
        some = [table for table in tables if table.found is not None]
        if not some:
            return self.entire("transform", (fn, *args), kwargs)
        order = np.concatenate([table.order for table in tables])
        places = np.argsort(order)
        index = pd.concat([table.firsts for table in tables]).index.take(places)
        out = pd.concat([table.found for table in some])
        out.index = pd.Index(np.searchsorted(order[places], np.concatenate([table.order for table in some])))
        out = out.reindex(np.arange(len(order)))  # fills in rows whose keys are missing
        out.index = index
        return out

    def entire(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Have one worker do all of it with pandas."""
        __tracebackhide__ = True
        first = args[0] if args else None
        try:
            return self._run.together(self.how, verb, args, kwargs, _label(verb, first))
        except TaskError as error:
            if groupcalls.has_functions(first, kwargs):
                raise
            raise self._run.reason(error) from error

    # ---------------------------------------------------------------- ways

    def _parted(self, kwargs: dict[str, Any]) -> bool:
        """Whether the rows can be parted by their keys, and pandas' own code is to compute."""
        return self._by_columns and not kwargs.keys() & {"engine", "engine_kwargs"}

    def _shuffled(
        self, work: Callable[..., Table], verb: str, what: Any = None, *, every: bool = False
    ) -> list[Table]:
        """Have work done on whole groups."""
        __tracebackhide__ = True
        every = every or self.how.options.get("dropna") is False
        try:
            return self._run.shuffle(self.how, work, _label(verb, what), every=every)
        except TaskError as error:
            if callable(what) or groupcalls.has_functions(what, {}):
                raise
            raise self._run.reason(error) from error

    def _aggregated(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any], hows: list[Any]) -> Any:
        """Aggregate by names: from parts of groups if that can be, or else from whole groups."""
        __tracebackhide__ = True
        known = all(isinstance(how, str) and how in (*partials.REDUCTIONS, partials.SIZE) for how in hows)
        if verb != "agg":
            known = spec.of_verb(verb, args, kwargs, pd.Series(dtype=float)) is not None
        if not known or not self._parted(kwargs):
            return self.entire(verb, args, kwargs)
        told = None
        if all(how in partials.PARTS or how == partials.SIZE for how in hows):
            told = self._by_parts(verb, args, kwargs)
        if told is None:
            told = self._told(self._shuffled(groupverbs.Wholes(verb, args, kwargs), verb))
            if not all(table.found is not None for table in told.tables):
                return self.entire(verb, args, kwargs)
        work = _Standing(told, self)
        if verb == partials.SIZE:
            return work.size()
        return (
            work.agg(args[0] if args else None, args[1:], kwargs)
            if verb == "agg"
            else work.reduce(verb, args, kwargs)
        )

    def _by_parts(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Told | None:
        """Aggregate partition by partition; None if groups have to be whole."""
        __tracebackhide__ = True
        try:
            parts = self._run.map(grouptasks.Parts(self.how, verb, args, kwargs), _label(verb, None))
            tables = [table for table in parts if table is not None]
            if not tables:
                raise ConfigError(NOTHING)
            samples = [table.sample for table in tables]
            if any(table.lacking or not alike(table.sample, samples[0]) for table in tables):
                # the types that they have together are known only now
                work = grouptasks.Parts(self.how, verb, args, kwargs, samples)
                tables = [table for table in self._run.map(work, _label(verb, None)) if table is not None]
        except TaskError as error:
            raise self._run.reason(error) from error
        if not all(table.found is not None for table in tables):
            return None
        for place, table in enumerate(tables):
            table.order = (place << 32) + np.asarray(table.order, dtype=np.int64)
        return self._told(tables)

    def _told(self, tables: list[Table]) -> Told:
        return Told(self.how, tables)


class _Standing(Groupwork):
    """Has pandas label what workers have aggregated.

    Parameters
    ----------
    told
        What they found.
    job
        Does what can't be done so.
    """

    def __init__(self, told: Told, job: Jobwork) -> None:
        super().__init__(told.whole, told.how.selection, _runs_nothing, {}, told.grouping)
        self._told, self._job = told, job

    def size(self) -> Any:
        """Count rows."""
        return self._reduced([], partials.SIZE, (), {})

    def entire(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Have one worker do it; pandas here, where there are no rows."""
        __tracebackhide__ = True
        if not self.grouping.count or not self._rows_in_groups:
            return getattr(self.by, verb)(*args, **kwargs)
        return self._job.entire(verb, args, kwargs)

    def _by_parts(self, wants: Any, rows: Any, verb: str, ddof: int) -> list[Any]:  # noqa: ARG002 - as is its base's
        return self._told.combined(wants, ddof)

    def _by_groups(self, wants: Any, rows: Any, verb: str, args: Any, kwargs: Any) -> list[Any]:  # noqa: ARG002 - the same
        return self._told.combined(wants, 1)


def _runs_nothing(*_args: Any, **_kwargs: Any) -> NoReturn:
    raise AssertionError  # workers have done all of it


def _in_place(parts: list[Any], order: list[Any]) -> Any:
    """Concatenate rows, and put them into the order of the input."""
    kept = [pair for pair in zip(parts, order, strict=True) if len(pair[0])] or [(parts[0], order[0])]
    out = pd.concat([part for part, _ in kept])
    return out.take(np.argsort(np.concatenate([places for _, places in kept])))


def _check(fn: Any) -> None:
    if not callable(fn):
        raise ConfigError(f"fn has to be callable; got {type(fn).__name__}.")


def _label(verb: str, what: Any) -> str:
    return f"{verb} {groupcalls.name_of(what)}" if callable(what) else verb
