"""Which versions of Python and of the packages that payloads depend on run here, and which mix.

A mismatch is found before user code runs, since afterwards it shows as a crash or as wrong data. What must
agree, and why:

- Python, major and minor: functions travel as bytecode. cloudpickle's README: it "can only be used to
  send objects between the exact same version of Python"; the documentation of `dis` promises nothing about
  bytecode between versions of Python (in practice it is stable within a minor version).
- pandas, major: pandas 3 infers ``str`` columns where pandas 2 has ``object`` (PDEP 14). Pickled string
  dtypes broke even within pandas 2 (its issue 61763), and `pandas.read_pickle` only promises that newer
  versions read what older ones wrote; here both sides write.
- numpy, major: numpy 2 names ``numpy._core`` in pickles, which numpy 1 only knows from 1.26.1 on, by stubs
  (numpy's pull request 24906), and it promotes scalars differently (NEP 50), which gives other results.
- cloudpickle, major: pickles name its private helpers (``_make_function``, …) with their arguments, and
  only a major version may change those; 3.0 folded ``cloudpickle.cloudpickle_fast`` away.
- nbmr, major and minor: messages and payloads may change with each minor version.
"""

from __future__ import annotations

import importlib.metadata
import platform
from functools import lru_cache

from nbmr.version import __version__

#: How many leading numbers of a version have to agree.
_AGREE = {"python": 2, "pandas": 1, "numpy": 1, "cloudpickle": 1, "nbmr": 2}
#: Packages of which the other side is to know whether they are here: see `nbmr.compression`.
_KNOWN = ("zstandard",)


@lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str], ...]:
    found = {"python": platform.python_version(), "nbmr": __version__}
    for name in [name for name in (*_AGREE, *_KNOWN) if name not in found]:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return tuple(found.items())


def local_versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, without importing them.

    A package that isn't installed is left out.

    Examples
    --------
    >>> "python" in local_versions()
    True
    """
    return dict(_versions())


def mismatch(client: dict[str, str], worker: dict[str, str]) -> str | None:
    """Say which versions are known not to mix, or return None.

    What either side doesn't know is passed over.

    Parameters
    ----------
    client
        `local_versions` of the side that sent the function.
    worker
        `local_versions` of the side that is to run it.

    Examples
    --------
    >>> print(mismatch({"python": "3.11.7"}, {"python": "3.12.1"}))
    Python 3.11.7 on the client and 3.12.1 on the worker don't mix: run both on Python 3.11.
    >>> mismatch({"python": "3.11.7"}, {"python": "3.11.2"}) is None
    True
    """
    faults = []
    for name, count in _AGREE.items():
        ours, theirs = client.get(name), worker.get(name)
        if ours is None or theirs is None or _key(ours, count) == _key(theirs, count):
            continue
        wanted = ".".join(_key(ours, count))
        title, fix = name, f'install "{name}=={wanted}.*" on the worker'
        if name == "python":
            title, fix = "Python", f"run both on Python {wanted}"
        faults.append(f"{title} {ours} on the client and {theirs} on the worker don't mix: {fix}.")
    return "\n".join(faults) or None


def _key(version: str, count: int) -> list[str]:
    return version.split(".")[:count]
