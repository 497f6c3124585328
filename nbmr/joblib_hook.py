"""Makes ``joblib.parallel_config(backend="nbmr")`` known to joblib, whichever of the two is imported first.

joblib finds its backends in a dict of its own that others add to once joblib is there: it reads no entry
points, and there is nothing to leave a note with. To import joblib here would cost everybody's
``import nbmr`` a tenth of a second. So where joblib isn't loaded yet, a finder waits on `sys.meta_path` for
its module; it finds nothing itself, has the module tell us when it has run, and is gone then. Whatever goes
wrong here, joblib's import goes on as if this weren't there.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_MODULE = "joblib.parallel"


Factory = Callable[..., Any]


def install(factory: Factory) -> None:
    """Register the backend ``"nbmr"`` with joblib, now or when that is imported.

    Parameters
    ----------
    factory
        Makes the backend, of the parameters that joblib was given for it.
    """
    module = sys.modules.get(_MODULE)
    if module is not None and hasattr(module, "register_parallel_backend"):
        _register(module, factory)
    else:
        sys.meta_path.insert(0, _Finder(factory))


def _register(module: ModuleType, factory: Factory) -> None:
    try:
        module.register_parallel_backend("nbmr", factory)
    except Exception as exc:  # noqa: BLE001 - joblib is of use without us, too
        warnings.warn(f"joblib doesn't take nbmr's backend: {exc}", RuntimeWarning, stacklevel=2)


class _Finder:
    """Waits for the import of joblib's module."""

    def __init__(self, factory: Factory) -> None:
        self._factory = factory

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        for finder in sys.meta_path:
            found = getattr(finder, "find_spec", None) if finder is not self else None
            spec: ModuleSpec | None = found(name, path, target) if found else None
            if spec is not None:
                loader: Any = spec.loader
                with contextlib.suppress(AttributeError):  # a loader that can't be changed
                    loader.exec_module = functools.partial(self._run, loader.exec_module)
                return spec
        return None

    def _run(self, run: Callable[[ModuleType], None], module: ModuleType) -> None:
        run(module)
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self)
        _register(module, self._factory)
