"""Files as data: a list of paths whose partitions are read on the workers."""

from __future__ import annotations

import glob
import importlib.util
import inspect
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, SupportsIndex, overload

from nbmr import html
from nbmr.errors import ConfigError
from nbmr.folding import Later
from nbmr.reading import Read, is_url, pandas_reader


class Files(list[str]):
    """Paths of files, each of which is one partition that a worker reads; `nbmr.files` makes one.

    It is a list of paths and URLs. `nbmr.map`, `nbmr.submit` and `nbmr.reduce` give their function what each
    file holds; ``list(files)`` are the paths alone.

    Parameters
    ----------
    paths
        Absolute paths and URLs.
    read
        What reads each of them.
    """

    def __init__(self, paths: Iterable[str], read: Read) -> None:
        super().__init__(paths)
        self.read = read

    @property
    def nbytes(self) -> int | None:
        """How many bytes those files have; None if that can't be seen from here."""
        try:
            return sum(Path(path).stat().st_size for path in self)
        except OSError:
            return None

    def later(self) -> list[Later]:
        """Return what the files hold, to be read by who needs it."""
        return [Later(self.read, path) for path in self]

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Files: ...
    def __getitem__(self, index: SupportsIndex | slice) -> str | Files:
        found = super().__getitem__(index)
        return Files(found, self.read) if isinstance(found, list) else found

    def __reduce__(self) -> Any:
        return Files, (list(self), self.read)

    def __repr__(self) -> str:
        count = "1 file" if len(self) == 1 else f"{len(self):,} files"
        nbytes = self.nbytes
        size = "size not known here" if nbytes is None else html.size(nbytes)
        where = f" from {os.path.dirname(self[0])}" if self else ""  # noqa: PTH120 - also of a URL
        return f"<Files: {count}, {size}{where}>"


def files(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    reader: Callable[..., Any] | None = None,
    **reader_options: Any,
) -> Files:
    """Return files as data for `nbmr.map`, `nbmr.submit` and `nbmr.reduce`: the workers read them.

    Each file is one partition; results are gathered as from a frame. The workers must find the files under
    the same paths: on this machine, or on a file system that all share.

    Parameters
    ----------
    paths
        A path, or a pattern such as ``"data/*.csv"`` or ``"data/**/*.parquet"``, whose files come in sorted
        order. Or a list of paths, patterns or URLs, in the order given. ``~`` is your home folder. A path
        that exists is taken as it is. URLs such as ``s3://bucket/*.parquet`` need fsspec, here and on the
        workers, and what it needs for them.
    reader
        A function that gets the path and returns what `fn` is to get, such as ``pandas.read_excel``. By
        default pandas' own reader for the suffix: csv, tsv, json, jsonl (also compressed: csv.gz), parquet
        and feather (which need pyarrow on the workers).
    **reader_options
        Passed on to the reader, such as ``usecols=["a"]``. ``storage_options`` also serve to list URLs.

    Returns
    -------
    Files
        A list of the paths, which says how many files and bytes there are.

    Raises
    ------
    ConfigError
        If no file matches, one is a folder, or how to read it isn't clear.

    Examples
    --------
    >>> nbmr.map(nbmr.files("flights/*.parquet", columns=["dep_delay"]), len)  # doctest: +SKIP
    """
    if reader is not None and not callable(reader):
        raise ConfigError(f"reader has to be a function that gets a path; got {type(reader).__name__}.")
    if isinstance(paths, Files) and reader is None:
        reader, reader_options = paths.read.reader, paths.read.options | reader_options
    options = reader_options.get("storage_options") or {}
    if isinstance(paths, str | os.PathLike):
        found = _expand(paths, options, must_exist=True)
    elif isinstance(paths, bytes | dict) or not isinstance(paths, Iterable):
        raise ConfigError(f"files() takes a path, a pattern or a list of them; got {type(paths).__name__}.")
    else:
        found = [path for one in paths for path in _expand(one, options, must_exist=False)]
    if reader is None:
        for name, example in {pandas_reader(path)[0]: path for path in found}.items():
            _check_options(name, example, reader_options)
    return Files(found, Read(reader, reader_options))


def _expand(given: Any, storage_options: dict[str, Any], *, must_exist: bool) -> list[str]:
    """Return the files that a path or a pattern stands for."""
    if not isinstance(given, str | os.PathLike) or not isinstance(path := os.fspath(given), str) or not path:
        raise ConfigError(f"A file's path has to be a text or a Path, and not empty; got {given!r}.")
    if path.startswith("file://") and "::" not in path:
        path = path.removeprefix("file://")
    if is_url(path):
        return _expand_url(path, storage_options)
    path = os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - a Path would read ".." away
    if os.path.isdir(path):  # noqa: PTH112
        raise ConfigError(f"{path} is a folder. Say which of its files: nbmr.files({_join(path)!r}), say.")
    if os.path.exists(path):  # noqa: PTH110
        return [path]
    if glob.has_magic(path):
        found = [
            name
            for name in glob.glob(path, recursive=True)  # noqa: PTH207
            if not os.path.isdir(name)  # noqa: PTH112
        ]
        if not found:
            raise ConfigError(f"No file matches {path!r} on this machine.")
        return sorted(found)
    if must_exist:
        raise ConfigError(
            f"There is no file {path} on this machine. If the workers have it, pass a list of paths."
        )
    return [path]


def _join(folder: str) -> str:
    suffixes = sorted({entry.suffix for entry in Path(folder).iterdir() if entry.is_file()} - {""})
    return str(Path(folder, f"*{suffixes[0] if suffixes else '.parquet'}"))


def _expand_url(url: str, storage_options: dict[str, Any]) -> list[str]:
    if url.startswith(("http://", "https://")):  # which pandas reads by itself, and nobody can list
        return [url]
    if importlib.util.find_spec("fsspec") is None:
        raise ConfigError(
            f"{url} needs fsspec, here and on the workers: pip install fsspec, and what it needs for"
            f" {url.partition('://')[0]}:// (s3fs for s3://, gcsfs for gs://)."
        )
    if not glob.has_magic(url):
        return [url]
    if "::" in url:
        raise ConfigError(f"A pattern in a URL with '::' is not taken: {url}. Pass a list of URLs.")
    import fsspec  # noqa: PLC0415 - an extra

    try:
        system, path = fsspec.core.url_to_fs(url, **storage_options)
        found = sorted(system.unstrip_protocol(name) for name in system.glob(path))
    except ImportError as exc:
        raise ConfigError(f"{url} can't be listed: {exc}. The workers need the same.") from exc
    except Exception as exc:
        raise ConfigError(f"{url} can't be listed: {type(exc).__name__}: {exc}") from exc
    if not found:
        raise ConfigError(f"No file matches {url!r}.")
    return found


def _check_options(name: str, path: str, options: dict[str, Any]) -> None:
    """Refuse what pandas' reader does not take, before any work is done."""
    if not options:
        return
    import pandas as pd  # noqa: PLC0415 - slow to import

    parameters = inspect.signature(getattr(pd, name)).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for option in options:
        if option not in parameters:
            raise ConfigError(f"{option}=… is no option of pandas.{name}, which reads {path}.")
