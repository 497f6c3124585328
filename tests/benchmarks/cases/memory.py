"""The peak memory of the client, and of RabbitMQ."""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from peers import Peer

from cases.data import check, floats, size
from cases.setting import Numbers, Setting


def client_memory(peer: Peer, setting: Setting) -> Numbers:
    df = floats(setting.times(15_625_000, 16))  # 1 GB
    got = peer.frame(df, lambda part: part * 2, None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    check(got, df, lambda part: part * 2)
    return {"memory of the client beyond input and output, MB": (peak - size(df) - size(got)) / 1e6}


def node_memory(peer: Peer, setting: Setting) -> Numbers:
    df = floats(setting.times(31_250_000, 16))  # 2 GB
    with watch() as sizes:
        got = peer.frame(df, lambda part: part * 2, None)
    check(got, df, lambda part: part * 2)
    return {
        "memory of the node before, MB": sizes[0] / 1e6,
        "memory of the node at its peak, MB": max(sizes) / 1e6,
    }


@contextmanager
def watch(every: float = 0.01) -> Iterator[list[int]]:
    """Sample the memory of the private RabbitMQ node, in bytes; `every` so many seconds."""
    from nbmr.node import connection_file

    info = connection_file.read()
    assert info is not None
    processes = [psutil.Process(info.node_pid), *psutil.Process(info.node_pid).children(recursive=True)]
    [server] = [process for process in processes if process.name().startswith("beam")]
    sizes, done = [server.memory_info().rss], threading.Event()

    def sample() -> None:
        while not done.wait(every):
            sizes.append(server.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield sizes
    finally:
        done.set()
        thread.join()
