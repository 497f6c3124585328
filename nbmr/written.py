"""Results as files: what `to=` means, and how a worker writes one.

A file comes into being with all of its content: it is written under another name in the same folder, and
then renamed. So it doesn't matter how often a task is tried, or who dies meanwhile. The folder
belongs to one job: a hidden file in it says which, from before the first result until the job is gathered.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbmr import frames, unit
from nbmr.errors import ConfigError
from nbmr.reading import is_url

#: The files of results.
_PARTS = "part-*.*"
#: Says whose results a folder is for.
_OWNER = ".nbmr-job"
KINDS = ("parquet", "csv")


@dataclass(frozen=True)
class Target:
    """Where the results of a job are written, and as what.

    Parameters
    ----------
    folder
        Its absolute path.
    kind
        ``"parquet"`` or ``"csv"``.
    """

    folder: str
    kind: str

    @classmethod
    def parse(cls, to: Any) -> Target:
        """Read ``to=``: a folder, or ``folder/*.csv``, or ``folder/*.parquet``.

        Raises
        ------
        ConfigError
            If it is none of these.
        """
        if not isinstance(to, str | os.PathLike) or not isinstance(text := os.fspath(to), str) or not text:
            raise ConfigError(f"to={to!r} has to be a folder, such as 'out/', or 'out/*.csv'.")
        if is_url(text):
            raise ConfigError(f"to={text!r} has to be a folder that the workers reach by a path, no URL.")
        head, name = os.path.split(text)
        kind = "parquet"
        if "*" in name:
            kind = name.removeprefix("*.")
            if name != f"*.{kind}" or kind not in KINDS:
                raise ConfigError(f"to={text!r}: results are written as 'out/*.parquet' or 'out/*.csv'.")
            text = head or "."
        elif name.lower().endswith((".csv", ".parquet", ".pq", ".gz")):
            raise ConfigError(
                f"to={text!r} looks like one file, and each partition is a file: pass 'out/*.csv' or"
                f" 'out/*.parquet' (or {text + '/'!r}, if that is the folder's name)."
            )
        return cls(os.path.abspath(os.path.expanduser(text)), kind)  # noqa: PTH100, PTH111 - ".." stays

    def check(self) -> None:
        """Refuse a folder that holds results already, or that can't be one, as far as is seen from here.

        Raises
        ------
        ConfigError
            If so; says what to do.
        """
        folder = Path(self.folder)
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file, and to= has to be a folder.")
        if problem := _taken(folder):
            raise ConfigError(problem)
        for above in folder.parents:
            if above.exists():
                if not above.is_dir():
                    raise ConfigError(f"{folder} can't be made, since {above} is a file.")
                break

    def sweep(self, job: str) -> None:
        """Remove what a job left in its folder besides results; no harm if nothing did.

        Parameters
        ----------
        job
            Its id.
        """
        folder = Path(self.folder)
        with contextlib.suppress(OSError):
            for left in folder.glob(f".*.{job}-*"):
                left.unlink(missing_ok=True)
            if _owner(folder) == job:
                (folder / _OWNER).unlink(missing_ok=True)

    def sweep_parts(self, job: str, numbers: Iterable[int]) -> None:
        """Remove what a process that was killed has half written.

        Parameters
        ----------
        job
            The job's id.
        numbers
            The units that it was at.
        """
        with contextlib.suppress(OSError):
            for number in numbers:
                for left in Path(self.folder).glob(f"{self._mark(job, number)}*"):
                    left.unlink(missing_ok=True)

    def part(self, number: int) -> Path:
        """Return the file of a unit's result."""
        return Path(self.folder, f"part-{number:05d}.{self.kind}")

    def _mark(self, job: str, number: int) -> str:
        """Return how the name of a file begins that is to become a unit's result."""
        return f".{self.part(number).name}.{job}-"

    def temporary(self, job: str, number: int) -> Path:
        """Return a name for a file that is to become a unit's result; nobody else has it."""
        return Path(self.folder, f"{self._mark(job, number)}{secrets.token_hex(4)}")


class Writing:
    """A function whose result is written to a file, as a function that returns the file's path.

    Parameters
    ----------
    fn
        Returns a DataFrame, a Series, a table or None.
    target
        Where to.
    job
        The job's id.
    """

    def __init__(self, fn: Callable[..., Any], target: Target, job: str) -> None:
        self.fn, self.target, self.job = fn, target, job

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function and write what it returns, if that is not None.

        Raises
        ------
        TypeError
            If it is no DataFrame, Series or table.
        FileExistsError
            If the folder holds results of another job.
        OSError
            If it can't be written.
        """
        result = self.fn(*args, **kwargs)
        if result is None:
            return None
        number = unit.number()
        if number is None:  # run again in a kernel: as far as it goes without changing anything
            with tempfile.TemporaryDirectory(prefix="nbmr-") as scratch:
                write(result, Path(scratch, "part"), self.target.kind)
            return result
        folder = Path(self.target.folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._claim(folder)
        self._replace(result, number)
        return str(self.target.part(number))

    def _claim(self, folder: Path) -> None:
        """Note in the folder whose it is, if that isn't noted yet."""
        owner = _owner(folder)
        if owner is None:
            if problem := _taken(folder):
                owner = _owner(folder)  # written by another worker of this job, just then
                if owner != self.job:
                    raise FileExistsError(f"{problem} (on host {socket.gethostname()})")
                return
            mine = folder / f"{_OWNER}.{self.job}-{secrets.token_hex(4)}"
            try:
                mine.write_text(self.job)
                _link(mine, folder / _OWNER)
            finally:
                mine.unlink(missing_ok=True)
            owner = _owner(folder)
        if owner != self.job:
            raise FileExistsError(f"{_taken(folder)} (on host {socket.gethostname()})")

    def _replace(self, result: Any, number: int) -> None:
        part, temporary = self.target.part(number), self.target.temporary(self.job, number)
        try:
            write(result, temporary, self.target.kind)
            try:
                temporary.replace(part)
            except FileNotFoundError:  # removed by who was quicker with the same
                if not part.exists():
                    raise
            _sync(part.parent)
        finally:
            temporary.unlink(missing_ok=True)
        self.target.sweep_parts(self.job, [number])  # of an attempt that was killed


def write(result: Any, path: Path, kind: str) -> None:
    """Write a result to a file, and wait until it is safe.

    CSV keeps an index that has a name; Parquet keeps every one. A Series becomes a frame with one column.

    Parameters
    ----------
    result
        A frame or series of a library that `nbmr.frames` knows.
    path
        A file that isn't there yet.
    kind
        One of `KINDS`.

    Raises
    ------
    TypeError
        If it is something else.
    ImportError
        If what writes it isn't installed.
    """
    library = frames.library_of(result)
    if library is None:
        kind_of = type(result).__name__
        raise TypeError(
            f"to= writes what is a DataFrame, a Series, a table or None; fn returned a {kind_of}."
        )
    try:
        with path.open("xb") as file:
            library.write(result, file, kind)
            file.flush()
            os.fsync(file.fileno())
    except ImportError as exc:
        raise ImportError(
            f"Writing Parquet on host {socket.gethostname()} needs pyarrow there:"
            " pip install 'nbmr[parquet]', or pip install pyarrow; or write CSV: to='…/*.csv'."
        ) from exc


def _link(file: Path, name: Path) -> None:
    """Give a file another name, unless that is taken; it comes into being with all of its content."""
    try:
        os.link(file, name)
    except FileExistsError:
        pass
    except OSError:  # a file system without links: then it is whole a moment later
        with contextlib.suppress(FileExistsError), name.open("x") as copy:
            copy.write(file.read_text())


def _owner(folder: Path) -> str | None:
    try:
        return (folder / _OWNER).read_text()
    except FileNotFoundError:
        return None


def _taken(folder: Path) -> str:
    """Say why a folder can't take the results of a new job; empty if it can."""
    if owner := _owner(folder) if folder.is_dir() else None:
        return (
            f"{folder} is where job {owner} writes to, or wrote to before it was left alone. Choose another"
            f" folder; or remove {_OWNER} and the files part-* in it, if nobody needs them."
        )
    if found := next(iter(sorted(folder.glob(_PARTS))), None):
        return (
            f"{folder} holds results already ({found.name}). Choose another folder, or remove the"
            " files part-* in it."
        )
    return ""


def _sync(folder: Path) -> None:
    """Have a file's name survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
