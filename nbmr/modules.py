"""The user's own modules: which they are, and what of them has to travel.

A module is *local* when a worker can't be expected to have it: a source file that lies neither in the
standard library nor in a site-packages folder, such as ``helpers.py`` beside the notebook, or a package
installed in editable mode. What a local module defines is pickled by reference, and the source of every
local module that it can reach travels in front of it; `nbmr.shipped` makes those importable on the other
side.

Why sources, and not `cloudpickle.register_pickle_by_value`:

- Pickling by value takes a module's globals along, and fails at the first lock, connection or open file
  among them. A module that runs from its source makes its own.
- ``import helpers`` inside a function's body, relative imports, and modules that import each other
  work, since there is a real module to import. By value, there is none.
- Classes have one identity: ``isinstance`` holds across tasks, and results unpickle on the client as
  the client's own class, because they name it.
- cloudpickle's registry is global to the process; this touches nothing global on the client.

The price, and how it is kept small:

- Module-level code runs once more in each worker child, as under `multiprocessing`'s spawn. Files
  that it reads must be there.
- A global that the notebook changed (``helpers.LIMIT = 5``) would silently fall back. So with a function
  travel the values of its modules' globals that are plain data (numbers, text, containers of them, arrays,
  frames); they are set again wherever they differ from what the source made.
- The file may have been edited after the import. Its code is compared with the functions in memory: workers
  run the version that runs here, from when nbmr first read it. If the file was edited before that, a
  warning says that workers run the file.

A package with compiled extension modules goes by reference: its source alone would not do.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
import threading
import warnings
from collections.abc import Iterator
from functools import lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from nbmr import shipped
from nbmr.imports import code_objects, imported_names
from nbmr.plain import is_plain
from nbmr.shipped import Source

#: Both sides have these (the version check sees to it), wherever they were installed from.
_BY_REFERENCE = frozenset({"nbmr", "cloudpickle", "numpy", "pandas", "__main__", "__mp_main__"})

#: What was read of each local module: its spec, its file's time and size, its source, and what it imports.
_read: dict[str, tuple[ModuleSpec, tuple[int, int], Source, frozenset[str]]] = {}
_lock = threading.Lock()


@lru_cache(maxsize=4096)
def is_library_file(filename: str) -> bool:
    """Whether a file belongs to the standard library or to an installed package.

    Examples
    --------
    >>> is_library_file("/usr/lib/python3/dist-packages/six.py")
    True
    """
    if filename.startswith("<frozen ") or filename.endswith(
        (".pyx", ".pxi", ".pxd")
    ):  # Cython's are relative
        return True
    path = Path(filename)
    if not {"site-packages", "dist-packages"}.isdisjoint(path.parts):
        return True
    return any(path.is_relative_to(folder) for folder in _library_folders())


@lru_cache(maxsize=1)
def _library_folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    keys = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({Path(paths[key]) for key in keys if key in paths})


def is_local(name: str, extended: dict[str, bool] | None = None) -> bool:
    """Whether the module of this name has to travel with what refers to it.

    Parameters
    ----------
    name
        Its dotted name.
    extended
        Which packages are known to have compiled extension modules, or to have none; what is found out is
        added. With it, all modules are looked at once for each package.
    """
    top = name.partition(".")[0]
    if top in _BY_REFERENCE or top in sys.stdlib_module_names:
        return False
    spec = _spec(name)
    if spec is None or not _has_local_source(spec):
        return False
    if extended is None:
        return not _has_extensions(top)
    if top not in extended:
        extended[top] = _has_extensions(top)
    return not extended[top]


def sources(name: str, *, state: bool, extended: dict[str, bool] | None = None) -> tuple[Source, ...]:
    """Collect the sources of a local module and of all that it can reach, sorted by name.

    Parameters
    ----------
    name
        Dotted name of a local module.
    state
        Whether the present values of globals that are plain data come along.
    extended
        As for `is_local`.
    """
    found: dict[str, Source] = {}
    seen: set[str] = set()
    extended = {} if extended is None else extended
    waiting = [name, *_loaded_in(name.partition(".")[0])]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if not is_local(name, extended):
            continue
        spec = _spec(name)
        assert spec is not None  # noqa: S101 - is_local says so
        source, imports = _read_source(name, spec)
        found[name] = source._replace(state=_state(name)) if state else source
        waiting += imports
        waiting += filter(None, [name.rpartition(".")[0]])
    return tuple(found[name] for name in sorted(found))


def imported_by(function: FunctionType) -> list[str]:
    """Names of the local modules that a function imports inside its body, sorted."""
    package = function.__globals__.get("__package__") or ""
    return sorted(filter(is_local, imported_names(function.__code__, str(package))))


def _spec(name: str) -> ModuleSpec | None:
    """Spec of a module, loaded or not, without importing anything."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    parent = name.rpartition(".")[0]
    path = None
    if parent:
        parent_spec = _spec(parent)
        path = parent_spec.submodule_search_locations if parent_spec else None
        if path is None:
            return None
    for finder in sys.meta_path:
        spec = finder.find_spec(name, path)
        if spec is not None:
            return spec
    return None


def _has_local_source(spec: ModuleSpec) -> bool:
    if isinstance(spec.loader, shipped.Loader):
        return not shipped.preferred()  # a worker's results name the class; the client has it
    if spec.origin is None or not spec.has_location:  # a namespace package, or built in
        places = list(spec.submodule_search_locations or ())
        return bool(places) and not any(map(is_library_file, places))
    return spec.origin.endswith(".py") and not is_library_file(spec.origin)


def _has_extensions(top: str) -> bool:
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    return any(
        str(getattr(sys.modules.get(name), "__file__", None) or "").endswith(suffixes)
        for name in _loaded_in(top)
    )


def _loaded_in(top: str) -> list[str]:
    inside = f"{top}."
    return [name for name in list(sys.modules) if name.startswith(inside) or name == top]


def _read_source(name: str, spec: ModuleSpec) -> tuple[Source, frozenset[str]]:
    """Read a module's source, or give what was read before if that is what is loaded here.

    A reload makes another spec, but IPython's autoreload patches functions in place: only the functions
    themselves tell which version of the file they are.
    """
    filename, text, stamp = _file(spec)
    with _lock:
        known = _read.get(name)
    same = known is not None and known[0] is spec
    if known is not None and same and known[1] == stamp:
        return known[2:]
    if text is None:
        text = importlib.util.decode_source(Path(filename).read_bytes())
    code = compile(text, filename, "exec", dont_inherit=True)
    module = sys.modules.get(name)
    plain_file = type(spec.loader) is importlib.machinery.SourceFileLoader
    edited = _edited(module, code) if module is not None and plain_file else None
    package = spec.submodule_search_locations is not None
    source = Source(name, filename, text, package)
    imports = frozenset(imported_names(code, name if package else name.rpartition(".")[0]))
    if edited is not None and known is not None and same:
        source, imports = known[2:]  # not reloaded yet: workers run what runs here
    elif edited is not None:
        warnings.warn(
            f"{filename} was edited after it was imported here (see `{edited}`): workers run the file as it "
            f"is now. To run the same here, importlib.reload({name}), or use %autoreload.",
            UserWarning,
            stacklevel=2,
        )
    if module is not None:
        with _lock:
            _read[name] = (spec, stamp, source, imports)
    return source, imports


def _file(spec: ModuleSpec) -> tuple[str, str | None, tuple[int, int]]:
    """Path of a module's file, its text where that needs no reading, and the file's time and size."""
    if isinstance(spec.loader, shipped.Loader):
        return spec.loader.source.filename, spec.loader.source.text, (0, 0)
    if spec.has_location and spec.origin:
        stat = os.stat(spec.origin)  # noqa: PTH116 - for each call of an executor: a Path takes twice as long
        return spec.origin, None, (stat.st_mtime_ns, stat.st_size)
    places = list(spec.submodule_search_locations or ["."])  # a namespace package: empty
    return str(Path(places[0]) / "__init__.py"), "", (0, 0)


def _edited(module: ModuleType, code: CodeType) -> str | None:
    """Name a function of the loaded module that isn't in the file's code, wherever it stands there."""
    on_disk = set(map(_shape, code_objects(code)))
    return next((f.__qualname__ for f in _functions(module) if _shape(f.__code__) not in on_disk), None)


def _shape(code: CodeType) -> tuple[Any, ...]:
    """Return all of a code object but its line numbers."""
    constants = tuple(_shape(c) if isinstance(c, CodeType) else (type(c), c) for c in code.co_consts)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return (
        code.co_name,
        code.co_code,
        constants,
        names,
        code.co_argcount,
        code.co_kwonlyargcount,
    )


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """Yield the functions and methods whose code is the module's own file."""
    values = list(vars(module).values())
    values += [
        v for c in values if isinstance(c, type) and c.__module__ == module.__name__ for v in vars(c).values()
    ]
    for value in values:
        function = getattr(value, "__func__", value)
        if isinstance(function, FunctionType) and function.__code__.co_filename == module.__file__:
            yield function


def _state(name: str) -> dict[str, Any]:
    module = sys.modules.get(name)
    values = dict(vars(module)) if module is not None else {}
    return {key: values[key] for key in sorted(values) if not key.startswith("__") and is_plain(values[key])}
