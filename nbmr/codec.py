"""Objects to buffers, and back.

An object becomes one pickle stream (protocol 5) and its contiguous buffers, which are not copied: the
memory of a frame's columns goes out as it lies. Small ones go into the stream. Where the receiver hands
writable buffers to `decode`, arrays come out writable and are not copied either.

Copies, measured on 2,000,000 x 8 float64 in 16 slices of rows: a slice of a block that holds several
columns isn't contiguous, and is copied once (128 MB in 12 ms while the memory is warm); a block that holds
one column, not at all. Arrow-backed columns, `str` among them, send only their own rows. Columns of
Python objects go into the stream, at about 1 microsecond an object that isn't text; while they are
pickled, pickle's memo takes 5 (text) to 20 times (dates) the stream's size.

The C pickler alone was tried for plain data: 10 to 20% faster on columns of dates or decimals, no faster
elsewhere, and slower on small objects, since its stream then has to be searched for names that only
cloudpickle and `nbmr.modules` can resolve. One way is enough.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any

Buffer = bytes | bytearray | memoryview

#: Each buffer starts at a multiple of this in a payload: a cache line, and what Arrow asks for.
ALIGNMENT = 64
#: Bytes from which on a buffer lies out of band: copying a smaller one takes less than telling where it lies.
OWN_BYTES = 1 << 10


def encode(obj: Any, *, what: str = "the data") -> list[Buffer]:
    """Encode an object: the pickle stream first, then its out-of-band buffers, uncopied.

    The buffers are views of the object's own memory: don't change it before they are sent.

    Parameters
    ----------
    obj
        Anything; what can't be pickled by reference goes by value, see `nbmr.modules`.
    what
        What to call it in an error message.

    Raises
    ------
    PickleError
        If it can't be pickled. The message names the object and what holds it.

    Examples
    --------
    >>> decode(encode({"a": 1}))
    {'a': 1}
    """
    try:
        return _encode(obj)
    except Exception as exc:
        from nbmr.culprit import Root, explain  # noqa: PLC0415 - only when it fails

        raise explain([Root(obj, what)], exc, _encode) from exc


def encode_function(
    fn: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> list[Buffer]:
    """Encode a function and what it is called with besides the data.

    `decode` gives back ``(fn, args, kwargs)``. The local modules that the function reaches travel along,
    and so do the source lines of the cells that it comes from, for tracebacks.

    Parameters
    ----------
    fn
        Any callable.
    args
        Positional arguments, after the data.
    kwargs
        Keyword arguments.

    Raises
    ------
    PickleError
        If it can't be pickled. The message names the object and the variable that holds it.

    Examples
    --------
    >>> fn, args, kwargs = decode(encode_function(max, (3,), {"default": 0}))
    >>> fn is max, args, kwargs
    (True, (3,), {'default': 0})
    """
    kwargs = dict(kwargs or {})
    try:
        return _encode((fn, tuple(args), kwargs), state=True)
    except Exception as exc:
        from nbmr.culprit import call_roots, explain  # noqa: PLC0415 - only when it fails

        raise explain(call_roots(fn, args, kwargs), exc, _encode) from exc


def decode(buffers: Sequence[Buffer]) -> Any:
    """Undo `encode` and `encode_function`.

    Only ever call it on what came with a good signature: unpickling runs code.
    """
    return pickle.loads(buffers[0], buffers=buffers[1:])


def layout(buffers: Iterable[Buffer]) -> list[tuple[int, int]]:
    """Offset and length in bytes of each buffer, laid one after another at multiples of `ALIGNMENT`.

    Examples
    --------
    >>> layout([b"abc", b"defg"])
    [(0, 3), (64, 4)]
    """
    places, end = [], 0
    for buffer in buffers:
        start = -(-end // ALIGNMENT) * ALIGNMENT
        length = memoryview(buffer).nbytes
        places.append((start, length))
        end = start + length
    return places


def slices(view: memoryview, places: Iterable[tuple[int, int]]) -> list[Buffer]:
    """Cut a payload into its buffers, without copying.

    Raises
    ------
    ValueError
        If the places don't follow one another, or the payload is shorter than they say.
    TypeError
        If they aren't pairs of whole numbers.
    """
    view = view.cast("B") if view.format != "B" or view.ndim != 1 else view
    cut: list[Buffer] = []
    end = 0
    for start, length in places:
        if start < end or length < 0:
            raise ValueError("buffers overlap, or have no place")
        end = start + length
        if end > len(view):
            raise ValueError("the payload is shorter than its layout says")
        cut.append(view[start:end])
    return cut


def pieces(buffers: Sequence[Buffer]) -> list[Buffer]:
    """Return the buffers with the padding between them, ready for ``b"".join`` or for hashing in turn.

    Examples
    --------
    >>> len(b"".join(pieces([b"abc", b"defg"])))
    68
    """
    parts: list[Buffer] = []
    end = 0
    for buffer, (start, length) in zip(buffers, layout(buffers), strict=True):
        if start > end:
            parts.append(bytes(start - end))
        parts.append(buffer)
        end = start + length
    return parts


def cut(parts: Iterable[Buffer], most: int) -> Iterator[list[memoryview]]:
    """Cut parts that follow one another into groups of `most` bytes, uncopied; the last may be shorter.

    Examples
    --------
    >>> [b"".join(group) for group in cut([b"abc", b"de", b"fghij"], 4)]
    [b'abcd', b'efgh', b'ij']
    """
    group: list[memoryview] = []
    room = most
    for part in parts:
        view = memoryview(part).cast("B")
        while view:
            group.append(view[:room])
            view = view[room:]
            room -= len(group[-1])
            if not room:
                yield group
                group, room = [], most
    if group:
        yield group


def place(buffers: Sequence[Buffer], view: memoryview) -> None:
    """Copy the buffers to their places in writable memory, such as a shared segment."""
    for buffer, (start, length) in zip(buffers, layout(buffers), strict=True):
        view[start : start + length] = memoryview(buffer).cast("B")


def _encode(obj: Any, *, state: bool = False) -> list[Buffer]:
    from nbmr.pickler import Pickler  # noqa: PLC0415 - imports cloudpickle

    stream, buffers = BytesIO(), list[memoryview]()

    def keep(buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer out of the stream, unless it is small; return whether it goes into the stream."""
        raw = buffer.raw()
        if raw.nbytes < OWN_BYTES:
            return True
        buffers.append(raw)
        return False

    Pickler(stream, keep, state=state).dump(obj)
    # As quick as getbuffer(), whose buffer makes Python 3.13 warn if it is collected with the stream.
    return [stream.getvalue(), *buffers]
