"""What is sent: a function and its data, cut into tasks.

A task covers units: one partition of a frame, or some items of a list.
"""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

from nbmr import codec, frames
from nbmr.errors import ConfigError
from nbmr.filelist import Files
from nbmr.pace import MERGED_SECONDS, Pace, Rounds

#: Bytes that a batch of items should not exceed.
_BATCH_BYTES = 1 << 20
#: Most items in a task.
_BATCH_ITEMS = 5_000
#: Seconds of work that a batch from an iterable of unknown length should hold.
_BATCH_SECONDS = 0.2
#: Seconds after which a batch is sent as it is, if the iterable is slow.
_PATIENCE = 0.05
#: Seconds of work that a batch from a list should hold at least, where there is enough to share out.
_SHORTEST_SECONDS = 0.05
#: Seconds of work that parts which travel together hold at most, where it was said how many parts to make.
_TOGETHER_SECONDS = 0.02
#: Bytes that partitions which make one task hold at most; and such items that nbmr has made of rows.
_MERGED_BYTES, _MERGED_ROWS_BYTES = 4 << 20, 16 << 20
#: Seconds that a task costs, whatever is in it.
_TASK_SECONDS = 1e-3
#: Seconds of work for each slot that are cut no further.
_SHORT_SECONDS = 0.01
#: Slots to cut for when few are seen: workers may join late.
_FEWEST_SLOTS = 4


@dataclass(frozen=True)
class Task:
    """One task's data."""

    #: Number of its first unit.
    start: int
    #: The units: a list of one partition, or of items.
    units: list[Any]
    #: First and last index label of each partition; empty texts where there are none, and others have some.
    rows: tuple[str, ...] = ()
    #: Where the units are, if they are results of another job.
    results: tuple[dict[str, Any], ...] = ()
    #: Whether all of these are one unit: a list.
    together: bool = False

    @property
    def count(self) -> int:
        """How many units it has."""
        if self.results:
            return 1 if self.together else sum(reference["count"] for reference in self.results)
        return len(self.units)


@dataclass(frozen=True)
class Call:
    """An encoded function with its arguments."""

    buffers: list[codec.Buffer]
    digest: str
    size: int

    @classmethod
    def encode(cls, fn: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Call:
        """Encode a function, once for a whole job.

        Raises
        ------
        PickleError
            If it can't travel.
        """
        if not callable(fn):
            raise ConfigError(f"fn has to be callable; got {type(fn).__name__}.")
        buffers = codec.encode_function(fn, args, kwargs)
        digest = hashlib.sha256()
        for part in codec.pieces(buffers):
            digest.update(part)
        size = sum(memoryview(buffer).nbytes for buffer in buffers)
        return cls(buffers, digest.hexdigest(), size)


class Source:
    """The data of one call, cut into tasks as they are asked for; each kind of data has its own.

    `source_of` makes one.
    """

    #: Whether results are gathered as from a frame, and of which library.
    of_frame = False
    library = "pandas"
    #: Whether it can be read only once.
    lazy = False
    #: Seconds that a task may take without its job being told that it was begun; None for the usual ones.
    begun_after: float | None = None
    #: How many units there are; None while that isn't known.
    units: int | None = None
    #: What its job's log is to say of it from the beginning on; see `nbmr.schema`.
    about: dict[str, Any] = {}  # noqa: RUF012 - replaced, never changed
    #: Bytes from which on a buffer that several tasks have is sent once; None if none are looked for.
    shares_from: int | None = None

    @property
    def gathering(self) -> dict[str, Any]:
        """What a job's log says of its data, for those who gather its results."""
        return {"of_frame": self.of_frame, "library": self.library}

    def tasks(self, seconds_per_unit: Callable[[], float | None]) -> Iterator[Task | None]:
        """Cut the data into tasks; an iterable is read as they are asked for.

        Parameters
        ----------
        seconds_per_unit
            Tells how long a unit takes, once that is known.

        Yields
        ------
        Task or None
            None where the next one has to be waited for, about once a second.
        """
        raise NotImplementedError

    def again(self, number: int, start: int, count: int) -> Task:
        """Cut one task again; not from an iterable, which can be read only once.

        Parameters
        ----------
        number
            Which task it was.
        start, count
            The number of its first unit, and how many it has.
        """
        raise NotImplementedError


class Units(list[Any]):
    """Items that nbmr has made of a user's data.

    Parameters
    ----------
    items
        The items.
    about
        What their job's log is to say of them.
    shares
        How much of the work each is, as far as is known; None if they are to be taken for equal.
    """

    def __init__(
        self, items: Iterable[Any], about: dict[str, Any], shares: Sequence[float] | None = None
    ) -> None:
        super().__init__(items)
        self.about, self.shares = about, shares


def source_of(
    data: Any, partitions: int | None, slots: int, *, singly: bool = False, merges: bool = False
) -> Source:
    """Return the data of a call, to be cut into tasks.

    Parameters
    ----------
    data
        A frame or series of pandas, polars or Arrow, or any iterable.
    partitions
        How many tasks; None to choose.
    slots
        How many tasks can run at once, as far as is known.
    singly
        Whether every item has to be a task of its own.
    merges
        Whether neighbours may make one task: partitions of a frame where `partitions` is None, if they turn
        out to be short; parts of a list, if a task takes longer than they do.

    Raises
    ------
    ConfigError
        If the data can't be mapped over, or `partitions` makes no sense.
    """
    if frames.is_frame(data):
        return FrameSource(data, partitions, slots, merges=merges and not singly)
    singly = singly or isinstance(data, Files)
    return ItemSource(data, partitions, slots, singly=singly, merges=merges)


class FrameSource(Source):
    """The partitions of a frame or series; parameters as for `source_of`.

    Each is a task. Where nbmr chose how many there are, and they turn out to be short, neighbours make one.
    """

    of_frame = True

    def __init__(self, data: Any, partitions: int | None, slots: int, *, merges: bool = False) -> None:
        self._bounds = frames.row_bounds(data, partitions, slots)
        self.units = len(self._bounds)
        self.library, _ = frames.kind_of(data)
        self._data = frames.snapshot(data)  # later changes by the user are not ours
        self._slots = max(slots, 1)
        self._most = 1
        if merges and partitions is None and len(data) and (library := frames.library_of(data)):
            largest = library.row_bytes(data) * max(end - first for first, end in self._bounds)
            self._most = int(_MERGED_BYTES / max(largest, 1.0))
        self._rounds = Rounds(self._slots)

    def tasks(self, seconds_per_unit: Callable[[], float | None]) -> Iterator[Task | None]:
        """Cut the frame."""
        number, pace = 0, Pace(seconds_per_unit)
        while number < len(self._bounds):
            count = self._count(len(self._bounds) - number, pace) if self._most > 1 else 1
            yield self.again(number, number, count)
            number += count

    def _count(self, left: int, pace: Pace) -> int:
        """Return how many partitions make the next task."""
        seconds = pace.seconds(self._slots)
        if seconds is None:
            return 1
        longest = max(1, int(MERGED_SECONDS / max(seconds, 1e-6)))
        return min(math.ceil(self._rounds.next(left, seconds)), longest, self._most, left)

    def again(self, number: int, start: int, count: int) -> Task:  # noqa: ARG002 - the units tell
        """Cut one task again."""
        bounds = self._bounds[start : start + count]
        parts = [frames.take(self._data, first, end) for first, end in bounds]
        labels = [frames.row_labels(part, first) for part, (first, _) in zip(parts, bounds, strict=True)]
        if count > 1:
            labels = [(*pair, "", "")[:2] for pair in labels]
        return Task(start, parts, tuple(chain.from_iterable(labels)))


class ItemSource(Source):
    """The items of an iterable, in batches; parameters as for `source_of`."""

    def __init__(
        self, data: Any, partitions: int | None, slots: int, *, singly: bool = False, merges: bool = False
    ) -> None:
        check_iterable(data)
        frames.check_partitions(partitions)
        self._seen, self._slots = max(slots, 1), max(slots, _FEWEST_SLOTS)
        self._partitions, self._merges = partitions, merges and not singly
        self._most = 1 if singly and partitions is None else _BATCH_ITEMS
        self.of_frame = isinstance(data, Files)
        self.about = data.about if isinstance(data, Units) else {}
        self._shares = data.shares if isinstance(data, Units) and self._merges else None
        self._rounds = Rounds(self._seen)
        #: Items in each of the last batches, once these are cut evenly.
        self._even = 0
        self.lazy = not isinstance(data, Sized)
        self.units = len(data) if isinstance(data, Sized) else None
        self._data: Any = data if self.lazy or isinstance(data, range) else list(data)

    def tasks(self, seconds_per_unit: Callable[[], float | None]) -> Iterator[Task | None]:
        """Cut the items into batches."""
        if self._shares is not None:
            yield from self._shared_out(self._shares, seconds_per_unit)
        elif self._partitions is not None and not self.lazy:
            yield from self._parts(min(self._partitions, len(self._data)), seconds_per_unit)
        elif self.lazy:
            yield from self._batches(lambda _sent: self._size_by_time(seconds_per_unit()))
        else:
            pace = Pace(seconds_per_unit)
            yield from self._batches(lambda sent: self._guided(sent, pace))

    def again(self, number: int, start: int, count: int) -> Task:  # noqa: ARG002 - the items tell
        """Cut one batch again."""
        return Task(start, list(self._data[start : start + count]))

    def _parts(self, count: int, seconds_per_unit: Callable[[], float | None]) -> Iterator[Task]:
        """Cut the items into so many parts; several make one task where they are very short."""
        cuts = [len(self._data) * i // count for i in range(count + 1)] if count else [0]
        number, pace = 0, Pace(seconds_per_unit)
        while number < count:
            most = self._short_parts(number, count, pace) if self._merges else 1
            units = list(self._data[cuts[number] : cuts[number + 1]])
            end, held = number + 1, sum(map(weight, units)) if most > 1 else 0
            while end < number + most:
                more = self._data[cuts[end] : cuts[end + 1]]
                held += sum(map(weight, more))
                if held > _BATCH_BYTES:
                    break
                units += more
                end += 1
            yield Task(cuts[number], units)
            number = end

    def _shared_out(
        self, shares: Sequence[float], seconds_per_unit: Callable[[], float | None]
    ) -> Iterator[Task]:
        """Cut items whose shares of the work are known; several make one task where they are short."""
        ends = [0.0, *accumulate(shares)]
        number, pace = 0, Pace(seconds_per_unit)
        while number < len(self._data):
            seconds, end, wanted = pace.seconds(self._seen), number + 1, 0.0
            if seconds is not None and number:
                # those that are done are among the first, of which each is about as much
                wanted = self._rounds.next(ends[-1] - ends[number], seconds * number / ends[number])
            held = weight(self._data[number])
            while end < len(self._data) and (ends[end] + ends[end + 1]) / 2 - ends[number] <= wanted:
                held += weight(self._data[end])
                if held > _MERGED_ROWS_BYTES:
                    break
                end += 1
            yield Task(number, self._data[number:end])
            number = end

    def _short_parts(self, sent: int, count: int, pace: Pace) -> int:
        """Return how many of the parts that are left make the next task: one, unless they are very short.

        As with `_guided`, a task gets no large share of what is left: what comes may take longer.
        """
        seconds = pace.seconds(2 * self._seen)
        if seconds is None:
            return 1
        left, each = count - sent, max(seconds * len(self._data) / count, 1e-6)
        guided = max(left // (8 * self._slots), min(int(_TASK_SECONDS / each), left // (4 * self._seen)))
        return max(1, min(guided, int(_TOGETHER_SECONDS / each), _BATCH_ITEMS * count // len(self._data)))

    def _guided(self, sent: int, pace: Pace) -> int:
        """Guided self-scheduling (Polychronopoulos & Kuck, 1987): large batches first, single items last.

        Once it is known how long an item takes, batches of short ones are larger: each costs the same. Where
        all that is left is short work, it needs no balance, and is cut evenly.
        """
        assert self.units is not None  # noqa: S101 - for the type checker
        left = self.units - sent
        guided = -(-left // (8 * self._slots))
        seconds = pace.seconds(self._seen)  # every slot has one then
        if seconds is None:
            return guided
        by_time = int(_SHORTEST_SECONDS / max(seconds, 1e-6))
        if left <= by_time * self._seen:
            rounds = 1 if left * seconds <= _SHORT_SECONDS * self._seen else 2
            self._even = self._even or -(-left // (rounds * self._seen))
            return self._even
        return max(guided, min(by_time, -(-left // (2 * self._slots))))

    @staticmethod
    def _size_by_time(seconds: float | None) -> int:
        return 1 if seconds is None else int(_BATCH_SECONDS / max(seconds, 1e-6))

    def _batches(self, size: Callable[[int], int]) -> Iterator[Task]:
        batch: list[Any] = []
        sent = held = 0
        limit = max(1, min(size(0), self._most))
        began = time.monotonic()
        for item in self._data:
            batch.append(item)
            held += weight(item)
            if len(batch) >= limit or held >= _BATCH_BYTES or time.monotonic() - began > _PATIENCE:
                yield Task(sent, batch)
                sent += len(batch)
                batch, held = [], 0
                limit = max(1, min(size(sent), self._most))
                began = time.monotonic()
        if batch:
            yield Task(sent, batch)


def check_iterable(data: Any) -> None:
    """Refuse data that has neither rows nor items.

    Raises
    ------
    ConfigError
        If so; says what to pass.
    """
    if not isinstance(data, str | bytes | dict) and isinstance(data, Iterable):
        return
    hint = {
        "dict": "pass list(d.items())",
        "str": "pass [text], or text.splitlines()",
        "LazyFrame": "pass its .collect(): workers get rows",
    }.get(type(data).__name__, "of items")
    raise ConfigError(
        f"data is of type {type(data).__name__}; pass a DataFrame, a Series, a list or another iterable"
        f" ({hint})."
    )


def weight(item: Any) -> int:
    """Roughly how many bytes an item takes, cheaply."""
    if isinstance(item, int | float | bool | None):
        return 8
    if library := frames.library_of(item):
        return library.nbytes(item)
    size = getattr(item, "nbytes", None)
    return int(size) if isinstance(size, int) else sys.getsizeof(item)
