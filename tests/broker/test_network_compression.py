"""With a broker elsewhere, payloads travel compressed, if all sides can read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import nbmr
from nbmr import compression, logstreams, topology
from nbmr.errors import TaskLost

WORDS = pd.DataFrame(
    {"text": [f"the same words, and number {n % 100}" for n in range(100_000)], "n": range(100_000)}
)


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process and its workers compress, although the tests' broker is on this host."""
    monkeypatch.setenv("NBMR_COMPRESSION", "zstd")


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """All that this process reads from streams and queues."""
    seen: list[bytes] = []
    take = logstreams.LogStream._take

    def noted(self: Any, delivery: Any) -> None:
        seen.append(bytes(delivery.body))
        take(self, delivery)

    monkeypatch.setattr(logstreams.LogStream, "_take", noted)
    return seen


def without_zstandard(folder: Path) -> dict[str, str]:
    """Return an environment in which the package is not installed."""
    (folder / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata, sys\n"
        "sys.modules['zstandard'] = None\n"
        "version = metadata.version\n"
        "def others(name):\n"
        "    if name == 'zstandard':\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return version(name)\n"
        "metadata.version = others\n"
    )
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("partitions", [1, 4])  # in one message there and several chunks back, or one each
def test_a_frame_there_and_back(named, queue, compressed, bodies, partitions):
    with nbmr.Client(named.url, named.key) as client, client.workers(1, queue=queue):
        job = client.submit(WORDS, lambda part: part.assign(m=part.n * 2), partitions=partitions, queue=queue)
        pd.testing.assert_frame_equal(job.result(60), WORDS.assign(m=WORDS.n * 2), check_exact=True)
        size = WORDS.memory_usage(deep=False).sum()
        assert job.log.bytes_sent < size / 2
        assert sum(map(len, bodies)) < size / 2
        job.forget()


def test_large_functions_and_failed_inputs(named, queue, compressed):
    table = {n: f"value {n}" for n in range(200_000)}  # a blob, some 5 MB

    def fn(part):
        return table[7 // int(part.n.iloc[0] == 0)]

    with nbmr.Client(named.url, named.key) as client, client.workers(1, queue=queue):
        job = client.submit(WORDS, fn, partitions=2, queue=queue, on_error="keep")
        with pytest.warns(RuntimeWarning, match="1 of 2 failed"):
            assert list(job.result(60)) == ["value 7"]
        assert job.log.bytes_sent < 2_000_000
        with pytest.raises(ZeroDivisionError):
            job.failures[0].replay()
        pd.testing.assert_frame_equal(job.failures[0].partition, WORDS.iloc[50_000:])
        with pytest.warns(RuntimeWarning, match="1 of 2 failed"):
            doubled = client.map(job, lambda value: value * 2, queue=queue, gather="list")
        assert doubled == ["value 7value 7"]
        job.forget()


def test_noise_travels_as_it_is(named, queue, compressed):
    noise = pd.DataFrame(np.random.default_rng(0).integers(0, 256, (500_000, 4), dtype="uint8"))
    with nbmr.Client(named.url, named.key) as client, client.workers(1, queue=queue):
        job = client.submit(noise, lambda part: part, partitions=2, queue=queue)
        pd.testing.assert_frame_equal(job.result(60), noise, check_exact=True)
        assert job.log.bytes_sent > 2_000_000
        job.forget()


def test_not_where_the_broker_is_on_this_host(named, client, queue, monkeypatch):
    monkeypatch.delenv("NBMR_COMPRESSION", raising=False)
    assert client._compressors.of("default") is None
    with nbmr.Client(named.url, named.key) as other:
        assert other._broker.is_local
        assert other._compressors.of(queue) is None
        monkeypatch.setattr("nbmr.broker.link.is_here", lambda _host: False)
        del other._broker.is_local  # which was kept
        assert other._compressors.of(queue) is not None
    monkeypatch.setenv("NBMR_COMPRESSION", "none")
    with nbmr.Client(named.url, named.key) as other:
        assert other._compressors.of(queue) is None


def test_how_much_the_network_takes_is_measured(named, queue):
    with nbmr.Client(named.url, named.key) as client, client.workers(1, queue=queue):
        # Each message alone is large enough: RabbitMQ may have one before the next is made.
        noise = np.random.default_rng(0).random((2_000_000, 2))
        assert client.map(pd.DataFrame(noise), len, partitions=4, queue=queue, gather="list") == [500_000] * 4
        assert 1e6 < client._broker.rate < 1e11


def test_a_worker_that_cannot_read_it_is_spared(named, queue, compressed, bodies, tmp_path):
    with (
        nbmr.Client(named.url, named.key) as client,
        client.workers(1, queue=queue, env=without_zstandard(tmp_path) | {"NBMR_COMPRESSION": "auto"}),
    ):
        job = client.submit(WORDS, lambda part: part, partitions=2, queue=queue)
        pd.testing.assert_frame_equal(job.result(60), WORDS, check_exact=True)
        assert not any(b'"zstd"' in body for body in bodies)
        job.forget()


@pytest.mark.slow
def test_one_that_comes_later_and_cannot_read_it_says_so(named, queue, compressed, tmp_path, monkeypatch):
    with (
        nbmr.Client(named.url, named.key) as client,
        client.workers(1, queue=queue, env=without_zstandard(tmp_path) | {"NBMR_COMPRESSION": "auto"}),
    ):
        monkeypatch.setattr(
            client._compressors, "_can_read", lambda _queue: True
        )  # as when nobody else was there
        with pytest.raises(TaskLost) as caught:
            client.map(WORDS, len, partitions=1, queue=queue)
        assert compression.NEEDED in str(caught.value)


def test_nothing_of_it_crosses_a_private_node(client, compressed, outsider):
    job = client.submit(WORDS.head(5_000), lambda part: part, partitions=1)
    job.result(60)
    entries = outsider.take(topology.job_log(job.id), 3)
    assert not any(b'"zstd"' in entry for entry in entries)
    job.forget()
