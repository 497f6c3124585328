"""The pickler behind `nbmr.codec`: cloudpickle's, taught about arrays, local modules, cells and caches.

Imports cloudpickle, so `nbmr.codec` imports this only when something is encoded.
"""

from __future__ import annotations

import functools
import linecache
import pickle
import sys
from collections.abc import Callable
from io import BytesIO
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

from nbmr import modules, shipped
from nbmr.reducers import Reduced, reducers

#: Longest source file whose lines travel for tracebacks, in characters.
MAX_CELL = 256 * 1024
_CACHED = type(functools.lru_cache(lambda: None))


class _Needed:
    """Something that must be in place before what follows it in the pickle is loaded."""

    def __init__(self, install: Callable[..., None], *args: Any) -> None:
        self._reduced = (install, args)

    def __reduce__(self) -> Reduced:
        return self._reduced


def reduce_code(code: CodeType) -> Reduced:
    """Reduce a code object with its file name, which cloudpickle drops since 3.1.2 (its issue 538).

    Tracebacks find the cell's lines by it.
    """
    make, args = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return rebuild_code, (code.co_filename, make, *args)


def rebuild_code(filename: str, make: Callable[..., CodeType], *args: Any) -> CodeType:
    """Undo `reduce_code`."""
    return make(*args).replace(co_filename=filename)


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Pickles anything that a notebook holds; see `nbmr.modules` for what travels how.

    Parameters
    ----------
    file
        Where the stream goes.
    buffer_callback
        Takes each out-of-band buffer.
    state
        Whether local modules travel with the values of their globals.
    """

    def __init__(self, file: BytesIO, buffer_callback: Callable[[Any], Any] | None, *, state: bool) -> None:
        # A plain dict: the C pickler looks into it for every object, and cloudpickle's own is a ChainMap.
        self.dispatch_table = {
            **cloudpickle.Pickler.dispatch_table,
            **reducers(),
            CodeType: reduce_code,
        }
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=buffer_callback)
        self._state = state
        self._local: dict[str, bool] = {}
        self._extended: dict[str, bool] = {}
        self._needed: dict[str, _Needed | None] = {}

    def reducer_override(self, obj: Any) -> Any:
        """Reduce what pickle can't, or would do by a reference that nothing resolves on a worker."""
        kind = type(obj)
        if kind is FunctionType:
            return self._reduce_function(obj)
        if issubclass(kind, type):
            return self._reference(obj) or super().reducer_override(obj)
        if kind is ModuleType:
            name = obj.__name__
            if sys.modules.get(name) is obj and self._is_local(name):
                return shipped.load, (self._module(name), name, "")
        elif kind is _CACHED:
            return self._reduce_cached(obj)
        return NotImplemented

    def _reference(self, obj: Any) -> Reduced | None:
        """Reduce to a name, if that is what a local module calls the object."""
        name = getattr(obj, "__module__", None)
        if not isinstance(name, str) or not self._is_local(name) or _named(obj, name) is not obj:
            return None
        return shipped.load, (self._module(name), name, obj.__qualname__)

    def _reduce_function(self, function: FunctionType) -> Any:
        reduced = self._reference(function) or super().reducer_override(function)
        if reduced is NotImplemented or reduced[0] is shipped.load:
            return reduced
        make, args, (attributes, slots), *rest = reduced
        needs = [self._module(name) for name in modules.imported_by(function)]
        needs.append(self._cell(function))
        home = function.__globals__.get("__name__")
        if (
            isinstance(home, str)
            and vars(sys.modules.get(home, object)) is function.__globals__
            and self._is_local(home)
        ):
            # Made by a function of a local module: its globals are that module's, there as here.
            code, *_, closure = args
            slots |= {"__globals__": {}, "_cloudpickle_submodules": []}
            needs.append(self._module(home))
            return shipped.rebuild_in, (needs, home, make, code, closure), (attributes, slots), *rest
        return shipped.rebuild, (needs, make, *args), (attributes, slots), *rest

    def _reduce_cached(self, function: Any) -> Any:
        """Send a function under `functools.lru_cache` with an empty cache; pickle would only name it."""
        name = function.__module__
        if name != "__main__" and _named(function, name) is function:
            return self._reference(function) or NotImplemented
        return rebuild_cached, (function.__wrapped__, function.cache_parameters())

    def _is_local(self, name: str) -> bool:
        if name not in self._local:
            self._local[name] = modules.is_local(name, self._extended)
        return self._local[name]

    def _module(self, name: str) -> _Needed | None:
        if name not in self._needed:
            self._needed[name] = _Needed(
                shipped.install, modules.sources(name, state=self._state, extended=self._extended)
            )
        return self._needed[name]

    def _cell(self, function: FunctionType) -> _Needed | None:
        filename = function.__code__.co_filename
        if filename not in self._needed:
            text = "".join(linecache.getlines(filename, function.__globals__))
            useful = 0 < len(text) <= MAX_CELL and not modules.is_library_file(filename)
            label = shipped.cell_label(filename)
            needed = _Needed(shipped.install_cell, filename, text, label) if useful else None
            self._needed[filename] = needed
        return self._needed[filename]


def rebuild_cached(function: Any, parameters: dict[str, Any]) -> Any:
    """Put a fresh `functools.lru_cache` around a function."""
    return functools.lru_cache(**parameters)(function)


def _named(obj: Any, module: str) -> Any:
    """Return what the module holds under the object's qualified name, or None."""
    found: Any = sys.modules.get(module)
    for part in str(getattr(obj, "__qualname__", "<locals>")).split("."):
        found = getattr(found, part, None)
    return found
