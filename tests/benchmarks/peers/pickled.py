"""A function that travels as bytes: for peers that pickle functions by their names alone."""

from __future__ import annotations

import functools
import pickle
from typing import Any

_load = functools.lru_cache(64)(pickle.loads)


def call(function: bytes, item: Any) -> Any:
    """Call a function that cloudpickle made bytes of; it is loaded once in each process."""
    return _load(function)(item)
