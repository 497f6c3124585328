"""ipyparallel: a controller and two engines, with cloudpickle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from peers.peer import WORKERS, Fn, Peer


class Ipyparallel(Peer):
    """The load-balanced view for tasks and partitions; for batches and one item the direct one: faster."""

    imports = "import ipyparallel"

    def start(self) -> str:
        import ipyparallel

        self.cluster = ipyparallel.Cluster(n=WORKERS, log_level=40)
        self.cluster.start_and_connect_sync(activate=False).close()
        self.connect(self.cluster.cluster_id)
        return str(self.cluster.cluster_id)

    def connect(self, address: str) -> None:
        import ipyparallel

        self.client = ipyparallel.Client(cluster_id=address)
        self.direct, self.balanced = self.client[:], self.client.load_balanced_view()
        self.direct.use_cloudpickle().get()

    def close(self) -> None:
        self.client.close()

    def stop(self) -> None:
        self.close()
        self.cluster.stop_cluster_sync()

    def items(self, items: list[Any], fn: Fn) -> list[Any]:
        return [answer.get() for answer in [self.balanced.apply_async(fn, item) for item in items]]

    def batched(self, items: list[Any], fn: Fn) -> list[Any]:
        return list(self.direct.map_sync(fn, items))

    def trip(self, item: Any, fn: Fn) -> tuple[Any, dict[str, float]]:
        engine = self.client[0]
        start = perf_counter()
        answer = engine.apply_sync(fn, item)
        return answer, {"latency": perf_counter() - start}

    @contextmanager
    def executor(self) -> Iterator[Callable[[Fn, Any], Any]]:
        executor = self.balanced.executor
        yield lambda fn, item: executor.submit(fn, item).result()
