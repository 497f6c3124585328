"""`reduce`: one value, folded on workers, the same as `functools.reduce` gives."""

from __future__ import annotations

import functools
import operator
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal, assert_series_equal

import nbmr


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text("ab", max_size=3), min_size=1, max_size=200),
    st.none() | st.integers(1, 30),
    st.booleans(),
    st.sampled_from([(), ("first",)]),
)
def test_the_same_as_functools_reduce(client, data, partitions, lazy, initial):
    """Joining texts is associative, and not commutative."""
    given = iter(data) if lazy else data
    out = client.reduce(given, operator.add, *initial, partitions=partitions, progress=False)
    assert out == functools.reduce(operator.add, data, *initial)


def test_partitions_of_a_frame(client):
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"x": rng.permutation(10_000), "s": rng.choice(list("abc"), 10_000)})
    out = client.reduce(data, lambda a, b: pd.concat([a, b]).nlargest(10, "x"), data[:0])
    assert_frame_equal(out, data.nlargest(10, "x"))
    assert_frame_equal(client.reduce(data, lambda a, b: pd.concat([a, b]), partitions=5), data)


def test_partitions_of_a_series(client):
    data = pd.Series(range(100), dtype="Int16", name="x")
    assert_series_equal(client.reduce(data, lambda a, b: pd.concat([a, b]), partitions=7), data)


def test_the_workers_fold_on_every_level(client):
    """Also the last two are folded there, and each call gets its left neighbour first."""

    def fold(a, b):
        assert a["last"] + 1 == b["first"]
        return {"first": a["first"], "last": b["last"], "pids": {*a["pids"], *b["pids"], os.getpid()}}

    data = [{"first": x, "last": x, "pids": set()} for x in range(200)]
    out = client.reduce(data, fold)
    assert (out["first"], out["last"]) == (0, 199)
    assert out["pids"]
    assert os.getpid() not in out["pids"]


def test_sums_of_floats_are_the_same_each_time(client, queue):
    data = np.random.default_rng(1).normal(size=3_000).cumprod().tolist() + [1e16, 1.0, -1e16] * 50
    first = client.reduce(data, operator.add)
    with client.workers(1, queue):
        assert client.reduce(data, operator.add, queue=queue).hex() == first.hex()


def test_empty_data(client):
    assert client.reduce([], operator.add, 7) == 7
    assert client.reduce(iter([]), operator.add, None) is None
    assert client.reduce(pd.DataFrame({"x": []}), operator.add, "initial") == "initial"
    with pytest.raises(nbmr.NothingToReduce):
        client.reduce([], operator.add)


def test_one_value_is_what_it_is(client):
    assert client.reduce([5], operator.add) == 5
    assert client.reduce(iter([5]), operator.add) == 5
    assert client.reduce([5], operator.add, 2) == 7
    data = pd.DataFrame({"x": [1, 2]})
    assert_frame_equal(client.reduce(data, operator.add, partitions=1), data)


def test_none_is_a_result_like_others(client):
    assert client.reduce(range(200), lambda _a, _b: None) is None


def test_an_error_is_the_functions_own(client):
    def fold(a, b):
        if b == 150:
            raise ZeroDivisionError("no 150")
        return b

    with pytest.raises(nbmr.TaskError, match="no 150") as caught:
        client.reduce(range(200), fold)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert 150 in caught.value.failure.partition
    with pytest.raises(ZeroDivisionError, match="no 150"):
        caught.value.failure.replay()


def test_an_error_on_a_higher_level(client):
    """There, both neighbours are sums of several."""

    def fold(a, b):
        if b > 1:
            raise ValueError("a sum of several")
        return a + b

    with pytest.raises(nbmr.TaskError, match="a sum of several"):
        client.reduce([1] * 200, fold)


@pytest.mark.parametrize("level", ["first", "last"])
def test_a_tasks_process_that_is_killed_changes_nothing(client, tmp_path, level):
    once = tmp_path / "once"

    def fold(a, b, once=str(once), many=100 if level == "last" else 1):
        if len(b) >= many and not Path(once).exists():
            Path(once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return a + b

    data = [chr(1_000 + x) for x in range(1_000)]
    assert client.reduce(data, fold) == "".join(data)
    assert once.exists()


def test_what_makes_no_sense(client):
    with pytest.raises(nbmr.ConfigError, match="callable"):
        client.reduce([1, 2], 3)
    with pytest.raises(nbmr.ConfigError, match="queue"):
        client.reduce([1, 2], operator.add, queue="no queue!")
