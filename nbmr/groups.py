"""A frame's groups, aggregated, transformed and filtered on workers: what `nbmr.groupby` returns."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any, Self

from nbmr import frames
from nbmr.errors import ConfigError

#: What is pandas' business, and what is the jobs'; pandas has its own defaults.
_PANDAS = ("level", "sort", "dropna", "observed", "as_index", "group_keys")
_JOBS = ("partitions", "queue", "retries", "timeout", "progress", "name")
#: Verbs of ours that a name can't stand for.
_VERBS = ("apply", "agg", "aggregate", "filter", "transform", "ngroups")


class Unsupported(ConfigError, AttributeError):
    """A verb of pandas' groupby that nbmr has not."""


class GroupBy:
    """Groups of a DataFrame or Series; `nbmr.groupby` makes it. Its verbs wait, and give what pandas gives.

    Parameters
    ----------
    work
        What does the work: a `Groupwork`, or a `Jobwork`.

    Examples
    --------
    >>> nbmr.groupby(flights, "carrier")["arr_delay"].mean()  # doctest: +SKIP
    >>> nbmr.groupby(flights, ["origin", "month"]).agg({"arr_delay": ["mean", "std"]})  # doctest: +SKIP
    >>> nbmr.groupby(flights, "carrier").apply(fit_a_model)  # doctest: +SKIP
    """

    def __init__(self, work: Any) -> None:
        self._work = work

    def __getitem__(self, selection: Any) -> Self:
        """Select a column, or a list of columns, as pandas does."""
        return type(self)(self._work.select(selection))

    def __getattr__(self, name: str) -> Any:
        work = self.__dict__.get("_work")
        if work is None or name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if hasattr(type(work.by), name):
            raise Unsupported(
                f"nbmr.groupby has no {name}. Use .apply(lambda group: …) for workers, or pandas' own"
                f" df.groupby(…).{name} here."
            )
        if work.by.ndim > 1 and name in work.by.obj.columns:
            return self[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        columns = self._work.by.obj.columns if self._work.by.ndim > 1 else []
        names = [name for name in columns if isinstance(name, str) and name.isidentifier()]
        return [*super().__dir__(), *names]

    def __iter__(self) -> Iterator[Any]:
        """Yield each group's key and rows, as pandas does; nothing is sent."""
        return iter(self._work.by)

    @property
    def ngroups(self) -> int:
        """How many groups there are."""
        return int(self._work.by.ngroups)

    def __len__(self) -> int:
        return len(self._work.by)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self._work.by.obj):,} rows in {self.ngroups:,} groups>"

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
        >>> nbmr.groupby(flights, "carrier").apply(lambda rows: rows.nlargest(3, "x"))  # doctest: +SKIP
        """
        __tracebackhide__ = True
        if isinstance(fn, str):
            return self._by_name("apply", fn, args, kwargs)
        return self._work.apply(fn, args, kwargs)

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
        __tracebackhide__ = True
        return self._work.filter(fn, dropna, args, kwargs)

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
        __tracebackhide__ = True
        return self._work.transform(fn, args, kwargs)

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
        __tracebackhide__ = True
        if isinstance(func, str):
            return self._by_name("agg", func, args, kwargs)
        return self._work.agg(func, args, kwargs)

    aggregate = agg

    # ---------------------------------------------------------------- names

    def sum(self, *args: Any, **kwargs: Any) -> Any:
        """Sum of each group; parameters and result as pandas has them."""
        return self._work.reduce("sum", args, kwargs)

    def mean(self, *args: Any, **kwargs: Any) -> Any:
        """Mean of each group; parameters and result as pandas has them."""
        return self._work.reduce("mean", args, kwargs)

    def min(self, *args: Any, **kwargs: Any) -> Any:
        """Least value of each group; parameters and result as pandas has them."""
        return self._work.reduce("min", args, kwargs)

    def max(self, *args: Any, **kwargs: Any) -> Any:
        """Greatest value of each group; parameters and result as pandas has them."""
        return self._work.reduce("max", args, kwargs)

    def count(self) -> Any:
        """How many values of each group are not missing, as pandas has it."""
        return self._work.reduce("count", (), {})

    def size(self) -> Any:
        """How many rows each group has. The kernel knows, since it forms the groups: nothing is sent."""
        return self._work.by.size()

    def std(self, *args: Any, **kwargs: Any) -> Any:
        """Give the standard deviation of each group; parameters and result as pandas has them."""
        return self._work.reduce("std", args, kwargs)

    def var(self, *args: Any, **kwargs: Any) -> Any:
        """Variance of each group; parameters and result as pandas has them."""
        return self._work.reduce("var", args, kwargs)

    def sem(self, *args: Any, **kwargs: Any) -> Any:
        """Give the standard error of the mean of each group; parameters and result as pandas has them."""
        return self._work.reduce("sem", args, kwargs)

    def first(self, *args: Any, **kwargs: Any) -> Any:
        """First value of each group that is not missing; parameters and result as pandas has them."""
        return self._work.reduce("first", args, kwargs)

    def last(self, *args: Any, **kwargs: Any) -> Any:
        """Last value of each group that is not missing; parameters and result as pandas has them."""
        return self._work.reduce("last", args, kwargs)

    def nunique(self, *args: Any, **kwargs: Any) -> Any:
        """How many different values each group has; parameters and result as pandas has them."""
        return self._work.reduce("nunique", args, kwargs)

    def median(self, *args: Any, **kwargs: Any) -> Any:
        """Median of each group; parameters and result as pandas has them."""
        return self._work.reduce("median", args, kwargs)

    def quantile(self, *args: Any, **kwargs: Any) -> Any:
        """Quantile of each group; parameters and result as pandas has them."""
        return self._work.reduce("quantile", args, kwargs)

    def prod(self, *args: Any, **kwargs: Any) -> Any:
        """Product of each group; parameters and result as pandas has them."""
        return self._work.reduce("prod", args, kwargs)

    def any(self, *args: Any, **kwargs: Any) -> Any:
        """Whether any value of each group is true; parameters and result as pandas has them."""
        return self._work.reduce("any", args, kwargs)

    def all(self, *args: Any, **kwargs: Any) -> Any:
        """Whether all values of each group are true; parameters and result as pandas has them."""
        return self._work.reduce("all", args, kwargs)

    def _by_name(self, verb: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        __tracebackhide__ = True
        method = type(self).__dict__.get(name) if name not in _VERBS else None
        if callable(method) and not name.startswith("_"):
            return method(self, *args, **kwargs)
        return self._work.entire(verb, (name, *args), kwargs)


def grouped(
    df: Any,
    by: Any,
    options: dict[str, Any],
    run: Callable[..., Any],
    slots: Callable[[str], int] = lambda _queue: 1,
) -> GroupBy:
    """Group a frame; everything that can be wrong with the keys is raised here.

    Parameters
    ----------
    df, by, options
        As for `nbmr.groupby`.
    run
        What runs a function over a list on workers, as `nbmr.map`.
    slots
        Tells how many tasks the workers of a queue run at the same time.

    Raises
    ------
    ConfigError
        If `df` isn't a frame, or an option is unknown.
    """
    library, kind = frames.kind_of(df)
    if library != "pandas":
        hint = "For other data, use nbmr.map_reduce, or make a frame of it."
        if library:
            hint = f"Pass its {'.collect()' if kind == 'lazy' else ''}.to_pandas()."
        raise ConfigError(
            "nbmr.groupby is pandas' groupby: it needs its DataFrame or Series, a job or nbmr.files(…)"
            f"; got {library or 'an object'} {type(df).__name__}. {hint}"
        )
    pandas, jobs = check_options(options)
    from nbmr.groupwork import Groupwork  # noqa: PLC0415 - pandas and numpy load then

    return GroupBy(Groupwork(df.groupby(by, **pandas), ..., run, jobs, slots=slots))


def check_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return pandas' options, and those of jobs.

    Raises
    ------
    ConfigError
        If there are others.
    """
    for name in options.keys() - {*_PANDAS, *_JOBS}:
        near = difflib.get_close_matches(name, (*_PANDAS, *_JOBS), 1)
        raise ConfigError(
            f"{name}=… is no option of groupby{f'; did you mean {near[0]}=…?' if near else '.'}"
        )
    frames.check_partitions(options.get("partitions"))
    return tuple({name: options[name] for name in names if name in options} for names in (_PANDAS, _JOBS))  # type: ignore[return-value]
