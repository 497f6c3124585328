"""`groupby` over a job and over files, what is told of the stages, and deaths in each of them."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pandas as pd
import psutil
import pytest
from notes import lines, note
from pandas.testing import assert_frame_equal, assert_series_equal

import nbmr
from nbmr.stages import large_key, stages

pytestmark = pytest.mark.slow

ALL = "one reduce task has them all."
VERBS = {
    "agg": lambda g: g.agg({"x": ["sum", "std"], "i": "max"}),
    "size": lambda g: g.size(),
    "median": lambda g: g["x"].median(),
    "functions": lambda g: g["x"].agg([lambda x: x.max() - x.min(), len]),
    "mixed": lambda g: g.agg(top=("x", lambda x: x.nlargest(2).min()), mean=("x", "mean")),
    "apply": lambda g: g[["x", "s"]].apply(lambda rows: rows.nlargest(2, "x")),
    "transform": lambda g: g["x"].transform(lambda x: x - x.mean()),
    "filter": lambda g: g.filter(lambda rows: rows["x"].max() > 2.5),
}


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "k": pd.array(rng.choice(["US", "DE", "FR", None], 8_000, p=[0.85, 0.05, 0.05, 0.05]), "str"),
            "n": rng.integers(0, 40, 8_000),
            "x": rng.normal(size=8_000),
            "i": rng.integers(-(2**53), 2**53, 8_000),
            "s": pd.array(rng.choice(["a", "bb"], 8_000), "str"),
        }
    )


def same(got, want):
    (assert_frame_equal if want.ndim == 2 else assert_series_equal)(got, want, rtol=1e-12)


@pytest.fixture(scope="module")
def job(client, rows):
    """A job whose results come in another order than its data."""

    def late(part):
        time.sleep(0.3 if part.index[0] == 0 else 0)
        return part.assign(x=part["x"] * 2)

    job = client.submit(rows, late, partitions=6, name="doubled")
    yield job
    job.forget()


@pytest.mark.parametrize("verb", VERBS)
def test_over_a_job(client, job, rows, verb):
    want = VERBS[verb](rows.assign(x=rows["x"] * 2).groupby(["k", "n"]))
    same(VERBS[verb](client.groupby(job, ["k", "n"], progress=False)), want)


def test_over_a_job_the_rows_do_not_come_here(client, job, rows, monkeypatch):
    """What this process decodes are small tables."""
    seen = []
    start = client.start
    monkeypatch.setattr(
        client, "start", lambda *args, **how: seen.append(started := start(*args, **how)) or started
    )
    wide = client.submit(
        rows, lambda part: pd.concat([part.assign(z=float(n)) for n in range(20)]), partitions=4
    )
    wide.wait()
    client.groupby(wide, "k", progress=False)["x"].mean()
    client.groupby(wide, "k", progress=False)["x"].apply(len)
    assert len(seen) == 4  # the job itself; one for the parts; two for the shuffle
    assert seen[1][0].progress.bytes_received < 100_000
    assert seen[3][0].progress.bytes_received < 100_000
    assert sum(outcome.size for outcome in wide.log.outcomes.values()) > 5_000_000
    wide.forget()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_over_files(client, rows, tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    for number in range(4):
        part = rows.iloc[2_000 * number : 2_000 * (number + 1)]
        part.to_csv(tmp_path / f"{number}.csv", index=False) if kind == "csv" else part.to_parquet(
            tmp_path / f"{number}.parquet"
        )
    files = nbmr.files(f"{tmp_path}/*.{kind}")
    whole = pd.concat([files.read(path) for path in files])
    for verb, call in VERBS.items():
        print(verb)
        want = call(whole.groupby("k", dropna=False))
        same(call(client.groupby(files, "k", dropna=False, progress=False)), want)


def test_over_what_a_job_has_written(client, rows, tmp_path):
    job = client.submit(rows, lambda part: part, partitions=3, to=f"{tmp_path}/out/*.csv")
    job.wait()
    whole = pd.concat([pd.read_csv(file) for file in sorted((tmp_path / "out").glob("*.csv"))])
    for verb in ("agg", "apply", "mixed"):
        same(VERBS[verb](client.groupby(job, "n", progress=False)), VERBS[verb](whole.groupby("n")))
    job.forget()


def test_the_first_job_still_runs(client, queue, rows, tmp_path, eventually):
    """The second one waits, and says for what."""

    def wait(part):
        while not (tmp_path / "go").exists():
            time.sleep(0.05)
        return part

    with client.workers(1, queue):
        job = client.submit(rows, wait, partitions=2, queue=queue, name="slow one")
        hints, found = [], []
        thread = threading.Thread(
            target=lambda: found.append(client.groupby(job, "n", progress=False)["x"].sum())
        )
        start = client.start

        def seen(*args, **how):
            started = start(*args, **how)
            hints.append(started[0])
            return started

        client.start = seen
        try:
            thread.start()
            eventually(lambda: hints and "waits for the results of job slow one" in hints[0].hint, 60)
            (tmp_path / "go").touch()
            thread.join(60)
        finally:
            (tmp_path / "go").touch()
            client.start = start
        assert_series_equal(found[0], rows.groupby("n")["x"].sum(), rtol=1e-12)
        job.forget()


def test_the_first_job_fails_or_is_gone(client, rows):
    def fail(part):
        raise OSError("no such partition")

    for verb in ("agg", "apply", "mixed"):
        job = client.submit(rows, fail, partitions=2, name="clean")
        with pytest.raises(nbmr.TaskError, match="no such partition"):
            VERBS[verb](client.groupby(job, "n", progress=False))
        job.forget()
        job = client.submit(rows, lambda part: part, partitions=2, name="clean")
        job.wait()
        job.forget()
        with pytest.raises(nbmr.JobNotFound, match="clean"):
            VERBS[verb](client.groupby(job, "n", progress=False))
    job = client.submit(rows, lambda _part: time.sleep(600), partitions=2, name="clean")
    job.cancel()
    with pytest.raises(nbmr.JobCancelled, match="clean"):
        client.groupby(job, "n", progress=False).size()


def test_what_failed_in_the_first_job_is_left_out(client, rows):
    def some(part):
        if part.index[0] == 0:
            raise OSError("the first one")
        return part

    job = client.submit(rows, some, partitions=4, on_error="keep")
    for verb in ("size", "apply"):
        with pytest.warns(RuntimeWarning, match="1 of 4 failed"):
            got = VERBS[verb](client.groupby(job, "n", progress=False))
        same(got, VERBS[verb](rows.iloc[2_000:].groupby("n")))
    job.forget()


def test_errors_are_pandas_own_or_the_functions(client, job):
    groups = client.groupby(job, "nowhere", progress=False)
    for call in (groups.sum, lambda: groups.apply(len), lambda: groups["x"].quantile([0.1, 0.2])):
        with pytest.raises((KeyError, nbmr.TaskError), match="nowhere"):
            call()
    with pytest.raises(nbmr.TaskError, match=r"(?s)division.*in group 3\b") as caught:
        client.groupby(job, "n", progress=False).apply(lambda rows: 1 / (rows.name != 3))
    with pytest.raises(ZeroDivisionError):
        caught.value.failure.replay()
    with pytest.raises(nbmr.ConfigError, match="partitions=3"):
        client.groupby(job, "n", partitions=3)


# ---------------------------------------------------------------- what is told


def test_what_is_told_of_the_stages(client, rows, tmp_path, eventually):
    """Another client that attaches sees the same: rows and bytes of each stage, and the key that is large."""

    def reducer(group):
        while group.name == "US" and not (tmp_path / "go").exists():
            time.sleep(0.02)
        return len(group)

    found = []

    def run():
        found.append(
            client.map_reduce(
                rows, lambda part: part, reducer, "k", name="told", partitions=5, reducers=4, progress=False
            )
        )

    thread = threading.Thread(target=run)
    thread.start()
    try:
        with nbmr.Client() as other:
            eventually(lambda: "told (reduce)" in set(other.jobs()["name"]), 60)
            attached = other.attach("told (reduce)")
            eventually(lambda: attached.log.told.get("rows"), 60)
            about = attached.log.about["shuffled"]
            kept = rows.dropna(subset="k")
            assert (about["mapped"], about["rows"], about["buckets"]) == (len(rows), len(kept), 4)
            assert about["bytes"] > kept.memory_usage().sum() / 2
            assert about["keys"] == {"'US'": int((kept["k"] == "US").sum())}
            share = 100 * (kept["k"] == "US").mean()
            assert large_key(about, {}) == f"Key 'US' has {share:.0f} % of the rows: {ALL}"
            (tmp_path / "go").touch()
            attached.wait()
            told = attached.log.told
            assert (told["rows"], told["bytes"], told["groups"]) == (len(kept), about["bytes"], 3)
            assert [stage.rows for stage in stages(about, told)] == [len(rows), len(kept), len(kept)]
    finally:
        (tmp_path / "go").touch()
        thread.join(60)
    assert found[0].to_dict() == rows.groupby("k").size().to_dict()


def test_a_large_group_of_a_frame_is_told(client, rows, monkeypatch):
    seen = []
    start = client.start
    monkeypatch.setattr(
        client, "start", lambda *args, **how: seen.append(started := start(*args, **how)) or started
    )
    client.groupby(rows, "k", progress=False)["x"].apply(len)
    client.groupby(rows, "n", progress=False)["x"].apply(len)
    about = [job.log.about["shuffled"] for job, _ in seen]
    assert [large_key(one, {}).partition(" has")[0] for one in about] == ["Key 'US'", ""]
    assert about[1]["rows"] == len(rows)


# ---------------------------------------------------------------- deaths


def gate(folder, stage):
    """Note who is at a stage; the first one is killed there, with its worker if so said."""
    note(folder / stage, str(os.getpid()))
    if len(lines(folder / stage)) == 1:
        worker = psutil.Process().parent().parent()
        if (folder / "worker").exists():
            worker.kill()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("victim", ["child", "worker"])
@pytest.mark.parametrize("stage", ["map", "reduce"])
def test_a_death_in_a_groupby_over_files(client, queue, rows, tmp_path, stage, victim):
    if victim == "worker":
        (tmp_path / "worker").touch()

    def fn(group):
        if stage == "reduce" and group.name == 7:
            gate(tmp_path, stage)
        return group["x"].sum()

    def read(path):
        if stage == "map":
            gate(tmp_path, stage)
        return pd.read_pickle(path)

    for number in range(4):
        rows.iloc[2_000 * number : 2_000 * (number + 1)].to_pickle(tmp_path / f"{number}.pkl")
    files = nbmr.files(f"{tmp_path}/*.pkl", reader=read)
    with client.workers(1, queue), client.workers(1, queue):
        got = client.groupby(files, "n", queue=queue, progress=False).apply(fn)
        assert len(lines(tmp_path / stage)) >= 2
    assert_series_equal(got, rows.groupby("n")[["x"]].apply(lambda group: group["x"].sum()))
