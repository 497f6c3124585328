"""dask.distributed: partitions are scattered and results gathered by direct connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from peers.peer import WORKERS, Fn, Peer


class Dask(Peer):
    """Two worker processes of one thread each, without a dashboard."""

    imports = "from distributed import Client"

    def start(self) -> str:
        from distributed import LocalCluster

        self.cluster = LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        )
        self.connect(self.cluster.scheduler_address)
        return str(self.cluster.scheduler_address)

    def connect(self, address: str) -> None:
        from distributed import Client

        self.client = Client(address, direct_to_workers=True)

    def close(self) -> None:
        self.client.close()

    def stop(self) -> None:
        self.close()
        self.cluster.close()

    def items(self, items: list[Any], fn: Fn) -> list[Any]:
        sent = self.client.scatter(items, hash=False) if hasattr(items[0], "iloc") else items
        return list(self.client.gather(self.client.map(fn, sent, pure=False)))  # pure: answers from a cache

    @contextmanager
    def executor(self) -> Iterator[Callable[[Fn, Any], Any]]:
        executor = self.client.get_executor()
        yield lambda fn, item: executor.submit(fn, item).result()
