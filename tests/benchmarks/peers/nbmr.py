"""nbmr, with its private node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from peers.peer import WORKERS, Fn, Peer


class Nbmr(Peer):
    """Its own batches, partitions, pandas engine, groupby and executor."""

    imports = "import nbmr"

    def start(self) -> str:
        self.connect("")
        self.workers = self.client.workers(WORKERS)
        self.published: list[float] = []
        return ""

    def connect(self, address: str) -> None:  # noqa: ARG002 - its connection file tells
        import nbmr

        self.client = nbmr.Client()

    def close(self) -> None:
        self.client.close()

    def stop(self) -> None:
        self.workers.stop(now=True)
        self.close()

    def items(self, items: list[Any], fn: Fn) -> list[Any]:
        return list(self.client.map(items, fn, partitions=len(items), progress=False))

    def batched(self, items: list[Any], fn: Fn) -> list[Any]:
        return list(self.client.map(items, fn, progress=False))

    def frame(self, df: Any, fn: Fn, partitions: int | None) -> Any:
        return self.client.map(df, fn, partitions=partitions, progress=False)

    def rows(self, df: Any, fn: Fn) -> Any:
        import pandas as pd

        import nbmr

        if int(pd.__version__.split(".")[0]) < 3:  # which have no engines
            return self.client.map(df, lambda part: part.apply(fn, axis=1), progress=False)
        return df.apply(fn, axis=1, engine=nbmr.engine(self.client, progress=False))

    def groups(self, df: Any, by: str, fn: Fn) -> Any:
        return self.client.groupby(df, by, progress=False).apply(fn)

    def trip(self, item: Any, fn: Fn) -> tuple[Any, dict[str, float]]:
        self._note_publishing()
        start = perf_counter()
        [answer] = self.client.map([item], fn, progress=False)
        end = perf_counter()
        return answer, {"latency": end - start, "latency from publishing": end - self.published[-1]}

    @contextmanager
    def executor(self) -> Iterator[Callable[[Fn, Any], Any]]:
        import nbmr

        with nbmr.Executor(client=self.client) as executor:
            yield lambda fn, item: executor.submit(fn, item).result()

    def _note_publishing(self) -> None:
        """From the first call on, note when tasks are published."""
        from nbmr.broker import Broker

        if self.published:
            return
        publish = Broker.publish

        def noting(*args: Any, **kwargs: Any) -> Any:
            self.published.append(perf_counter())
            return publish(*args, **kwargs)

        Broker.publish = noting  # type: ignore[method-assign]
