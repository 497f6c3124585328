"""What takes an executor, or a ``map``, works with nbmr's: Dask, scipy and their like."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal, assert_series_equal

import nbmr

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def executor(client):
    with nbmr.Executor(client=client) as executor:
        yield executor


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "key": rng.integers(0, 50, 20_000),
            "x": rng.random(20_000),
            "name": [f"name {x % 7}" for x in range(20_000)],
            "when": pd.date_range("2024-01-01", periods=20_000, freq="min"),
        }
    )


def test_dask_dataframe(executor, frame):
    dd = pytest.importorskip("dask.dataframe")
    ddf = dd.from_pandas(frame, npartitions=5)
    whole = ddf.compute(scheduler="sync")  # texts are of another dtype in Dask
    assert_frame_equal(ddf.compute(scheduler=executor), whole, check_exact=True)
    pids = ddf.map_partitions(lambda _part: pd.Series([os.getpid()]), meta=(None, "i8"))
    assert os.getpid() not in set(pids.compute(scheduler=executor))
    late = ddf[ddf.x > 0.5].assign(double=lambda d: d.x * 2)
    assert_frame_equal(late.compute(scheduler=executor), late.compute(scheduler="sync"))
    means = ddf.groupby("key").x.mean()
    ours, theirs = means.compute(scheduler=executor).sort_index(), frame.groupby("key").x.mean()
    assert_series_equal(ours, theirs, rtol=1e-12)  # sums of parts
    merged = ddf.merge(ddf.groupby("name").x.max().reset_index(), on="name")
    ours, theirs = (merged.compute(scheduler=one).sort_values("when") for one in (executor, "sync"))
    assert_frame_equal(ours.reset_index(drop=True), theirs.reset_index(drop=True), check_exact=True)
    with pytest.raises(ZeroDivisionError):
        ddf.map_partitions(lambda _part: 1 / 0, meta=(None, "f8")).compute(scheduler=executor)


def test_dask_array(executor):
    da = pytest.importorskip("dask.array")
    array = np.random.default_rng(0).random((600, 400))
    chunked = da.from_array(array, chunks=(200, 100))
    assert np.array_equal((chunked * 2 + 1).compute(scheduler=executor), array * 2 + 1)
    np.testing.assert_allclose(
        (chunked @ chunked.T).sum().compute(scheduler=executor), (array @ array.T).sum()
    )
    import dask

    with dask.config.set(scheduler=executor):
        assert chunked.max().compute() == array.max()


def test_dask_bag(executor):
    bag = pytest.importorskip("dask.bag").from_sequence(range(100), npartitions=7)
    assert bag.map(lambda x: x**2).sum().compute(scheduler=executor) == sum(x**2 for x in range(100))


def test_scipy(executor):
    optimize = pytest.importorskip("scipy.optimize")
    bounds = [(-5.0, 5.0)] * 3

    def far(x):
        return float(((x - [1.0, -2.0, 0.5]) ** 2).sum())

    options = {"seed": 1, "maxiter": 8, "popsize": 6, "updating": "deferred", "polish": False}
    alone = optimize.differential_evolution(far, bounds, **options)
    ours = optimize.differential_evolution(far, bounds, workers=executor.map, **options)
    assert np.array_equal(ours.x, alone.x)
    assert ours.fun == alone.fun
    assert ours.nfev == alone.nfev


def test_a_map(executor):
    """As callables for ``map=`` or ``pool=`` are used."""
    assert list(executor.map(lambda x: x**2, np.arange(5))) == [0, 1, 4, 9, 16]
    assert list(map(float, executor.map(np.sum, [np.arange(3), np.ones(2)], chunksize=2))) == [3.0, 2.0]
