"""joblib with loky: worker processes that are used again, and large arrays as memory maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from peers.peer import WORKERS, Fn, Peer


class Joblib(Peer):
    """Its own batches where they help; else one task an item, all handed over at once."""

    imports = "import joblib"

    def start(self) -> str:
        self.connect("")
        return ""

    def connect(self, address: str) -> None:  # noqa: ARG002 - the workers are this process's own
        from joblib import Parallel, delayed

        self.delayed, self.in_batches = delayed, Parallel(n_jobs=WORKERS)
        self.one_each = Parallel(n_jobs=WORKERS, batch_size=1, pre_dispatch="all")

    def close(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor(max_workers=WORKERS).shutdown(kill_workers=True)

    def items(self, items: list[Any], fn: Fn) -> list[Any]:
        return list(self.one_each(self.delayed(fn)(item) for item in items))

    def batched(self, items: list[Any], fn: Fn) -> list[Any]:
        return list(self.in_batches(self.delayed(fn)(item) for item in items))

    @contextmanager
    def executor(self) -> Iterator[Callable[[Fn, Any], Any]]:
        from joblib.externals.loky import get_reusable_executor

        executor = get_reusable_executor(max_workers=WORKERS)
        yield lambda fn, item: executor.submit(fn, item).result()
