"""Large arguments that aren't arrays: lists, texts, frames. Packed, each travels as one array does."""

from __future__ import annotations

import copy
import pickle
from typing import Any

from nbmr import codec
from nbmr.frames import is_frame

#: Items, cells or characters from which on an argument may be large.
_MANY = 10_000


class Packed:
    """Stands for a value in what is pickled, and is unpickled as that value.

    Its pickle stream and all of its buffers become one. So what several calls have can be told, and sent
    once, also where it consists of many small parts.

    Parameters
    ----------
    value
        Anything.
    """

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce_ex__(self, _protocol: Any) -> Any:
        buffers = codec.encode(self._value)
        return unpack, (pickle.PickleBuffer(b"".join(codec.pieces(buffers))), codec.layout(buffers))


def unpack(buffer: codec.Buffer, layout: list[tuple[int, int]]) -> Any:
    """Return the value that was `Packed`."""
    return codec.decode(codec.slices(memoryview(buffer), layout))


def pack(batch: Any) -> Any:
    """Return a batch with `Packed` in place of each argument that may be large, and is no array.

    Parameters
    ----------
    batch
        joblib's: its ``items`` are calls. What several of them have stays the same object for all.
    """
    packed: dict[int, Packed] = {}

    def one(value: Any) -> Any:
        return packed.setdefault(id(value), Packed(value)) if _may_be_large(value) else value

    batch = copy.copy(batch)
    batch.items = [
        (fn, tuple(map(one, args)), {name: one(value) for name, value in kwargs.items()})
        for fn, args, kwargs in batch.items
    ]
    return batch


def _may_be_large(value: Any) -> bool:
    if type(value) in (list, tuple, dict, str, bytes):
        return len(value) >= _MANY
    holds_objects = getattr(getattr(value, "dtype", None), "hasobject", False)  # an array does
    return bool(is_frame(value) or holds_objects) and getattr(value, "size", 0) >= _MANY
