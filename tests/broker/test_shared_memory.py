"""Large payloads of a private node's jobs lie in shared memory: exact, verified, and gone with their job."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from notes import lines, note
from pandas.testing import assert_frame_equal

import nbmr
from nbmr import pools, shared

pytestmark = pytest.mark.slow

FRAME = pd.DataFrame(
    {"x": np.arange(400_000.0), "when": pd.date_range("2020", periods=400_000, freq="s", tz="CET")}
)


def double(part):
    return part.assign(x=part.x * 2)


def files(job):
    return sorted(path.name for path in Path(job.shared).iterdir())


@pytest.fixture
def sent(monkeypatch):
    """How many bytes this process has published, by message."""
    from nbmr.broker import link

    sizes = []
    publish = link.Link.publish

    def spy(self, exchange, key, body, **options):
        sizes.append(sum(map(len, body)))
        return publish(self, exchange, key, body, **options)

    monkeypatch.setattr(link.Link, "publish", spy)
    return sizes


def test_a_large_frame_there_and_back(client, sent, eventually):
    node = shared.node_folder(Path(client.settings.node))
    before = set(node.glob("*"))  # other tests' jobs may still be there
    weights = np.random.default_rng(0).random(400_000)
    out = client.map(FRAME, lambda part: part.assign(x=part.x * weights[part.index]), partitions=4)
    assert_frame_equal(out, FRAME.assign(x=FRAME.x * weights), check_exact=True)
    assert sum(sent) < 100_000
    out.loc[:, "x"] = 0.0  # the user's own memory
    assert set(node.glob("*")) <= {*before, node / "spare"}
    eventually(lambda: not (node / "spare").exists())  # after some seconds without a job


@pytest.mark.parametrize("gather", ["auto", "list"])
def test_what_the_user_gets_outlives_the_job(client, gather):
    job = client.submit(FRAME, double, partitions=2, gather=gather)
    out = job.result()
    folder = job.shared
    assert files(job)
    job.forget()
    assert not Path(folder).exists()
    out = out if gather == "auto" else pd.concat(out)
    assert_frame_equal(out, double(FRAME), check_exact=True)
    out.iloc[0, 0] = 5.0


def test_inputs_go_when_they_are_used_and_stay_where_something_failed(client, eventually):
    def fn(part):
        if part.x.iloc[0] == 0:
            raise ValueError("the first")
        return len(part)

    job = client.submit(FRAME, fn, partitions=3, on_error="keep")
    job.wait(60)
    eventually(lambda: [name for name in files(job) if name != "fn"] == ["data0"])
    assert_frame_equal(job.failures[0].partition, FRAME.iloc[: len(FRAME) // 3 + 1])
    with pytest.raises(ValueError, match="the first"):
        job.failures[0].replay()
    job.forget()


def test_another_client_gathers_and_forgets(client):
    job = client.submit(FRAME, double, partitions=3)
    job.wait(60)
    with nbmr.Client() as other:
        theirs = other.attach(job.id)
        assert_frame_equal(theirs.result(), double(FRAME))
        assert dict(theirs).keys() == {0, 1, 2}
        theirs.forget()
    assert not Path(job.shared).exists()
    job.forget()


def test_a_named_broker_gets_messages(named, queue, sent):
    with nbmr.Client(named.url, named.key) as other, other.workers(1, queue=queue):
        out = other.map(FRAME, double, partitions=2, queue=queue)
    assert_frame_equal(out, double(FRAME))
    assert sum(sent) > FRAME.memory_usage(index=False).sum()


def test_where_there_is_no_room_it_travels_in_messages(client, sent, monkeypatch):
    monkeypatch.setattr(shared, "_room", lambda _folder, _size: False)
    out = client.map(FRAME, double, partitions=2)
    assert_frame_equal(out, double(FRAME))
    assert sum(sent) > FRAME.memory_usage(index=False).sum()


@pytest.mark.parametrize("how", ["gone", "altered"])
def test_a_result_that_was_lost_is_told(client, how, monkeypatch):
    job = client.submit(FRAME, double, partitions=2)
    job.wait(60)
    for name in files(job):
        if name.startswith("result1-"):
            file = Path(job.shared, name)
            content = file.read_bytes()
            file.unlink()  # whoever has mapped it keeps it
            if how == "altered":
                file.write_bytes(b"x" + content[1:])
    with nbmr.Client() as other:
        with pytest.raises(nbmr.TaskLost, match=rf"shared memory (is|was) {how}") as caught:
            other.attach(job.id).result(30)
        assert caught.value.failure.number == 1
        assert other.attach(job.id).failures[0].number == 1
    assert_frame_equal(job.result(), double(FRAME))  # it had it before
    job.forget()


@pytest.mark.parametrize("how", ["gone", "altered"])
def test_data_that_was_lost_is_told(client, queue, how, monkeypatch, eventually):
    monkeypatch.setattr(pools, "ensure", lambda *_: None)  # no worker before it is lost
    job = client.submit(FRAME, double, partitions=2, queue=queue)
    file = Path(job.shared, "data1")
    eventually(lambda: job.log.sealed)  # all is sent
    with file.open("r+b") as opened:
        opened.write(b"xxxxxxxx")
    if how == "gone":
        file.unlink()
    with client.workers(1, queue=queue):
        with pytest.raises(nbmr.TaskLost, match=rf"shared memory (is|was) {how}"):
            job.result(60)
        job.forget()


def test_killed_children_and_supervisors_change_nothing(client, queue, tmp_path, eventually):
    log = tmp_path / "log"

    def fn(part):
        first = int(part.x.iloc[0])
        begun = [int(line) for line in lines(log)]
        note(log, first)
        if first not in begun and len(set(begun)) in (1, 4):  # two of them, the first time
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.1)
        return double(part)

    with client.workers(2, queue=queue) as workers:
        job = client.submit(FRAME, fn, partitions=12, queue=queue)
        eventually(lambda: job.progress.done >= 4)
        os.kill(workers.pids[0], signal.SIGKILL)
        assert_frame_equal(job.result(60), double(FRAME))
        job.forget()
    assert not Path(job.shared).exists()


def test_what_a_killed_kernel_kept_is_swept_by_a_worker(client, eventually):
    client.map([1], str)  # there are workers
    spare = shared.node_folder(Path(client.settings.node)) / "spare"
    spare.mkdir(exist_ok=True)
    (spare / "5-left").write_text("5 old")
    os.utime(spare / "5-left", (0, 0))
    eventually(lambda: not spare.exists())


def test_a_partition_that_a_function_keeps_is_its_own(client, queue):
    """Also where the files of others are written again."""
    kept = []

    def fn(part):
        kept.append(part)
        return [float(one.to_numpy().sum()) for one in kept], -part.to_numpy()

    numbers = pd.DataFrame({"x": np.repeat(np.arange(12.0), 100_000)})
    with client.workers(1, queue=queue):
        found = client.map(numbers, fn, partitions=12, queue=queue, gather="list")
    assert [sums for sums, _ in found] == [[1e5 * number for number in range(n)] for n in range(1, 13)]


def test_a_job_that_is_cancelled_leaves_nothing(client, queue, eventually):
    with client.workers(1, queue=queue):
        job = client.submit([0], lambda _: bytes(600_000_000), queue=queue)
        eventually(lambda: files(job))  # it is being written
        job.cancel()
        assert client.map([1], lambda x: x, queue=queue) == [1]
    node = Path(job.shared).parent
    eventually(lambda: not [path for path in node.iterdir() if job.id in path.name])
