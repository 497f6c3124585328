"""Source code that came with a payload: the receiving end of `nbmr.modules`.

Unpickling a payload calls `install` with the sources of the client's local modules (and
`install_cell` with the sources of its notebook cells) before anything that needs them is loaded. From then on
``import helpers`` finds the client's ``helpers`` here too, wherever the import stands.

A worker child calls `prefer_shipped` once, at its start: there, what was sent wins over a
module of the same name that happens to lie on the worker's own path. Everywhere else (a client that reads
results or replays a task) the process's own modules win, and sent sources only fill gaps.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import linecache
import os
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple


class Source(NamedTuple):
    """One module as it travels: its text, and the plain values of its globals."""

    #: Dotted name.
    name: str
    #: Where it lies on the client; it becomes ``__file__``, and stands in tracebacks.
    filename: str
    #: The source text.
    text: str
    #: Whether it is a package.
    package: bool
    #: Globals whose values are plain data, as they were when the function was sent; None
    #: where the payload carries no state (partitions and results).
    state: dict[str, Any] | None = None


_sources: dict[str, Source] = {}
_labels: dict[str, str] = {}
_lock = threading.RLock()
_generation = 0
_preferred = False


class Loader(importlib.abc.ExecutionLoader):
    """Runs a module from the source that was sent."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def get_source(self, fullname: str) -> str:  # noqa: ARG002 - the interface passes it
        """Source text, for `inspect` and `linecache`."""
        return self.source.text

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002 - the interface passes it
        """Path on the client."""
        return self.source.filename

    def is_package(self, fullname: str) -> bool:  # noqa: ARG002 - the interface passes it
        """Whether it is a package."""
        return self.source.package

    def exec_module(self, module: ModuleType) -> None:
        """Run the source, then give the globals the values that they have on the client."""
        _show_lines(self.source.filename, self.source.text)
        try:
            super().exec_module(module)
        except Exception as exc:
            exc.add_note(
                f"(while importing module {self.source.name!r}, which was sent with the function "
                f"from {self.source.filename})"
            )
            raise
        latest = _sources.get(self.source.name, self.source)
        _restore(module, latest.state)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the interface passes it
        target: ModuleType | None = None,  # noqa: ARG002 - the interface passes it
    ) -> importlib.machinery.ModuleSpec | None:
        source = _sources.get(fullname)
        if source is None:
            return None
        spec = importlib.machinery.ModuleSpec(
            fullname, Loader(source), origin=source.filename, is_package=source.package
        )
        spec.has_location = True
        if source.package:  # data files and unsent submodules, where the client's disk is ours too
            spec.submodule_search_locations = [os.path.dirname(source.filename)]  # noqa: PTH120 - a foreign path
        return spec


_finder = _Finder()


def prefer_shipped() -> None:
    """Let the modules that payloads bring win over this process's own (for worker children)."""
    global _preferred  # noqa: PLW0603 - the import system is a global too
    with _lock:
        _preferred = True
        if _finder in sys.meta_path:
            sys.meta_path.remove(_finder)
        sys.meta_path.insert(0, _finder)


def preferred() -> bool:
    """Whether `prefer_shipped` was called here."""
    return _preferred


def generation() -> int:
    """How often modules that were already loaded gave way to another version.

    A function that was decoded in an earlier generation may hold modules that are no longer
    in `sys.modules`: decode it anew.
    """
    return _generation


def install(sources: tuple[Source, ...]) -> None:
    """Make these modules importable.

    Where one of them differs from what was loaded before, all of them are dropped from
    `sys.modules` and run again at their next import, so that no module keeps an old version of another.
    """
    global _generation  # noqa: PLW0603 - the import system is a global too
    with _lock:
        if _finder not in sys.meta_path:
            sys.meta_path.append(_finder)
        importlib.invalidate_caches()
        changed = [s for s in sources if not _same(_sources.get(s.name), s)]
        for source in sources:
            known = _sources.get(source.name)
            if source.state is None and known is not None and source not in changed:
                continue  # keeps its state
            _sources[source.name] = source
        for source in sources:
            module = sys.modules.get(source.name)
            if module is None or not (_preferred or _is_ours(module)):
                continue
            if changed or not _is_ours(module):
                del sys.modules[source.name]
                _generation += 1
            else:
                _restore(module, source.state)


def load(sources: tuple[Source, ...] | None, module: str, qualname: str) -> Any:  # noqa: ARG001 - see below
    """Return a module (empty ``qualname``) or what it holds.

    ``sources`` is not used: it stands before the rest in the pickle, so it is installed by now.
    """
    found: Any = importlib.import_module(module)
    for part in filter(None, qualname.split(".")):
        found = getattr(found, part)
    return found


def rebuild(_needs: Any, make: Callable[..., Any], *args: Any) -> Any:
    """Call ``make(*args)``; whatever it needs stands before it in the pickle, so it is there by now."""
    return make(*args)


def rebuild_in(_needs: Any, module: str, make: Callable[..., Any], code: Any, closure: Any) -> Any:
    """Make a function whose globals are a sent module's own."""
    return make(code, vars(importlib.import_module(module)), None, None, closure)


def install_cell(filename: str, text: str, label: str) -> None:
    """Let tracebacks show the lines of a notebook cell, under the name that its notebook shows."""
    if filename not in linecache.cache:
        _show_lines(filename, text)
    _labels[filename] = label


def cell_label(filename: str) -> str:
    """``"Cell In[5]"`` for the file name of a notebook's cell, of this kernel or sent; otherwise empty."""
    if filename in _labels:
        return _labels[filename]
    ipython = sys.modules.get("IPython")
    try:
        label, name = ipython.get_ipython().compile.format_code_name(filename)  # type: ignore[union-attr]
    except (AttributeError, TypeError):  # no IPython, no shell, an older one, or not a cell
        return ""
    return f"{label} {name}"


def _show_lines(filename: str, text: str) -> None:
    # Without a modification time the entry stays: `linecache.checkcache` has nothing to compare.
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)


def _same(known: Source | None, new: Source) -> bool:
    return known is not None and known[:4] == new[:4]


def _is_ours(module: ModuleType) -> bool:
    return isinstance(getattr(module.__spec__, "loader", None), Loader)


def _restore(module: ModuleType, state: dict[str, Any] | None) -> None:
    """Set the globals that differ; containers in place, since defaults and imports may share them."""
    for name, value in (state or {}).items():
        here: Any = getattr(module, name, _restore)
        if _equal(here, value):
            continue
        if type(here) is type(value) and isinstance(here, dict | set):
            here.clear()
            here.update(value)
        elif type(here) is type(value) and isinstance(here, list):
            here[:] = value
        else:
            setattr(module, name, value)


def _equal(here: Any, value: Any) -> bool:
    try:
        return type(here) is type(value) and bool(here == value)
    except Exception:  # noqa: BLE001 - arrays and frames have no single truth value
        return False
