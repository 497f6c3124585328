"""pandas' apply and map with engine=nbmr, on real workers; and pandas' own tests of it."""

from __future__ import annotations

import os
import re

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal, assert_series_equal

import nbmr

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(int(pd.__version__.split(".")[0]) < 3, reason="pandas 3 has the interface"),
]
FRAME = pd.DataFrame({"x": np.arange(20_000.0), "y": np.arange(20_000) % 7}, index=range(5, 20_005))

OWN_TESTS = """
import os, sys
import pytest, nbmr
from pandas.tests.apply.conftest import MockEngineDecorator

MockEngineDecorator.__pandas_udf__ = nbmr.engine(progress=False)
sys.exit(pytest.main([
    "--pyargs", "pandas.tests.apply", "-q", "-c", os.devnull, "-p", "no:cacheprovider",
    # that one counts by a list in the function's closure, which stays with the worker
    "-k", "MockEngineDecorator and not test_apply_raw_function_runs_once",
]))
"""


def test_rows_and_columns(client):
    engine = nbmr.engine(client)
    here = os.getpid()
    pids = FRAME.apply(lambda _row: os.getpid(), axis=1, engine=engine)
    assert here not in set(pids)
    assert pids.nunique() == 2
    fn = lambda row: row["x"] * 2 if row["y"] else None  # noqa: E731
    assert_series_equal(FRAME.apply(fn, axis=1, engine=engine), FRAME.apply(fn, axis=1), check_exact=True)
    fn = lambda row: pd.Series([row["x"], row["y"]], index=["a", "b"])  # noqa: E731
    assert_frame_equal(FRAME.apply(fn, axis=1, engine=engine), FRAME.apply(fn, axis=1), check_exact=True)
    assert_series_equal(FRAME.apply(lambda c: c.max(), engine=engine), FRAME.max(), check_exact=True)
    fn = lambda row: row.sum()  # noqa: E731
    assert_series_equal(FRAME.apply(fn, axis=1, raw=True, engine=engine), FRAME.apply(fn, axis=1, raw=True))


def test_elements(client):
    engine = nbmr.engine(client)
    assert_series_equal(FRAME.y.map(str, engine=engine), FRAME.y.map(str))


def test_an_exception_is_raised_as_pandas_does(client):
    with pytest.raises(ZeroDivisionError) as caught:
        FRAME.apply(lambda row: 1 // int(row["x"] - 7), axis=1, engine=nbmr.engine(client))
    error = caught.value.__context__
    assert isinstance(error, nbmr.TaskError)
    assert "ZeroDivisionError" in str(error)


def test_its_own_tests_of_engines_pass(server, start, tmp_path):
    process = start("-c", OWN_TESTS, cwd=tmp_path)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err
    assert int(re.search(r"(\d+) passed", out).group(1)) >= 20
