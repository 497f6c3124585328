"""What nbmr has to know of a library whose frames it cuts and joins; `dispatch` finds that of a value."""

from __future__ import annotations

from typing import Any, BinaryIO, Literal, Protocol

#: What a type is to its library: what a job's data may be (``"frame"``, ``"series"``); a query that has no
#: rows yet (``"lazy"``); an array, which is joined only where a frame of its library was cut; or nothing.
Kind = Literal["frame", "series", "lazy", "array", ""]

#: Encoded size, in bytes, that a partition should stay under: half of what one message may hold.
PARTITION_BYTES = 4 << 20


class UnjoinableError(Exception):
    """The library can't concatenate these; nothing was consumed."""


class Library(Protocol):
    """A library of frames: pandas, polars or pyarrow."""

    #: As it is imported, and as a job's log names it.
    name: str

    def kind(self, of: type) -> Kind:
        """Say what a type is to this library."""

    def snapshot(self, data: Any) -> Any:
        """Return the data as it is now, whatever its owner does to it later; without copying its rows."""

    def take(self, data: Any, start: int, stop: int) -> Any:
        """Return the rows of a half-open range, of the type of `data`."""

    def labels(self, part: Any, start: int) -> tuple[str, ...]:
        """Return the first and the last label of a partition that begins at row `start`; () without rows."""

    def row_bytes(self, data: Any) -> float:
        """Estimate how many bytes a row takes when encoded; there is one at least."""

    def nbytes(self, data: Any) -> int:
        """Return roughly how many bytes the data takes."""

    def is_value(self, result: Any) -> bool:
        """Whether a result is a scalar, of which `of_values` can make a series."""

    def of_rows(self, rows: list[dict[Any, Any]]) -> Any:
        """Make a frame with a row for each dict, or raise `UnjoinableError`."""

    def of_values(self, values: list[Any]) -> Any:
        """Make a series of scalars, or raise `UnjoinableError`."""

    def write(self, data: Any, file: BinaryIO, kind: str) -> None:
        """Write a frame or series to a file that is open for writing, as ``"parquet"`` or ``"csv"``."""

    def concat(self, results: list[Any], numbers: list[int]) -> Any:
        """Concatenate those results that have the given numbers: all of one kind.

        All results are consumed then: each entry is set to None. Raises `UnjoinableError`, and consumes
        nothing, if it can't be done.
        """
