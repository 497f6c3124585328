"""The work of a groupby: what is sent for each verb, and how pandas' own result comes of it.

There are four ways. Rows as they stand, whose partial tables are combined. Whole groups, aggregated or
transformed by name. Whole groups, for a user's function, whose results pandas puts together here. And all of
it as one task, where only pandas knows how.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from nbmr import groupcalls, partials, spec
from nbmr.errors import ConfigError, TaskError
from nbmr.grouping import PANDAS_3, Grouping, Groups, row_cuts, small
from nbmr.partials import Want
from nbmr.tasks import Units

#: Transforms that look at one group at a time, by name.
NAMED_TRANSFORMS = {
    "cumsum", "cumprod", "cummin", "cummax", "rank", "shift", "diff", "pct_change", "ffill", "bfill",
}  # fmt: skip


class Groupwork:
    """Does the work of one groupby's verbs.

    Parameters
    ----------
    whole
        The groupby of pandas.
    selection
        The columns that are selected; ``...`` if none are.
    run
        What runs a function over a list on workers, as `nbmr.map`.
    options
        Options for it, and ``partitions``.
    grouping
        What the keys came to, where that is known.
    slots
        Tells how many tasks the workers of a queue run at the same time.
    """

    def __init__(
        self, whole: Any, selection: Any, run: Callable[..., Any], options: dict[str, Any],
        grouping: Grouping | None = None, slots: Callable[[str], int] = lambda _queue: 1,
    ) -> None:  # fmt: skip
        self.whole, self.selection = whole, selection
        self.by = whole if selection is ... else whole[selection]
        self.grouping = grouping or Grouping(whole)
        self._run, self._options, self._slots = run, options, slots
        self._partitions = options.get("partitions")

    def select(self, selection: Any) -> Groupwork:
        """Return the same for selected columns; pandas' own errors if they can't be."""
        self.by[selection]
        return Groupwork(self.whole, selection, self._run, self._options, self.grouping, self._slots)

    # ---------------------------------------------------------------- verbs

    def apply(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function once a group."""
        __tracebackhide__ = True
        _check(fn)
        if PANDAS_3 and kwargs.get("include_groups"):
            raise ConfigError("This version of pandas takes include_groups=True no longer. Leave it out.")
        if self._alone():
            return self.entire("apply", (fn, *args), kwargs)
        kwargs, shown = dict(kwargs), {}
        if "include_groups" in kwargs and (self.by.ndim > 1 or not PANDAS_3):
            shown["include_groups"] = kwargs.pop("include_groups")
        excluded = PANDAS_3 or shown.get("include_groups") is False
        rows = self.by._obj_with_exclusions if excluded else self.by._selected_obj  # noqa: SLF001 - what fn gets
        call = groupcalls.EachGroup(fn, args, kwargs, named=True)
        shown = {} if PANDAS_3 else shown
        return self._in_turn("apply", call, rows, (), shown)

    def filter(self, fn: Any, dropna: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Ask a function once a group."""
        __tracebackhide__ = True
        if isinstance(fn, str) or self._alone():
            return self.entire("filter", (fn, dropna, *args), kwargs)
        _check(fn)
        frame = self.by.ndim > 1
        rows = self.by._selected_obj if frame else self.by._obj_with_exclusions  # noqa: SLF001 - what fn gets
        call = groupcalls.EachGroup(fn, args, kwargs, named=frame)
        return self._in_turn("filter", call, rows, (dropna,), {})

    def transform(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Transform by a function, or by name."""
        __tracebackhide__ = True
        if self._alone() or not _plain(kwargs):
            return self.entire("transform", (fn, *args), kwargs)
        if isinstance(fn, str) and (fn in NAMED_TRANSFORMS or fn in partials.REDUCTIONS):
            return self._named_transform(fn, args, kwargs)
        if not callable(fn):
            return self.entire("transform", (fn, *args), kwargs)
        return self._recorded("transform", fn, args, kwargs)

    def agg(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Aggregate by a spec that isn't a single name."""
        __tracebackhide__ = True
        if self._alone() or not _plain(kwargs):
            return self.entire("agg", (func, *args), kwargs)
        if groupcalls.has_functions(func, kwargs):
            return self._recorded("agg", func, args, kwargs)
        wants = spec.of_verb("agg", (func, *args), kwargs, self._rows)
        if wants is None:
            return self.entire("agg", (func, *args), kwargs)
        return self._reduced(wants, "agg", (func,), kwargs)

    def reduce(self, how: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Aggregate by one name."""
        __tracebackhide__ = True
        wants = None
        if not self._alone() and _plain(kwargs):
            wants = spec.of_verb(how, args, kwargs, self._rows)
        if wants is None:
            return self.entire(how, args, kwargs)
        return self._reduced(wants, how, args, kwargs)

    def entire(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Have one worker do all of it with pandas; here, where there are no groups."""
        __tracebackhide__ = True
        first = args[0] if args else None
        own = groupcalls.has_functions(first, kwargs)
        if not self.grouping.count or not (own or self._rows_in_groups):
            return getattr(self.by, verb)(*args, **kwargs)
        try:
            return self._map([self.by], partials.Entire(verb, args, kwargs), verb, first)[0]
        except TaskError as error:
            if own:
                raise
            raise _of_pandas(error) from error

    # ---------------------------------------------------------------- ways

    @property
    def _rows(self) -> Any:
        return self.by._obj_with_exclusions  # noqa: SLF001 - what pandas aggregates

    @property
    def _rows_in_groups(self) -> int:
        """How many rows belong to groups; none may, where categories are shown that are not observed."""
        return int(self.grouping.sizes.sum())

    def _split(self, rows: Any, *, led: bool = False) -> list[Groups]:
        """Deal whole groups out to tasks."""
        slots = self._slots(self._options.get("queue", "default"))
        return self.grouping.split(rows, self._partitions, slots, led=led)

    def _alone(self) -> bool:
        """Whether there is nothing to part: no groups, or bins whose rows pandas has put in order."""
        return self.grouping.binned or not self.grouping.count

    def _map(self, items: list[Any], fn: Callable[..., Any], verb: str, what: Any = None) -> list[Any]:
        """Run a function over items on workers, each a task of its own."""
        __tracebackhide__ = True
        options = {name: value for name, value in self._options.items() if name != "partitions"}
        if options.get("name") is None:
            options["name"] = verb if not callable(what) else f"{verb} {groupcalls.name_of(what)}"
        own = isinstance(fn, groupcalls.EachGroup | groupcalls.Recorded)
        units = Units(items, {})
        if own:
            shares = self.grouping.shares(items) if self._partitions is None else None
            units = Units(items, {"shuffled": self.grouping.dealt(items)}, shares)
        results: list[Any] = self._run(units, fn, partitions=len(items), gather="list", **options)
        return results

    def _in_turn(
        self,
        verb: str,
        call: groupcalls.EachGroup,
        rows: Any,
        given: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        """Call a function once a group on workers, and have pandas put the results together."""
        __tracebackhide__ = True
        tasks = self._split(rows)
        results = [result for part in self._map(tasks, call, verb, call.fn) for result in part.unpack()]
        put, finish = groupcalls.in_turn(results)
        try:
            out = getattr(self.by, verb)(put, *given, **options)
            finish()
        except groupcalls.OutOfStep:
            return self.entire(verb, (call.fn, *given, *call.args), call.kwargs | options)
        return out

    def _recorded(self, verb: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Have workers call functions as pandas calls them, and pandas put the results together."""
        __tracebackhide__ = True
        rows = self._rows
        tasks = self._split(rows, led=verb == "transform" and rows.ndim > 1)
        call = groupcalls.Recorded(verb, func, args, kwargs, self.grouping.keys)
        replay = groupcalls.Replay(
            self._map(tasks, call, verb, func), verb, [len(task.sizes) for task in tasks]
        )
        try:
            put, named = groupcalls.replaced(func, kwargs, replay.next)
            out = getattr(self.by, verb)(put, *args, **named)
            replay.finish()
        except groupcalls.OutOfStep:
            return self.entire(verb, (func, *args), kwargs)
        return out

    def _named_transform(self, how: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Transform whole groups by name, and bring the rows back into their order."""
        __tracebackhide__ = True
        rows, grouping = self._rows, self.grouping
        if (
            not self._rows_in_groups
            or not grouping.complete
            or (grouping.categorical and not PANDAS_3)  # where categories without rows change the type
            or not _unique(rows)
            or any(map(partials.odd, _dtypes(rows)))
        ):
            return self.entire("transform", (how, *args), kwargs)
        tasks = [task for task in self._split(rows) if len(task.data)]
        try:
            parts = self._map(tasks, partials.NamedTransform(how, args, kwargs), "transform")
        except TaskError as error:
            raise _of_pandas(error) from error
        back = np.empty(len(grouping.order), dtype=np.intp)
        back[grouping.order] = np.arange(len(back))
        out = pd.concat(parts).take(back)
        out.index = rows.index
        return out

    def _reduced(self, wants: list[Want], verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Aggregate columns on workers, and put them where pandas puts them in a sample's result."""
        __tracebackhide__ = True
        rows = self._rows.to_frame() if self._rows.ndim == 1 else self._rows
        sample = None
        if self._rows_in_groups and (wants or verb == partials.SIZE) and partials.known(wants, rows):
            sample = self.grouping.sample(self.whole, self.selection)
        if sample is None:
            return self.entire(verb, args, kwargs)
        frame = getattr(sample, verb)(*args, **kwargs)
        computed, given = partials.computed(wants), partials.given(verb, args, kwargs)
        if partials.separable(wants, rows, verb, args, kwargs):
            values = self._by_parts(computed, rows, verb, given[1].get("ddof", 1))
        else:
            values = self._by_groups(computed, rows, verb, *given)
        known = dict(zip(computed, values, strict=True))
        sizes = pd.Series(self.grouping.sizes, dtype=np.int64)
        columns = [known.get(want, sizes[sizes > 0]) for want in wants]
        if verb == partials.SIZE:
            columns = [sizes[sizes > 0]]
        keys = 0 if self.whole.as_index else self.grouping.keys
        filled = spec.filled(frame, columns, self.grouping.count, keys)
        return self.entire(verb, args, kwargs) if filled is None else filled

    def _by_parts(self, wants: list[Want], rows: Any, verb: str, ddof: int) -> list[Any]:
        """Aggregate rows as they stand, and combine the tables that come back."""
        __tracebackhide__ = True
        if not wants:
            return []
        codes = small(self.grouping.codes, self.grouping.count)
        arrays = {want.column: rows.iloc[:, want.column].array for want in wants}
        slices = [
            partials.Slice(
                codes[a:b], {column: pd.Series(array[a:b], copy=False) for column, array in arrays.items()}
            )
            for a, b in pairwise(row_cuts(len(rows), self._partitions))
        ]
        return partials.combine(self._map(slices, partials.Partial(wants), verb), wants, ddof)

    def _by_groups(
        self, wants: list[Want], rows: Any, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Any]:
        """Aggregate whole groups."""
        __tracebackhide__ = True
        rows = rows.iloc[:, sorted({want.column for want in wants})]
        tasks = [task for task in self._split(rows) if len(task.data)]
        try:
            parts = self._map(tasks, partials.Whole(wants, args, kwargs), verb)
        except TaskError as error:
            raise _of_pandas(error) from error
        return [pd.concat(columns) for columns in zip(*parts, strict=True)]


def _check(fn: Any) -> None:
    if not callable(fn):
        raise ConfigError(f"fn has to be callable; got {type(fn).__name__}.")


def _plain(kwargs: dict[str, Any]) -> bool:
    """Whether pandas' own code is to compute, and not numba."""
    return not kwargs.keys() & {"engine", "engine_kwargs"}


def _of_pandas(error: TaskError) -> BaseException:
    """Return what pandas said where no function of the user's was called."""
    return error.__cause__ or error


def _dtypes(rows: Any) -> list[Any]:
    return [rows.dtype] if rows.ndim == 1 else list(rows.dtypes)


def _unique(rows: Any) -> bool:
    return rows.ndim == 1 or bool(rows.columns.is_unique)
