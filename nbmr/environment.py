"""What workers run in: an interpreter, environment variables, and a folder; checked before any is started."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nbmr import private
from nbmr.errors import ConfigError
from nbmr.version import __version__
from nbmr.versions import local_versions, mismatch

#: Seconds that another interpreter has to import nbmr; a cold network disk takes its time.
PROBE_SECONDS = 60.0
#: Variables that say what this interpreter finds: another one must not heed them.
_OF_ONE_PYTHON = ("PYTHONHOME", "PYTHONPATH", "PYTHONUSERBASE", "VIRTUAL_ENV", "CONDA_PREFIX")
#: Variables that decide with whom a worker talks: nbmr gives these itself.
_OURS = (*private.SECRETS, "NBMR_KEY_FILE")
#: Stands before what the other interpreter tells, which may print other things.
_MARK = "nbmr tells: "
#: Any Python has to understand it, also one that is too old for nbmr.
_PROBE = f"""
import json, platform, sys
if sys.path and not sys.path[0]:
    del sys.path[0]  # the folder that this runs in is no place to find nbmr
told = dict(python=platform.python_version(), error="", versions=dict())
try:
    import nbmr.worker.pool, nbmr.worker.worker, nbmr.versions
    told["versions"] = dict(nbmr.versions.local_versions(), nbmr=nbmr.__version__)
except Exception as exc:
    told["error"] = type(exc).__name__ + ": " + str(exc)
sys.stdout.write("\\n{_MARK}" + json.dumps(told) + "\\n")
"""


@dataclass(frozen=True)
class Environment:
    """Where workers run; `Environment.check` makes one that is known to work.

    Shows the names of its variables, never their values.
    """

    #: The interpreter.
    python: str = sys.executable
    #: Variables that are set, or removed where the value is None.
    changes: dict[str, str | None] = field(default_factory=dict, repr=False)
    #: The folder that they run in; empty for that of whoever starts them.
    cwd: str = ""

    @classmethod
    def check(
        cls,
        python: str | os.PathLike[str] | None = None,
        env: Mapping[str, str | None] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Make one, and see to it that workers can run in it.

        Parameters
        ----------
        python
            An interpreter, or the folder of a virtual environment; None for this one. nbmr has to be
            installed for it, in the same minor version, as have pandas and the rest.
        env
            Variables to add to the workers' environment; the value None removes one.
        cwd
            The folder that they run in; None for the current one.

        Raises
        ------
        ConfigError
            If they can't; says which argument is wrong, and what to do.

        Examples
        --------
        >>> Environment.check(env={"OMP_NUM_THREADS": "1"}).about()["variables"]
        ['OMP_NUM_THREADS']
        """
        made = cls(_interpreter(python), _changes(env), _folder(cwd))
        if not made.is_ours:
            made._probe()
        return made

    @property
    def is_ours(self) -> bool:
        """Whether the interpreter is the one that runs this."""
        return _same(self.python, sys.executable)

    def command(self, module: str) -> list[str]:
        """Return the command that runs a module of nbmr."""
        # Without -P, nbmr would be looked for in the folder first: there may be a clone of it.
        return [self.python, *([] if self.is_ours else ["-P"]), "-m", module]

    def variables(self) -> dict[str, str]:
        """Return the whole environment; the broker's address and key come another way."""
        found = private.environment()
        if not self.is_ours:
            for name in _OF_ONE_PYTHON:
                found.pop(name, None)
            # as where a virtual environment is activated: its programs come first
            found["PATH"] = os.pathsep.join([str(Path(self.python).parent), found.get("PATH", os.defpath)])
        for name, value in self.changes.items():
            if value is None:
                found.pop(name, None)
            else:
                found[name] = value
        if self.is_ours:
            # nbmr itself must be found even where it runs from a folder that is not installed
            here = str(Path(__file__).parent.parent)
            known = found.get("PYTHONPATH", "")
            if here not in known.split(os.pathsep):
                found["PYTHONPATH"] = os.pathsep.join(filter(None, [known, here]))
        return found

    def about(self) -> dict[str, Any]:
        """Return what may be told of it to anybody who may see the workers."""
        return {
            "python": self.python,
            "chosen_python": not self.is_ours,
            "variables": sorted(self.changes),
            "cwd": self.cwd or str(Path.cwd()),
            "chosen_cwd": bool(self.cwd),
        }

    def _probe(self) -> None:
        """Ask the other interpreter whether it has a nbmr that goes with this one."""
        told = self._ask()
        ours = {**local_versions(), "nbmr": __version__}
        theirs, install = dict(told["versions"]), f"{shlex.quote(self.python)} -m pip install"
        missing = [name for name in ours if name not in theirs]
        wrong = mismatch({"python": ours["python"]}, {"python": str(told["python"])})
        if not wrong and told["error"]:
            wrong = f"nbmr can't be imported there ({told['error']}). Install it: {install} {_source()}"
        elif not wrong and missing:
            wrong = f"{missing[0]} isn't installed there. Install it: {install} {missing[0]}"
        if wrong := wrong or mismatch(ours, theirs):
            raise ConfigError(f"No workers can run on python={self.python!r}. {wrong}")

    def _ask(self) -> dict[str, Any]:
        try:
            done = subprocess.run(
                [self.python, "-c", _PROBE],
                cwd=self.cwd or None, env=self.variables(), capture_output=True, text=True, errors="replace",
                stdin=subprocess.DEVNULL, timeout=PROBE_SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ConfigError(
                f"python={self.python!r} didn't import nbmr within {PROBE_SECONDS:g} s. Try it in a terminal:"
                f" {shlex.quote(self.python)} -c 'import nbmr'"
            ) from None
        except OSError as exc:
            raise ConfigError(f"python={self.python!r} can't be run: {exc.strerror}.") from exc
        lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
        if lines:
            told: dict[str, Any] = json.loads(lines[-1].removeprefix(_MARK))
            return told
        said = " ".join(done.stderr.split()[-40:]) or "nothing"
        raise ConfigError(
            f"python={self.python!r} is no Python interpreter that works: it ended with status"
            f" {done.returncode} and said: {said}"
        )


def _interpreter(python: str | os.PathLike[str] | None) -> str:
    """Find an interpreter; links are kept, since they tell a virtual environment."""
    if python is None:
        return sys.executable
    try:
        text = os.fspath(python)
        path = Path(text).expanduser().absolute()
    except (TypeError, RuntimeError):
        raise ConfigError(f"python={python!r} has to be the path of an interpreter.") from None
    if path.is_dir():
        inside = path / "bin" / "python"
        if not inside.exists():
            raise ConfigError(f"python={text!r} is a folder without bin/python: no virtual environment.")
        path = inside
    elif os.sep not in text and (found := shutil.which(text)):
        path = Path(found).absolute()
    if not path.exists():
        raise ConfigError(
            f"python={text!r}: there is no such interpreter here. Give its path, or the folder of a virtual"
            f" environment; the kernel's is {sys.executable}."
        )
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ConfigError(f"python={text!r} is no program that can be run.")
    return str(path)


def _same(one: str, other: str) -> bool:
    """Whether two paths are one interpreter of one environment, which is where it lies."""
    try:
        same_place = Path(one).parent.samefile(Path(other).parent)
        return same_place and Path(one).samefile(other)
    except OSError:
        return False


def _changes(env: Mapping[str, str | None] | None) -> dict[str, str | None]:
    if env is None:
        return {}
    if not isinstance(env, Mapping):
        raise ConfigError("env has to be a dict of environment variables, such as {'OMP_NUM_THREADS': '1'}.")
    for name, value in env.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ConfigError(f"env has {name!r}, which is no environment variable's name.")
        if name in _OURS:
            raise ConfigError(
                f"env must not have {name}: workers get the broker's address and the key from the client."
                " Use nbmr.Client(url, key=…).workers(…) for another broker."
            )
        if value is not None and (not isinstance(value, str) or "\0" in value):
            kind = type(value).__name__  # and not the value, which may be a password
            raise ConfigError(f"env[{name!r}] has to be a text, or None to remove it; it is {_a(kind)}.")
    return dict(env)


def _a(kind: str) -> str:
    return "a text with a NUL in it" if kind == "str" else f"of type {kind}"


def _folder(cwd: str | os.PathLike[str] | None) -> str:
    if cwd is None:
        return ""
    try:
        path = Path(cwd).expanduser().absolute()
    except (TypeError, RuntimeError):
        raise ConfigError(f"cwd={cwd!r} has to be the path of a folder.") from None
    if not path.is_dir():
        raise ConfigError(f"cwd={str(cwd)!r}: there is no such folder on this machine.")
    if not os.access(path, os.X_OK):
        raise ConfigError(f"cwd={str(cwd)!r} is a folder that you may not enter.")
    return str(path)


def _source() -> str:
    """Return what to give to pip: the clone that this nbmr runs from, or its version."""
    clone = Path(__file__).parent.parent
    return shlex.quote(str(clone)) if (clone / "pyproject.toml").is_file() else f'"nbmr=={__version__}"'
