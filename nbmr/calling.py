"""What a worker does for `nbmr.Executor`: it calls functions, each with its own arguments."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

from nbmr import codec

#: Executors whose initializer has run in this process.
_initialized: set[str] = set()


class Encoded:
    """A function with its arguments, as `nbmr.codec.encode_function` gave them.

    Parameters
    ----------
    buffers
        Its pickle stream, and its buffers, which travel uncopied.
    """

    def __init__(self, buffers: Sequence[codec.Buffer]) -> None:
        self.buffers = list(buffers)

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return sum(memoryview(buffer).nbytes for buffer in self.buffers)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return Encoded, ([pickle.PickleBuffer(buffer) for buffer in self.buffers],)


class InitializerFailed(Exception):
    """An executor's initializer raised in a worker's process; says what."""


class CallEncoded:
    """Calls what it is given, after the executor's initializer was called once in its process.

    Parameters
    ----------
    token
        Tells the executor from others.
    initializer, initargs
        What is called once in each process; None for nothing.
    """

    def __init__(
        self, token: str, initializer: Callable[..., Any] | None = None, initargs: tuple[Any, ...] = ()
    ) -> None:
        self.token, self.initializer, self.initargs = token, initializer, initargs

    def __call__(self, encoded: Encoded) -> Any:
        """Decode a function with its arguments, and call it."""
        if self.initializer is not None and self.token not in _initialized:
            try:
                self.initializer(*self.initargs)
            except Exception as exc:
                raise InitializerFailed(f"{type(exc).__name__}: {exc}") from exc
            _initialized.add(self.token)
        fn, args, kwargs = codec.decode([memoryview(buffer) for buffer in encoded.buffers])
        return fn(*args, **kwargs)


def call_each(fn: Callable[..., Any], rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call a function on each of several rows of arguments."""
    return [fn(*row) for row in rows]
