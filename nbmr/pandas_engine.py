"""pandas' own interface for engines (pandas 3): ``df.apply(fn, axis=1, engine=nbmr)``.

The calls of the function are made on workers. What pandas makes of their results (a Series, a frame, which
dtypes) it says itself: in the kernel it is given the results, one by one, by a function that takes the place
of the user's; but for the plain ones, of which there may be many, see `nbmr.applied`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbmr import api
from nbmr.applied import put_together, unpack
from nbmr.applying import Apply, Element
from nbmr.errors import ConfigError, TaskError

if TYPE_CHECKING:
    from nbmr.client import Client

#: Options of `nbmr.map` that make sense here.
_OPTIONS = frozenset({"queue", "partitions", "retries", "timeout", "progress", "name"})


def engine(client: Client | None = None, **options: Any) -> Engine:
    """Return an engine for pandas' ``apply`` and ``map``, with options; ``engine=nbmr`` is one without any.

    Parameters
    ----------
    client
        Whose workers to use; the default client's if None.
    **options
        ``queue``, ``partitions``, ``retries``, ``timeout``, ``progress`` and ``name``, as for `nbmr.map`.

    Returns
    -------
    Engine
        What pandas' methods take as ``engine``.

    Raises
    ------
    ConfigError
        If there is no such option.

    Examples
    --------
    >>> df.apply(fn, axis=1, engine=nbmr.engine(queue="gpu", partitions=8))  # doctest: +SKIP
    """
    if strange := sorted(options.keys() - _OPTIONS):
        raise ConfigError(
            f"{strange[0]}=… is no option of an engine; there are {', '.join(sorted(_OPTIONS))}."
        )
    return Engine(client, options)


class Engine:
    """Has the calls of pandas' ``apply`` and ``map`` made on workers.

    Parameters
    ----------
    client
        Whose workers to use; the default client's if None.
    options
        As for `engine`.
    """

    def __init__(self, client: Client | None = None, options: dict[str, Any] | None = None) -> None:
        self._client, self._options = client, options or {}

    @property
    def __pandas_udf__(self) -> Engine:
        """What pandas looks for."""
        return self

    def map(
        self,
        data: Any,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        decorator: object,  # noqa: ARG002 - pandas hands it over
        skip_na: bool,
    ) -> Any:
        """Call a function on every element; see pandas' ``BaseExecutionEngine.map``."""
        __tracebackhide__ = True
        how = "ignore" if skip_na else None
        if not callable(func):
            return data.map(func, how)
        # which elements pandas would call it with (only the categories, say), and in which order
        elements: list[Any] = []
        data.map(elements.append, how)
        results = map(_as_pandas_knows_it, self._run(elements, Element(func, kwargs), *args))
        return data.map(lambda _element: next(results), how)

    def apply(
        self,
        data: Any,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        decorator: object,  # noqa: ARG002 - pandas hands it over
        axis: Any,
    ) -> Any:
        """Call a function on every row or column; see pandas' ``BaseExecutionEngine.apply``."""
        __tracebackhide__ = True
        import numpy as np  # noqa: PLC0415 - slow to import
        import pandas as pd  # noqa: PLC0415 - slow to import

        if isinstance(data, pd.Series):
            return data.apply(func, args=args, by_row=False, **kwargs)
        axis = {"index": 0, "rows": 0, "columns": 1}.get(axis, axis)
        if not callable(func) or isinstance(func, np.ufunc):  # pandas does that for the whole frame at once
            if isinstance(data, np.ndarray):
                return np.apply_along_axis(func, axis, data, *args, **kwargs)
            return data.apply(func, axis=axis, args=args, **kwargs)
        calls = Apply(func, args, kwargs, axis)
        if isinstance(data, np.ndarray):
            packed = self._run(_pieces_of_array(data, axis), calls)
            results = unpack(packed)
            return np.apply_along_axis(lambda _one: _as_pandas_has_it(next(results)), axis, data)
        if axis == 0:
            packed = self._run([data.iloc[:, number : number + 1] for number in range(data.shape[1])], calls)
        else:
            packed = self._run(data, calls)
        if axis == 1 and (whole := put_together(data, packed)) is not None:
            return whole.__finalize__(data, method="apply")
        results = unpack(packed)
        return data.apply(lambda _one: next(results), axis=axis)

    def _run(self, data: Any, fn: Apply | Element, *args: Any) -> list[Any]:
        """Map on the workers; what the function raised is raised as it was, as pandas does."""
        __tracebackhide__ = True
        client = self._client or api.client(progress=self._options.get("progress", True))
        options: dict[str, Any] = {
            "name": getattr(fn.fn, "__qualname__", type(fn.fn).__name__),
            "gather": "list",
        } | self._options
        try:
            results: list[Any] = client.map(data, fn, *args, **options)
        except TaskError as error:
            if error.__cause__ is None:
                raise
            raise error.__cause__ from error
        return results


def _pieces_of_array(data: Any, axis: int) -> list[Any]:
    """Cut a two-dimensional array into some pieces along the axis that isn't handed to the function."""
    import numpy as np  # noqa: PLC0415 - slow to import

    count = min(data.shape[1 - axis], 32)
    return list(np.array_split(data, count, axis=1 - axis))


def _as_pandas_knows_it(result: Any) -> Any:
    """Return pandas' own object for NaN, which it tells from others; what has travelled is another one."""
    import numpy as np  # noqa: PLC0415 - slow to import

    return np.nan if type(result) is float and result != result else result  # noqa: PLR0124 - NaN alone is so


def _as_pandas_has_it(result: Any) -> Any:
    """Keep numpy from cutting texts to the length of the first one."""
    import numpy as np  # noqa: PLC0415 - slow to import

    return np.array(result, dtype=object) if isinstance(result, str) else result
