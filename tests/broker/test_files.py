"""Files in and files out: read by the workers, written by the workers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from notes import lines, note
from pandas.testing import assert_frame_equal, assert_series_equal

import nbmr

pytestmark = pytest.mark.slow
FRAME = pd.DataFrame(
    {
        "a": np.arange(60),
        "b": np.linspace(0, 1, 60),
        "c": [f"t{i % 7}" for i in range(60)],
        "d": pd.date_range("2026-01-01", periods=60, freq="h"),
    }
)
PARTS = [FRAME.iloc[start : start + 20] for start in (0, 20, 40)]


@pytest.fixture
def csvs(tmp_path):
    """Three CSV files, with rows of one frame in order."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number, part in enumerate(PARTS):
        part.drop(columns="d").to_csv(folder / f"{number}.csv", index=False)
    return folder


def double(part):
    return part.assign(a=part["a"] * 2)


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


# ---------------------------------------------------------------- in


def test_each_file_is_a_partition_that_is_read_by_a_worker(client, csvs):
    found = nbmr.files(f"{csvs}/*.csv")
    expected = pd.concat([double(pd.read_csv(csvs / f"{n}.csv")) for n in range(3)])
    assert_frame_equal(client.map(found, double), expected, check_exact=True)
    assert_series_equal(client.map(found, len), pd.Series([20, 20, 20]))  # as from a frame
    rows = client.map(found, lambda part: {"first": part["a"].iloc[0], "pid": os.getpid()})
    assert rows["first"].tolist() == [0, 20, 40]
    assert os.getpid() not in set(rows["pid"])


def test_they_come_in_the_order_of_the_list(client, csvs):
    given = [csvs / "2.csv", str(csvs / "0.csv")]
    got = client.map(nbmr.files(given), lambda part: int(part["a"].iloc[0]), gather="list")
    assert got == [40, 0]


def test_other_readers_and_their_options(client, csvs):
    assert client.map(nbmr.files(f"{csvs}/*.csv", usecols=["c"]), list, gather="list") == [["c"]] * 3
    found = nbmr.files(
        f"{csvs}/*", reader=lambda path, lines: Path(path).read_text().splitlines()[:lines], lines=2
    )
    assert client.map(found, lambda text: text[1], gather="list") == [
        "0,0.0,t0",
        "20,0.3389830508474576,t6",
        "40,0.6779661016949152,t5",
    ]


@pytest.mark.parametrize("suffix", ["csv.gz", "parquet", "feather", "json", "jsonl"])
def test_pandas_own_readers(client, tmp_path, suffix):
    frame = FRAME.drop(columns="d").iloc[:5]
    file = tmp_path / f"x.{suffix}"
    kind = suffix.partition(".")[0]
    if kind == "csv":
        frame.to_csv(file, index=False)
    elif kind.startswith("json"):
        frame.to_json(file, orient="records", lines=kind == "jsonl")
    else:
        getattr(frame, f"to_{kind}")(file)
    assert_frame_equal(client.map(nbmr.files(file), lambda part: part), frame)


def test_a_file_that_the_worker_does_not_have(client, csvs):
    found = nbmr.files([csvs / "0.csv", csvs / "missing.csv"])
    with pytest.raises(nbmr.TaskError, match="No such file on host") as caught:
        client.map(found, len)
    assert str(csvs / "missing.csv") in str(caught.value)
    assert socket.gethostname() in str(caught.value)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_what_failed_is_run_again_here(client, csvs):
    def bad(part):
        if part["a"].iloc[0] == 20:
            raise ValueError(len(part))
        return part

    with pytest.raises(nbmr.TaskError) as caught:
        client.map(nbmr.files(f"{csvs}/*.csv"), bad)
    failure = caught.value.failure
    assert failure.number == 1
    assert failure.partition == str(csvs / "1.csv")
    with pytest.raises(ValueError, match="20"):
        failure.replay()


def test_what_cannot_be_read_says_which_file(client, csvs):
    (csvs / "3.csv").write_text('a,b\n"1,2\n')
    with pytest.raises(nbmr.TaskError) as caught:
        client.map(nbmr.files(f"{csvs}/*.csv"), len)
    assert str(csvs / "3.csv") in str(caught.value)


def test_what_cannot_travel_is_named_as_without_files(client, csvs, tmp_path):
    lock = threading.Lock()

    def holds(part):
        return lock and part

    with pytest.raises(nbmr.PickleError, match="can't send `holds`: its closure variable `lock`"):
        client.map(nbmr.files(f"{csvs}/*.csv"), holds, to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_files_are_reduced(client, csvs):
    def fold(left, right):
        return pd.concat([left, right]).nlargest(5, "a")

    found = nbmr.files(f"{csvs}/*.csv")
    expected = pd.concat([pd.read_csv(path) for path in found]).nlargest(5, "a")
    assert_frame_equal(client.reduce(found, fold), expected)
    assert_frame_equal(client.reduce(found[:1], fold), pd.read_csv(found[0]))  # as it is
    assert_frame_equal(client.reduce(found, fold, expected[:0]), expected)


# ---------------------------------------------------------------- out


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_results_are_written_by_the_workers(client, tmp_path, kind):
    out = client.map(FRAME, double, partitions=3, to=f"{tmp_path}/new/out/*.{kind}")
    folder = tmp_path / "new" / "out"
    assert out == [str(folder / f"part-0000{n}.{kind}") for n in range(3)]
    assert names(folder) == [f"part-0000{n}.{kind}" for n in range(3)]  # and nothing else
    for path, part in zip(out, PARTS, strict=True):
        again = getattr(pd, f"read_{kind}")(path)
        expected = double(part)
        if kind == "csv":
            again, expected = again.astype({"d": expected["d"].dtype}), expected.reset_index(drop=True)
        assert_frame_equal(again, expected)
    assert len(client.map(nbmr.files(out), len)) == 3
    assert_series_equal(client.map(out, len), pd.Series([20, 20, 20]))
    assert "3 files" in repr(out)


def test_a_folder_is_parquet_and_keeps_the_index(client, tmp_path):
    frame = FRAME.set_index("c")
    out = client.map(frame, lambda part: part["b"], partitions=2, to=tmp_path / "out")
    again = client.map(nbmr.files(out), lambda part: part["b"])
    assert_series_equal(again, frame["b"], check_exact=True)


def test_none_writes_nothing(client, tmp_path):
    out = client.map(range(4), lambda x: pd.DataFrame({"x": [x]}) if x % 2 else None, to=tmp_path / "out")
    assert [Path(path).name for path in out] == ["part-00001.parquet", "part-00003.parquet"]
    assert client.map(range(2), lambda _x: None, to=tmp_path / "none") == []


def test_other_results_are_refused(client, tmp_path):
    with pytest.raises(nbmr.TaskError, match="fn returned a dict") as caught:
        client.map(FRAME, lambda _part: {"a": 1}, partitions=1, to=tmp_path / "out")
    with pytest.raises(TypeError, match="fn returned a dict"):
        caught.value.failure.replay()
    assert names(tmp_path / "out") == []


def test_a_folder_that_holds_results_is_refused_at_once(client, tmp_path):
    folder = tmp_path / "out"
    client.map(FRAME, double, partitions=2, to=folder)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with pytest.raises(nbmr.ConfigError, match="holds results already"):
        client.map(FRAME, double, partitions=3, to=folder)
    with pytest.raises(nbmr.ConfigError, match="holds results already"):
        client.submit(FRAME, double, partitions=3, to=f"{folder}/*.csv")
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_two_jobs_never_share_a_folder(client, tmp_path, eventually):
    """Not even if neither saw the other one's results when it began."""
    gate = tmp_path / "gate"

    def gated(x):
        while not gate.exists():
            time.sleep(0.02)
        return pd.DataFrame({"x": [x]})

    folder = tmp_path / "out"
    first = client.submit([1, 2, 3], gated, to=folder)
    second = client.submit([4, 5, 6], gated, to=folder)
    eventually(lambda: first.status == "running")
    gate.touch()
    outcomes, errors = [], []
    for job in (first, second):
        try:
            outcomes.append(job.result())
        except nbmr.TaskError as exc:
            errors.append(str(exc))
        finally:
            job.forget()
    (out,), (error,) = outcomes, errors
    assert "is where job" in error or "holds results already" in error
    assert [path.name for path in sorted(folder.iterdir())] == [Path(path).name for path in out]
    values = pd.concat([pd.read_parquet(path) for path in out])["x"].tolist()
    assert values in ([1, 2, 3], [4, 5, 6])


def test_failures_that_are_kept_write_nothing(client, tmp_path):
    def bad(x):
        if x == 1:
            raise ValueError(x)
        return pd.Series([x])

    with pytest.warns(RuntimeWarning, match="1 of 3 failed"):
        out = client.map(range(3), bad, to=f"{tmp_path}/out/*.csv", on_error="keep")
    assert [Path(path).name for path in out] == ["part-00000.csv", "part-00002.csv"]
    assert pd.read_csv(out[1])["0"].tolist() == [2]


def test_an_attached_job_gives_the_same_files(client, tmp_path):
    job = client.submit(FRAME, double, partitions=3, to=tmp_path / "out")
    try:
        again = client.attach(job.id)
        assert again.result() == job.result() == sorted(map(str, (tmp_path / "out").iterdir()))
    finally:
        job.forget()


# ---------------------------------------------------------------- kills


class Slow:
    """A frame's worth of rows that takes its time to be written."""

    def __init__(self, log, gate, x):
        self.log, self.gate, self.x = log, gate, x

    def __str__(self):
        note(self.log, f"{self.x} {os.getpid()}")
        while not self.gate.exists():
            time.sleep(0.02)
        return f"v{self.x}"


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_killed_in_the_middle_of_writing(client, queue, tmp_path, eventually, victim):
    log, gate, folder = tmp_path / "log", tmp_path / "gate", tmp_path / "out"

    def slow(x):
        return pd.DataFrame({"x": [f"head{x}", Slow(log, gate, x)]})

    with client.workers(1, queue=queue):
        job = client.submit([0, 1], slow, to=f"{folder}/*.csv", queue=queue, partitions=2)
        try:
            eventually(lambda: lines(log), 60)
            pid = int(lines(log)[0].split()[1])
            left = names(folder)
            assert len(left) == 2  # the owner's note, and what is half written
            if victim == "worker":
                for parent in psutil.Process(pid).parents():
                    if "nbmr" in " ".join(parent.cmdline()) and "forkserver" not in " ".join(
                        parent.cmdline()
                    ):
                        pid = parent.pid
                        break
            os.kill(pid, signal.SIGKILL)
            gate.touch()
            out = job.result(timeout=100)
        finally:
            job.forget()
    assert names(folder) == ["part-00000.csv", "part-00001.csv"]
    assert [pd.read_csv(path)["x"].tolist() for path in out] == [["head0", "v0"], ["head1", "v1"]]


class Stubborn(Slow):
    """It has to be killed."""

    def __str__(self):
        with contextlib.suppress(KeyboardInterrupt):
            return super().__str__()
        return super().__str__()


@pytest.mark.parametrize("kind", [Slow, Stubborn])
def test_cancelled_in_the_middle_of_writing(client, tmp_path, eventually, kind):
    log, gate, folder = tmp_path / "log", tmp_path / "gate", tmp_path / "out"
    job = client.submit([0], lambda x: pd.DataFrame({"x": [kind(log, gate, x)]}), to=f"{folder}/*.csv")
    eventually(lambda: lines(log), 60)
    job.cancel()
    pid = int(lines(log)[0].split()[1])
    eventually(lambda: kind is Slow or not psutil.pid_exists(pid), 60)
    eventually(lambda: names(folder) == [], 60)
    gate.touch()


def test_killed_for_its_timeout_in_the_middle_of_writing(client, tmp_path):
    """What it leaves is removed by its worker, long before the job is over."""
    log, gate, folder = tmp_path / "log", tmp_path / "gate", tmp_path / "out"
    job = client.submit(
        [0], lambda x: pd.DataFrame({"x": [Stubborn(log, gate, x)]}), to=f"{folder}/*.csv", timeout=1
    )
    try:
        assert job.wait(100)
        assert [failure.reason for failure in job.failures] == ["timeout"]
        assert lines(log)
        assert names(folder) == [".nbmr-job"]
    finally:
        job.forget()
    assert names(folder) == []
