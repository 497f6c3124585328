"""`groupby` on workers: each verb, and what goes wrong on the way."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal, assert_series_equal

import nbmr

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """200,000 rows, with keys that are missing, categories that are not observed, and all kinds of values."""
    rng = np.random.default_rng(0)
    count = 200_000
    text = pd.array(["aa", "b", "c", None], dtype="str")
    return pd.DataFrame(
        {
            "k": text.take(rng.integers(0, 4, count)),
            "c": pd.Categorical.from_codes(rng.integers(0, 5, count), list("zyxwvu")),
            "n": rng.integers(0, 500, count),
            "x": rng.normal(1e6, 1, count),
            "i": rng.integers(-(2**53), 2**53, count),
            "t": pd.Timestamp("2024", tz="Europe/Berlin")
            + pd.to_timedelta(rng.integers(0, 2**30, count), "s"),
            "s": text.take(rng.integers(0, 4, count)),
        },
        index=rng.integers(0, 1_000, count),
    )


VERBS = {
    "agg": lambda g: g.agg({"x": ["sum", "mean", "std"], "i": ["sum", "max"], "t": "min", "s": "last"}),
    "named": lambda g: g.agg(rows=("x", "size"), most=("i", "max"), middle=("x", "median")),
    "mixed": lambda g: g.agg(top=("x", lambda x: x.nlargest(2).min()), mean=("x", "mean")),
    "sum": lambda g: g[["i", "x"]].sum(),
    "std": lambda g: g["x"].std(),
    "nunique": lambda g: g[["s", "i"]].nunique(),
    "quantile": lambda g: g["x"].quantile(0.9),
    "apply": lambda g: g[["x", "s"]].apply(lambda rows: rows.nlargest(2, "x")),
    "transform": lambda g: g["x"].transform(lambda x: x - x.mean()),
    "transform by name": lambda g: g["x"].transform("rank"),
    "filter": lambda g: g.filter(lambda rows: rows["x"].max() > 1e6 + 3),
}


@pytest.mark.parametrize("by", ["n", ["k", "c"]], ids=["n", "k and c"])
@pytest.mark.parametrize("verb", VERBS)
def test_the_same_as_pandas(client, rows, verb, by):
    options = {} if by == "n" else {"dropna": False, "observed": False, "sort": False}
    got = VERBS[verb](client.groupby(rows, by, progress=False, **options))
    want = VERBS[verb](rows.groupby(by, **options))
    (assert_frame_equal if want.ndim == 2 else assert_series_equal)(got, want, rtol=1e-12)


def test_the_modules_verb(client, monkeypatch):
    """It is nbmr's own, and it is on the default client."""
    monkeypatch.setattr("nbmr.api._default", [client])
    df = pd.DataFrame({"k": [2, 1, 2], "x": [1, 2, 3]})
    assert_series_equal(nbmr.groupby(df, "k", progress=False)["x"].sum(), df.groupby("k")["x"].sum())
    with pytest.raises(KeyError, match="nowhere"):
        nbmr.groupby(df, "nowhere")


def test_the_workers_call_the_functions(client, rows):
    """All of them, and each for one group at a time."""
    pids = client.groupby(rows, "n", progress=False)["x"].apply(lambda _x: os.getpid())
    assert len(pids) == 500
    assert os.getpid() not in set(pids)
    pids = client.groupby(rows, "n", progress=False)["x"].agg(lambda _x: os.getpid())
    assert os.getpid() not in set(pids)


def test_an_error_is_the_functions_own(client, rows):
    def fail(group):
        if group.name == 123:
            raise ZeroDivisionError("no 123")
        return len(group)

    with pytest.raises(nbmr.TaskError, match="no 123") as caught:
        client.groupby(rows, "n", progress=False).apply(fail)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert "(in group 123)" in str(caught.value)
    assert "in fail" in str(caught.value)
    with pytest.raises(ZeroDivisionError, match="no 123"):
        caught.value.failure.replay()
    for verb in ("agg", "transform"):
        with pytest.raises(nbmr.TaskError, match="always"):
            getattr(client.groupby(rows, "n", progress=False)["x"], verb)(_always)


def _always(_group):
    raise ValueError("always")


def test_what_pandas_refuses_is_its_own_error(client, rows):
    for call in (
        lambda g: g.mean(),
        lambda g: g.agg({"x": {"a": "sum"}}),
        lambda g: g[["s"]].transform("diff"),
        lambda g: g["s"].agg("prod"),
        lambda g: g.filter(lambda _group: "yes"),
        lambda g: g["x"].transform(lambda _x: [1, 2]),
    ):
        with pytest.raises(Exception) as want:
            call(rows[:100].groupby("n"))
        with pytest.raises(type(want.value)) as got:
            call(client.groupby(rows[:100], "n", progress=False))
        assert type(got.value) is type(want.value)


def test_values_that_only_pandas_knows(client):
    """Objects, complex numbers, and bins of time go to one worker as they are."""
    df = pd.DataFrame(
        {
            "k": list("abab"),
            "o": np.array([1, "a", 2.5, "b"], dtype=object),
            "z": [1j, 2, 3, 4],
            "t": pd.to_datetime(["2024-01-05", "2024-01-01", "2024-03-01", "2024-01-02"]),
        }
    )
    by = client.groupby(df, "k", progress=False)
    assert_frame_equal(by[["o"]].sum(), df.groupby("k")[["o"]].sum())
    assert_frame_equal(by[["z"]].mean(), df.groupby("k")[["z"]].mean())
    month = pd.Grouper(key="t", freq="MS")
    assert_frame_equal(client.groupby(df, month, progress=False)[["z"]].sum(), df.groupby(month)[["z"]].sum())
    got = client.groupby(df, month, progress=False)["o"].apply(list)
    assert_series_equal(got, df.groupby(month)["o"].apply(list))


@pytest.mark.parametrize("verb", ["apply", "agg", "transform", "filter"])
def test_a_tasks_process_that_is_killed_changes_nothing(client, rows, tmp_path, verb):
    once = tmp_path / "once"

    def fn(x, once=str(once)):
        if len(x) > 400 and not Path(once).exists():
            Path(once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x.max() if x.name != "filter" else x.max() > 1e6 + 3

    data = rows["x"].rename(verb)
    by = rows["n"].to_numpy()
    got = getattr(client.groupby(data, by, progress=False), verb)(fn)
    assert once.exists()
    assert_series_equal(got, getattr(data.groupby(by), verb)(fn))


def test_a_worker_that_is_killed_changes_nothing(client, rows, queue, eventually):
    """Another one does what it had."""
    folder = Path(os.environ["TMPDIR"])
    mark = folder / f"groupby-{queue}"

    def fn(group, mark=str(mark)):
        Path(mark).touch()
        time.sleep(0.02)
        return group["x"].sum()

    with client.workers(1, queue) as first, client.workers(1, queue):
        found = []

        def run():
            by = client.groupby(rows, "n", queue=queue, progress=False)
            found.append(by[["x"]].apply(fn))

        thread = threading.Thread(target=run)
        thread.start()
        eventually(mark.exists, 60)
        first.stop(now=True)
        thread.join(120)
        assert not thread.is_alive()
    mark.unlink()
    assert_series_equal(found[0], rows.groupby("n")[["x"]].apply(lambda group: group["x"].sum()))


def test_an_interrupt_leaves_nothing(client, server, rows, tmp_path, eventually):
    begun = tmp_path / "begun"

    def fn(group, begun=str(begun)):
        Path(begun).touch()
        time.sleep(60)
        return len(group)

    def interrupt():
        eventually(begun.exists, 60)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    before = set(client.jobs()["id"])
    with pytest.raises(KeyboardInterrupt):
        client.groupby(rows, "n", progress=False).apply(fn)
    thread.join(60)
    assert set(client.jobs()["id"]) <= before
    assert client.map([1], lambda x: x + 1, progress=False) == [2]


def test_retries_and_names(client, rows, tmp_path):
    count = tmp_path / "count"

    def fn(group, count=str(count)):
        if group.name == 7 and not Path(count).exists():
            Path(count).touch()
            raise OSError("not yet")
        return len(group)

    got = client.groupby(rows, "n", retries=1, name="sizes", progress=False).apply(fn)
    assert_series_equal(got, rows.groupby("n").apply(len))
