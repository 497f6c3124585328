"""A user's function over groups: called on workers, its results put together by pandas itself.

A worker calls it for every group of its task and returns what came, call by call. The kernel then runs the
same verb of the real groupby, with a function in the user's place that hands out those results in turn. So
all rules by which pandas puts results together are pandas' own.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from nbmr.applying import Packed
from nbmr.grouping import Groups

#: A call: of what, whether it returned, and its result or exception.
Entry = tuple[tuple[str, str, str], bool, Any]


#: Stands behind the calls of a task whose results pandas has refused.
_REFUSED: Entry = (("refused", "", ""), False, None)


class OutOfStep(BaseException):
    """pandas asks for calls that no worker made; a BaseException, for pandas catches others."""


class EachGroup:
    """Calls a function once a group, as `apply` and `filter` do.

    Parameters
    ----------
    fn, args, kwargs
        What is called with each group's rows.
    named
        Whether the rows carry the group's key as ``.name``.
    """

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, named: bool
    ) -> None:
        self.fn, self.args, self.kwargs, self.named = fn, args, kwargs, named

    def __call__(self, groups: Groups) -> Packed:
        """Return the results of one task's groups, in order, as they travel."""
        return Packed(self.results(groups), labels=True)

    def results(self, groups: Groups) -> list[Any]:
        """Return the results of one task's groups, in order."""
        results = []
        for name, rows in zip(groups.names, groups, strict=True):
            if self.named:
                object.__setattr__(rows, "name", name)
            with _told(name):
                results.append(self.fn(rows, *self.args, **self.kwargs))
        return results


class Recorded:
    """Runs a verb of pandas over one task's groups, and returns the calls that it made.

    Parameters
    ----------
    verb
        ``"agg"`` or ``"transform"``.
    spec, args, kwargs
        What the verb was given.
    keys
        How many keys the groups have, since pandas calls otherwise for several.
    """

    def __init__(
        self, verb: str, spec: Any, args: tuple[Any, ...], kwargs: dict[str, Any], keys: int
    ) -> None:
        self.verb, self.spec, self.args, self.kwargs, self.keys = verb, spec, args, kwargs, keys

    def __call__(self, groups: Groups) -> list[list[Entry]]:
        """Return, for each function of the spec, its calls: of what, whether it returned, and the result."""
        calls: list[list[Entry]] = []
        raised: list[Exception] = []
        of_series = isinstance(groups.data, pd.Series)

        def record(fn: Callable[..., Any]) -> Callable[..., Any]:
            made: list[Entry] = []
            calls.append(made)

            def call(data: Any, *args: Any, **kwargs: Any) -> Any:
                key, group = key_of(data), None
                if self.verb == "transform" and (of_series or isinstance(data, pd.DataFrame)):
                    number = data.name[0] if self.keys > 1 else data.name
                    group = groups.names[number]
                    object.__setattr__(data, "name", group)
                try:
                    result = fn(data, *args, **kwargs)
                except Exception as exc:
                    raised.append(exc)
                    made.append((key, False, exc))
                    raise
                made.append((key, True, result))
                return result

            call.__name__ = call.__qualname__ = name_of(fn)
            return call

        spec, kwargs = replaced(self.spec, self.kwargs, record)
        refused = False
        try:
            getattr(_grouped(groups, self.keys), self.verb)(spec, *self.args, **kwargs)
        except Exception as exc:
            if raised and any(raised[-1] is one for one in (exc, exc.__cause__, exc.__context__)):
                raise
            refused = (
                True  # by pandas, for what came: it does so in the kernel, too, and the error is its own
            )
        if groups.led:
            calls = [made[_trial(made) :] for made in calls]
        return [[*made, _REFUSED] for made in calls] if refused else calls


class Replay:
    """What stands in a spec in place of the user's functions when the kernel runs the verb.

    Parameters
    ----------
    recorded
        What each task's `Recorded` returned.
    verb
        ``"agg"``, which goes column by column, or ``"transform"``, which goes group by group.
    groups
        How many groups each task had.
    """

    def __init__(self, recorded: list[list[list[Entry]]], verb: str, groups: list[int]) -> None:
        self._number = 0
        self._merge = _by_column if verb == "agg" else _by_group
        self._recorded, self._groups = recorded, groups
        self._left: list[Iterator[Any]] = []

    def next(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return what stands for the spec's next function."""
        tasks = [task[self._number] for task in self._recorded]
        if self._merge is _by_column and refused(tasks):
            raise OutOfStep
        merged = self._merge(tasks, self._groups)
        self._number += 1
        queues = {key: iter(values) for key, values in merged.items()}
        self._left += queues.values()
        by_column = self._merge is _by_column

        def lookup(data: Any, *_args: Any, **_kwargs: Any) -> Any:
            entry = next(queues.get(key_of(data) if by_column else None, iter(())), None)
            if entry is None or entry[0][0] != key_of(data)[0]:
                raise OutOfStep
            if not entry[1]:
                raise entry[2]
            return entry[2]

        lookup.__name__ = lookup.__qualname__ = name_of(fn)
        return lookup

    def finish(self) -> None:
        """Raise if pandas has not asked for all that was computed."""
        if any(next(left, None) is not None for left in self._left):
            raise OutOfStep


def refused(recorded: list[list[Entry]]) -> bool:
    """Whether pandas has refused what came of a task's calls: then how many are lacking isn't known."""
    return any(made[-1][0] == _REFUSED[0] for made in recorded if made)


def in_turn(results: list[Any]) -> tuple[Callable[..., Any], Callable[[], None]]:
    """Return a function that hands out results, and one that raises unless all were asked for."""
    left = iter(results)
    end = object()

    def lookup(_data: Any, *_args: Any, **_kwargs: Any) -> Any:
        result = next(left, end)
        if result is end:
            raise OutOfStep
        return result

    def finish() -> None:
        if next(left, end) is not end:
            raise OutOfStep

    return lookup, finish


def replaced(spec: Any, kwargs: dict[str, Any], put: Callable[[Any], Any]) -> tuple[Any, dict[str, Any]]:
    """Return a spec, or the keywords of a named aggregation, with something else for each function.

    A function that is there twice is replaced by one and the same, since pandas compares them.
    """
    known: dict[int, Any] = {}

    def once(fn: Any) -> Any:
        if id(fn) not in known:
            known[id(fn)] = put(fn)
        return known[id(fn)]

    if spec is None:
        return None, {name: _replaced(value, once) for name, value in kwargs.items()}
    return _replaced(spec, once), kwargs


def has_functions(spec: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a spec, or a named aggregation, holds functions that pandas calls."""
    found: list[Any] = []

    def put(fn: Any) -> Any:
        found.append(fn)
        return fn

    replaced(spec, kwargs, put)
    return bool(found)


def _replaced(spec: Any, put: Callable[[Any], Any]) -> Any:
    if isinstance(spec, dict | pd.Series):
        return {key: _replaced(value, put) for key, value in spec.items()}
    if isinstance(spec, tuple) and hasattr(spec, "_fields"):
        return type(spec)(*(_replaced(value, put) for value in spec))
    if isinstance(spec, list | tuple):
        return type(spec)(_replaced(value, put) for value in spec)
    if hasattr(spec, "aggfunc"):  # pandas' NamedAgg
        other = copy.copy(spec)
        object.__setattr__(other, "aggfunc", _replaced(spec.aggfunc, put))
        return other
    if callable(spec) and not is_pandas_own(spec):
        return put(spec)
    return spec


def is_pandas_own(fn: Any) -> bool:
    """Whether pandas 2 takes this function for one of its own methods, as `sum` for ``"sum"``."""
    table = getattr(getattr(pd, "core").common, "_cython_table", {})  # noqa: B009 - it is not in the stubs
    try:
        return fn in table
    except TypeError:
        return False


def name_of(fn: Any) -> str:
    """Return the name that pandas labels the results of a function with."""
    while hasattr(fn, "func") and not hasattr(fn, "__name__"):
        fn = fn.func
    return str(getattr(fn, "__name__", type(fn).__name__))


def key_of(data: Any) -> tuple[str, str, str]:
    """Return what tells one column's calls from another's: the kind of data, and its label."""
    if isinstance(data, pd.DataFrame):
        return "frame", "", ""
    name = getattr(data, "name", None)
    return "series", type(name).__name__, repr(name)


def _by_column(tasks: list[list[Entry]], groups: list[int]) -> dict[Any, list[Entry]]:
    """Put together calls that went column by column: of equal labels, one column's, then the other's."""
    each: list[dict[Any, list[Entry]]] = []
    for calls in tasks:
        columns: dict[Any, list[Entry]] = {}
        for entry in calls:
            columns.setdefault(entry[0], []).append(entry)
        each.append(columns)
    merged: dict[Any, list[Entry]] = {}
    for key in {key: None for columns in each for key in columns}:
        rounds = max(
            -(-len(columns.get(key, ())) // count) for columns, count in zip(each, groups, strict=True)
        )
        merged[key] = [
            entry
            for number in range(rounds)
            for columns, count in zip(each, groups, strict=True)
            for entry in columns.get(key, [])[number * count : (number + 1) * count]
        ]
    return merged


def _by_group(tasks: list[list[Entry]], _groups: list[int]) -> dict[Any, list[Entry]]:
    """Put together calls that went group by group."""
    return {None: [entry for calls in tasks for entry in calls]}


def _trial(made: list[Entry]) -> int:
    """Return how many calls pandas spent on the first group, to choose how it transforms the others.

    It tries column by column, and then as a whole.
    """
    return next((number + 1 for number, entry in enumerate(made) if entry[0][0] == "frame"), len(made))


def _grouped(groups: Groups, keys: int) -> Any:
    codes, count = groups.codes, len(groups.sizes)
    # an Index, since pandas takes as many plain arrays as there are rows for something else
    by = [pd.CategoricalIndex(pd.Categorical.from_codes(codes, pd.RangeIndex(count)))]
    same = pd.Categorical.from_codes(np.zeros(len(codes), dtype=int), pd.RangeIndex(1))
    by += [pd.CategoricalIndex(same)] * (keys - 1)
    return groups.data.groupby(by if keys > 1 else by[0], observed=False, sort=True)


@contextlib.contextmanager
def _told(name: Any) -> Iterator[None]:
    """Say with an error in which group it was."""
    try:
        yield
    except Exception as exc:
        exc.add_note(f"(in group {name!r})")
        raise
