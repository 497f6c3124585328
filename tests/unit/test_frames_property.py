"""For functions that work row by row: gathering the partitions' results gives what pandas gives."""

import os
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from nbmr.frames import gather, row_bounds, take

pa = pytest.importorskip("pyarrow")

EXAMPLES = int(os.environ.get("NBMR_TEST_EXAMPLES", "40"))
STAMPS = [
    pd.Timestamp("2024-03-30 12:00"),
    pd.NaT,
    pd.Timestamp("1999-01-01"),
    pd.Timestamp("2024-10-27 00:30"),
]


def _period(values):
    return pd.array([pd.NaT if v is None else pd.Period(v, freq="M") for v in values], dtype="period[M]")


def _interval(values):
    return pd.arrays.IntervalArray.from_arrays(
        np.array(values, float), np.array(values, float) + 1, closed="left"
    )


#: For each dtype: a pool of values, and what makes an array of some of them.
DTYPES = {
    "int64": ([0, -1, 7, 2**60], "int64"),
    "uint8": ([0, 255, 3], "uint8"),
    "float64": ([0.5, np.nan, -0.0, np.inf, 1e300], "float64"),
    "float32": ([0.5, np.nan, 3.25], "float32"),
    "float16": ([0.5, np.nan, 3.25], "float16"),
    "complex": ([1 + 2j, np.nan, 0j], "complex128"),
    "bool": ([True, False], "bool"),
    "object": ([1, "x", None, "w"], "object"),
    "object of tuples": ([(1, 2), None, ()], "object"),
    "object of one kind": (["b", "a", None], "object"),
    "bytes": ([b"x", b"", None], "object"),
    "datetime[ns]": (STAMPS, "datetime64[ns]"),
    "datetime[s]": (STAMPS, "datetime64[s]"),
    "datetime[ms, tz]": (STAMPS, "datetime64[ms, Europe/Berlin]"),
    "timedelta": ([pd.Timedelta(1, "h"), pd.NaT, pd.Timedelta(-3, "s")], "timedelta64[ns]"),
    "Int64": ([1, pd.NA, -5], "Int64"),
    "UInt16": ([1, pd.NA, 5], "UInt16"),
    "Float32": ([1.5, pd.NA, -5.0], "Float32"),
    "boolean": ([True, pd.NA, False], "boolean"),
    "string[python]": (["b", pd.NA, "ä", ""], "string[python]"),
    "string[pyarrow]": (["b", pd.NA, "ä", ""], "string[pyarrow]"),
    "category": (["b", None, "a", "c"], pd.CategoricalDtype(["c", "unused", "b", "a"])),
    "ordered category": ([3, 1, None], pd.CategoricalDtype([3, 2, 1], ordered=True)),
    "category of stamps": (STAMPS, pd.CategoricalDtype(pd.DatetimeIndex(STAMPS).dropna())),
    "period": (["2024-01", None, "1999-12"], _period),
    "interval": ([0, 5, np.nan], _interval),
    "sparse float": ([0.5, np.nan, 1.0], pd.SparseDtype("float64")),
    "sparse int": ([0, 0, 4], pd.SparseDtype("int64", 0)),
    "arrow int": ([1, None, 3], "int32[pyarrow]"),
    "arrow decimal": ([None, 1, 3], pd.ArrowDtype(pa.decimal128(10, 2))),
    "arrow list": ([[1], None, [2, 3], []], pd.ArrowDtype(pa.list_(pa.int64()))),
    "arrow stamp": (STAMPS, "timestamp[us, tz=UTC][pyarrow]"),
    "arrow dictionary": (["x", None, "y"], pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))),
}
if int(pd.__version__.split(".")[0]) >= 3:
    DTYPES["str"] = (["b", np.nan, "ä", ""], "str")


def _array(values, how):
    if callable(how):
        return how(values)
    if how == "object":  # lists and tuples are single values
        array = np.empty(len(values), object)
        array[:] = values
        return array
    return pd.Series(values, dtype=how, index=range(len(values))).array


@st.composite
def columns(draw, rows, kinds=tuple(DTYPES)):
    pool, how = DTYPES[draw(st.sampled_from(kinds))]
    picks = draw(st.lists(st.integers(0, len(pool) - 1), min_size=rows, max_size=rows))
    return _array([pool[pick] for pick in picks], how)


#: Dtypes that an index may have.
LABELS = tuple(
    kind
    for kind in DTYPES
    if kind
    not in ("float16", "object of tuples", "sparse float", "sparse int", "arrow list", "arrow dictionary")
)


#: Indexes that don't depend on chance.
RULED = {
    "range": pd.RangeIndex,
    "stepped": lambda rows: pd.RangeIndex(5, 5 - 2 * rows, -2),
    "days": lambda rows: pd.date_range("2024-03-28", periods=rows, freq="D", tz="Europe/Berlin"),
    "months": lambda rows: pd.date_range("2024-01-31", periods=rows, freq="ME"),
    "deltas": lambda rows: pd.timedelta_range("1h", periods=rows, freq="7min"),
    "periods": lambda rows: pd.period_range("2024-01", periods=rows, freq="Q"),
}


@st.composite
def indexes(draw, rows):
    kind = draw(st.sampled_from([*RULED, "column", "multi", "product"]))
    name = draw(st.sampled_from([None, "key", ("a", 1)]))
    if kind == "multi":
        arrays = [draw(columns(rows, LABELS)), draw(columns(rows, ("int64", "float64", "Int64", "category")))]
        return pd.MultiIndex.from_arrays(arrays, names=[name, None])
    if kind == "product":
        return pd.MultiIndex.from_product([["z", "y", "x"], range(9, 0, -1)], names=["l", "n"])[:rows]
    if kind == "column":
        return pd.Index(draw(columns(rows, LABELS)), name=name, tupleize_cols=False)
    return RULED[kind](rows).rename(name)


def _headers(width, kind):
    return {
        "str": pd.Index([f"c{number}" for number in range(width)], name="header"),
        "duplicates": pd.Index(["same"] * width),
        "range": pd.RangeIndex(width),
        "mixed": pd.Index(["c", 2, "x", None, 2.5][:width], dtype=object),
        "multi": pd.MultiIndex.from_tuples(
            [("u", n) if n % 2 else ("v", n) for n in range(width)], names=["a", None]
        )
        if width
        else pd.MultiIndex.from_arrays([[], []], names=["a", None]),
        "dates": pd.date_range("2024", periods=width, freq="D"),
    }[kind]


@st.composite
def frames(draw, min_width=0):
    rows = draw(st.integers(0, 12))
    width = draw(st.integers(min_width, 5))
    index = draw(indexes(rows))
    series = [pd.Series(draw(columns(rows)), index=index) for _ in range(width)]
    frame = pd.concat(series, axis=1) if series else pd.DataFrame(index=index)
    frame.columns = _headers(
        width, draw(st.sampled_from(["str", "duplicates", "range", "mixed", "multi", "dates"]))
    )
    frame.attrs = draw(st.sampled_from([{}, {"unit": "m"}]))
    return frame


def travel(value, kind=bytearray):
    """Send a value as nbmr does: its arrays are views of received bytes, read-only if these are."""
    buffers = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(head, buffers=[kind(buffer.raw()) for buffer in buffers])


def call(fn, data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what pandas says of odd columns; gathering must stay silent
        return fn(data)


def by_parts(data, fn, partitions):
    bounds = row_bounds(data, partitions, 2)
    parts = [take(data, start, stop) for start, stop in bounds]
    assert [len(part) for part in parts] == [stop - start for start, stop in bounds]
    kind = bytes if len(parts) > 1 else bytearray  # a lone result is returned as it is
    results = [travel(call(fn, travel(part)), kind) for part in parts]
    joined = gather(results, of_frame=True)
    assert results == [None] * len(bounds)
    return joined


def assert_same(got, want, *, freq=True):
    assert type(got) is type(want)
    exact = True
    if isinstance(want.index, pd.MultiIndex):
        # Which unused values a level holds, and whether as a range, is no part of the answer.
        got, want, exact = got.copy(deep=False), want.copy(deep=False), "equiv"
        freq = False  # nor is the frequency of a level
        got.index, want.index = got.index.remove_unused_levels(), want.index.remove_unused_levels()
    if isinstance(want, pd.DataFrame):
        pd.testing.assert_frame_equal(
            got, want, check_exact=True, check_index_type=exact, check_column_type=True, check_freq=freq
        )
    else:
        pd.testing.assert_series_equal(got, want, check_exact=True, check_index_type=exact, check_freq=freq)
    assert got.attrs == want.attrs
    assert list(got.index.names) == list(want.index.names)


def first(frame):
    return frame.iloc[:, 0]


def keep_some(frame):
    return frame[first(frame).notna().to_numpy(bool)]


def with_column(frame, values):
    frame = frame.copy()
    frame.insert(len(frame.columns), ("new", "") if frame.columns.nlevels > 1 else "new", values)
    return frame


#: name: (function, columns that it needs)
FUNCTIONS = {
    "identity": (lambda frame: frame, 0),
    "copy": (lambda frame: frame.copy(), 0),
    "assign": (lambda frame: with_column(frame, first(frame).isna()), 1),
    "assign constant": (lambda frame: with_column(frame, "x"), 0),
    "keep some": (keep_some, 1),
    "keep none": (lambda frame: frame[np.zeros(len(frame), bool)], 0),
    "keep some, then map": (lambda frame: first(keep_some(frame)).map(str), 1),
    "keep some, then row by row": (lambda frame: keep_some(frame).apply(len, axis=1), 1),
    "drop a column": (lambda frame: frame.iloc[:, 1:], 1),
    "astype(object)": (lambda frame: frame.astype(object), 0),
    "astype('category')": (lambda frame: first(frame).astype("category"), 1),
    "rename": (lambda frame: frame.rename(columns=str), 0),
    "map to text or None": (lambda frame: first(frame).map(lambda v: None if _missing(v) else str(v)), 1),
    "map to number or None": (
        lambda frame: first(frame).map(lambda v: None if _missing(v) else len(str(v))),
        1,
    ),
    "map to stamp or None": (
        lambda frame: first(frame).map(lambda v: None if _missing(v) else pd.Timestamp(2024, 1, len(str(v)))),
        1,
    ),
    "text column or None": (
        lambda frame: with_column(frame, [None if _missing(v) else str(v) for v in first(frame)]),
        1,
    ),
    "row by row": (lambda frame: frame.apply(lambda row: len(row) + 0.5, axis=1), 1),
    "a column": (first, 1),
    "index from a column": (lambda frame: frame.set_axis(pd.Index(first(frame))), 1),
    "index from two columns": (lambda frame: frame.set_index([first(frame), frame.iloc[:, -1]]), 1),
    "append to the index": (lambda frame: frame.set_index([first(frame)], append=True), 1),
}


def _maps_by_value(dtype):
    """Say whether map() gives a dtype that depends on the mapped values alone.

    pandas casts what it maps from a nullable or Arrow column back to a dtype of that kind, if these
    very rows allow it, and a sparse column maps its fill value, which may be none of these rows.
    """
    cast_back = hasattr(dtype, "numpy_dtype") or getattr(dtype, "na_value", None) is pd.NA
    return not isinstance(dtype, pd.SparseDtype) and not cast_back


def _missing(value):
    return bool(np.all(pd.isna(value))) and not isinstance(value, (list, tuple, np.ndarray))


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_same_answer_as_pandas(name, data):
    fn, min_width = FUNCTIONS[name]
    frame = data.draw(frames(min_width))
    partitions = data.draw(st.integers(1, len(frame) + 3))
    if "map" in name and min_width:
        assume(_maps_by_value(first(frame).dtype))
    if "index" in name and int(pd.__version__.split(".")[0]) < 3:
        # pandas 2 can't even compare sparse levels that lie in read-only memory.
        assume(not isinstance(first(frame).dtype, pd.SparseDtype))
        assume(not isinstance(frame.dtypes.iloc[-1], pd.SparseDtype))
    try:
        want = call(fn, frame)
    except (TypeError, ValueError, AttributeError, NotImplementedError, pa.ArrowException):
        assume(False)  # pandas itself can't do this with such a column
    try:
        got = by_parts(frame, fn, partitions)
    except ValueError as error:
        # pandas 2 can't give a row of integers and a missing category, which it can for longer frames
        assume(pd.__version__ >= "3" or "NaN to integer" not in str(error))
        raise
    assert_same(got, want, freq="keep" not in name)
