"""What a worker does for pandas' ``apply`` and ``map`` with ``engine=nbmr``: it makes the calls.

What is made of all their results together is for pandas to say, in the kernel.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any


class Apply:
    """Calls a function as pandas would, and returns what each call gave, packed.

    Parameters
    ----------
    fn, args, kwargs
        The function, and what it gets behind each row, column or element.
    axis
        1 for a function of rows, 0 for one of columns.
    """

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], axis: int
    ) -> None:
        self.fn, self.args, self.kwargs, self.axis = fn, args, kwargs, axis

    def __call__(self, part: Any) -> Packed:
        """Call the function on each row or column of a DataFrame or of an array."""
        import numpy as np  # noqa: PLC0415 - slow to import
        import pandas as pd  # noqa: PLC0415 - slow to import

        results: list[Any] = []
        fn, keep, plain, series = self.fn, results.append, {float, int, bool, np.float64}, pd.Series
        if self.args or self.kwargs:
            fn = functools.partial(_call, self.fn, self.args, self.kwargs)

        def call(one: Any) -> None:
            result = fn(one)
            if type(result) not in plain and isinstance(result, series):
                result = result.copy(deep=False)  # pandas lets the next row take this one's place
            keep(result)

        if isinstance(part, np.ndarray):
            for one in part if self.axis else part.T:
                call(one)
        else:
            part.apply(call, axis=self.axis)
        return Packed(results)


def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], one: Any) -> Any:
    return fn(one, *args, **kwargs)


class Element:
    """Calls a function on one element.

    Parameters
    ----------
    fn, kwargs
        The function, and what it gets besides.
    """

    def __init__(self, fn: Callable[..., Any], kwargs: dict[str, Any]) -> None:
        self.fn, self.kwargs = fn, kwargs

    def __call__(self, one: Any) -> Any:
        """Call it."""
        return self.fn(one, **self.kwargs)


class Packed:
    """What calls gave, in a form that travels quickly where they are all alike.

    Parameters
    ----------
    results
        What each call gave, in order.
    labels
        Whether frames, and Series, share their labels where these are equal: for who puts them together.
    """

    def __init__(self, results: list[Any], *, labels: bool = False) -> None:
        import numpy as np  # noqa: PLC0415 - slow to import

        self.count = len(results)
        #: All of them: as they are, or as an array of one numpy type, or of the rows that they make.
        self.results: Any = results
        #: The index that all of them have, if each is a Series of numbers.
        self.index: Any = None
        #: And their names.
        self.names: list[Any] = []
        #: Which results were Python's own floats, if all were floats, and some of them were.
        self.own: Any = None
        kinds = set(map(type, results))
        kind = next(iter(kinds)) if len(kinds) == 1 else None
        if float in kinds and kinds <= {float, np.float64}:
            own = map(operator.is_, map(type, results), itertools.repeat(float))
            self.own = np.fromiter(own, bool, len(results))
            self.results = np.fromiter(results, float, len(results))
        elif (
            kind is not None
            and issubclass(kind, np.number | np.bool_)
            and not issubclass(kind, np.timedelta64)
        ):
            self.results = np.array(results, kind)
        elif kind is not None and _rows_alike(results):
            self.index, self.names = results[0].index, [result.name for result in results]
            self.results = np.array([result.to_numpy() for result in results])
        elif labels and kind in _pandas_kinds():
            self.results = _sharing_labels(results)

    def unpack(self) -> list[Any]:
        """Return what each call gave, as it was."""
        import pandas as pd  # noqa: PLC0415 - slow to import

        if self.index is not None:
            rows = zip(self.results, self.names, strict=True)
            return [pd.Series(row, index=self.index, name=name) for row, name in rows]
        if self.own is not None:
            return [x.item() if own else x for x, own in zip(self.results, self.own, strict=True)]
        return list(self.results)


def _pandas_kinds() -> tuple[type, ...]:
    """Return what has labels, and nothing that derives from it."""
    import pandas as pd  # noqa: PLC0415 - slow to import

    return pd.Series, pd.DataFrame


def _sharing_labels(results: list[Any]) -> list[Any]:
    """Return results that have the first one's labels where they have equal ones: these travel once then.

    To send each result's own, and to put together what has its own, takes twice as long.
    """
    first, shared = results[0], []
    for result in results:
        one = result
        for name in ("index", "columns")[: first.ndim]:
            own, labels = getattr(one, name), getattr(first, name)
            if own is not labels and own.identical(labels):
                one = result.copy(deep=False) if one is result else one  # which the function may have kept
                setattr(one, name, labels)
        shared.append(one)
    return shared


def _rows_alike(results: list[Any]) -> bool:
    """Whether they are Series of one numpy type of numbers, with the same labels: rows of a frame."""
    import numpy as np  # noqa: PLC0415 - slow to import
    import pandas as pd  # noqa: PLC0415 - slow to import

    first = results[0]
    return type(first) is pd.Series and all(
        isinstance(one.dtype, np.dtype)
        and one.dtype.kind in "biuf"
        and one.dtype == first.dtype
        and not one.attrs
        and (one.index is first.index or (one.index.identical(first.index) and one.index.is_unique))
        for one in results
    )
