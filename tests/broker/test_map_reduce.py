"""`map_reduce`: the same as pandas' groupby on the whole, with the shuffle on the workers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pandas as pd
import psutil
import pytest
from notes import lines, note
from pandas.testing import assert_frame_equal, assert_series_equal

import nbmr
from nbmr import client as client_module
from nbmr import shared

pytestmark = pytest.mark.slow


def words(text):
    return pd.DataFrame({"word": text.lower().split(), "n": 1})


def total(rows):
    return rows.groupby("word", as_index=False).sum()


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return pd.DataFrame({"k": rng.choice(list("abcdefgh"), 4_000), "x": rng.normal(size=4_000)})


def summary(group):
    return pd.Series({"n": len(group), "first": group["x"].iloc[0], "last": group["x"].iloc[-1]})


@pytest.fixture(scope="module")
def expected(data):
    return data.groupby("k").apply(summary)


@pytest.mark.parametrize("combiner", [None, total])
def test_word_count(client, combiner):
    counted = client.map_reduce(list(topics.values()), words, lambda g: g.n.sum(), "word", combiner)
    expected = Counter(word for text in topics.values() for word in text.lower().split())
    assert dict(counted) == dict(expected)
    assert list(counted.index) == sorted(expected)
    assert counted.index.name == "word"


@pytest.mark.parametrize("reducers", [1, 3, 20])
def test_the_same_as_pandas(client, data, expected, reducers):
    out = client.map_reduce(data, lambda part: part, summary, "k", reducers=reducers, partitions=7)
    assert_frame_equal(out, expected, check_exact=True)


def test_frames_of_the_reducer(client, data):
    out = client.map_reduce(data, lambda part: part, lambda g: g.nlargest(3, "x"), ["k"], partitions=7)
    assert_frame_equal(out, data.groupby(["k"])[["x"]].apply(lambda g: g.nlargest(3, "x")), check_exact=True)


def test_an_iterable(client):
    out = client.map_reduce((n for n in range(50)), lambda n: pd.DataFrame({"k": [n % 3]}), len, "k")
    assert_series_equal(out, pd.DataFrame({"k": [n % 3 for n in range(50)]}).groupby("k").apply(len))


def test_large_buckets(client):
    """Some have more than fits a message, and one key nine rows of ten."""
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"k": rng.choice([1, 2, 3], 1_500_000, p=[0.9, 0.05, 0.05]), "x": range(1_500_000)})
    out = client.map_reduce(
        data, lambda part: part, lambda g: hash(g["x"].to_numpy().tobytes()), "k", partitions=2
    )
    assert list(out.index) == [1, 2, 3]
    orders = client.map_reduce(
        data, lambda part: part, lambda g: g["x"].is_monotonic_increasing, "k", partitions=2
    )
    assert orders.all()


@pytest.mark.parametrize(
    "nothing",
    [[], pd.DataFrame({"k": [], "x": []}), pd.DataFrame({"k": [None], "x": [1]}), nbmr.files([])],
    ids=["list", "frame", "no keys", "files"],
)
def test_nothing(client, nothing):
    assert len(client.map_reduce(nothing, lambda part: part, len, "k")) == 0


def test_a_job_without_results(client):
    job = client.submit([1], lambda _: 1 / 0, on_error="keep")
    with pytest.warns(RuntimeWarning, match="1 of 1 failed"):
        assert len(client.map_reduce(job, lambda part: part, len, "k")) == 0
    job.forget()


def test_what_makes_no_sense(client):
    for wrong in (
        {"by": []},
        {"by": "k", "reducers": 0},
        {"by": "k", "partitions": 0},
        {"by": "k", "partitions": "2"},
        {"by": "k", "combiner": 3},
        {"by": "k", "queue": "?"},
    ):
        with pytest.raises(nbmr.ConfigError):
            client.map_reduce([1], lambda x: x, len, **wrong)
    for wrong in ((3, len), (len, 3)):
        with pytest.raises(nbmr.ConfigError, match="callable"):
            client.map_reduce([1], *wrong, by="k")


def test_errors_are_the_functions_own(client, data):
    with pytest.raises(nbmr.TaskError, match="no column 'z'"):
        client.map_reduce(data, lambda part: part, len, "z")
    with pytest.raises(nbmr.TaskError, match="has to give a DataFrame"):
        client.map_reduce([1], lambda x: x, len, "k")
    with pytest.raises(nbmr.TaskError) as caught:
        client.map_reduce(data, lambda part: part, lambda g: 1 / (g.name != "c"), "k")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "the key 'c'" in str(caught.value)
    with pytest.raises(ZeroDivisionError):
        caught.value.failure.replay()


def test_retries_and_timeout_in_both_stages(client, data, expected, tmp_path):
    def fails_once(name, value):
        if not (tmp_path / name).exists():
            (tmp_path / name).touch()
            raise OSError(name)
        return value

    out = client.map_reduce(
        data, lambda part: fails_once("map", part), lambda g: fails_once("reduce" + g.name, summary(g)), "k",
        retries=8, partitions=2, reducers=1,
    )  # fmt: skip
    assert_frame_equal(out, expected, check_exact=True)
    with pytest.raises(nbmr.TaskTimeout):
        client.map_reduce(data, lambda part: part, lambda _g: time.sleep(60), "k", timeout=0.5, reducers=1)


# ---------------------------------------------------------------- deaths


def gate(folder, stage):
    """Note who is at a stage; the first one waits there until it is killed."""
    note(folder / stage, str(os.getpid()))
    if len(lines(folder / stage)) == 1:
        time.sleep(600)


class Caller(threading.Thread):
    """Calls `map_reduce` while the test does something to it."""

    def __init__(self, *args, **options):
        super().__init__(daemon=True)
        self.call, self.out, self.error = (args, options), None, None
        self.start()

    def run(self):
        (client, *args), options = self.call
        try:
            self.out = client.map_reduce(*args, **options, progress=False)
        except BaseException as exc:  # noqa: BLE001 - raised by `result`
            self.error = exc

    def result(self):
        self.join(100)
        assert not self.is_alive()
        if self.error:
            raise self.error
        return self.out


def supervisor_of(pid):
    """The worker of a task's process: the parent of its fork server."""
    return psutil.Process(pid).parent().parent()


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["map", "reduce"])
@pytest.mark.parametrize("victim", ["child", "supervisor"])
def test_a_worker_is_killed(client, queue, data, expected, tmp_path, eventually, stage, victim):
    def mapper(part):
        if stage == "map":
            gate(tmp_path, stage)
        return part

    def reducer(group):
        if stage == "reduce" and group.name == "c":
            gate(tmp_path, stage)
        return summary(group)

    with client.workers(2, queue):
        caller = Caller(client, data, mapper, reducer, "k", queue=queue, partitions=5, reducers=3)
        eventually(lambda: (tmp_path / stage).exists() and lines(tmp_path / stage), 60)
        process = psutil.Process(int(lines(tmp_path / stage)[0]))
        (process if victim == "child" else supervisor_of(process.pid)).kill()
        assert_frame_equal(caller.result(), expected, check_exact=True)
        assert len(lines(tmp_path / stage)) >= 2


@pytest.mark.slow
def test_stopping_removes_all(client, queue, data, tmp_path, server, eventually):
    """Jobs, their queues and their memory."""
    node = shared.node_folder(Path(client.settings.node))
    before = set(node.glob("*"))

    def reducer(group):
        note(tmp_path / "log", str(os.getpid()))
        time.sleep(600)

    def interrupt():
        eventually((tmp_path / "log").exists, 60)
        os.kill(os.getpid(), signal.SIGINT)

    with client.workers(2, queue):
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            client.map_reduce(data, lambda part: part, reducer, "k", queue=queue)
        thread.join()
    eventually(lambda: not [name for name in server.queues() if name.startswith("nbmr.job.")], 60)
    assert set(node.glob("*")) <= before


def test_a_job_is_data(client, data, expected):
    """Also one whose results come in another order than its data."""

    def late(part):
        time.sleep(0.5 if part.index[0] == 0 else 0)
        return part

    job = client.submit(data, late, partitions=5)
    try:
        out = client.map_reduce(job, lambda part: part, summary, "k")
        assert_frame_equal(out, expected, check_exact=True)
    finally:
        job.forget()


@pytest.mark.parametrize("timeout", [None, 60])
def test_many_map_tasks(client, timeout):
    """More answers than one message between processes can carry files; some of them with failures."""
    job = client.submit(range(300), lambda n: pd.DataFrame({"k": [n % 3], "x": n}), partitions=300)
    out = client.map_reduce(job, lambda part: part, lambda g: g["x"].sum(), "k", reducers=2, timeout=timeout)
    job.forget()
    assert out.to_dict() == {k: sum(range(k, 300, 3)) for k in range(3)}


def test_very_many_answers_of_a_job(client, tmp_path):
    """More than a reduce task can read, so that neighbours make one map task; in their order."""

    def make(n):
        if n in (5, 403):
            raise ValueError(n)
        return pd.DataFrame({"k": [n % 2], "x": n})

    job = client.submit(range(410), make, partitions=410, on_error="keep")
    with pytest.warns(RuntimeWarning, match="2 of 410 failed"):
        out = client.map_reduce(job, lambda part: part, lambda g: list(g["x"]), "k", reducers=2)
    assert out.to_dict() == {
        0: list(range(0, 410, 2)), 1: [n for n in range(1, 410, 2) if n not in (5, 403)],
    }  # fmt: skip
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(nbmr.ConfigError, match="at most, and here there are 408"),
    ):
        client.map_reduce(job, lambda part: part, len, "k", timeout=60)
    job.forget()
    job = client.submit(range(3), lambda n: pd.DataFrame({"k": [n % 2], "x": n}), to=f"{tmp_path}/out.csv/")
    out = client.map_reduce(job, lambda part: part, lambda g: g["x"].sum(), "k")
    job.forget()
    assert out.to_dict() == {0: 2, 1: 1}


def test_very_many_files(client, tmp_path):
    for n in range(410):
        (tmp_path / f"{n:03}.csv").write_text(f"k,x\n{n % 2},{n}\n")
    files = nbmr.files(tmp_path / "*.csv")
    out = client.map_reduce(files, lambda part: part, lambda g: list(g["x"]), "k", reducers=2)
    assert out.to_dict() == {k: list(range(k, 410, 2)) for k in range(2)}
    assert client.groupby(files, "k")["x"].median().to_dict() == {0: 204.0, 1: 205.0}
    out = client.map_reduce(files, lambda part: part, len, "k", partitions=3)
    assert out.to_dict() == {0: 205, 1: 205}
    with pytest.raises(nbmr.ConfigError, match="at most, and here there are 405"):
        client.map_reduce(files, lambda part: part, len, "k", partitions=405)
    with pytest.raises(nbmr.ConfigError, match="partitions=0"):
        client.map_reduce(files, lambda part: part, len, "k", partitions=0)


@pytest.mark.parametrize("way", ["messages", "shared memory"])
def test_both_ways_and_both_stages_are_told(client, data, expected, way, request, monkeypatch):
    if way == "messages":
        request.getfixturevalue("in_messages")
    names = []
    follow = client_module.follow
    monkeypatch.setattr("nbmr.client.follow", lambda job, show: names.append(job.name) or follow(job, show))
    wide = data.assign(y=np.arange(len(data) * 1.0), z="some text")
    out = client.map_reduce(pd.concat([wide] * 50), lambda part: part, summary, "k", name="counts")
    assert_frame_equal(out, expected.assign(n=expected.n * 50))
    assert names == ["counts (map)", "counts (reduce)"]


@pytest.mark.slow
def test_a_kernel_that_dies_leaves_nothing(start, tmp_path, server, eventually):
    """A worker's janitor deletes both jobs when their time to live is over."""
    program = f"""
import os, time, nbmr, pandas as pd
from pathlib import Path
def stop(group):
    Path({str(tmp_path / "reduce")!r}).touch()
    until = time.monotonic() + 60
    while not Path({str(tmp_path / "killed")!r}).exists() and time.monotonic() < until:
        time.sleep(0.1)
data = pd.DataFrame({{"k": [1] * 100}})
nbmr.map_reduce(data, lambda part: part, stop, "k", progress=False, reducers=1)
"""
    kernel = start("-c", program, env={"NBMR_JOB_TTL": "2"})
    eventually((tmp_path / "reduce").exists, 60)
    assert sum(name.startswith("nbmr.job.") for name in server.queues()) >= 2
    kernel.kill()
    kernel.wait()
    (tmp_path / "killed").touch()
    eventually(lambda: not [name for name in server.queues() if name.startswith("nbmr.job.")], 60)
