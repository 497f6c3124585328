"""pandas' engine interface gives what pandas gives, whatever the function returns."""
# ruff: noqa: ARG005 - functions of rows that give the same for each

from __future__ import annotations

import datetime as dt
import decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal, assert_series_equal

import nbmr
from nbmr import codec, frames
from nbmr.errors import ConfigError

pytestmark = pytest.mark.skipif(int(pd.__version__.split(".")[0]) < 3, reason="pandas 3 has the interface")


class InProcess:
    """Maps here, with all that travels pickled as it would be."""

    def __init__(self, partitions):
        self.partitions, self.calls = partitions, 0

    def map(self, data, fn, *args, gather, name):
        assert gather == "list"
        assert isinstance(name, str)
        fn = codec.decode([bytearray(part) for part in codec.encode(fn)])
        if isinstance(data, pd.DataFrame):
            bounds = frames.row_bounds(data, min(self.partitions, max(len(data), 1)), 2)
            data = [frames.take(data, start, stop) for start, stop in bounds]
        self.calls += len(data)
        return [codec.decode([bytearray(p) for p in codec.encode(fn(part, *args))]) for part in data]


def compare(call, partitions=3):
    """Make a call of pandas' with and without an engine; both give the same, or raise the same."""
    engine = nbmr.engine(InProcess(partitions))
    try:
        wanted = call(None)
    except Exception as error:  # noqa: BLE001 - whatever the function raises
        with pytest.raises(type(error)):
            call(engine)
        return None
    got = call(engine)
    assert type(got) is type(wanted)
    check = assert_frame_equal if isinstance(wanted, pd.DataFrame) else assert_series_equal
    check(plain(got), plain(wanted), check_exact=True, check_freq=True)
    return got


def plain(result):
    """Have texts stand for objects: pandas doesn't compare frames and NaN that lie in cells."""
    if isinstance(result, pd.DataFrame):
        columns = [plain(result.iloc[:, number]) for number in range(result.shape[1])]
        return pd.concat(columns, axis=1).set_axis(result.columns, axis=1) if columns else result
    if result.dtype != object:
        return result
    return pd.Series([f"{type(x)} {x!r}" for x in result], result.index, object, result.name)


FRAMES = {
    "floats": pd.DataFrame({"a": [1.5, 2.0, np.nan, 4.0], "b": [1.0, 2.0, 3.0, 4.0]}),
    "mixed": pd.DataFrame({"a": [1, 2, 3, 4], "b": list("wxyz"), "c": [0.5, np.nan, 1.0, 2.0]}),
    "labels": pd.DataFrame(
        {"a": [1, 2, 3, 4]}, index=pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("a", 2), ("b", 1)])
    ),
    "twice": pd.DataFrame([[1, 2], [3, 4], [5, 6]], columns=["a", "a"], index=[7, 7, 8]),
    "dates": pd.DataFrame(
        {"a": pd.date_range("2020", periods=4, tz="CET"), "b": pd.timedelta_range("1h", periods=4)},
        index=pd.date_range("2020", periods=4, name="when"),
    ),
    "categories": pd.DataFrame({"a": pd.Categorical(list("xyxz")), "b": [1, 2, 3, 4]}),
    "nullable": pd.DataFrame({"a": pd.array([1, None, 3, 4], "Int64"), "b": pd.array([True, None] * 2)}),
    "one row": pd.DataFrame({"a": [1], "b": [2]}),
    "no rows": pd.DataFrame({"a": [], "b": []}),
    "no columns": pd.DataFrame(index=[1, 2]),
}
FUNCTIONS = {
    "sum": lambda row: row.sum(),
    "row": lambda row: row,
    "double": lambda row: row * 2,
    "part": lambda row: row.iloc[:1],
    "relabelled": lambda row: pd.Series([row.iloc[0], 1], index=["x", "y"], name="z"),
    "numbers": lambda row: pd.Series([1.0, 2.0], index=["x", "y"]),
    "labels differ": lambda row: pd.Series([1.0], index=[str(row.name)]),
    "list": lambda row: [1, 2],
    "tuple": lambda row: (1, str(row.name)),
    "dict": lambda row: {"a": 1},
    "array": lambda row: np.array([1, 2]),
    "text": lambda row: str(row.iloc[0]),
    "none": lambda row: None,
    "name": lambda row: row.name,
    "bool": lambda row: bool(row.isna().any()),
    "numpy": lambda row: np.int8(len(row)),
    "date": lambda row: dt.date(2020, 1, len(row)),
    "decimal": lambda row: decimal.Decimal(len(row)),
    "missing": lambda row: pd.NA,
    "frame": lambda row: pd.DataFrame({"q": [1]}),
    "raises": lambda row: 1 / 0,
    "categories": lambda row: pd.Series(pd.Categorical(["u"]), index=["u"]),
}


@pytest.mark.parametrize("axis", [0, 1, "columns"])
@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize("fn", FUNCTIONS.values(), ids=FUNCTIONS)
def test_apply(frame, fn, axis):
    frame = frame.copy()
    frame.attrs = {"from": "me"}
    compare(lambda engine: frame.apply(fn, axis=axis, engine=engine))


def one_of(*values):
    """Return a function of rows that gives one of several values, by the row's place."""

    def fn(row):
        return values[int(row.iloc[0]) % len(values)]

    return fn


VALUES = [
    1, 2.5, True, "x", None, np.nan, pd.NaT, pd.NA, 2**63, np.int8(1), np.float32(0.1), 1j, [1], (1, 2),
    {"a": 1}, np.array([1, 2]), pd.Timestamp("2020"), pd.Timestamp("2020", tz="CET"), pd.Timedelta("1h"),
    pd.Series([1, 2], index=["a", "b"]), pd.Series([1.5, 2], index=["a", "b"]), pd.Series([1], index=["a"]),
    pd.Series(["t", None], index=["b", "a"]), pd.Series([True, False], index=["a", "b"], name="n"),
    pd.Series([1.0, 2.0], index=pd.Index(["a", "b"], name="labels")), pd.Series([3, 4], index=["a", "a"]),
    pd.Series([], dtype=float),
]  # fmt: skip


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.integers(1, 7),
    choice=st.lists(st.integers(0, len(VALUES) - 1), min_size=1, max_size=3),
    partitions=st.integers(1, 4),
)
def test_partitions_that_disagree(rows, choice, partitions):
    frame = pd.DataFrame({"n": range(rows), "m": 0.5}, index=pd.Index(range(3, rows + 3), name="i"))
    fn = one_of(*[VALUES[number] for number in choice])
    compare(lambda engine: frame.apply(fn, axis=1, engine=engine), partitions)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@pytest.mark.parametrize(
    "fn",
    [np.sum, lambda a: a, len, lambda a: str(a[0]), lambda a: 1 if len(str(a[0])) > 1 else 2.5],
    ids=["sum", "same", "length", "text", "numbers"],
)
def test_raw(frame, fn, axis):
    compare(lambda engine: frame.apply(fn, axis=axis, raw=True, engine=engine))


SERIES = {
    "ints": pd.Series([1, 2, 3], name="n", index=list("abc")),
    "floats": pd.Series([1.5, np.nan, 3]),
    "texts": pd.Series(["a", None, "ccc"]),
    "objects": pd.Series([1, "a", None, (1, 2)], dtype=object),
    "dates": pd.Series(pd.date_range("2020", periods=3, tz="CET")),
    "categories": pd.Series(pd.Categorical(list("abca"), categories=list("abcd"))),
    "ordered": pd.Series(pd.Categorical(["b", None, "a"], ordered=True)),
    "nullable": pd.Series([1, None, 3], dtype="Int64"),
    "empty": pd.Series([], dtype=float),
}


@pytest.mark.parametrize("how", [None, "ignore"])
@pytest.mark.parametrize("series", SERIES.values(), ids=SERIES)
@pytest.mark.parametrize(
    "fn",
    [
        str,
        lambda x: x,
        lambda x: None,
        lambda x: [str(x)],
        lambda x: hash(str(x)) % 2 == 0,
        lambda x: 1 / 0,
        len,
    ],
)
def test_map(series, fn, how):
    compare(lambda engine: series.map(fn, na_action=how, engine=engine))


def test_arguments_reach_the_function():
    frame = FRAMES["floats"]
    compare(
        lambda engine: frame.apply(lambda row, n, k: row.sum() * n + k, axis=1, args=(2,), k=3, engine=engine)
    )
    got = SERIES["ints"].map(lambda x, k: x + k, k=5, engine=nbmr.engine(InProcess(2)))
    assert list(got) == [6, 7, 8]


@pytest.mark.parametrize("fn", ["sum", ["sum", "mean"], {"a": "sum"}, np.sqrt, "cumsum"], ids=str)
def test_what_pandas_does_for_the_whole_frame(fn):
    compare(lambda engine: FRAMES["floats"].apply(fn, engine=engine))


def test_each_row_is_seen_once():
    seen = []
    frame = pd.DataFrame({"a": range(10)})
    frame.apply(lambda row: seen.append(row.name), axis=1, engine=nbmr.engine(Direct()))
    assert seen == list(range(10))


class Direct:
    """Maps here, and pickles nothing."""

    def map(self, data, fn, *, gather, name):  # noqa: ARG002 - Client.map's
        return [fn(data.iloc[start : start + 3]) for start in range(0, len(data), 3)]


def test_options(monkeypatch):
    given = {}

    class Client:
        def map(self, data, fn, **options):
            given.update(options)
            return [fn(data)]

    monkeypatch.setattr("nbmr.api.client", lambda **_: Client())
    frame = FRAMES["floats"]
    wanted = frame.apply(len, axis=1)
    assert_series_equal(frame.apply(len, axis=1, engine=nbmr.engine(queue="gpu", partitions=8)), wanted)
    assert given == {"queue": "gpu", "partitions": 8, "gather": "list", "name": "len"}
    assert_series_equal(frame.apply(len, axis=1, engine=nbmr), wanted)
    with pytest.raises(ConfigError, match=r"partition=… .*partitions"):
        nbmr.engine(partition=8)
