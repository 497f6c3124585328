"""How a worker reads a file: with pandas' own reader, by the file's suffix, or with the user's."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from nbmr.errors import ConfigError

#: pandas' readers, and what they are told, by suffix.
_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("read_csv", {}),
    ".tsv": ("read_csv", {"sep": "\t"}),
    ".json": ("read_json", {}),
    ".jsonl": ("read_json", {"lines": True}),
    ".ndjson": ("read_json", {"lines": True}),
    ".parquet": ("read_parquet", {}),
    ".pq": ("read_parquet", {}),
    ".feather": ("read_feather", {}),
}
#: Suffixes that pandas takes behind those of text, and decompresses by.
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
_TEXT = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
#: As pandas and fsspec tell a URL from a path.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(::[A-Za-z0-9+.\-]+)*://")


def is_url(path: str) -> bool:
    """Whether it is a URL, such as ``s3://bucket/file.csv``, and no path."""
    return _URL.match(path) is not None


def pandas_reader(path: str) -> tuple[str, dict[str, Any]]:
    """Return the name of pandas' reader for a file, and what to tell it.

    Raises
    ------
    ConfigError
        If the suffix doesn't say which.
    """
    name = PurePosixPath(path.partition("?")[0] if path.startswith("http") else path).name.lower()
    text = name
    for suffix in _COMPRESSED:
        text = text.removesuffix(suffix)
    for suffix, reader in _READERS.items():
        if (text if suffix in _TEXT else name).endswith(suffix):
            return reader
    hint = "pass reader=…, a function that gets the path"
    if name.endswith((".pkl", ".pickle")):
        hint = "unpickling runs what is in the file; if you trust it, pass reader=pandas.read_pickle"
    raise ConfigError(
        f"How to read {path!r} isn't clear: its suffix is none of {', '.join(_READERS)}"
        f" (text also with {', '.join(_COMPRESSED)}); {hint}."
    )


class Read:
    """Reads files, each as its suffix says or by the user's function.

    Parameters
    ----------
    reader
        Gets a path; None for pandas' readers.
    options
        Keyword arguments for the reader.

    Examples
    --------
    >>> Read(len, {})("four")
    4
    """

    def __init__(self, reader: Callable[..., Any] | None, options: dict[str, Any]) -> None:
        self.reader, self.options = reader, options

    def __call__(self, path: str) -> Any:
        """Read one file, on whichever machine this is.

        Raises
        ------
        FileNotFoundError
            If it isn't there; says on which host.
        ImportError
            If what reads it isn't installed.
        """
        if self.reader is None and not is_url(path) and not Path(path).exists():
            raise _not_here(path)
        try:
            if self.reader is not None:
                return self.reader(path, **self.options)
            name, defaults = pandas_reader(path)
            import pandas as pd  # noqa: PLC0415 - slow to import

            return getattr(pd, name)(path, **(defaults | self.options))
        except FileNotFoundError as exc:
            if is_url(path) or Path(path).exists():  # then it is another one that is missing
                raise
            raise _not_here(path) from exc
        except ImportError as exc:
            raise ImportError(f"{path} can't be read {_here()}: {_missing(exc)}") from exc
        except Exception as exc:
            exc.add_note(f"while {path} was read {_here()}")
            raise


def _not_here(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, f"No such file {_here()}", path)


def _here() -> str:
    return f"on host {socket.gethostname()}"


def _missing(error: ImportError) -> str:
    """Say what to install."""
    text = " ".join(str(error).split())
    if "pyarrow" in text or "fastparquet" in text:
        return "Parquet and Feather need pyarrow there: pip install 'nbmr[parquet]', or pip install pyarrow."
    return text


class Reading:
    """A function of what a file holds, as a function of its path.

    Parameters
    ----------
    fn
        Gets what was read.
    read
        Reads it.

    Examples
    --------
    >>> Reading(lambda size: size + 1, Read(len, {}))("four")
    5
    """

    def __init__(self, fn: Callable[..., Any], read: Read) -> None:
        self.fn, self.read = fn, read

    def __call__(self, path: str | None, /, *args: Any, **kwargs: Any) -> Any:
        """Read one file, and call the function on what it holds; not where a job has written nothing."""
        if path is None:
            return None
        return self.fn(self.read(path), *args, **kwargs)
