"""`map` and `submit`: what comes back, for which data, and what the function gets to see."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import weakref
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from notes import lines, note
from pandas.testing import assert_frame_equal, assert_series_equal

import nbmr
from nbmr import api

FRAME = pd.DataFrame({"a": range(10), "b": list("abcdefghij")}, index=pd.Index(range(100, 110), name="key"))


# ---------------------------------------------------------------- gathering


def test_frames_are_concatenated(client):
    out = client.map(FRAME, lambda part: part.assign(c=part.a * 2), partitions=4)
    assert_frame_equal(out, FRAME.assign(c=FRAME.a * 2))


def test_series_are_concatenated(client):
    assert_series_equal(client.map(FRAME, lambda part: part.a + 1, partitions=4), FRAME.a + 1)
    assert_series_equal(client.map(FRAME.a, lambda part: part + 1, partitions=4), FRAME.a + 1)


def test_a_frame_of_a_series(client):
    out = client.map(FRAME.a, lambda part: part.to_frame("x"), partitions=3)
    assert_frame_equal(out, FRAME.a.to_frame("x"))


def test_one_dict_a_partition_makes_one_row(client):
    out = client.map(FRAME, lambda part: {"rows": len(part), "first": part.b.iloc[0]}, partitions=3)
    assert_frame_equal(out, pd.DataFrame({"rows": [4, 3, 3], "first": ["a", "e", "h"]}))


def test_one_scalar_a_partition_makes_a_series(client):
    out = client.map(FRAME, lambda part: int(part.a.sum()), partitions=2)
    assert_series_equal(out, pd.Series([10, 35]))


def test_none_is_dropped(client):
    out = client.map(FRAME, lambda part: None if part.a.min() < 5 else part, partitions=2)
    assert_frame_equal(out, FRAME.iloc[5:])
    out = client.map(FRAME, lambda part: None if part.a.min() < 5 else {"n": len(part)}, partitions=5)
    assert_frame_equal(out, pd.DataFrame({"n": [2, 2]}))


def test_anything_else_is_a_list(client):
    out = client.map(FRAME, lambda part: [part.b.iloc[0]], partitions=5)
    assert out == [["a"], ["c"], ["e"], ["g"], ["i"]]
    out = client.map(FRAME, lambda part: part if part.a.min() < 5 else "other", partitions=2)
    assert_frame_equal(out[0], FRAME.iloc[:5])
    assert out[1] == "other"


def test_dicts_of_a_list_stay_dicts(client):
    assert client.map([1, 2, None], lambda x: {"x": x}) == [{"x": 1}, {"x": 2}, {"x": None}]
    assert client.map([1, 2], lambda _: None) == [None, None]


def test_frames_of_a_list_are_concatenated(client):
    out = client.map([3, 1, 2], lambda n: pd.DataFrame({"n": [n] * n}))
    assert out.n.tolist() == [3, 3, 3, 1, 2, 2]


def test_gather_list_and_concat(client):
    out = client.map(FRAME, lambda part: part, partitions=2, gather="list")
    assert isinstance(out, list)
    assert_frame_equal(out[1], FRAME.iloc[5:])
    with pytest.raises(nbmr.ConfigError, match="gather='concat'"):
        client.map(FRAME, lambda _part: [1], partitions=2, gather="concat")


# ---------------------------------------------------------------- the same as pandas


def row_wise(df: pd.DataFrame) -> pd.DataFrame:
    kept = df[df["x"] % 3 != 1]
    return kept.assign(double=kept["x"] * 2, text=kept["s"].str.upper())


columns = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["int64", "Int8", "float32", "Float64"]),
        "x": st.lists(st.integers(-50, 50), max_size=12),
        "index": st.sampled_from(["range", "named", "duplicated", "multi", "zone", "text"]),
        "partitions": st.sampled_from([None, 1, 2, 5, 30]),
    }
)


def index_of(kind: str, size: int) -> pd.Index:
    match kind:
        case "named":
            return pd.Index(np.arange(size) * 7, name="seven")
        case "duplicated":
            return pd.Index([i // 2 for i in range(size)], dtype="int64")
        case "multi":
            return pd.MultiIndex.from_arrays(
                [[i % 2 for i in range(size)], list(range(size))], names=["p", None]
            )
        case "zone":
            return pd.date_range("2024-03-30", periods=size, freq="h", tz="Europe/Paris", name="when")
        case "text":
            return pd.Index([f"row {i}" for i in range(size)], dtype="str")
    return pd.RangeIndex(size)


@settings(
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(columns)
def test_row_wise_functions_give_what_pandas_gives(client, what):
    x = what["x"]
    df = pd.DataFrame(
        {
            "x": pd.array(x, dtype=what["dtype"]),
            "s": pd.Series([f"ü{i}" for i in x], dtype="str").to_numpy(),
            "c": pd.Categorical(["u" if i > 0 else "v" for i in x], categories=["v", "unused", "u"]),
        },
        index=index_of(what["index"], len(x)),
    )
    expected = row_wise(df)
    if isinstance(expected.index, pd.DatetimeIndex):
        expected.index.freq = None
    out = client.map(df, row_wise, partitions=what["partitions"])
    if isinstance(out.index, pd.DatetimeIndex):
        out.index.freq = None
    assert_frame_equal(out, expected, check_index_type="equiv" if what["index"] == "range" else "exact")


def test_an_empty_frame(client, tmp_path):
    calls = tmp_path / "calls"

    def fn(part):
        note(calls, len(part))
        return part.assign(c=part.a * 2)

    empty = FRAME.iloc[:0]
    assert_frame_equal(client.map(empty, fn), fn(empty))
    assert lines(calls) == ["0", "0"]  # once on a worker, once here


def test_one_row(client):
    one = FRAME.iloc[[4]]
    assert_frame_equal(client.map(one, lambda part: part * 2), one * 2)


def test_no_columns(client):
    none = FRAME[[]]
    assert_frame_equal(client.map(none, lambda part: part, partitions=3), none)


def test_every_row_dropped(client):
    out = client.map(FRAME, lambda part: part[part.a > 99], partitions=3)
    assert_frame_equal(out, FRAME[FRAME.a > 99])


def test_more_partitions_than_rows(client, tmp_path):
    calls = tmp_path / "calls"

    def fn(part):
        note(calls, len(part))
        return part

    assert_frame_equal(client.map(FRAME.iloc[:3], fn, partitions=50), FRAME.iloc[:3])
    assert lines(calls) == ["1", "1", "1"]


# ---------------------------------------------------------------- what the function gets


def test_the_function_sees_each_row_once_and_nothing_else(client, tmp_path):
    calls = tmp_path / "calls"

    def fn(part):
        for label, value in part.itertuples(name=None):
            note(calls, f"{label} {value}")
        return part

    df = pd.DataFrame({"v": range(1000, 1200)}, index=range(200))
    client.map(df, fn)
    assert sorted(lines(calls)) == sorted(f"{i} {1000 + i}" for i in range(200))


def test_partitions_say_how_many(client, tmp_path):
    calls = tmp_path / "calls"

    def fn(part):
        note(calls, len(part))
        return part

    client.map(FRAME, fn, partitions=4)
    assert sorted(lines(calls)) == ["2", "2", "3", "3"]
    job = client.submit(FRAME, len, partitions=4)
    assert job.result().tolist() == [3, 3, 2, 2]
    assert job.progress.total == 4
    job.forget()


def test_partitions_of_a_list_are_batches(client):
    def where(item, seen=[]):  # noqa: B006 - the same list for all items of a batch
        seen.append(item)
        return os.getpid(), len(seen)

    out = client.map(range(12), where, partitions=2)
    assert len({pid for pid, _ in out}) <= 2
    assert client.map(range(3), lambda x: x, partitions=40) == [0, 1, 2]


def test_arguments_are_passed_on(client):
    def fn(item, *args, **kwargs):
        return item, args, kwargs

    got = client.map([1, 2], fn, "a", [3], key={"b": 4}, progress_bar=5)
    assert got == [(item, ("a", [3]), {"key": {"b": 4}, "progress_bar": 5}) for item in (1, 2)]
    out = client.map(FRAME, lambda part, by, plus=0: part.a * by + plus, 3, plus=1, partitions=2)
    assert_series_equal(out, FRAME.a * 3 + 1)


def test_the_function_may_change_its_partition(client):
    def fn(part):
        part["a"] *= 10
        part.loc[part.index[0], "b"] = "first"
        part.insert(0, "new", 1)
        return part

    before = FRAME.copy()
    out = client.map(FRAME, fn, partitions=2)
    assert out.a.tolist() == [10 * i for i in range(10)]
    assert out.b.tolist() == ["first", *"bcde", "first", *"ghij"]
    assert_frame_equal(FRAME, before)


@pytest.mark.parametrize("size", [3, 50_000, 2_000_000])  # in the pickle, beside it, and in a blob
def test_arrays_can_be_written_to_on_both_sides(client, size):
    def fn(array):
        array[1] = 7.0
        return array

    arrays = [np.zeros(size), np.ones(size)]
    out = client.map(arrays, fn, partitions=2)
    for array, value in zip(out, (0.0, 1.0), strict=True):
        assert array[:3].tolist() == [value, 7.0, value]
        array[0] = -1.0
    assert arrays[0][1] == 0.0


def test_the_result_of_a_frame_can_be_changed(client):
    for partitions in (1, 3):
        out = client.map(FRAME, lambda part: part, partitions=partitions)
        out.loc[100, "a"] = -1
        out["b"] = "x"
        assert out.a.iloc[0] == -1


def test_later_changes_of_the_data_are_not_seen(client, tmp_path, eventually):
    gate = tmp_path / "gate"

    def fn(item, gate):
        while not gate.exists():
            pass
        return item

    data = [1, 2, 3, 4]
    job = client.submit(data, fn, gate, partitions=4)
    data[3] = 99
    gate.touch()
    assert job.result(20) == [1, 2, 3, 4]
    job.forget()


# ---------------------------------------------------------------- lists and iterables


@pytest.mark.parametrize("data", [[0, 1, 2], (0, 1, 2), range(3), {0: "", 1: "", 2: ""}.keys(), np.arange(3)])
def test_sized_data(client, data):
    assert client.map(data, lambda x: int(x) + 1) == [1, 2, 3]


def test_a_generator(client):
    assert client.map((i for i in range(100)), lambda x: x * 2) == [2 * i for i in range(100)]
    assert client.map(map(str, range(3)), len) == [1, 1, 1]


@pytest.mark.parametrize("data", [[], (), range(0), iter([])])
def test_no_items(client, data):
    assert client.map(data, lambda x: x) == []


@pytest.mark.parametrize("data", ["text", b"bytes", {"a": 1}, 5, None])
def test_what_is_no_list_of_items_is_refused(client, data):
    with pytest.raises(nbmr.ConfigError, match=type(data).__name__):
        client.map(data, lambda x: x)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("partitions", 0),
        ("partitions", 1.5),
        ("queue", "no good"),
        ("retries", -1),
        ("timeout", 0),
        ("on_error", "ignore"),
        ("gather", "sum"),
    ],
)
@pytest.mark.parametrize("data", [FRAME, [1, 2]], ids=["frame", "list"])
def test_wrong_options_are_refused_before_anything_is_done(client, data, option, value):
    with pytest.raises(nbmr.ConfigError, match=option):
        client.map(data, lambda x: x, **{option: value})


def test_what_cannot_be_called_is_refused(client):
    with pytest.raises(nbmr.ConfigError, match="callable"):
        client.map([1], 5)


def test_a_thousand_tiny_items_travel_in_batches_but_count_one_by_one(client, tmp_path):
    job = client.submit(range(1000), lambda x: x * x)
    assert job.result() == [x * x for x in range(1000)]
    assert job.progress.done == job.progress.total == 1000
    assert len(job._log.outcomes) < 200
    job.forget()


def test_an_iterable_is_read_only_so_far_ahead_of_the_work(client, tmp_path, eventually):
    gate, pulled = tmp_path / "gate", []

    def items():
        for i in range(10_000):
            pulled.append(i)
            yield i

    def fn(item, gate):
        while not gate.exists():
            pass
        return item

    job = client.submit(items(), fn, gate)
    try:
        eventually(lambda: len(pulled) >= 16)
        assert not job.wait(0.5)
        assert len(pulled) <= 200
        before = len(pulled)
        gate.touch()
        eventually(lambda: len(pulled) > before)
    finally:
        job.cancel()


def test_an_endless_iterable_with_results_as_they_come(client):
    pulled = itertools.count()
    job = client.submit(pulled, lambda x: x + 1)
    for got, (number, value) in enumerate(job, 1):
        assert value == number + 1
        if got == 500:
            break
    job.cancel()
    sending = job._sending
    sending.join(10)
    assert not sending.is_alive()  # nobody reads the iterable any more
    with pytest.raises(nbmr.JobCancelled):
        job.result()


def test_an_error_of_the_iterable_is_the_callers(client):
    def items():
        yield 1
        raise ZeroDivisionError("in the iterable")

    with pytest.raises(ZeroDivisionError, match="in the iterable"):
        client.map(items(), lambda x: x)
    job = client.submit(items(), lambda x: x)
    with pytest.raises(ZeroDivisionError, match="in the iterable"):
        job.result(20)
    job.forget()


# ---------------------------------------------------------------- jobs


def test_submit_returns_at_once_and_iterates_as_results_arrive(client, tmp_path):
    gate = tmp_path / "gate"

    def fn(item, gate):
        while item == 0 and not gate.exists():
            pass
        return item * 10

    job = client.submit(range(6), fn, gate, partitions=6)
    results = iter(job)
    first = [next(results) for _ in range(5)]
    assert sorted(first) == [(i, i * 10) for i in range(1, 6)]
    assert job.status == "running"
    assert sorted(job.partial()) == [10, 20, 30, 40, 50]
    with pytest.raises(nbmr.JobTimeout, match="goes on"):
        job.result(timeout=0.05)
    gate.touch()
    assert list(results) == [(0, 0)]
    assert job.result() == [0, 10, 20, 30, 40, 50]
    assert job.status == "done"
    job.forget()
    assert job.result() == [0, 10, 20, 30, 40, 50]  # what was gathered stays


def test_a_job_can_be_iterated_twice_before_it_is_gathered(client):
    job = client.submit([1, 2, 3], lambda x: x)
    assert sorted(job) == sorted(job) == [(0, 1), (1, 2), (2, 3)]
    assert job.result() == [1, 2, 3]
    job.forget()


def test_a_job_can_be_iterated_after_it_was_gathered(client):
    job = client.submit([1, 2, 3], lambda x: x)
    assert job.result() == [1, 2, 3]
    assert sorted(job) == [(0, 1), (1, 2), (2, 3)]
    job.forget()


async def _wait_for(job: Any) -> Any:
    seen = [number async for number, _ in job]
    return sorted(seen), await job


def test_jobs_can_be_awaited(client):
    import asyncio

    job = client.submit(range(3), lambda x: x * 2, partitions=3)
    assert asyncio.run(_wait_for(job)) == ([0, 1, 2], [0, 2, 4])
    job.forget()


def test_jobs_at_the_same_time(client):
    """From several threads, on one client: each gets its own results."""
    out: dict[int, Any] = {}

    def run(k: int) -> None:
        out[k] = client.map(range(k, k + 20), lambda x, k: x * k, k)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert out == {k: [x * k for x in range(k, k + 20)] for k in range(8)}


def test_names(client):
    def local(x):
        return x

    for fn, name, expected in [(local, None, "local"), (len, None, "len"), (local, "mine", "mine")]:
        job = client.submit([[1]], fn, name=name)
        assert job.name == expected
        assert expected in repr(job)
        job.result()
        job.forget()


def test_the_verbs_of_the_module_use_a_client_of_their_own(server, client):
    assert nbmr.map([1, 2], lambda x: x + 1) == [2, 3]
    assert api.client() is api.client()
    assert api.client() is not client
    job = nbmr.submit(FRAME, lambda part: part, partitions=2)
    assert_frame_equal(job.result(), FRAME)
    job.forget()
    assert set(nbmr.workers().columns) > {"pid", "queue", "state", "memory_mb"}
    assert len(nbmr.workers()) == 2


@pytest.mark.usefixtures("in_messages")
def test_map_leaves_nothing_on_the_broker_and_submit_what_it_needs(server, client):
    job = client.submit([np.zeros(2_000_000)], lambda x, y: x.sum() + y.sum(), np.zeros(20_000))
    job.result()
    of_job = [name for name in server.queues() if job.id in name]
    assert len(of_job) == 3  # its log, the function's blob, the data's
    job.forget()
    assert not [name for name in server.queues() if job.id in name]


def test_arrays_in_a_list_of_results_can_be_changed(client):
    df = pd.DataFrame({"x": np.arange(50_000.0)})
    for array in client.map(df, lambda part: part["x"].to_numpy() * 2, partitions=3):
        array[0] = -1.0
        assert array[0] == -1.0


def test_a_result_can_be_asked_for_again_after_an_interrupted_gather(client, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    df = pd.DataFrame({"x": np.arange(1000.0)})
    job = client.submit(df, lambda part: part, partitions=4)
    job.wait(30)
    with monkeypatch.context() as patch:
        patch.setattr("nbmr.frames.gather", interrupted)
        with pytest.raises(KeyboardInterrupt):
            job.result(30)
    pd.testing.assert_frame_equal(job.result(30), df, check_exact=True)
    job.forget()


@pytest.mark.parametrize("gather", ["auto", "list"])
def test_a_result_goes_when_its_user_lets_it_go(client, gather):
    """Without waiting for Python's collector of cycles: it may be gigabytes."""
    gc.collect()
    gc.disable()
    try:
        out = client.map(pd.DataFrame({"x": np.arange(1000.0)}), lambda part: part, gather=gather)
        frame = weakref.ref(out if gather == "auto" else out[0])
        assert frame() is not None
        del out
        assert frame() is None
    finally:
        gc.enable()


def test_a_start_that_is_interrupted_leaves_nothing(client, server, monkeypatch):
    def interrupted(_job):
        raise KeyboardInterrupt

    before = set(server.queues())
    with monkeypatch.context() as patch:
        patch.setattr("nbmr.job.Job.follow", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.map([1], str)
    assert not set(server.queues()) - before
    assert client.map([1], str) == ["1"]
