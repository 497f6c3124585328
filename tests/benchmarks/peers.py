"""The peers: nbmr, and what it is compared with, each with two workers and set up as well as it can be.

Nothing heavy is imported before it is used, since `first` measures imports.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from time import perf_counter
from typing import Any

Fn = Callable[[Any], Any]

WORKERS = 2
#: Batches that are made by hand of many tiny items, for peers that make none themselves.
BATCHES = 8
#: Bytes of a partition where a frame is cut by hand: RabbitMQ 4 takes up to 16 MiB in a message.
PARTITION_BYTES = 8_000_000
#: Seconds after which an answer is given up.
PATIENCE = 300


def split(data: Any, count: int) -> list[Any]:
    """Cut a frame or a list into parts of about the same length."""
    cuts = [len(data) * i // count for i in range(count + 1)]
    rows = data if isinstance(data, list) else data.iloc
    return [rows[a:b] for a, b in pairwise(cuts)]


class Peer:
    """One of those that are compared."""

    #: Cases that make no sense for it.
    skips: frozenset[str] = frozenset()

    def start(self) -> str:
        """Start the workers and connect; return what `connect` takes in another process."""
        raise NotImplementedError

    def connect(self, address: str) -> None:
        """Connect to workers that are up."""
        raise NotImplementedError

    def close(self) -> None:
        """End the connection."""

    def stop(self) -> None:
        """End the connection and the workers."""

    def items(self, items: list[Any], fn: Fn) -> list[Any]:
        """Call a function with each item, one task an item."""
        raise NotImplementedError

    def batched(self, items: list[Any], fn: Fn) -> list[Any]:
        """Call a function with each item, in batches."""

        def each(part: list[Any]) -> list[Any]:
            return [fn(item) for item in part]

        return [answer for part in self.items(split(items, BATCHES), each) for answer in part]

    def frame(self, df: Any, fn: Fn, partitions: int | None) -> Any:
        """Map a frame; without a number of partitions, so that a frame of any size passes."""
        import pandas as pd

        count = partitions or max(1, -(-int(df.memory_usage().sum()) // PARTITION_BYTES))
        return pd.concat(self.items(split(df, count), fn))

    def trip(self, item: Any, fn: Fn) -> tuple[Any, dict[str, float]]:
        """Call a function with one item; return the answer, and the seconds it took, by what they cover."""
        start = perf_counter()
        [answer] = self.items([item], fn)
        return answer, {"latency": perf_counter() - start}

    def prove(self) -> None:
        """Make sure that two other processes work."""

        def where(seconds: float) -> int:
            import os
            import time

            time.sleep(seconds)
            return os.getpid()

        pids: set[int] = set()
        until = time.monotonic() + PATIENCE
        while len(pids) < WORKERS:
            assert time.monotonic() < until, f"only these processes work: {pids}"
            pids |= set(self.items([0.05] * 8, where))
        assert os.getpid() not in pids


class Nbmr(Peer):
    """nbmr, with its private node."""

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

    def trip(self, item: Any, fn: Fn) -> tuple[Any, dict[str, float]]:
        self._note_publishing()
        start = perf_counter()
        job = self.client.submit([item], fn)
        [answer] = job.result()
        end = perf_counter()
        job.forget()
        return answer, {"latency": end - start, "latency from publishing": end - self.published[-1]}

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


class Celery(Peer):
    """Celery on the same RabbitMQ node; see `celery_app`."""

    def start(self) -> str:
        celery = [sys.executable, "-m", "celery", "--app", "celery_app"]
        alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        self.worker = subprocess.Popen([*celery, "worker", "--concurrency", str(WORKERS), *alone])
        self.connect("")
        return ""

    def connect(self, address: str) -> None:  # noqa: ARG002 - nbmr's connection file tells
        import celery_app
        import cloudpickle

        self.app, self.call, self.dumps = celery_app.app, celery_app.call, cloudpickle.dumps

    def stop(self) -> None:
        with self.app.connection_for_write() as connection:
            connection.default_channel.queue_delete(self.app.conf.task_default_queue)
        self.worker.terminate()
        try:
            self.worker.wait(10)
        except subprocess.TimeoutExpired:
            self.worker.kill()
            self.worker.wait()

    def items(self, items: Sequence[Any], fn: Fn) -> list[Any]:
        function = self.dumps(fn)
        return [answer.get(PATIENCE) for answer in [self.call.delay(function, item) for item in items]]


class Dask(Peer):
    """dask.distributed: partitions are scattered and results gathered by direct connections."""

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


class Pandas(Peer):
    """Plain pandas, in this process."""

    skips = frozenset({"latency", "node_memory"})

    def start(self) -> str:
        return ""

    def connect(self, address: str) -> None:
        pass

    def items(self, items: list[Any], fn: Fn) -> list[Any]:
        return [fn(item) for item in items]

    def batched(self, items: list[Any], fn: Fn) -> list[Any]:
        return self.items(items, fn)

    def frame(self, df: Any, fn: Fn, partitions: int | None) -> Any:  # noqa: ARG002 - none
        return fn(df)

    def prove(self) -> None:
        pass


PEERS: dict[str, type[Peer]] = {"nbmr": Nbmr, "celery": Celery, "dask": Dask, "pandas": Pandas}
