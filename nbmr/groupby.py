"""A frame's groups, aggregated, transformed and filtered on workers: what `nbmr.groupby` returns."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Self

from nbmr.errors import ConfigError, TaskError
from nbmr.tasks import is_frame

#: Aggregations that `agg` and `transform` know by name, and compute on workers.
REDUCTIONS = (
    "sum", "mean", "min", "max", "count", "std", "var", "sem", "first", "last", "nunique", "median", "quantile",
    "prod", "any", "all",
)  # fmt: skip
#: Transforms that look at one group at a time, by name.
_TRANSFORMS = {
    "cumsum",
    "cumprod",
    "cummin",
    "cummax",
    "rank",
    "shift",
    "diff",
    "pct_change",
    "ffill",
    "bfill",
}


#: What is pandas' business, and what is the jobs'; pandas has its own defaults.
_PANDAS = ("level", "sort", "dropna", "observed", "as_index", "group_keys")
_JOBS = ("partitions", "queue", "retries", "timeout", "progress", "name")


class Unsupported(ConfigError, AttributeError):
    """A verb of pandas' groupby that nbmr has not."""


class GroupBy:
    """Groups of a DataFrame or Series; `nbmr.groupby` makes it. Its verbs wait, and give what pandas gives.

    Parameters
    ----------
    by
        The groupby of pandas.
    run
        What runs a function over a list on workers, as `nbmr.map`.
    options
        Options for it: ``queue``, ``retries``, ``timeout``, ``progress``, ``name``, ``partitions``.

    Examples
    --------
    >>> nbmr.groupby(flights, "carrier")["arr_delay"].mean()  # doctest: +SKIP
    >>> nbmr.groupby(flights, ["origin", "month"]).agg({"arr_delay": ["mean", "std"]})  # doctest: +SKIP
    >>> nbmr.groupby(flights, "carrier").apply(fit_a_model)  # doctest: +SKIP
    """

    def __init__(
        self,
        by: Any,
        run: Callable[..., Any],
        options: dict[str, Any],
        *,
        selection: Any = ...,
        grouping: Any = None,
    ) -> None:
        from nbmr.grouping import Grouping  # noqa: PLC0415 - pandas and numpy load then

        self._whole, self._selection = by, selection
        self._by = by if selection is ... else by[selection]
        self._run, self._options = run, options
        self._grouping: Grouping = grouping or Grouping(by)

    def __getitem__(self, selection: Any) -> Self:
        """Select a column, or a list of columns, as pandas does."""
        self._by[selection]  # pandas' own errors
        return type(self)(self._whole, self._run, self._options, selection=selection, grouping=self._grouping)

    def __getattr__(self, name: str) -> Any:
        by = self.__dict__.get("_by")
        if by is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if hasattr(type(by), name):
            raise Unsupported(
                f"nbmr.groupby has no {name}; use .apply(lambda group: …) on workers, or pandas' own"
                f" groupby(…).{name} here."
            )
        if by.ndim > 1 and name in by.obj.columns:
            return self[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        columns = self._by.obj.columns if self._by.ndim > 1 else []
        return [
            *super().__dir__(),
            *(name for name in columns if isinstance(name, str) and name.isidentifier()),
        ]

    @property
    def ngroups(self) -> int:
        """How many groups there are."""
        return int(self._by.ngroups)

    def __len__(self) -> int:
        return len(self._by)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._by.obj):,} rows in {self.ngroups:,} groups>"

    # ---------------------------------------------------------------- functions

    def apply(self, fn: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Any:
        """Call a function with each group's rows, on workers, and put the results together as pandas does.

        Parameters
        ----------
        fn
            Gets a DataFrame or Series whose ``.name`` is the group's key. Or the name of a verb.
        *args, **kwargs
            Passed on to `fn`.

        Returns
        -------
        DataFrame or Series
            What pandas' ``groupby(…).apply(fn)`` gives.

        Raises
        ------
        TaskError
            If `fn` raised; it says in which group.
        PickleError, BrokerError, ConfigError, KeyboardInterrupt
            As for `nbmr.map`.

        Examples
        --------
        >>> nbmr.groupby(flights, "carrier").apply(lambda rows: rows.nlargest(3, "arr_delay"))  # doctest: +SKIP
        """
        from nbmr import grouping  # noqa: PLC0415

        if isinstance(fn, str):
            if fn in (*REDUCTIONS, "size"):
                return getattr(self, fn)(*args, **kwargs)
            return self._entire("apply", (fn, *args), kwargs)
        self._check(fn)
        by = self._by
        if grouping.WITHOUT_KEYS and kwargs.get("include_groups"):
            raise ConfigError("include_groups=True is no longer allowed by this version of pandas.")
        if self._alone():
            return self._entire("apply", (fn, *args), kwargs)
        passed = {name: value for name, value in kwargs.items() if name != "include_groups"}
        shown = (
            {}
            if grouping.WITHOUT_KEYS or by.ndim == 1
            else {k: v for k, v in kwargs.items() if k not in passed}
        )
        excluded = grouping.WITHOUT_KEYS or shown.get("include_groups") is False
        rows = by._obj_with_exclusions if excluded else by._selected_obj  # noqa: SLF001 - what fn gets
        return self._in_turn(fn, args, passed, rows, lambda put: by.apply(put, **shown))

    def filter(self, fn: Callable[..., Any], dropna: bool = True, *args: Any, **kwargs: Any) -> Any:
        """Keep the rows of groups for which a function, called on workers, says so.

        Parameters
        ----------
        fn
            Gets a group's rows, and returns a bool.
        dropna
            Whether the other rows are left out; otherwise they are filled with missing values.
        *args, **kwargs
            Passed on to `fn`.

        Returns
        -------
        DataFrame or Series
            What pandas' ``groupby(…).filter(fn)`` gives.

        Raises
        ------
        TaskError
            If `fn` raised; it says in which group.

        Examples
        --------
        >>> nbmr.groupby(flights, "dest").filter(lambda rows: len(rows) >= 100)  # doctest: +SKIP
        """
        if isinstance(fn, str) or self._alone():
            return self._entire("filter", (fn, dropna, *args), kwargs)
        self._check(fn)
        by = self._by
        rows = by._obj_with_exclusions if by.ndim == 1 else by._selected_obj  # noqa: SLF001 - what fn gets
        return self._in_turn(fn, args, kwargs, rows, lambda put: by.filter(put, dropna))

    def transform(self, fn: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Any:
        """Transform the rows of each group on workers; the result has the index of the input.

        Parameters
        ----------
        fn
            A function as pandas takes it, which calls it column by column or with a group as a whole, or the
            name of a transform or aggregation.
        *args, **kwargs
            Passed on to it.

        Returns
        -------
        DataFrame or Series
            What pandas' ``groupby(…).transform(fn)`` gives.

        Raises
        ------
        TaskError
            If `fn` raised.

        Examples
        --------
        >>> nbmr.groupby(flights, "carrier")["arr_delay"].transform(lambda x: x - x.mean())  # doctest: +SKIP
        """
        if isinstance(fn, str) and (fn in _TRANSFORMS or fn in REDUCTIONS) and self._plain(kwargs):
            return self._named_transform(fn, args, kwargs)
        if not callable(fn) or self._alone() or not self._plain(kwargs):
            return self._entire("transform", (fn, *args), kwargs)
        return self._recorded("transform", fn, args, kwargs)

    def agg(self, func: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Aggregate the groups on workers, by names, functions, lists, dicts, or named aggregations.

        Parameters
        ----------
        func, *args, **kwargs
            Every form that pandas takes. Where functions and names are mixed, workers call the functions, and
            pandas computes the names here.

        Returns
        -------
        DataFrame or Series
            What pandas' ``groupby(…).agg(…)`` gives; sums, means and the like of floats to the last bits.

        Raises
        ------
        TaskError
            If a function raised.

        Examples
        --------
        >>> by = nbmr.groupby(flights, "carrier")  # doctest: +SKIP
        >>> by.agg(late=("arr_delay", lambda x: (x > 15).mean()), n=("arr_delay", "size"))  # doctest: +SKIP
        """
        from nbmr import groupcalls, spec  # noqa: PLC0415

        if isinstance(func, str):
            if func in (*REDUCTIONS, "size"):
                return getattr(self, func)(*args, **kwargs)
            return self._entire("agg", (func, *args), kwargs)
        if groupcalls.has_functions(func, kwargs):
            if self._alone() or not self._plain(kwargs):
                return self._entire("agg", (func, *args), kwargs)
            return self._recorded("agg", func, args, kwargs)
        wants = None
        if not args and (func is None or not kwargs):
            wants = spec.wanted(func, kwargs, self._by, (*REDUCTIONS,))
        if wants is None:
            return self._entire("agg", (func, *args), kwargs)
        return self._reduced(wants, "agg", (func,), kwargs, (), {})

    aggregate = agg

    # ---------------------------------------------------------------- names

    def sum(self, *args: Any, **kwargs: Any) -> Any:
        """Sum of each group; parameters and result as pandas has them."""
        return self._reduce("sum", args, kwargs)

    def mean(self, *args: Any, **kwargs: Any) -> Any:
        """Mean of each group; parameters and result as pandas has them."""
        return self._reduce("mean", args, kwargs)

    def min(self, *args: Any, **kwargs: Any) -> Any:
        """Least value of each group; parameters and result as pandas has them."""
        return self._reduce("min", args, kwargs)

    def max(self, *args: Any, **kwargs: Any) -> Any:
        """Greatest value of each group; parameters and result as pandas has them."""
        return self._reduce("max", args, kwargs)

    def count(self) -> Any:
        """How many values of each group are not missing, as pandas has it."""
        return self._reduce("count", (), {})

    def size(self) -> Any:
        """How many rows each group has. The kernel knows, since it forms the groups: nothing is sent."""
        return self._by.size()

    def std(self, *args: Any, **kwargs: Any) -> Any:
        """Standard deviation of each group; parameters and result as pandas has them."""
        return self._reduce("std", args, kwargs)

    def var(self, *args: Any, **kwargs: Any) -> Any:
        """Variance of each group; parameters and result as pandas has them."""
        return self._reduce("var", args, kwargs)

    def sem(self, *args: Any, **kwargs: Any) -> Any:
        """Standard error of the mean of each group; parameters and result as pandas has them."""
        return self._reduce("sem", args, kwargs)

    def first(self, *args: Any, **kwargs: Any) -> Any:
        """First value of each group that is not missing; parameters and result as pandas has them."""
        return self._reduce("first", args, kwargs)

    def last(self, *args: Any, **kwargs: Any) -> Any:
        """Last value of each group that is not missing; parameters and result as pandas has them."""
        return self._reduce("last", args, kwargs)

    def nunique(self, *args: Any, **kwargs: Any) -> Any:
        """How many different values each group has; parameters and result as pandas has them."""
        return self._reduce("nunique", args, kwargs)

    def median(self, *args: Any, **kwargs: Any) -> Any:
        """Median of each group; parameters and result as pandas has them."""
        return self._reduce("median", args, kwargs)

    def quantile(self, *args: Any, **kwargs: Any) -> Any:
        """Quantile of each group; parameters and result as pandas has them."""
        return self._reduce("quantile", args, kwargs)

    def prod(self, *args: Any, **kwargs: Any) -> Any:
        """Product of each group; parameters and result as pandas has them."""
        return self._reduce("prod", args, kwargs)

    def any(self, *args: Any, **kwargs: Any) -> Any:
        """Whether any value of each group is true; parameters and result as pandas has them."""
        return self._reduce("any", args, kwargs)

    def all(self, *args: Any, **kwargs: Any) -> Any:
        """Whether all values of each group are true; parameters and result as pandas has them."""
        return self._reduce("all", args, kwargs)

    # ---------------------------------------------------------------- how

    def _alone(self) -> bool:
        """Whether there is nothing to part: no groups, or bins whose rows pandas has put in order."""
        return self._grouping.binned or not self._grouping.count

    @staticmethod
    def _plain(kwargs: dict[str, Any]) -> bool:
        return not (kwargs.keys() & {"engine", "engine_kwargs"})

    def _check(self, fn: Any) -> None:
        if not callable(fn):
            raise ConfigError(f"fn has to be callable; got {type(fn).__name__}.")

    def _map(self, items: list[Any], fn: Callable[..., Any], verb: str, what: Any = None) -> list[Any]:
        """Run a function over items on workers, each a task of its own."""
        __tracebackhide__ = True
        from nbmr.groupcalls import name_of  # noqa: PLC0415

        options = {name: value for name, value in self._options.items() if name != "partitions"}
        if options.get("name") is None:
            options["name"] = f"groupby.{verb}" if what is None else f"groupby.{verb}({name_of(what)})"
        results: list[Any] = self._run(items, fn, partitions=len(items), gather="list", **options)
        return results

    def _entire(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Have one worker do all of it with pandas, where it can't be parted; here, where there is nothing."""
        __tracebackhide__ = True
        from nbmr import groupcalls, partials  # noqa: PLC0415

        if not self._grouping.count:
            return getattr(self._by, verb)(*args, **kwargs)
        spec = args[0] if args else None
        own = callable(spec) or groupcalls.has_functions(spec, kwargs if spec is None else {})
        try:
            return self._map([self._by], partials.Entire(verb, args, kwargs), verb)[0]
        except TaskError as error:
            if own or error.__cause__ is None:
                raise
            raise error.__cause__ from error  # pandas refuses it, and says why

    def _in_turn(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], rows: Any, verb: Any
    ) -> Any:
        """Call a function once a group on workers, and have pandas put the results together."""
        __tracebackhide__ = True
        from nbmr import groupcalls  # noqa: PLC0415

        name = sys._getframe(1).f_code.co_name  # noqa: SLF001 - the verb
        call = groupcalls.EachGroup(fn, args, kwargs, named=name == "apply" or self._by.ndim > 1)
        tasks = self._grouping.split(rows, self._options.get("partitions"))
        results = [result for part in self._map(tasks, call, name, fn) for result in part]
        put, finish = groupcalls.in_turn(results)
        try:
            out = verb(put)
            finish()
        except groupcalls.OutOfStep:
            return self._entire(name, (fn, *args), kwargs)
        return out

    def _recorded(self, verb: str, spec: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Have workers call functions as pandas calls them, and pandas put the results together."""
        __tracebackhide__ = True
        from nbmr import groupcalls  # noqa: PLC0415

        rows = self._by._obj_with_exclusions  # noqa: SLF001 - what functions get
        led = verb == "transform" and rows.ndim > 1
        tasks = self._grouping.split(rows, self._options.get("partitions"), led=led)
        call = groupcalls.Recorded(verb, spec, args, kwargs, self._grouping.keys)
        recorded = self._map(tasks, call, verb, spec if callable(spec) else None)
        replay = groupcalls.Replay(recorded, verb, [len(task.sizes) for task in tasks])
        put, named = groupcalls.replaced(spec, kwargs, replay.next)
        try:
            out = getattr(self._by, verb)(put, *args, **named)
            replay.finish()
        except groupcalls.OutOfStep:
            return self._entire(verb, (spec, *args), kwargs)
        return out

    def _named_transform(self, how: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Transform whole groups by name, and bring the rows back into their order."""
        __tracebackhide__ = True
        import numpy as np  # noqa: PLC0415
        import pandas as pd  # noqa: PLC0415

        from nbmr import partials  # noqa: PLC0415

        grouping = self._grouping
        rows = self._by._obj_with_exclusions  # noqa: SLF001 - what pandas transforms
        if self._alone() or not grouping.complete or _has_objects(rows):
            return self._entire("transform", (how, *args), kwargs)
        if rows.ndim > 1 and not rows.columns.is_unique:
            return self._entire("transform", (how, *args), kwargs)
        tasks = grouping.split(rows, self._options.get("partitions"))
        tasks = [task for task in tasks if task.sizes.sum()]
        try:
            parts = self._map(tasks, partials.NamedTransform(how, args, kwargs), "transform", None)
        except TaskError as error:
            if error.__cause__ is None:
                raise
            raise error.__cause__ from error
        back = np.empty(len(grouping.order), dtype=np.intp)
        back[grouping.order] = np.arange(len(back))
        out = pd.concat(parts).take(back)
        out.index = rows.index
        return out

    def _reduce(self, how: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        __tracebackhide__ = True
        from nbmr import spec  # noqa: PLC0415

        wants = None
        if not self._alone() and self._plain(kwargs):
            wants = spec.by_name(how, args, kwargs, self._by)
        if wants is None:
            return self._entire(how, args, kwargs)
        return self._reduced(wants, how, (), {}, args, kwargs)

    def _reduced(
        self, wants: list[Any], verb: str, spec: tuple[Any, ...], named: dict[str, Any],
        args: tuple[Any, ...], kwargs: dict[str, Any],
    ) -> Any:  # fmt: skip
        """Aggregate columns on workers, and put them where pandas puts them in a sample's result."""
        __tracebackhide__ = True
        import pandas as pd  # noqa: PLC0415

        from nbmr import partials  # noqa: PLC0415
        from nbmr import spec as specs

        rows = self._by._obj_with_exclusions  # noqa: SLF001 - what pandas aggregates
        rows = rows.to_frame() if rows.ndim == 1 else rows
        entire = (verb, (*spec, *args), named | kwargs)
        sample = None if self._alone() else self._grouping.sample(self._whole, self._selection)
        if sample is None or any(
            rows.dtypes.iloc[want.column] == object and want.how not in ("count", "size", "nunique")
            for want in wants
        ):
            return self._entire(*entire)
        frame = getattr(sample, verb)(*spec, *args, **named, **kwargs)
        wants = specs.narrowed(wants, frame, rows, kwargs)
        if not wants:
            return self._entire(*entire)
        computed = [want for want in dict.fromkeys(wants) if want.how != "size"]
        simple = not args and not kwargs.keys() - {"ddof", "numeric_only"}
        if (
            all(partials.decomposable(rows.dtypes.iloc[want.column], want.how) for want in computed)
            and simple
        ):
            values = self._by_parts(computed, rows, verb, kwargs.get("ddof", 1))
        else:
            values = self._by_groups(computed, rows, verb, args, kwargs)
        known = dict(zip(computed, values, strict=True))
        sizes = pd.Series(self._grouping.sizes)
        sizes = sizes[sizes > 0]
        filled = specs.filled(frame, [known.get(want, sizes) for want in wants], self._grouping.count)
        return self._entire(*entire) if filled is None else filled

    def _by_parts(self, wants: list[Any], rows: Any, verb: str, ddof: int) -> list[Any]:
        """Aggregate rows as they stand, and combine the tables that come back."""
        __tracebackhide__ = True
        from itertools import pairwise  # noqa: PLC0415

        import pandas as pd  # noqa: PLC0415

        from nbmr import grouping, partials  # noqa: PLC0415

        if not wants:
            return []
        codes = grouping.small(self._grouping.codes, self._grouping.count)
        arrays = {
            column: rows.iloc[:, column].array for column in dict.fromkeys(want.column for want in wants)
        }
        cuts = grouping.row_cuts(len(rows), self._options.get("partitions"))
        slices = [
            partials.Slice(codes[a:b], {column: pd.Series(array[a:b]) for column, array in arrays.items()})
            for a, b in pairwise(cuts)
        ]
        return partials.combine(self._map(slices, partials.Partial(wants), verb), wants, ddof)

    def _by_groups(
        self, wants: list[Any], rows: Any, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Iterator[Any] | list[Any]:
        """Aggregate whole groups."""
        __tracebackhide__ = True
        import pandas as pd  # noqa: PLC0415

        from nbmr import partials  # noqa: PLC0415

        rows = rows.iloc[:, sorted({want.column for want in wants})]
        tasks = self._grouping.split(rows, self._options.get("partitions"))
        tasks = [task for task in tasks if task.sizes.sum()]
        kwargs = {name: value for name, value in kwargs.items() if name != "numeric_only"}
        parts = self._map(tasks, partials.Whole(wants, args, kwargs), verb)
        return [pd.concat(columns) for columns in zip(*parts, strict=True)]


def grouped(df: Any, by: Any, options: dict[str, Any], run: Callable[..., Any]) -> GroupBy:
    """Group a frame; everything that can be wrong with the keys is raised here.

    Parameters
    ----------
    df, by, options
        As for `nbmr.groupby`.
    run
        What runs a function over a list on workers, as `nbmr.map`.

    Raises
    ------
    ConfigError
        If `df` isn't a frame, or an option is unknown.
    """
    if not is_frame(df):
        raise ConfigError(
            f"nbmr.groupby needs a DataFrame or Series; got {type(df).__name__}. For other data, use"
            " nbmr.map_reduce, or make a frame of it."
        )
    for name in options.keys() - {*_PANDAS, *_JOBS}:
        near = difflib.get_close_matches(name, (*_PANDAS, *_JOBS), 1)
        raise ConfigError(
            f"{name}=… is no option of groupby{f'; did you mean {near[0]}=…?' if near else '.'}"
        )
    from nbmr.grouping import check_partitions  # noqa: PLC0415

    check_partitions(options.get("partitions"))
    made = df.groupby(by, **{name: options[name] for name in _PANDAS if name in options})
    return GroupBy(made, run, {name: options[name] for name in _JOBS if name in options})


def _has_objects(rows: Any) -> bool:
    return any(kind == object for kind in (rows.dtypes if rows.ndim > 1 else [rows.dtype]))
