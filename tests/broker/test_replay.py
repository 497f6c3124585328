"""What failed, looked at and run again in the kernel: same function, same data."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import pickle
import re
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from notes import lines, note
from pandas.testing import assert_frame_equal, assert_series_equal

import nbmr
from nbmr import inputs, topology
from nbmr.inputs import Inputs
from nbmr.message import Message
from nbmr.worker.inputs import Inputs as OfWorker

pytestmark = pytest.mark.slow

FRAME = pd.DataFrame({"a": range(10), "b": list("abcdefghij")}, index=[f"row{i}" for i in range(10)])
HERE = os.getpid()


def failing(client, data, fn, *args, **options):
    """The error of a map."""
    with pytest.raises(nbmr.TaskError) as caught:
        client.map(data, fn, *args, **options)
    return caught.value


# ---------------------------------------------------------------- what it was given


def test_the_partition_of_a_frame(client):
    def fn(part):
        if "row7" in part.index:
            part["a"] = -1  # not in what the failure shows
            raise ValueError("bad row")
        return part

    error = failing(client, FRAME, fn, partitions=5)
    failure = error.failure
    assert (error.number, error.partition, failure.number) == (3, 3, 3)
    assert_frame_equal(failure.partition, FRAME.iloc[6:8])
    part = failure.partition
    part["a"] = 0
    assert_frame_equal(failure.partition, FRAME.iloc[6:8])  # anew each time


def test_the_partition_of_a_series(client):
    def fn(part):
        raise ValueError

    error = failing(client, FRAME.a, fn, partitions=1)
    assert_series_equal(error.failure.partition, FRAME.a)


def test_one_item_of_a_batch(client):
    items = [{"n": n} for n in range(100)]
    error = failing(client, items, lambda item: 1 / (item["n"] - 7), partitions=2)
    assert error.failure.partition == {"n": 7}
    with pytest.raises(ZeroDivisionError):
        error.failure.replay()


# ---------------------------------------------------------------- run again


def test_replay_raises_here_what_was_raised_there(client):
    """In this process, with the exception as it is, its frames, and the arguments of the call."""
    pids = []

    def fn(part, factor, *, offset):
        x = int(part.a.iloc[0]) * factor + offset
        pids.append(os.getpid())
        if x == 48:
            raise LookupError(x, pids)
        return x

    error = failing(client, FRAME, fn, 10, offset=8, partitions=5)
    with pytest.raises(LookupError) as caught:
        error.failure.replay()
    x, ran = caught.value.args
    assert (x, ran) == (48, [HERE])
    assert caught.value.__cause__ is None
    last = caught.traceback[-1]
    assert (last.name, str(last.path)) == ("fn", __file__)
    assert last.frame.f_locals["x"] == 48
    assert pids == []  # it is the function as it was sent


def test_replay_returns_the_result_if_it_works_this_time(client, tmp_path):
    def fn(x):
        if not (tmp_path / "mended").exists():
            raise FileNotFoundError
        return x + 1

    error = failing(client, [41], fn)
    (tmp_path / "mended").touch()
    assert error.failure.replay() == 42


def test_replay_of_a_timeout_has_no_limit(client):
    def fn(x):
        time.sleep(0.5)
        return os.getpid()

    error = failing(client, [1], fn, timeout=0.2)
    assert isinstance(error, nbmr.TaskTimeout)
    assert error.failure.replay() == HERE


def test_what_ended_its_process_is_not_run_here_by_mistake(client):
    def fn(x):
        if os.getpid() != HERE and x == 2:
            os.kill(os.getpid(), signal.SIGSEGV)
        return os.getpid()

    error = failing(client, [1, 2, 3], fn, partitions=1)
    assert isinstance(error, nbmr.TaskLost)
    with pytest.raises(nbmr.NotReplayable, match=r"SIGSEGV.*replay\(anyway=True\)"):
        error.failure.replay()
    assert error.failure.partition == 2
    assert error.failure.replay(anyway=True) == HERE


def test_a_single_unit_that_kills_each_time_has_its_input_too(client):
    error = failing(client, FRAME, lambda _: os._exit(3), partitions=1)
    assert_frame_equal(error.failure.partition, FRAME)


def test_what_was_given_back_too_often_has_its_input_too(client, queue, eventually, tmp_path):
    """Whole workers die under it; the one that tells of it sends what it was given."""

    def fn(x):
        note(tmp_path / "tries", x)
        time.sleep(60)

    with client.workers(1, queue=queue) as workers:
        job = client.submit([5], fn, queue=queue)
        for attempt in (1, 2, 3):
            eventually(lambda attempt=attempt: len(lines(tmp_path / "tries")) == attempt, 60)
            os.kill(workers.pids[0], signal.SIGKILL)
        with pytest.raises(nbmr.TaskLost, match="3 workers took it"):
            job.result(60)
        assert job.failures[0].partition == 5
        job.forget()


@pytest.mark.parametrize("way", ["messages", "shared memory"])
def test_replay_of_a_large_closure_and_a_large_partition(client, way, request):
    """Both go with the job: map reads them before it forgets the job."""
    if way == "messages":
        request.getfixturevalue("in_messages")
    weights = np.arange(100_000.0)
    frame = pd.DataFrame({"x": np.arange(1_500_000.0)})

    def fn(part):
        if part.x.iloc[0] == 0:
            raise ValueError(weights.sum())
        return part

    error = failing(client, frame, fn, partitions=1)
    assert_frame_equal(error.failure.partition, frame)
    part = error.failure.partition
    part["x"] = 0.0
    for _ in range(2):
        with pytest.raises(ValueError, match=str(weights.sum())):
            error.failure.replay()
    job = client.submit(frame, fn, partitions=1)
    job.wait(60)
    job.forget()
    with pytest.raises(nbmr.NotReplayable, match="forgotten"):
        job.failures[0].replay()


def test_keep(client):
    with pytest.warns(RuntimeWarning, match="3 of 9 failed"):
        out = client.map(range(-4, 5), lambda x: 1 / (x % 3), on_error="keep", partitions=3)
    failures = [value for value in out if isinstance(value, nbmr.Failure)]
    assert [failure.partition for failure in failures] == [-3, 0, 3]
    for failure in failures:
        with pytest.raises(ZeroDivisionError):
            failure.replay()


def test_from_another_kernel(client, start):
    """The kernel that sent it is gone; the function's source comes from the job."""
    code = """
import nbmr, sys
def clean(x):
    y = x * 2
    return 1 / (y - 6)
job = nbmr.Client().submit(range(5), clean, on_error="keep", partitions=5)
job.wait()
print(job.id)
"""
    out, error = start("-c", code).communicate(timeout=100)
    assert out, error
    job = client.attach(out.strip())
    (failure,) = job.failures
    assert failure.partition == 3
    with pytest.raises(ZeroDivisionError) as caught:
        failure.replay()
    assert caught.traceback[-1].frame.f_locals == {"x": 3, "y": 6}
    job.forget()
    assert failure.partition == 3  # a small one is in memory


# ---------------------------------------------------------------- what is kept of it


def test_what_is_over_the_budget_is_read_again(client, monkeypatch):
    monkeypatch.setattr(inputs, "KEPT_BYTES", 100_000)
    data = [bytes([n]) * 60_000 for n in range(6)]
    job = client.submit(data, lambda _: 1 / 0, partitions=6, on_error="keep")
    job.wait(60)
    assert len(job._inputs._kept) == 1
    failures = {failure.number: failure for failure in job.failures}
    assert [failures[n].partition for n in range(6)] == data
    job.forget()
    gone = [failure for failure in failures.values() if failure.given.task not in job._inputs._kept]
    assert len(gone) == 5
    with pytest.raises(nbmr.NotReplayable, match="forgotten"):
        gone[0].replay()


def test_a_worker_logs_only_so_much(client):
    """What is over its limit is told without its input."""
    logged = OfWorker(client._broker, client._signer, most=100)
    job = client.submit([1], lambda x: x)
    assert job.result(30) == [1]
    task = {name: [] for name in ("function_layout", "data_layout", "layout")}
    task |= {"start": 0, "count": 1, "inline": 0, "function_blob": None, "data_blob": None}
    entry = Message("task", job.id, 0, fields=task, payload=memoryview(bytes(60)))
    assert [logged.log(entry) for _ in range(3)] == [True, False, False]
    other = Message("task", "other", 0, fields=task, payload=memoryview(bytes(60)))
    assert logged.log(other)
    job.forget()
    given = Inputs(client._broker, client._signer, job.id).of(0, 0, logged=False)
    failure = nbmr.Failure("error", 0, "ValueError", given=given)
    with pytest.raises(nbmr.NotReplayable, match="not kept"):
        failure.replay()


def test_a_stranger_cannot_have_its_own_input_run(client, outsider, touch):
    """An input is code: what isn't signed is no input."""
    job = client.submit([1], lambda _: 1 / 0)
    job.wait(60)
    log = topology.job_log(job.id)
    genuine = [body for body in outsider.take(log, 4) if b'"kind":"input"' in body]
    assert len(genuine) == 1
    forged = genuine[0].replace(genuine[0][:100], pickle.dumps(touch)[:100], 1)
    outsider.put(log, pickle.dumps(touch), forged)
    again = client.attach(job.id)
    assert again.failures[0].partition == 1
    with pytest.raises(ZeroDivisionError):
        again.failures[0].replay()
    job.forget()


def test_copies_and_pickles_leave_the_input_behind(client):
    error = failing(client, [0], lambda x: 1 / x)
    for copied in (pickle.loads(pickle.dumps(error.failure)), copy.copy(error.failure)):
        assert copied == error.failure
        with pytest.raises(nbmr.NotReplayable, match="leaves it behind"):
            copied.replay()


@pytest.mark.usefixtures("in_messages")
def test_nothing_is_kept_open(client):
    """The files of large inputs are closed when nobody holds the failure any more."""

    def files():
        gc.collect()
        found = []
        for file in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                found.append(str(file.readlink()))
        return sum("(deleted)" in target for target in found)

    before = files()
    frame = pd.DataFrame({"x": np.arange(1_500_000.0)})
    job = client.submit(frame, lambda _: 1 / 0, partitions=1)
    job.wait(60)
    assert len(job.failures[0].partition) == len(frame)
    assert files() == before + 1
    job.forget()
    del job
    assert files() == before


# ---------------------------------------------------------------- shown


def test_failures_are_a_table(client):
    def fn(x):
        print("<b>printed</b>")
        raise ValueError(f"<script>{x}</script>\x1b[31m")

    job = client.submit(range(40), fn, on_error="keep", partitions=40)
    job.wait(60)
    failures = job.failures
    assert isinstance(failures, list)
    assert len(failures) == 40
    html, text = failures._repr_html_(), repr(failures)
    assert "<script>" not in html
    assert "\x1b" not in html + text
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;printed&lt;/b&gt;" in html
    assert html.count("<tr>") == 31
    assert html.count("<details>") == 30
    for shown in (html, text):
        assert "… and 10 more" in shown
        assert "attempts" in shown
        assert str(failures[0].pid) in shown
    assert len(text.splitlines()) == 32
    assert re.match(r"number +rows +what +worker +attempts", text)
    assert "<details>" in failures[:3]._repr_html_()
    assert len(failures[:3]._repr_html_().split("<tr>")) == 5
    job.forget()


def test_a_table_of_nothing(client):
    job = client.submit([1], lambda x: x)
    job.wait(60)
    assert job.failures == []
    assert repr(job.failures) == "no failures"
    assert "no failures" in job.failures._repr_html_()
    job.forget()


def test_several_threads_replay(client):
    error = failing(client, [3], lambda x: [][x])
    caught = []

    def replay():
        try:
            error.failure.replay()
        except IndexError as exc:
            caught.append(exc)

    threads = [threading.Thread(target=replay) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, caught))) == 4
