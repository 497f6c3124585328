"""The private node dies in the middle of a job: it comes back with all that it had, or says why not."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import nbmr
from nbmr import chaining, node
from nbmr.broker import SETTLE_SECONDS
from nbmr.node import connection_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(rabbitmq, tmp_path_factory):
    """Folders for a node of this module's own."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(home / "runtime"))
        patch.setenv("XDG_STATE_HOME", str(home / "state"))
        yield home
        node.stop()


@pytest.fixture(scope="module")
def client(home):
    """A client of it, with two workers."""
    with nbmr.Client() as client, client.workers(2):
        assert client.map([1], lambda x: x) == [1]
        # RabbitMQ 3.10 writes down where its first stream is only when it has been idle for half a second
        time.sleep(1.5)
        yield client


@pytest.fixture(autouse=True)
def _all_well(client, eventually):
    """Each test begins with connections that are open, and with two workers."""
    eventually(lambda: not client._broker.trouble and client.slots("default") == 2, 60)


def slow(x):
    time.sleep(0.05)
    return x


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def kill_all(info):
    """Kill the keeper and then the server, which nobody brings back."""
    kill(info.keeper_pid)
    kill(info.node_pid)


def test_its_server_is_killed(client, eventually):
    before = connection_file.read()
    job = client.submit(range(60), slow, partitions=60)
    eventually(lambda: job.progress.done >= 3)
    kill(before.node_pid)
    arrived = list(job)
    assert sorted(arrived) == [(x, x) for x in range(60)]
    assert job.result() == list(range(60))
    job.forget()
    after = connection_file.read()
    assert after.node_pid != before.node_pid
    assert (after.keeper_pid, after.data_dir, after.url) == (before.keeper_pid, before.data_dir, before.url)


def test_its_server_is_killed_as_a_client_comes(client, start):
    program = """
import os, signal
from nbmr import session
from nbmr.node import connection_file

connect = session.connect

def connect_to_a_dead_one(url, alive):
    session.connect = connect
    os.kill(connection_file.read().node_pid, signal.SIGKILL)
    return connect(url, alive)

session.connect = connect_to_a_dead_one
import nbmr
with nbmr.Client() as client:
    print(client.map([1, 2], lambda x: x + 1, progress=False))
"""
    out, err = start("-c", program).communicate(timeout=90)
    assert out == "[2, 3]\n", err


def test_its_server_is_killed_while_tasks_are_sent(client):
    """A moment after the job's log was made: RabbitMQ can lose one that is younger (see `SETTLE_SECONDS`)."""

    def items():
        for number in range(40):
            if number == 20:
                time.sleep(SETTLE_SECONDS)
                kill(connection_file.read().node_pid)
            yield number

    assert client.map(items(), slow, partitions=40) == list(range(40))


def test_keeper_and_server_are_killed_and_a_client_waits(client, eventually):
    before = connection_file.read()
    job = client.submit(range(60), slow, partitions=60)
    eventually(lambda: job.progress.done >= 3)
    kill_all(before)
    assert job.result(90) == list(range(60))
    job.forget()
    after = connection_file.read()
    assert after.keeper_pid != before.keeper_pid
    assert (after.data_dir, after.url) == (before.data_dir, before.url)


def test_keeper_and_server_are_killed_and_a_client_calls(client, eventually):
    before = connection_file.read()
    job = client.submit(range(40), slow, partitions=40)
    eventually(lambda: job.progress.done >= 3)
    kill_all(before)
    eventually(lambda: client._broker.trouble)
    assert client.map(range(4), slow) == [0, 1, 2, 3]
    assert job.result(90) == list(range(40))  # the one from before is there too
    job.forget()
    assert connection_file.read().data_dir == before.data_dir


@pytest.mark.parametrize("moment", ["map", "reduce"])
def test_its_server_is_killed_under_a_map_reduce(client, moment, tmp_path):
    data = pd.DataFrame({"k": [n % 7 for n in range(2_000)], "x": range(2_000)})
    reached = tmp_path / "reached"

    def mapper(part):
        if moment == "map" and part["x"].iloc[0] > 400:
            reached.touch()
        time.sleep(0.2)
        return part

    def reducer(group):
        if moment == "reduce" and group.name == 3:
            reached.touch()
        time.sleep(0.2)
        return pd.Series({"n": len(group), "order": hash(tuple(group["x"]))})

    def kill_then():
        until = time.monotonic() + 60
        while not reached.exists() and time.monotonic() < until:
            time.sleep(0.01)
        kill(connection_file.read().node_pid)

    killer = threading.Thread(target=kill_then)
    killer.start()
    out = client.map_reduce(data, mapper, reducer, "k", partitions=10, reducers=3, progress=False)
    killer.join()
    expected = data.groupby("k").apply(lambda g: pd.Series({"n": len(g), "order": hash(tuple(g["x"]))}))
    assert_frame_equal(out, expected)


def test_its_server_is_killed_between_map_and_reduce(client, monkeypatch):
    """When all rows are in their buckets, and before any of them was read."""
    frame = pd.DataFrame({"k": [n % 7 for n in range(2_000)], "x": range(2_000)})
    killed = []

    def kill_first(job, count, source=chaining.ShuffleSource):
        killed.append(connection_file.read().node_pid)
        kill(killed[0])
        return source(job, count)

    def summary(group):
        return pd.Series({"n": len(group), "order": hash(tuple(group["x"]))})

    monkeypatch.setattr("nbmr.client.ShuffleSource", kill_first)
    job = client.submit(frame, lambda part: part, partitions=5)
    out = client.groupby(job, "k", progress=False).apply(summary)
    job.forget()
    assert len(killed) == 1
    assert_frame_equal(out, frame.groupby("k").apply(summary))


def test_its_server_is_killed_under_a_groupby(client, eventually, tmp_path):
    frame = pd.DataFrame({"k": [n % 40 for n in range(2_000)], "x": range(2_000)})
    reached = tmp_path / "reached"

    def summary(group):
        reached.touch()
        time.sleep(0.05)
        return pd.Series({"n": len(group), "order": hash(tuple(group["x"]))})

    def kill_then():
        eventually(reached.exists, 60)
        kill(connection_file.read().node_pid)

    killer = threading.Thread(target=kill_then)
    killer.start()
    out = client.groupby(frame, "k", progress=False).apply(summary)
    killer.join()
    assert_frame_equal(out, frame.groupby("k").apply(summary))


def test_a_hung_server_without_a_keeper_is_replaced(client, eventually):
    before = connection_file.read()
    job = client.submit(range(60), slow, partitions=60)
    eventually(lambda: job.progress.done >= 3)
    os.kill(before.node_pid, signal.SIGSTOP)
    kill(before.keeper_pid)
    assert node.ensure().url == before.url  # another kernel comes
    assert job.result(90) == list(range(60))
    job.forget()


def test_a_server_that_cannot_start_again(client, eventually):  # the last one: it ends the node
    info = connection_file.read()
    workers = list(client.workers().pid)
    job = client.submit(range(1000), slow, partitions=1000)
    eventually(lambda: job.progress.done >= 3)
    (Path(info.data_dir) / "rabbitmq-env.conf").write_text('echo "the disk is broken" >&2\nexit 1\n')
    began = time.monotonic()
    kill(info.node_pid)
    with pytest.raises(nbmr.NodeError, match=r"(?s)has ended.*the disk is broken.*Run the cell again"):
        job.result()
    assert time.monotonic() - began < 60
    assert not client.usable
    eventually(lambda: not any(node.living(pid) for pid in workers), 60)
    assert not Path(info.data_dir).exists()
    with nbmr.Client() as new:  # and the next one is a new one
        assert new.settings.node != info.data_dir
