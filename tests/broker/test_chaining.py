"""Jobs as data of others: read by the workers from the first job's log, as its results arrive."""

from __future__ import annotations

import operator
import os
import signal
import time

import numpy as np
import pandas as pd
import psutil
import pytest
from notes import lines, note
from pandas.testing import assert_frame_equal, assert_series_equal

import nbmr
from nbmr import codec, message, resultfile, topology
from nbmr.blobfile import BlobGone
from nbmr.frames import row_bounds
from nbmr.signing import Signer

pytestmark = pytest.mark.slow

FRAME = pd.DataFrame(
    {
        "a": np.arange(100),
        "b": np.linspace(0, 1, 100),
        "c": pd.Categorical([f"t{i % 7}" for i in range(100)]),
        "d": pd.date_range("2026-01-01", periods=100, freq="h", tz="Europe/Berlin"),
    },
    index=[f"row{i}" for i in range(100)],
)


def double(part):
    return part.assign(a=part["a"] * 2)


def positive(part):
    return part[part["b"] > 0.3]


@pytest.fixture
def chain(client):
    """A function that submits a job which is forgotten at the end."""
    jobs = []

    def chain(*args, **options):
        jobs.append(client.submit(*args, **options))
        return jobs[-1]

    yield chain
    for job in jobs:
        job.forget()


# ---------------------------------------------------------------- the same answer


def test_frames(client, chain):
    job = chain(FRAME, double, partitions=7)
    assert_frame_equal(client.map(job, positive), positive(double(FRAME)), check_exact=True)
    assert_frame_equal(chain(job, positive).result(), positive(double(FRAME)), check_exact=True)
    sizes = [end - start for start, end in row_bounds(FRAME, 7, 2)]
    assert_series_equal(client.map(job, len), pd.Series(sizes))
    assert_frame_equal(job.result(), double(FRAME))  # it is still what it was


def test_three_in_a_row(client, chain):
    third = chain(chain(chain(FRAME, double, partitions=5), positive), lambda part: part["a"] + 1)
    assert_series_equal(third.result(), positive(double(FRAME))["a"] + 1, check_exact=True)


def test_items(client, chain):
    job = chain(range(1000), lambda x: x * 2)
    assert client.map(job, lambda x: x + 1) == [x * 2 + 1 for x in range(1000)]
    assert client.map(job, lambda x: x + 1, timeout=60)[:10] == [1, 3, 5, 7, 9, 11, 13, 15, 17, 19]
    assert client.map(chain(iter(range(300)), str), lambda text: text + "!") == [f"{i}!" for i in range(300)]


def test_each_result_is_one_item(client, chain):
    """As mapping the list of results would do; and as from a list, unless they are frames."""
    rows = chain(FRAME, lambda part: {"n": len(part), "first": int(part["a"].iloc[0])}, partitions=4)
    assert client.map(rows, lambda row: row["n"]) == [25] * 4
    assert client.map(chain([1, None, 3], lambda x: x), lambda x: x is None) == [False, True, False]
    frames = chain([3, 4], lambda n: pd.DataFrame({"x": range(n)}))
    assert_series_equal(client.map(frames, len), pd.Series([3, 4]))
    assert client.map(chain([], str), len) == []


def test_of_frames_is_known_also_when_they_were_gathered(client, chain):
    frames = chain([3, 4], lambda n: pd.DataFrame({"x": range(n)}))
    frames.result()
    job = chain(frames, len)
    assert_series_equal(job.result(), pd.Series([3, 4]))
    assert_series_equal(client.attach(job.id).result(), pd.Series([3, 4]))


def test_large_results_come_in_chunks(client, chain):
    big = np.arange(3_000_000)  # 24 MB
    job = chain([0, 1], lambda x: big + x)
    assert client.map(job, lambda array: (int(array[0]), int(array[-1]), array.flags.writeable)) == [
        (0, 2_999_999, True),
        (1, 3_000_000, True),
    ]


def test_large_results_of_a_named_broker_come_in_chunks(named, queue):
    """Where they don't lie in shared memory."""
    big = np.arange(3_000_000)  # 24 MB
    with nbmr.Client(named.url, named.key) as client, client.workers(2, queue=queue):
        job = client.submit([0, 1], lambda x: (big + x, x), queue=queue, partitions=1)
        second = client.submit(job, lambda pair: (int(pair[0][-1]), pair[1]), queue=queue)
        assert second.result(100) == [(2_999_999, 0), (3_000_000, 1)]
        assert client.map(job, lambda pair: pair[1], queue=queue, timeout=60) == [0, 1]  # a part of it each
        third = client.submit(job, lambda pair: 1 // pair[1], queue=queue, on_error="keep")
        third.wait(100)
        assert third.failures[0].partition[0].size == len(big)
        for one in (job, second, third):
            one.forget()


def test_an_attached_job(client, chain):
    job = client.attach(chain(FRAME, double, partitions=3).id)
    assert_frame_equal(client.map(job, positive), positive(double(FRAME)))


def test_retries_see_the_results_as_they_were(client, chain, tmp_path):
    log = tmp_path / "log"

    def spoils(part):
        part["a"] = -1
        note(log, "x")
        if len(lines(log)) == 1:
            raise ValueError
        return part

    def keeps(part):
        before = part["a"].copy()
        spoils(part)
        return before

    job = chain(FRAME, double, partitions=1)
    assert_series_equal(client.map(job, keeps, retries=2), double(FRAME)["a"])


# ---------------------------------------------------------------- by reference


def test_results_do_not_travel_through_the_kernel(client, chain):
    job = chain(FRAME, lambda _part: np.zeros(1_000_000), partitions=4)
    job.result()
    second = chain(job, len)
    assert second.result() == [1_000_000] * 4
    assert second.progress.bytes_sent < 100_000


def test_tasks_are_sent_as_results_arrive(client, chain, tmp_path, eventually):
    """The second job works on what is there while the first is at the rest; whichever comes first."""
    gate = tmp_path / "gate"

    def first(x):
        while x == 0 and not gate.exists():
            time.sleep(0.02)
        return x

    job = chain(range(4), first, partitions=4)
    second = chain(job, lambda x: x * 10)
    eventually(lambda: second.progress.done == 3, 60)
    assert job.status == second.status == "running"
    assert second.partial() == [10, 20, 30]
    gate.touch()
    assert second.result(60) == [0, 10, 20, 30]
    assert dict(second) == {0: 0, 1: 10, 2: 20, 3: 30}


# ---------------------------------------------------------------- reduce


def test_reduce(client, chain):
    texts = [f"{i}," for i in range(500)]
    job = chain(texts, lambda text: text)
    assert client.reduce(job, operator.add) == "".join(texts)
    assert client.reduce(job, operator.add, ">") == ">" + "".join(texts)
    assert client.reduce(chain(iter(texts), str), operator.add) == "".join(texts)
    assert client.reduce(chain([7], str), operator.add) == "7"


def test_reduce_frames(client, chain):
    def worst(left, right):
        return pd.concat([left, right]).nlargest(5, "a")

    job = chain(FRAME, double, partitions=9)
    assert_frame_equal(client.reduce(job, worst), double(FRAME).nlargest(5, "a"))


def test_nothing_to_reduce(client, chain):
    job = chain([], str)
    with pytest.raises(nbmr.NothingToReduce):
        client.reduce(job, operator.add)
    assert client.reduce(job, operator.add, "x") == "x"


# ---------------------------------------------------------------- failures


def bad(x):
    if x % 3 == 1:
        raise ValueError(f"bad {x}")
    return x


def test_a_first_job_that_fails_fails_the_second(client, chain):
    job = chain(range(5), bad)
    with pytest.raises(nbmr.TaskError, match=r"bad \d") as caught:
        client.map(job, str)
    assert caught.value.failure.replay  # the first job's own
    with pytest.raises(nbmr.TaskError, match="bad"):
        chain(job, str).result(60)


def test_failures_that_are_kept_are_left_out(client, chain):
    job = chain(range(8), bad, on_error="keep", partitions=2)
    with pytest.warns(RuntimeWarning, match="3 of 8 failed"):
        assert client.map(job, str) == ["0", "2", "3", "5", "6"]
    second = chain(job, str)
    assert dict(second) == {0: "0", 2: "2", 3: "3", 5: "5", 6: "6"}  # their numbers are the first job's
    assert second.progress.total == 5
    with pytest.warns(RuntimeWarning, match="3 of 8 failed"):
        assert second.result() == ["0", "2", "3", "5", "6"]
    with pytest.warns(RuntimeWarning, match="3 of 8 failed"):
        assert client.reduce(job, operator.add, 100) == 116
    gaps = chain(chain(range(40), bad, on_error="keep", partitions=40), lambda x: x)
    with pytest.warns(RuntimeWarning):
        gaps.result()
    assert client.reduce(gaps, operator.add) == sum(x for x in range(40) if x % 3 != 1)
    all_bad = chain([1, 4], bad, on_error="keep")
    with pytest.warns(RuntimeWarning, match="2 of 2 failed"):
        assert client.map(all_bad, str) == []


def test_what_failed_is_run_again_here(client, chain):
    job = chain(range(8), bad, on_error="keep", partitions=2)

    def worse(x):
        if x > 4:
            raise KeyError(x)
        return x

    second = chain(job, worse, on_error="keep")
    with pytest.warns(RuntimeWarning):
        assert [x for x in second.result() if not isinstance(x, nbmr.Failure)] == [0, 2, 3]
    assert sorted((f.number, f.partition) for f in second.failures) == [(5, 5), (6, 6)]
    with pytest.raises(KeyError):
        second.failures[0].replay()
    with pytest.raises(nbmr.TaskError) as caught:
        client.map(job, worse)  # which is forgotten
    assert caught.value.failure.partition == caught.value.failure.number
    job.forget()
    with pytest.raises(nbmr.NotReplayable, match="forgotten"):
        client.attach(second.id).failures[0].replay()


def test_who_waits_for_the_second_keeps_the_first(named, queue, monkeypatch):
    """A worker's janitor deletes what nobody has looked at for its time to live."""
    monkeypatch.setenv("NBMR_JOB_TTL", "1.5")
    with nbmr.Client(named.url, named.key) as brief, brief.workers(1, queue=queue):
        job = brief.submit([1], str, queue=queue)
        assert job.result(60) == ["1"]
        second = brief.submit(job, str, queue=f"{queue}-nobody")
        with pytest.raises(nbmr.JobTimeout):
            second.result(6)
        assert {job.id, second.id} <= set(brief.jobs()["id"])
        second.forget()
        job.forget()


def test_a_job_that_was_forgotten(client, chain):
    job = chain(range(5), str)
    job.result()
    job.forget()
    with pytest.raises(nbmr.JobNotFound, match="was forgotten"):
        client.map(job, len)
    with pytest.raises(nbmr.JobNotFound, match="was forgotten"):
        client.reduce(job, operator.add)


def test_a_job_that_another_kernel_forgot(client, chain):
    job = chain(range(5), str)
    job.result()
    client.attach(job.id).forget()
    with pytest.raises(nbmr.JobNotFound, match="forgotten elsewhere"):
        client.map(job, len)
    cancelled = chain(range(5), time.sleep)
    cancelled.cancel()
    with pytest.raises(nbmr.JobCancelled, match="no results to go on with"):
        client.map(cancelled, len)


def test_forgotten_while_the_second_runs(client, chain, tmp_path, eventually):
    gate, log = tmp_path / "gate", tmp_path / "log"

    def gated(x):
        note(log, x)
        while not gate.exists():
            time.sleep(0.02)
        return x

    job = chain(range(40), lambda x: x, partitions=40)
    job.result()
    second = chain(job, gated)
    eventually(lambda: second.log.sealed and lines(log), 60)
    job.forget()
    gate.touch()
    with pytest.raises(nbmr.TaskError, match="was forgotten or cancelled"):
        second.result(100)


@pytest.fixture
def waiting(chain, tmp_path, eventually):
    """A job that runs until a file is there, the job that takes its results, and that file."""
    gate = tmp_path / "gate"

    def gated(x):
        while not gate.exists():
            time.sleep(0.02)
        return x

    job = chain(range(3), gated)
    second = chain(job, str)
    eventually(lambda: job.status == "running", 60)
    yield job, second, gate
    gate.touch()


def test_cancelled_while_the_second_waits(waiting):
    job, second, _ = waiting
    job.cancel()
    with pytest.raises(nbmr.JobCancelled, match="whose results this job takes"):
        second.result(60)


def test_the_second_can_be_cancelled_while_it_waits(waiting, eventually):
    job, second, gate = waiting
    second.cancel()
    with pytest.raises(nbmr.JobCancelled):
        second.result(60)
    gate.touch()
    assert job.result(60) == [0, 1, 2]
    eventually(lambda: not second._sending.is_alive(), 60)


def test_options_that_make_no_sense(client, chain, named):
    job = chain(range(3), str)
    with pytest.raises(nbmr.ConfigError, match="as it has cut them"):
        client.map(job, len, partitions=2)
    with nbmr.Client(named.url, named.key) as other, pytest.raises(nbmr.ConfigError, match="another broker"):
        other.map(job, len)


# ---------------------------------------------------------------- files


def test_files_that_a_job_writes_are_read_by_the_next(client, chain, tmp_path):
    job = chain(FRAME, double, partitions=3, to=tmp_path / "one")
    out = client.map(job, positive, to=tmp_path / "two")
    got = client.map(nbmr.files(out), lambda part: part)
    assert_frame_equal(got, positive(double(FRAME)))
    assert isinstance(client.map(job, len), pd.Series)
    assert_frame_equal(client.reduce(job, lambda a, b: pd.concat([a, b])), double(FRAME))


# ---------------------------------------------------------------- forgeries and kills


def test_forged_results_are_not_read(client, chain, outsider, touch, tmp_path, eventually):
    """Wherever the reading begins, and whatever was written before the genuine result."""
    gate = tmp_path / "gate"

    def gated(x):
        while not gate.exists():
            time.sleep(0.02)
        return x

    job = chain([7], gated)
    eventually(lambda: job.status == "running", 60)
    who = {"worker": "w", "host": "h", "pid": 1, "run": "r", "start": 0, "count": 1}
    buffers = codec.encode([touch])
    forged = message.seal(Signer("0" * 64), "result", job=job.id, task=0, buffers=buffers, **who)
    outsider.put(topology.job_log(job.id), b"".join(forged), b"?")
    gate.touch()
    assert job.result(60) == [7]
    assert job.rejected == 2
    assert client.map(job, lambda x: x * 2) == [14]
    rejected = []
    reference = {"job": job.id, "task": 0, "offset": 0}
    file, layout = resultfile.read(client._broker, client._signer, reference, rejected.append)
    with file:
        assert codec.decode(codec.slices(memoryview(file.read()), layout)) == [7]
    assert len(rejected) == 2


def test_a_place_that_is_wrong_costs_time_only(client, chain, monkeypatch):
    monkeypatch.setattr(resultfile, "_STALLED", 1.0)
    job = chain([7, 8], lambda x: x, partitions=2)
    job.result()
    reference = {"job": job.id, "task": 1, "offset": 1_000_000}
    file, layout = resultfile.read(client._broker, client._signer, reference)
    with file:
        assert codec.decode(codec.slices(memoryview(file.read()), layout)) == [8]
    with pytest.raises(nbmr.BrokerError, match="task 9 is not in the log"):
        resultfile.read(client._broker, client._signer, reference | {"task": 9})


def test_many_results_are_read_at_once(client, chain, monkeypatch):
    """By one subscription where they lie together in the log, and by few elsewhere."""
    want = [bytes([x]) * (9_000_000 if x == 7 else x) for x in range(60)]
    # with a limit for each, they are a task each
    job = chain(range(60), lambda x: bytes([x]) * (9_000_000 if x == 7 else x), partitions=60, timeout=60)
    assert job.result() == want
    found = client.attach(job.id)
    found.wait()
    log = found.log
    references = [
        {"job": job.id, "task": task, "offset": outcome.offset} for task, outcome in log.outcomes.items()
    ]
    begun = []
    consume = client._broker.consume
    monkeypatch.setattr(
        client._broker, "consume", lambda *args, **options: begun.append(options) or consume(*args, **options)
    )
    read = resultfile.read_all(client._broker, client._signer, references)
    assert len(begun) == 1
    for reference, (file, layout) in zip(references, read, strict=True):
        with file:
            value = codec.decode(codec.slices(memoryview(file.read()), layout))[0]
        assert value == bytes([reference["task"]]) * (
            9_000_000 if reference["task"] == 7 else reference["task"]
        )
    begun.clear()
    ends = [min(references, key=lambda r: r["offset"]), max(references, key=lambda r: r["offset"])]
    for file, _ in resultfile.read_all(client._broker, client._signer, ends):
        file.close()
    assert [options["offset"] for options in begun] == [end["offset"] for end in ends]
    begun.clear()
    wrong = [reference | {"offset": 1_000_000 + reference["task"]} for reference in references]
    monkeypatch.setattr(resultfile, "_STALLED", 1.0)
    for file, _ in resultfile.read_all(client._broker, client._signer, wrong):
        file.close()
    assert [options["offset"] for options in begun] == [1_000_000, "first"]
    assert resultfile.read_all(client._broker, client._signer, []) == []


def test_a_read_that_nobody_wants_any_more_ends(client, chain):
    job = chain([7], lambda x: x)
    job.result()
    reference = {"job": job.id, "task": 9, "offset": 0}
    with pytest.raises(BlobGone):
        resultfile.read(client._broker, client._signer, reference, cancelled=lambda: True)
    job.forget()
    with pytest.raises(resultfile.ResultGone, match="forgotten or cancelled"):
        resultfile.read(client._broker, client._signer, reference)


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_killed_while_it_reads_or_works(client, queue, chain, tmp_path, eventually, victim):
    """Every result is large, so that a worker that is killed at any time may be in the middle of reading."""
    log, gate = tmp_path / "log", tmp_path / "gate"
    big = np.arange(2_000_000)

    def work(array):
        note(log, os.getpid())
        while not gate.exists():
            time.sleep(0.02)
        return int(array.sum())

    with client.workers(2, queue=queue):
        job = chain(range(6), lambda x: big + x, queue=queue, partitions=6)
        job.result()
        second = chain(job, work, queue=queue)
        eventually(lambda: lines(log), 60)
        pid = int(lines(log)[0])
        if victim == "worker":
            found = psutil.Process(pid)
            while "forkserver" in " ".join(found.cmdline()) or found.pid == pid:
                found = found.parent()
            pid = found.pid
        os.kill(pid, signal.SIGKILL)
        gate.touch()
        assert second.result(100) == [int(big.sum()) + x * len(big) for x in range(6)]
