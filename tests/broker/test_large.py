"""Sizes around and beyond what the broker takes in one message: here 8 MiB, and a header."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pika
import pytest
from pandas.testing import assert_frame_equal

import nbmr
from nbmr import topology
from nbmr.broker import link

pytestmark = pytest.mark.usefixtures("in_messages")


@pytest.fixture
def sizes(monkeypatch):
    """The size of every message that this process sends."""
    sent = []
    publish = link.Link.publish

    def spy(self, exchange, key, body, **options):
        sent.append(sum(map(len, body)))
        return publish(self, exchange, key, body, **options)

    monkeypatch.setattr(link.Link, "publish", spy)
    return sent


def test_the_node_refuses_what_is_larger(server):
    """Or else the other tests here would show nothing."""
    connection = pika.BlockingConnection(pika.URLParameters(server.info.url))
    channel = connection.channel()
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="larger than configured max size"):
        channel.basic_publish("", "any", b"x" * (topology.MESSAGE_BYTES + (256 << 10)))
    connection.close()


def test_a_partition_of_100_mb_goes_through_both_ways(client, sizes):
    rng = np.random.default_rng(0)
    df = pd.DataFrame({name: rng.random(3_125_000) for name in "abcd"})
    assert df.memory_usage(index=False).sum() == 100_000_000
    out = client.map(df, lambda part: part * 2, partitions=1)
    assert_frame_equal(out, df * 2)
    assert sum(sizes) > 100_000_000
    assert max(sizes) <= topology.MESSAGE_BYTES + 4096


def test_large_partitions_at_the_same_time(client, sizes):
    """Chunks of several results come mixed."""
    arrays = [np.full(3_000_000, float(i)) for i in range(4)]
    out = client.map(arrays, lambda a: a + 1, partitions=4)
    for i, array in enumerate(out):
        assert array.shape == (3_000_000,)
        assert (array == i + 1).all()


LIMITS = [topology.INLINE_BYTES, topology.CHUNK_BYTES, topology.MESSAGE_BYTES - topology.INLINE_BYTES]


@pytest.mark.parametrize("limit", [*LIMITS, topology.MESSAGE_BYTES, 2 * topology.CHUNK_BYTES])
@pytest.mark.parametrize("off", [-200, -100, -1, 0, 1, 100])
def test_sizes_around_each_limit(client, sizes, limit, off):
    data = os.urandom(16) * ((limit + off) // 16 + 1)
    data = data[: limit + off]
    (out,) = client.map([data], lambda x: x)
    assert out == data
    assert max(sizes) <= topology.MESSAGE_BYTES + 4096


@pytest.mark.parametrize("limit", [topology.INLINE_BYTES, topology.CHUNK_BYTES])
@pytest.mark.parametrize("off", [-2000, 0, 2000])
def test_functions_around_each_limit(client, sizes, limit, off):
    table = os.urandom(limit + off)
    assert client.map(range(4), lambda i: table[i], partitions=4) == list(table[:4])
    assert max(sizes) <= topology.MESSAGE_BYTES + 4096


def test_a_small_argument_beside_the_largest_partition_that_rides_along(client, sizes):
    data = bytes(topology.MESSAGE_BYTES - topology.INLINE_BYTES - 300)
    small = os.urandom(topology.INLINE_BYTES - 2000)
    assert client.map([data], lambda x, y: (len(x), y[:3]), small) == [(len(data), small[:3])]
    assert max(sizes) <= topology.MESSAGE_BYTES + 4096


def test_a_small_task_with_a_large_result(client):
    assert client.map([20_000_000], bytes) == [bytes(20_000_000)]


def test_a_large_task_with_a_small_result(client):
    assert client.map([bytes(20_000_000)], len) == [20_000_000]


def test_a_large_batch_with_an_error(client):
    """Results that are chunked, and a failure beside them."""

    def fn(x):
        if x == 2:
            raise ValueError("two")
        return bytes(6_000_000)

    with pytest.warns(RuntimeWarning, match="1 of 4"):
        out = client.map(range(4), fn, partitions=1, on_error="keep")
    assert [len(x) for x in out[:2] + out[3:]] == [6_000_000] * 3
    assert out[2].number == 2


def test_many_errors_at_once(client, queue):
    """A thousand tracebacks of one batch stay below the message limit, or are cut, but arrive."""

    def fn(x):
        raise ValueError(str(x) + "x" * 20_000)

    with client.workers(1, queue=queue):
        job = client.submit(range(2000), fn, partitions=1, on_error="keep", queue=queue)
        try:
            with pytest.warns(RuntimeWarning, match=r"2,?000 of 2,?000"):
                out = job.result(20)
        finally:
            job.forget()
    assert [failure.number for failure in out] == list(range(2000))


def test_much_output_does_not_travel(client):
    def fn(_):
        print("y" * 10_000_000)
        raise ValueError("at last")

    with pytest.raises(nbmr.TaskError, match="at last") as caught:
        client.map([1], fn)
    assert len(caught.value.failure.output) < 100_000


def test_a_wide_frame(client):
    df = pd.DataFrame(np.arange(20_000.0).reshape(2, 10_000), columns=[f"column {i}" for i in range(10_000)])
    assert_frame_equal(client.map(df, lambda part: part + 1, partitions=2), df + 1)
