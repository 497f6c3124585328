"""What goes wrong in a function, or under it, and how its caller gets to know."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from notes import lines, note
from pandas.testing import assert_frame_equal

import nbmr
from nbmr import topology, versions

FRAME = pd.DataFrame({"a": range(10)}, index=[f"row{i}" for i in range(10)])


class Picky(Exception):
    """An exception that can't be unpickled: its class wants more than it passes on."""

    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")


def deep(x):
    return 1 / x


def shallow(x):
    print("about to fail")
    return deep(x)


# ---------------------------------------------------------------- exceptions


def test_an_error_tells_all_there_is_to_know(client):
    def fn(part):
        if 6 in part.a.to_list():
            shallow(0)
        return part

    with pytest.raises(nbmr.TaskError) as caught:
        client.map(FRAME, fn, partitions=5)
    error = caught.value
    assert error.partition == error.number == error.failure.number == 3
    assert error.failure.rows == ("'row6'", "'row7'")
    assert error.failure.host == platform.node()
    assert error.failure.pid not in (0, os.getpid())
    assert error.failure.attempts == 1
    assert error.failure.reason == "error"
    assert error.failure.output == "about to fail"
    assert type(error.__cause__) is ZeroDivisionError
    assert str(error.__cause__) == "division by zero"
    text = str(error)
    for part in (
        "ZeroDivisionError: division by zero",
        "partition 3",
        "row6",
        "row7",
        platform.node(),
        str(error.failure.pid),
        "return 1 / x",
        "shallow(0)",
        "about to fail",
    ):
        assert part in text


def test_the_users_frames_stand_first(client):
    def fn(part):
        return part.groupby("nothing").sum()

    with pytest.raises(nbmr.TaskError) as caught:
        client.map(FRAME, fn, partitions=1)
    text = caught.value.failure.traceback
    assert 0 <= text.index('part.groupby("nothing")') < text.index("Library frames")
    assert "nbmr/worker" not in text
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_exception_that_cannot_be_unpickled_is_told_by_its_text(client):
    def fn(_):
        raise Picky(5, "no good")

    with pytest.raises(nbmr.TaskError, match="Picky: 5: no good") as caught:
        client.map([1], fn)
    assert caught.value.__cause__ is None


def test_chained_exceptions(client):
    def fn(x):
        try:
            deep(x)
        except ZeroDivisionError as exc:
            raise ValueError("outer") from exc

    with pytest.raises(nbmr.TaskError, match="direct cause") as caught:
        client.map([0], fn)
    assert isinstance(caught.value.__cause__, ValueError)
    assert isinstance(caught.value.__cause__.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, StopIteration, MemoryError])
def test_exceptions_that_are_no_errors_elsewhere(client, kind):
    def fn(_):
        raise kind("on purpose")

    with pytest.raises(nbmr.TaskError, match="on purpose"):
        client.map([1], fn)
    assert client.map([1], lambda x: x) == [1]


def test_endless_recursion(client):
    def fn(x):
        return fn(x)

    with pytest.raises(nbmr.TaskError) as caught:
        client.map([1], fn)
    assert isinstance(caught.value.__cause__, RecursionError)
    assert len(str(caught.value)) < 20_000


def test_an_item_that_fails_is_told_by_its_position(client):
    with pytest.raises(nbmr.TaskError) as caught:
        client.map([3, 2, 1, 0, 5], lambda x: 1 / x)
    assert caught.value.partition == 3
    assert caught.value.failure.rows == ()


def test_data_that_cannot_be_unpickled_there(client):
    class Awkward:
        def __reduce__(self):
            return int, ("no number",)

    with pytest.raises(nbmr.TaskError, match="no number"):
        client.map([Awkward()], lambda x: x)
    assert client.map([1], lambda x: x) == [1]


def test_a_result_that_cannot_be_unpickled_here(client):
    class Awkward:
        def __reduce__(self):
            return int, ("no number",)

    with pytest.raises(Exception, match="no number"):
        client.map([1], lambda _: Awkward())
    assert client.map([1], lambda x: x) == [1]


def test_the_first_error_cancels_the_rest_at_once(client, tmp_path):
    """What is queued never runs, and what runs is ended."""
    ran, ended = tmp_path / "ran", tmp_path / "ended"

    def fn(x):
        note(ran, x)
        if x == 1:
            while len(lines(ran)) < 2:
                time.sleep(0.01)
            raise ValueError("the first")
        time.sleep(30)
        note(ended, x)

    began = time.monotonic()
    with pytest.raises(nbmr.TaskError, match="the first"):
        client.map(range(60), fn, partitions=60)
    assert client.map([1, 2], lambda x: x, partitions=2) == [1, 2]  # both workers are free again
    assert time.monotonic() - began < 8
    assert len(lines(ran)) <= 4
    assert lines(ended) == []


# ---------------------------------------------------------------- going on, and trying again


def test_keep_finishes_the_rest_of_a_list(client):
    with pytest.warns(RuntimeWarning, match=r"2 of 6 failed"):
        out = client.map([1, 0, 2, 0, 4, 5], lambda x: 1 / x, on_error="keep")
    assert [out[i] for i in (0, 2, 4, 5)] == [1.0, 0.5, 0.25, 0.2]
    for i in (1, 3):
        assert isinstance(out[i], nbmr.Failure)
        assert out[i].number == i
        assert isinstance(out[i].exception, ZeroDivisionError)


def test_keep_finishes_the_rest_of_a_frame(client):
    def fn(part):
        if part.a.iloc[0] == 4:
            raise ValueError("not this one")
        return part

    job = client.submit(FRAME, fn, partitions=5, on_error="keep")
    with pytest.warns(RuntimeWarning, match=r"1 of 5 failed.*numbers 2\b.*not this one"):
        out = job.result()
    assert_frame_equal(out, FRAME.drop(["row4", "row5"]))
    (failure,) = job.failures
    assert (failure.number, failure.rows) == (2, ("'row4'", "'row5'"))
    assert job.status == "failed"
    assert (job.progress.done, job.progress.failed) == (4, 1)
    job.forget()


def test_keep_when_everything_fails(client):
    with pytest.warns(RuntimeWarning, match=r"10 of 10|3 of 3"):
        out = client.map([0] * 3, lambda x: 1 / x, on_error="keep")
    assert [type(f) for f in out] == [nbmr.Failure] * 3


def test_iterating_leaves_out_what_failed(client):
    job = client.submit([1, 0, 2], lambda x: 1 / x, on_error="keep")
    assert sorted(job) == [(0, 1.0), (2, 0.5)]
    job.forget()
    job = client.submit([1, 0, 2], lambda x: 1 / x, partitions=3)
    with pytest.raises(nbmr.TaskError, match="division by zero"):
        list(job)
    job.forget()


def test_retries(client, tmp_path):
    def fn(x):
        tries = tmp_path / str(x)
        note(tries, "try")
        if len(lines(tries)) <= x:
            raise ValueError(f"try {len(lines(tries))}")
        return x

    assert client.map(range(4), fn, retries=3) == [0, 1, 2, 3]
    assert [len(lines(tmp_path / str(x))) for x in range(4)] == [1, 2, 3, 4]
    with pytest.raises(nbmr.TaskError, match="after 3 attempts") as caught:
        client.map([9], fn, retries=2)
    assert caught.value.failure.attempts == 3
    assert len(lines(tmp_path / "9")) == 3


def test_a_retry_gets_the_partition_as_it_was(client, tmp_path):
    def fn(part):
        part["a"] += 1
        note(tmp_path / "tries", part.a.tolist())
        if len(lines(tmp_path / "tries")) == 1:
            raise ValueError
        return part

    assert_frame_equal(client.map(FRAME, fn, partitions=1, retries=1), FRAME + 1)


# ---------------------------------------------------------------- time


def test_timeout(client, tmp_path):
    def fn(x):
        if x == 1:
            time.sleep(30)
        return x

    began = time.monotonic()
    with pytest.raises(nbmr.TaskTimeout, match=r"timeout of 0\.3 s") as caught:
        client.map([0, 1], fn, timeout=0.3, partitions=2)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.partition == 1
    assert 0.3 <= time.monotonic() - began < 3
    assert client.map([1, 2], lambda x: x, timeout=5) == [1, 2]


@pytest.mark.parametrize(
    "work",
    [
        lambda: time.sleep(30),
        lambda: [None for _ in iter(int, 1)],
        lambda: hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 300_000_000),
        lambda: sum(range(10**11)),
        lambda: subprocess.run(["sleep", "30"], check=True),
    ],
    ids=["sleep", "loop", "C code", "C code with the GIL", "another program"],
)
def test_timeout_of_all_that_takes_long(client, work):
    """It names the partition; each try has the whole time; the neighbours are done."""
    began = time.monotonic()
    with pytest.warns(RuntimeWarning, match="1 of 4 failed"):
        out = client.map(
            range(4), lambda x: work() if x == 2 else x, timeout=1, retries=1, on_error="keep", partitions=4
        )
    took = time.monotonic() - began
    failure = out[2]
    assert out[:2] + out[3:] == [0, 1, 3]
    assert (failure.reason, failure.number, failure.attempts) == ("timeout", 2, 2)
    assert isinstance(failure.error(), nbmr.TaskTimeout)
    assert "partition 2" in str(failure.error())
    assert 2 <= took < 10


def test_timeout_of_a_task_that_does_not_let_itself_be_interrupted(client):
    def fn(_):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True:
            time.sleep(1)

    with pytest.raises(nbmr.TaskTimeout):
        client.map([0], fn, timeout=0.2)
    assert client.map([1], lambda x: x) == [1]


def test_timeout_with_retries_and_keep(client, tmp_path):
    def fn(x):
        note(tmp_path / str(x), "try")
        if x == 0 or (x == 1 and len(lines(tmp_path / "1")) < 2):
            time.sleep(30)
        return x

    with pytest.warns(RuntimeWarning, match="1 of 3"):
        out = client.map(range(3), fn, timeout=1, retries=1, on_error="keep", partitions=3)
    assert out[1:] == [1, 2]
    assert (out[0].reason, out[0].attempts) == ("timeout", 2)
    assert [len(lines(tmp_path / str(x))) for x in range(3)] == [2, 2, 1]


# ---------------------------------------------------------------- death


@pytest.mark.parametrize(
    ("way", "cause"),
    [("exit", "exit code 7"), ("kill", "SIGKILL"), ("segfault", "SIGSEGV"), ("abort", "SIGABRT")],
)
def test_a_task_that_kills_its_process_is_lost_after_three_attempts(client, tmp_path, way, cause):
    def fn(x):
        note(tmp_path / "tries", os.getpid())
        print("last words")
        match way:
            case "exit":
                os._exit(7)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "segfault":
                ctypes.string_at(0)
            case "abort":
                os.abort()

    with pytest.raises(nbmr.TaskLost, match=cause) as caught:
        client.map(FRAME, fn, partitions=1)
    error = caught.value
    assert error.failure.attempts == 3
    assert (error.partition, error.failure.rows) == (0, ("'row0'", "'row9'"))
    assert "last words" in error.failure.output
    assert error.failure.traceback.count(cause) >= 2  # the story of the attempts before
    assert len(set(lines(tmp_path / "tries"))) == 3


def test_a_death_disturbs_no_other_job(client):
    """The neighbours in the queue, of this job and of others, lose no attempt."""
    other = client.submit(range(30), lambda x: time.sleep(0.05) or x, partitions=30)
    deadly = client.submit(range(30), lambda x: os._exit(3) if x == 5 else x, partitions=30, on_error="keep")
    with pytest.warns(RuntimeWarning, match="1 of 30"):
        out = deadly.result(60)
    assert out[:5] + out[6:] == [x for x in range(30) if x != 5]
    assert out[5].reason == "lost"
    assert "exit code 3" in out[5].summary
    assert other.result(60) == list(range(30))
    deadly.forget()
    other.forget()


def test_a_task_that_dies_once_is_done_by_the_next_attempt(client, tmp_path):
    def fn(x):
        note(tmp_path / "tries", x)
        if len(lines(tmp_path / "tries")) == 1:
            os._exit(1)
        return x

    assert client.map([5], fn) == [5]
    assert lines(tmp_path / "tries") == ["5", "5"]


def test_what_a_task_started_ends_with_it(client, tmp_path, eventually):
    import psutil

    def fn(_):
        import subprocess

        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        note(tmp_path / "pid", process.pid)
        os._exit(0)

    with pytest.raises(nbmr.TaskLost, match="exit code 0"):
        client.map([1], fn)
    pids = [int(pid) for pid in lines(tmp_path / "pid")]
    assert len(pids) == 3
    eventually(
        lambda: all(
            not psutil.pid_exists(p) or psutil.Process(p).status() == psutil.STATUS_ZOMBIE for p in pids
        )
    )


# ---------------------------------------------------------------- versions


def test_versions_that_do_not_mix_are_told_before_user_code_runs(client, tmp_path, monkeypatch):
    ran = tmp_path / "ran"
    others = {"python": "3.9.1", "pandas": "1.5.3", "numpy": "1.24.0"}
    monkeypatch.setattr(versions, "local_versions", lambda: others)
    with pytest.raises(nbmr.VersionMismatch) as caught:
        client.map([1], lambda x: note(ran, x))
    for text in ("Python 3.9.1 on the client", platform.python_version(), "pandas 1.5.3", pd.__version__):
        assert text in str(caught.value)
    assert lines(ran) == []


def test_a_failure_is_told_in_words_that_survive_pickling(client):
    import pickle

    with pytest.raises(nbmr.TaskError) as caught:
        client.map([0], lambda x: 1 / x)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert copy.failure == caught.value.failure


def test_a_task_without_a_log_is_dropped(client, tmp_path, eventually):
    """A task whose job was forgotten before it ran is never run."""
    ran = tmp_path / "ran"
    job = client.submit(range(40), lambda x: note(ran, x) or time.sleep(0.2), partitions=40)
    eventually(lambda: lines(ran))
    job.forget()
    assert client.map([1, 2], lambda x: x, partitions=2) == [1, 2]
    assert len(lines(ran)) <= 4
    tasks = topology.task_queue("default")
    eventually(lambda: client._broker.count(tasks)[0] == 0)
    assert len(lines(ran)) <= 4


def test_of_several_partitions_in_one_task_the_one_that_failed_is_told(client):
    df = pd.DataFrame({"a": range(1600)}, index=[f"row{n}" for n in range(1600)])
    client.map(df.head(16), len)  # the workers have what they need
    job = client.submit(df, lambda part: len(part) // (part.a.iloc[0] not in (1200, 1300)), on_error="keep")
    with pytest.warns(RuntimeWarning, match="2 of 16 failed"):
        assert list(job.result(60)) == [100] * 14
    assert len(job.log.outcomes) < 16  # they were short, and not a task each
    failures = sorted(job.failures, key=lambda failure: failure.number)
    assert [failure.number for failure in failures] == [12, 13]
    assert [failure.rows for failure in failures] == [("'row1200'", "'row1299'"), ("'row1300'", "'row1399'")]
    assert failures[1].partition.equals(df.iloc[1300:1400])
    with pytest.raises(ZeroDivisionError):
        failures[1].replay()
    job.forget()
