"""Buckets: the rows of a partition, sorted by a hash of their keys; and the same bucket of all partitions.

A map task's result is its `Buckets`. A reduce task gets those of all map tasks, as files that are mapped into
memory, and decodes no more of them than it is at: `Bucket` gives their rows, all at once or in pieces.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from nbmr import codec
from nbmr.hashing import bucket_of, piece_of
from nbmr.samples import alike, among, sample_of

#: Bytes of encoded rows from which on a bucket is read in pieces.
HELD_BYTES = 64 << 20
#: Most pieces that a bucket is read in.
_MOST_PIECES = 1_000
#: Keys that a map task tells of, at most, and the longest text of one.
_TOLD, _TEXT = 8, 60


class Buckets:
    """The rows that one partition gave, sorted into buckets; each is decoded only when it is asked for.

    Parameters
    ----------
    encoded
        For each bucket, its encoded frame's buffers; none where the bucket is empty.
    sample
        A few of the partition's rows, or none if it has none: see `nbmr.samples`.
    lengths
        How many rows each bucket has.
    rows
        For each bucket, the numbers that its rows have in the partition; None if nobody will ask.
    """

    def __init__(
        self,
        encoded: Sequence[Sequence[codec.Buffer]],
        sample: Any,
        lengths: list[int],
        rows: Sequence[Any] | None = None,
    ) -> None:
        self.encoded, self.sample = [list(buffers) for buffers in encoded], sample
        self.lengths, self.rows = lengths, rows

    def __reduce_ex__(self, _protocol: Any) -> Any:
        wrapped = [[pickle.PickleBuffer(buffer) for buffer in buffers] for buffers in self.encoded]
        return Buckets, (wrapped, self.sample, self.lengths, self.rows)

    def frame(self, number: int) -> Any:
        """Return the rows of one bucket; None if it has none. They aren't to be written to."""
        buffers = self.encoded[number]
        return codec.decode([memoryview(buffer) for buffer in buffers]) if buffers else None

    def nbytes(self, number: int) -> int:
        """Return how many bytes one bucket takes, encoded."""
        return sum(memoryview(buffer).nbytes for buffer in self.encoded[number])

    def release(self) -> None:
        """Let the system take back the memory of what was read of it: it can be read again from its file."""
        for buffer in itertools.chain.from_iterable(self.encoded):
            if isinstance(buffer, memoryview) and isinstance(buffer.obj, mmap.mmap):
                with contextlib.suppress(ValueError, OSError):
                    buffer.obj.madvise(mmap.MADV_DONTNEED)
                return


def sort_rows(frame: Any, keys: Any, count: int, *, numbered: bool = False, whole: Any = None) -> Buckets:
    """Sort the rows of a partition into buckets.

    Parameters
    ----------
    frame
        The rows.
    keys
        A DataFrame of their keys.
    count
        How many buckets.
    numbered
        Whether it will be asked for the numbers of the rows.
    whole
        The partition, if the rows are not all of it: all have a say in the types.
    """
    places = bucket_of(keys, count)
    order = np.argsort(places, kind="stable")  # within a bucket, rows keep their order
    ends = np.searchsorted(places[order], np.arange(count + 1))
    encoded, rows = [], []
    for start, stop in itertools.pairwise(ends):
        chosen = order[start:stop]
        encoded.append(codec.encode(frame.iloc[chosen]) if len(chosen) else [])
        rows.append(chosen.astype(np.int32 if len(frame) < 1 << 31 else np.int64))
    sample = sample_of(frame if whole is None else whole)
    return Buckets(encoded, sample, np.diff(ends).tolist(), rows if numbered else None)


def told(buckets: Buckets, keys: Any) -> dict[str, Any]:
    """Say how many rows and bytes there are in a partition's buckets, and which keys have very many of them.

    Parameters
    ----------
    buckets
        What was made of the partition.
    keys
        A DataFrame of the keys of all of its rows.

    Returns
    -------
    dict
        ``rows``, ``bytes``, and ``keys``: how many rows each key has, by its text, for those with more than
        twice a bucket's fair share, or half of the rows.
    """
    count = len(buckets.encoded)
    nbytes = sum(buckets.nbytes(number) for number in range(count))
    large: list[tuple[str, int]] = []
    if len(keys):
        least = len(keys) * min(2 / count, 0.5)
        crowded = [number for number, length in enumerate(buckets.lengths) if length > least]
        places = bucket_of(keys, count) if crowded else None
        for number in crowded:
            inside = keys[places == number]
            sizes = inside.groupby(list(inside.columns), sort=False, observed=True, dropna=False).size()
            large += [(key_text(key), int(size)) for key, size in sizes[sizes > least].items()]
    large.sort(key=lambda pair: -pair[1])
    return {"rows": len(keys), "bytes": nbytes, "keys": dict(large[:_TOLD])}


def key_text(key: Any) -> str:
    """Write a key for people: short, and as Python would.

    Examples
    --------
    >>> key_text(("US", np.int64(3)))
    "('US', 3)"
    """

    def bare(one: Any) -> Any:
        return one.item() if isinstance(one, np.generic) else one

    try:
        key = tuple(map(bare, key)) if type(key) is tuple else bare(key)
        key = key[0] if type(key) is tuple and len(key) == 1 else key
        text = repr(key)
    except Exception:  # noqa: BLE001 - users' objects raise anything
        text = f"<{type(key).__name__}>"
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"


class Bucket:
    """One bucket of all partitions, or several: what a reduce task works on.

    Parameters
    ----------
    parts
        The partitions' buckets, in the order of the input.
    numbers
        Which of the buckets.
    """

    def __init__(self, parts: Sequence[Buckets], numbers: Sequence[int]) -> None:
        self.parts = [part for part in parts if part is not None and part.sample is not None]
        self.numbers = list(numbers)

    @property
    def nbytes(self) -> int:
        """How many bytes it takes, encoded."""
        return sum(part.nbytes(number) for part in self.parts for number in self.numbers)

    @property
    def length(self) -> int:
        """How many rows it has."""
        return sum(part.lengths[number] for part in self.parts for number in self.numbers)

    @cached_property
    def alike(self) -> bool:
        """Whether all partitions have the same columns and types."""
        return all(alike(part.sample, self.parts[0].sample) for part in self.parts)

    def frame(self) -> Any:
        """Return all rows, in the order of the input; None if there were no partitions."""
        return self.joined(self.frames())

    def frames(self) -> Iterator[tuple[int, Any]]:
        """Yield each partition's number and rows, where it has some, one at a time."""
        for place, part in enumerate(self.parts):
            for number in self.numbers:
                if (frame := part.frame(number)) is not None:
                    yield place, frame
                    del frame

    def rows(self) -> Any:
        """Return a number for each row of `frame`, by which rows of all buckets can be put in order."""
        found = [
            (place << 32) + np.asarray(part.rows[number], dtype=np.int64)
            for place, part in enumerate(self.parts)
            for number in self.numbers
            if part.encoded[number] and part.rows is not None
        ]
        return np.concatenate(found) if found else np.zeros(0, np.int64)

    def joined(self, pieces: Iterable[tuple[int | None, Any]]) -> Any:
        """Concatenate rows of this bucket, with the types that they have among all rows.

        All partitions count for these, also those that have no rows in this bucket. Each of the pieces comes
        with the number of the partition that it is of, if it is of one.
        """
        if not self.parts:
            return None
        if self.alike:
            there = [frame for _, frame in pieces]
            return pd.concat(there) if there else self.parts[0].sample.iloc[:0]
        return among([part.sample for part in self.parts], pieces)

    def pieces(self, by: list[Any], held: int) -> Iterator[Any]:
        """Yield the rows in pieces of about so many bytes; all rows with the same key are in one piece.

        Parameters
        ----------
        by
            The key columns.
        held
            How many bytes of encoded rows a piece should have; one with a large key has more.
        """
        for frame, _ in self._pieces(by, held):
            yield frame

    def numbered_pieces(self, by: list[Any], held: int) -> Iterator[tuple[Any, Any]]:
        """Yield the same, each with the numbers of its rows: see `rows`."""
        rows = self.rows()
        for frame, chosen in self._pieces(by, held):
            yield frame, rows if chosen is None else rows[chosen]

    def _pieces(self, by: list[Any], held: int) -> Iterator[tuple[Any, Any]]:
        """Yield pieces, each with which of all rows they are; None for all."""
        pieces = min(-(-self.nbytes // max(held, 1)), _MOST_PIECES)
        if pieces <= 1 or not self.parts:
            if (frame := self.frame()) is not None:
                yield frame, None
            return
        count, found = len(self.parts[0].encoded), []
        for place, frame in self.frames():
            found.append(piece_of(frame.reindex(columns=by), count, pieces))
            del frame
            self.parts[place].release()
        for piece in range(pieces):
            chosen = [numbers == piece for numbers in found]
            yield self.joined(self._chosen(chosen)), np.concatenate(chosen)

    def _chosen(self, chosen: list[Any]) -> Iterator[tuple[int, Any]]:
        """Yield those of the partitions' rows that are chosen."""
        for (place, frame), wanted in zip(self.frames(), chosen, strict=True):
            if wanted.any():
                yield place, frame.take(np.flatnonzero(wanted))
            del frame
            self.parts[place].release()

    def combined(self, combiner: Callable[[Any], Any], held: int) -> Any:
        """Return the rows, combined whenever there are so many; None if they don't become much fewer.

        Parameters
        ----------
        combiner
            Makes fewer rows of some.
        held
            How many bytes of encoded rows to take together.
        """
        most = max(int(held / max(self.nbytes, 1) * self.length), 1)
        kept: list[tuple[int | None, Any]] = []
        count = 0
        for place, frame in self.frames():
            kept.append((place, frame))
            count += len(frame)
            if count > most:
                fewer = combiner(self.joined(kept))
                count = len(fewer)
                if count > most // 2:
                    return None
                kept = [(None, fewer.copy())]  # of its own memory, whatever the combiner gave
                del fewer
            del frame
            if len(kept) == 1:
                self.parts[place].release()
        return self.joined(kept)
