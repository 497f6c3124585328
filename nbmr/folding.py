"""What a worker does for `nbmr.reduce`: it folds some neighbours into one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any


class Chunk(list[Any]):
    """Neighbours that one call folds, in their order.

    Parameters
    ----------
    values
        Items, partitions or partial results.
    nbytes
        Roughly how many bytes they take, for who puts chunks into tasks.
    """

    def __init__(self, values: Iterable[Any] = (), nbytes: int = 0) -> None:
        super().__init__(values)
        self.nbytes = nbytes


class Later:
    """A value that is read where it is needed.

    Parameters
    ----------
    read
        Returns the value.
    place
        What to give it: a path, say.
    """

    def __init__(self, read: Callable[[Any], Any], place: Any) -> None:
        self.read, self.place = read, place

    def value(self) -> Any:
        """Read it."""
        return self.read(self.place)


class Fold:
    """Folds a chunk with a function of two arguments, from left to right.

    Parameters
    ----------
    fn
        Gets what came of the values so far, and the next value.
    read
        Reads each value, where a chunk has the paths of files; None for other values.

    Examples
    --------
    >>> Fold(lambda a, b: a + b)(["a", "b", "c"])
    'abc'
    """

    def __init__(self, fn: Callable[[Any, Any], Any], read: Callable[[str], Any] | None = None) -> None:
        self.fn, self.read = fn, read

    def __call__(self, chunk: list[Any]) -> Any:
        """Fold one chunk; a single value is what it is."""
        if self.read is not None:
            chunk = [self.read(path) for path in chunk if path is not None]
        return functools.reduce(self.fn, map(_value, chunk))


def _value(given: Any) -> Any:
    return given.value() if isinstance(given, Later) else given
