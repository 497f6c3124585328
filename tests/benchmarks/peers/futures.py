"""The standard library's pool of processes: what there is without a broker."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from peers import pickled
from peers.peer import BATCHES, WORKERS, Fn, Peer


class Futures(Peer):
    """cloudpickle around functions, as it would not take those that are made in place; batches of its own."""

    imports = "import cloudpickle; from concurrent.futures import ProcessPoolExecutor"

    def start(self) -> str:
        self.connect("")
        return ""

    def connect(self, address: str) -> None:  # noqa: ARG002 - the pool is this process's own
        from concurrent.futures import ProcessPoolExecutor

        import cloudpickle

        self.pool, self.dumps = ProcessPoolExecutor(WORKERS), cloudpickle.dumps

    def close(self) -> None:
        self.pool.shutdown()

    def items(self, items: Iterable[Any], fn: Fn) -> list[Any]:
        return list(self.pool.map(functools.partial(pickled.call, self.dumps(fn)), items))

    def batched(self, items: list[Any], fn: Fn) -> list[Any]:
        call = functools.partial(pickled.call, self.dumps(fn))
        return list(self.pool.map(call, items, chunksize=-(-len(items) // BATCHES)))

    @contextmanager
    def executor(self) -> Iterator[Callable[[Fn, Any], Any]]:
        yield lambda fn, item: self.pool.submit(pickled.call, self.dumps(fn), item).result()
