"""Which library a value belongs to: pandas, polars or Arrow. Nothing is imported to find out."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterable
from typing import Any

from nbmr.frames.library import Kind, Library

#: The libraries, and where what nbmr knows of each stands.
_LIBRARIES = {
    "pandas": "nbmr.frames.of_pandas",
    "polars": "nbmr.frames.of_polars",
    "pyarrow": "nbmr.frames.of_arrow",
}
#: The kinds that have rows, and may be a job's data.
FRAMES: tuple[Kind, ...] = ("frame", "series")


@functools.cache
def library(name: str) -> Library:
    """Return a library by its name; it is imported where it wasn't.

    Raises
    ------
    ImportError
        If it isn't installed.
    """
    found: Library = importlib.import_module(_LIBRARIES[name]).LIBRARY
    return found


def kind_of(value: Any) -> tuple[str, Kind]:
    """Return the name of a value's library, and what the value is to it; empty texts for other values.

    Examples
    --------
    >>> kind_of(3)
    ('', '')
    >>> kind_of(pd.Series([3]))
    ('pandas', 'series')
    """
    of: Any = type(value)
    try:
        return _kind_of_type(of)
    except TypeError:  # of a metaclass whose classes have no hash
        return _kind_of_type.__wrapped__(of)


def library_of(value: Any) -> Library | None:
    """Return the library of a frame or series; None for any other value."""
    name, kind = kind_of(value)
    return library(name) if kind in FRAMES else None


def is_frame(value: Any) -> bool:
    """Whether a value is a frame or series of one of the libraries."""
    return kind_of(value)[1] in FRAMES


def are_frames(values: Iterable[Any]) -> bool:
    """Whether values are frames, or series, of one library; but for those that are None."""
    there = (value for value in values if value is not None)
    first = kind_of(next(there, None))
    return first[1] in FRAMES and all(kind_of(value) == first for value in there)


@functools.lru_cache(maxsize=256)
def _kind_of_type(of: type) -> tuple[str, Kind]:
    """As `kind_of`. A type keeps its answer: it can't be of a library that is loaded only later."""
    for name in _LIBRARIES:
        if sys.modules.get(name) and (kind := library(name).kind(of)):
            return name, kind
    return "", ""
