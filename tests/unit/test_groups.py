"""`groupby` gives what pandas gives: values, types, index, labels, order. Tasks run in this process here."""

from __future__ import annotations

import decimal
import functools
import pickle
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from here import NAMES, copied, outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal, assert_series_equal

from nbmr.applying import Packed
from nbmr.errors import ConfigError
from nbmr.grouping import TASK_BYTES, Grouping
from nbmr.groups import grouped

#: Aggregations that add floats, in an order that depends on how rows are parted.
INEXACT = {"sum", "mean", "std", "var", "sem", "prod"}


class Workers:
    """Runs tasks here, on copies, and notes what they were."""

    def __init__(self):
        self.ways = []

    def __call__(self, items, fn, *, partitions, gather, **_options):
        assert partitions == len(items)
        assert gather == "list"
        self.ways.append(type(fn).__name__)
        return [copied(copied(fn)(copied(item))) for item in items]


def parted(df, by=None, *, partitions=3, run=None, **options):
    return grouped(df, by, options | {"partitions": partitions}, run or Workers())


def assert_same(got, want, *, exact=True):
    if isinstance(want, Exception):
        assert type(got) is type(want), (got, want)
        return
    if isinstance(got, Exception):
        raise got
    assert type(got) is type(want)
    how = {"check_exact": True} if exact else {"rtol": 1e-12, "atol": 1e-12}
    got, want = _comparable(got), _comparable(want)
    if isinstance(want, pd.DataFrame):
        assert_frame_equal(got, want, check_freq=False, **how)
    elif isinstance(want, pd.Series):
        assert_series_equal(got, want, check_freq=False, **how)
    else:
        assert got == want


def _comparable(result):
    """Whole objects among the values, which pandas makes of some results, are compared by what they show."""
    if isinstance(result, pd.DataFrame) and result.columns.is_unique:
        result = result.copy()
        for place in range(result.shape[1]):
            result.isetitem(place, _comparable(result.iloc[:, place]))
    if isinstance(result, pd.Series) and result.dtype == object:
        whole = list | np.ndarray | pd.Series | pd.DataFrame
        return result.map(lambda value: repr(_freqless(value)) if isinstance(value, whole) else value)
    return result


def _freqless(value):
    """Drop the frequency of dates, which is not compared elsewhere either."""
    if isinstance(getattr(value, "index", None), pd.DatetimeIndex):
        return value.set_axis(value.index._with_freq(None))
    return value


def check(df, by, verb, *, exact=True, partitions=3, **options):
    """Compare a verb on pandas' groupby and on ours."""
    ours = outcome(lambda: verb(parted(df, by, partitions=partitions, **options)))
    assert_same(ours, outcome(lambda: verb(df.groupby(by, **options))), exact=exact)


# ---------------------------------------------------------------- how results travel


def a_row(n):
    return pd.Series({"n": n, "half": n / 2})


ALIKE = {
    "rows": a_row,
    "rows with names": lambda n: a_row(n).rename(f"row {n}"),
    "rows of texts": lambda n: pd.Series({"n": str(n), "half": None}),
    "labels of two types": lambda n: pd.Series([1, 2], index=[0, 1] if n % 2 else [0.0, 1.0]),
    "labels with names": lambda n: pd.Series([1, 2], index=pd.Index([0, 1], name=f"of {n % 2}")),
    "rows of two types": lambda n: a_row(n) if n % 2 else a_row(n).astype("Float64"),
    "rows with the same label twice": lambda n: pd.Series([n, 2 * n], index=["x", "x"]),
    "frames": lambda n: pd.DataFrame({"n": [n], "half": [n / 2], "text": ["x"]}),
    "frames with labels of two types": lambda n: pd.DataFrame(
        [[n, 1]], columns=[0, 1] if n % 2 else [0.0, 1]
    ),
    "frames of other lengths": lambda n: pd.DataFrame({"n": range(n % 3)}),
    "frames and rows": lambda n: pd.DataFrame({"n": [n]}) if n % 2 else pd.Series({"n": n}),
    "durations": lambda n: np.timedelta64(n, "s") if n % 2 else np.timedelta64(n, "ms"),
    "dates": lambda n: np.datetime64("2024-01-01") + n,
    "numbers": np.int8,
    "numbers of two types": lambda n: np.float32(n) if n % 2 else n,
}


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("made", ALIKE.values(), ids=ALIKE)
def test_results_that_are_alike(made, partitions):
    df = pd.DataFrame({"k": np.arange(40) % 9, "n": np.arange(40)})
    check(df, "k", lambda by: by.apply(lambda group: made(int(group["n"].iloc[0]))), partitions=partitions)


@pytest.mark.parametrize("make", [ALIKE["frames"], ALIKE["rows of texts"]])
def test_labels_that_results_share_travel_once_and_are_their_own_where_the_function_kept_them(make):
    results = [make(n) for n in range(50)]
    labels = [axis for result in results for axis in result.axes]
    packed = Packed(results, labels=True)
    left = [axis for result in results for axis in result.axes]
    assert all(one is other for one, other in zip(left, labels, strict=True))
    assert len(pickle.dumps(packed)) < len(pickle.dumps(results)) * 0.9
    there = copied(packed).unpack()
    assert len({id(axis) for one in there for axis in one.axes}) == there[0].ndim
    for got, want in zip(there, results, strict=True):
        assert_same(got, want)
        assert got.attrs == want.attrs


# ---------------------------------------------------------------- odd frames

MISSING = st.none()
FLOATS = st.floats(-1e6, 1e6) | st.sampled_from([np.nan, np.inf, -np.inf, 0.1, -0.0])
VALUES = {
    "int8": st.integers(-128, 127),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "float64": FLOATS,
    "float32": st.integers(-1000, 1000) | st.just(np.nan),
    "bool": st.booleans(),
    "datetime64[ns]": st.integers(0, 2**60) | MISSING,
    "datetime64[us, Europe/Berlin]": st.integers(0, 2**50) | MISSING,
    "timedelta64[s]": st.integers(0, 2**30) | MISSING,
    "Int64": st.integers(-(2**62), 2**62) | MISSING,
    "UInt8": st.integers(0, 255) | MISSING,
    "Float64": st.floats(-100, 100) | MISSING,
    "boolean": st.booleans() | MISSING,
    "string": st.text("aé", max_size=2) | MISSING,
    "category": st.sampled_from("xyz") | MISSING,
    "object": st.integers(0, 9) | st.just(decimal.Decimal("1.5")),
}
KEYS = {
    "text": lambda values: pd.array(["abcd"[v] if v < 4 else None for v in values], dtype="str"),
    "number": lambda values: np.array([[5.0, -1.0, 2.0, 3.0, np.nan][v] for v in values], dtype=float),
    "whole": lambda values: np.array([3, 1, 2, 9, 0], dtype="int16")[np.array(values, dtype=int)],
    "category": lambda values: pd.Categorical.from_codes(
        [-1 if v == 4 else v for v in values], ["z", "unseen", "a", "b"], ordered=True
    ),
    "when": lambda values: pd.array(
        [pd.Timestamp("2024-03-31", tz="Europe/Berlin") + pd.Timedelta(hours=v) for v in values],
        dtype="datetime64[ns, Europe/Berlin]",
    ),
}  # fmt: skip


@st.composite
def frames(draw, kinds=tuple(VALUES)):
    """A frame with key columns and value columns, and an index that need not be unique."""
    count = draw(st.integers(0, 25))
    codes = st.lists(st.integers(0, 4), min_size=count, max_size=count)
    columns = {name: make(draw(codes)) for name, make in KEYS.items()}
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3, unique=True)):
        values = draw(st.lists(VALUES[kind], min_size=count, max_size=count))
        columns[f"of {kind}"] = (
            pd.array(values, dtype=kind) if kind != "object" else np.array(values, dtype=object)
        )
    df = pd.DataFrame(columns)
    index = draw(st.sampled_from(["default", "repeated", "dates", "levels"]))
    if index == "repeated":
        df.index = pd.Index(np.arange(count) % 3, name="row")
    elif index == "dates":
        df.index = pd.date_range("2024", periods=count, freq="h")
    elif index == "levels":
        df.index = pd.MultiIndex.from_arrays([np.arange(count) % 2, np.arange(count)], names=["p", None])
    return df


BY = st.sampled_from(
    [
        "text",
        "number",
        "whole",
        "category",
        "when",
        ["text"],
        ["category", "whole"],
        ["number", "text", "whole"],
    ]
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={name: st.booleans() for name in ("sort", "dropna", "observed", "as_index", "group_keys")},
)
GENERATED = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("dtype", ["float64", "float32", "Float64"])
@pytest.mark.parametrize(
    "values",
    [[np.inf, -np.inf, 1.0, 2.0, 3.0, 0.0], [np.inf, 0.0, 1.0, 1.0, 1.0, 2.0], [0, 1, 2, np.inf, 0, 1]],
)
def test_infinities_that_cancel_out_in_one_part(values, dtype):
    df = pd.DataFrame({"k": "a", "x": pd.array(values, dtype)})
    for name in sorted(INEXACT):
        for partitions in (1, 2, 3, 6):
            check(df, "k", lambda g: getattr(g, name)(), exact=False, partitions=partitions)  # noqa: B023


@GENERATED
@given(frames(), BY, OPTIONS, st.sampled_from(NAMES), st.integers(1, 6))
def test_aggregations_by_name(df, by, options, name, partitions):
    values = [column for column in df.columns if column.startswith("of ")]
    exact = name not in INEXACT
    for select in (values, values[0]):
        check(df, by, lambda g: getattr(g[select], name)(), exact=exact, partitions=partitions, **options)  # noqa: B023


@GENERATED
@given(
    frames(["int8", "int64", "uint64", "bool", "Int64", "UInt8", "boolean", "timedelta64[s]"]),
    BY,
    OPTIONS,
    st.sampled_from(["sum", "min", "max", "first", "last", "count", "any", "all"]),
)
def test_whole_numbers_are_never_rounded(df, by, options, name):
    values = [column for column in df.columns if column.startswith("of ")]
    check(df, by, lambda g: getattr(g[values], name)(), **options)


SPECS = [
    lambda g, a, b: g.agg([a, b]),
    lambda g, a, b: g.agg({"of int64": a, "of float64": b}),
    lambda g, a, b: g.agg({"of float64": [a, b], "of int64": [b]}),
    lambda g, a, b: g.agg(one=("of float64", a), two=("of int64", b), three=("of float64", "size")),
    lambda g, a, b: g.agg(one=pd.NamedAgg("of float64", a), two=pd.NamedAgg("of int64", b)),
    lambda g, a, b: g["of int64"].agg([a, b]),
    lambda g, a, b: g["of float64"].agg(one=a, two=b),
    lambda g, a, b: g["of float64"].agg([("one", a), ("two", b)]),
    lambda g, a, _: g.agg(a),
    lambda g, a, _: g["of float64"].agg(a),
    lambda g, a, b: g[["of float64"]].agg([a, b, "size"]),
]
NUMBERS = {"int64": st.integers(-(2**40), 2**40), "float64": st.integers(-999, 999) | st.just(np.nan)}
FUNCTIONS = [
    lambda x: x.max() if len(x) else None,
    len,
    functools.partial(lambda x, more: x.count() + more, more=2),
    np.ptp,
]


@st.composite
def numbers(draw):
    """A frame with both kinds of numbers as values."""
    df = draw(frames(["bool"]))
    df = df.drop(columns="of bool")
    for kind, values in NUMBERS.items():
        column = draw(st.lists(values, min_size=len(df), max_size=len(df)))
        df[f"of {kind}"] = np.array(column, dtype=kind)
    return df


@GENERATED
@given(
    numbers(), BY, OPTIONS, st.sampled_from(SPECS), st.sampled_from(NAMES[:-1]), st.sampled_from(NAMES[:-1])
)
def test_specs_of_names(df, by, options, spec, one, two):
    df = df[[*KEYS, "of int64", "of float64"]]
    exact = not INEXACT & {one, two}
    wide = [lambda g: spec(g[["of int64", "of float64"]], one, two), lambda g: spec(g, one, two)]
    for call in wide:
        check(df, by, call, exact=exact, **options)


@GENERATED
@given(
    numbers(),
    BY,
    OPTIONS,
    st.sampled_from(SPECS),
    st.sampled_from(FUNCTIONS[:3]),
    st.sampled_from([*FUNCTIONS[:3], "sum", "nunique"]),
    st.integers(1, 6),
)
def test_specs_with_functions(df, by, options, spec, one, two, partitions):
    check(df, by, lambda g: spec(g[["of int64", "of float64"]], one, two), partitions=partitions, **options)


@pytest.mark.parametrize("slots", [1, 2, 16, 100])
@pytest.mark.parametrize("columns", [1, 1000])
def test_tasks_become_smaller_until_they_are_small(slots, columns):
    df = pd.DataFrame(np.zeros((20_000, columns)), copy=False)
    tasks = Grouping(df.groupby(np.arange(20_000) // 10)).split(df, None, slots)
    groups = [len(task.sizes) for task in tasks]
    assert sum(groups) == 2_000
    assert all(later <= earlier + 1 for earlier, later in pairwise(groups))  # they are whole numbers
    assert max(groups) - 1 <= 2_000 / (4 * max(slots, 2))  # every slot has several
    assert min(groups) - 1 <= 2_000 / max(64, 4 * slots)
    assert len(tasks) <= max(64, 4 * slots)
    assert max(task.nbytes for task in tasks) <= max(TASK_BYTES, 20_000 * 8 * columns / 64) * 1.01


APPLIED = {
    "scalar": lambda x: len(x) * 2,
    "name": lambda x: repr(x.name),
    "what it gets": lambda x: repr((type(x), list(getattr(x, "columns", [])), len(x))),
    "some rows": lambda x: x.head(2),
    "all rows": lambda x: x,
    "all rows, changed": lambda x: x[::-1],
    "described": lambda x: x.describe() if x.ndim == 1 else pd.Series({"a": len(x), "b": "text"}),
    "some None": lambda x: None if len(x) % 2 else x.head(1),
    "all None": lambda _x: None,
    "other kinds": lambda x: x if len(x) % 2 else len(x),
    "rows of its own": lambda x: pd.DataFrame({"n": [len(x), -1], "w": ["a", "b"]}),
    "series of its own": lambda x: pd.Series([len(x)] * (1 + len(x) % 2)),
    "a dict": lambda x: {"n": len(x)},
}


@GENERATED
@given(numbers(), BY, OPTIONS, st.sampled_from(sorted(APPLIED)), st.booleans(), st.integers(1, 6))
def test_apply(df, by, options, fn, one_column, partitions):
    check(
        df,
        by,
        lambda g: (g["of float64"] if one_column else g).apply(APPLIED[fn]),
        partitions=partitions,
        **options,
    )


TRANSFORMED = {
    "centred": lambda x: x - x.mean(),
    "one value": lambda x: x.count(),
    "whole numbers": lambda x: x.rank().fillna(0).astype("int64"),
    "not for frames": lambda x: x - x.iloc[0] if x.ndim == 1 else 1 / 0,
    "differs for frames": lambda x: x * x.ndim,
    "sometimes for frames": lambda x: x + (len(x) > 2 and x.ndim - 1),
    "name": lambda x: x * 0 + (len(repr(x.name)) if x.ndim == 1 else 1),
}


@GENERATED
@given(numbers(), BY, OPTIONS, st.sampled_from(sorted(TRANSFORMED)), st.booleans(), st.integers(1, 6))
def test_transform_by_a_function(df, by, options, fn, one_column, partitions):
    select = "of float64" if one_column else ["of int64", "of float64"]
    check(df, by, lambda g: g[select].transform(TRANSFORMED[fn]), partitions=partitions, **options)


@GENERATED
@given(
    frames(),
    BY,
    OPTIONS,
    st.sampled_from(
        ["cumsum", "cummax", "rank", "shift", "diff", "ffill", "mean", "first", "max", "nunique", "ngroup"]
    ),
)
def test_transform_by_name(df, by, options, name):
    values = [column for column in df.columns if column.startswith("of ")]
    for select in (values, values[0]):
        check(df, by, lambda g: g[select].transform(name), exact=name not in INEXACT, **options)  # noqa: B023


@GENERATED
@given(numbers(), BY, OPTIONS, st.booleans(), st.sampled_from(["many", "mean", "name", "missing", "text"]))
def test_filter(df, by, options, dropna, which):
    questions = {
        "many": lambda x: len(x) > 2,
        "mean": lambda x: (x if x.ndim == 1 else x["of float64"]).mean() > 0,
        "name": lambda x: "a" in repr(x.name),
        "missing": lambda x: np.nan if len(x) == 1 else True,
        "text": lambda _x: "yes",
    }
    check(df, by, lambda g: g.filter(questions[which], dropna), **options)
    check(df, by, lambda g: g["of float64"].filter(questions[which], dropna), **options)


# ---------------------------------------------------------------- keys

ROWS = pd.DataFrame(
    {"k": list("babcab"), "x": [1, 2, 3, 4, 5, 6], "y": [0.5, np.nan, 2, 3, 4, 5]}, index=[3, 1, 1, 2, 5, 0]
)
VERBS = {
    "sum": lambda g: g[["x", "y"]].sum(),
    "median": lambda g: g["x"].median(),
    "apply": lambda g: g[["x"]].apply(lambda x: x.head(1)),
    "agg": lambda g: g.agg(a=("x", "sum"), b=("y", lambda x: x.sum())),
    "transform": lambda g: g["x"].transform(lambda x: x - x.min()),
    "filter": lambda g: g.filter(lambda x: len(x) > 1),
    "size": lambda g: g.size(),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "by",
    [
        ROWS["k"],
        ROWS["k"].rename("other"),
        ROWS["k"].to_numpy(),
        list(ROWS["k"]),
        {0: "p", 1: "q", 2: "p"},
        lambda label: label % 2,
        pd.Grouper("k"),
        ["k", lambda label: label % 2],
        ROWS["x"] > 2,
        pd.Categorical(ROWS["k"], ["c", "b", "a", "unseen"]),
        ROWS["k"].astype("category"),
        [pd.Categorical(ROWS["k"], ["c", "b", "a", "unseen"]), "x"],
        ROWS["k"].iloc[[5, 4, 3, 0]][lambda s: ~s.index.duplicated()],
        pd.Series(pd.date_range("2024", periods=6, tz="UTC"), ROWS.index).dt.floor("2D"),
    ],
    ids=[
        "a column",
        "another series",
        "an array",
        "a list",
        "a dict",
        "a function",
        "a Grouper",
        "a label and a function",
        "a condition",
        "a categorical",
        "a categorical series",
        "a categorical and a label",
        "an unaligned series",
        "times",
    ],
)
@pytest.mark.parametrize("observed", [True, False])
def test_keys_of_all_kinds(by, verb, observed):
    check(ROWS, by, VERBS[verb], observed=observed)
    check(ROWS, by, VERBS[verb], observed=observed, as_index=False, sort=False)


@pytest.mark.parametrize("verb", ["sum", "median", "apply", "transform", "filter", "size"])
def test_bins_of_time(verb):
    times = pd.to_datetime(
        ["2024-01-05", "2024-01-01", "2024-03-01", "2024-01-02", "2024-03-02", "2024-01-09"]
    )
    df = ROWS.assign(t=times)
    check(df, pd.Grouper(key="t", freq="W"), VERBS[verb])
    check(df, [pd.Grouper(key="t", freq="MS"), "k"], VERBS[verb])


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("level", [0, "q", ["q", "p"]])
def test_levels(verb, level):
    df = ROWS.set_index(pd.MultiIndex.from_arrays([list("uvuvuv"), [1, 1, 2, 2, 3, 3]], names=["p", "q"]))
    want = outcome(lambda: VERBS[verb](df.groupby(level=level)))
    assert_same(outcome(lambda: VERBS[verb](parted(df, level=level))), want)


@pytest.mark.parametrize("name", [*NAMES, "apply", "transform"])
def test_a_series(name):
    data = ROWS["y"]
    verbs = {
        "apply": lambda g: g.apply(lambda x: x.head(1)),
        "transform": lambda g: g.transform(lambda x: -x),
    }
    verb = verbs.get(name, lambda g: getattr(g, name)())
    for by in (ROWS["k"].to_numpy(), lambda label: label % 2, ROWS["k"].astype("category")):
        check(data, by, verb, exact=name not in INEXACT)


@pytest.mark.parametrize("name", NAMES[:-1])
@pytest.mark.parametrize(
    "columns",
    [
        ["k", "x", "x"],
        pd.MultiIndex.from_tuples([("k", ""), ("a", "x"), ("a", "y")]),
        ["k", 1, 0],
        pd.Index(["k", "x", "y"], name="labels"),
        ["k", None, np.nan],
    ],
    ids=["repeated", "levels", "numbers", "named", "missing"],
)
def test_labels_of_all_kinds(columns, name):
    df = ROWS.set_axis(columns, axis=1)
    by = ("k", "") if isinstance(columns, pd.MultiIndex) else "k"
    for options in ({}, {"as_index": False}):
        check(df, by, lambda g: getattr(g, name)(), exact=name not in INEXACT, **options)
        check(df, by, lambda g: g.agg([name, "size"]), exact=name not in INEXACT, **options)
        check(df, by, lambda g: g.agg(lambda x: x.iloc[0]), **options)
        check(df, by, lambda g: g.transform(lambda x: x.iloc[0]), **options)
        check(df, by, lambda g: g.apply(lambda x: x.iloc[0]), **options)


@pytest.mark.parametrize("by", ["nowhere", ["k", "nowhere"], [], None])
def test_keys_that_are_not_there(by):
    run = Workers()
    with pytest.raises(Exception) as want:
        ROWS.groupby(by)
    with pytest.raises(type(want.value)) as got:
        parted(ROWS, by, run=run)
    assert str(got.value) == str(want.value)
    with pytest.raises(KeyError, match="gone"):
        parted(ROWS, "k", run=run)["gone"]
    assert not run.ways


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "verb",
    [
        lambda g: g.sum(min_count=2),
        lambda g: g.sum(numeric_only=True),
        lambda g: g.mean(True),
        lambda g: g["y"].std(ddof=0),
        lambda g: g["y"].var(0),
        lambda g: g[["x", "y"]].sem(ddof=2),
        lambda g: g["y"].quantile(0.3),
        lambda g: g["y"].quantile([0.1, 0.9]),
        lambda g: g["x"].quantile(q=0.3, interpolation="lower"),
        lambda g: g["y"].nunique(dropna=False),
        lambda g: g.nunique(),
        lambda g: g["y"].first(skipna=False),
        lambda g: g["y"].min(skipna=False),
        lambda g: g["y"].any(skipna=False),
        lambda g: g[["y"]].agg("std", ddof=0),
        lambda g: g.agg("size"),
        lambda g: g["y"].agg("quantile", 0.2),
        lambda g: g.apply("sum"),
        lambda g: g["y"].agg("skew"),
        lambda g: g["y"].agg(lambda x, a, b=0: x.sum() + a + b, 2, b=3),
        lambda g: g.mean(),
        lambda g: g.std(),
        lambda g: g[["y"]].apply(lambda x, a, b: len(x) + a + b, 1, b=2),
        lambda g: g["y"].transform("shift", 2),
        lambda g: g["y"].transform(lambda x, n: x.shift(n), 1),
        lambda g: g.agg({"y": {"a": "sum"}}),
        lambda g: g[["x", "y"]].transform("rank", pct=True),
        lambda g: g.filter(lambda x, n: len(x) > n, True, 1),
        lambda g: g.agg({"gone": "sum"}),
        lambda g: g.agg({"k": "sum"}),
        lambda g: g.agg(),
        lambda g: g.agg([]),
        lambda g: g.agg("no such name"),
        lambda g: g.agg(("sum", "mean")),
        lambda g: g.agg([sum, "sum"]),
        lambda g: g["y"].agg({"a": "sum"}),
        lambda g: g.agg([lambda x: x.max(), lambda x: x.min()]),
        lambda g: g[["x", "y"]].agg(lambda _x: [1, 2]),
        lambda g: g.x.sum(),
        lambda g: g[["x"]].sum(),
        lambda g: g["y"].filter("any"),
        lambda g: g.count(),
        len,
        lambda g: g.ngroups,
        lambda g: g.agg({"x": ["sum", "sum"]}),
        lambda g: g[["k"]].count(),
        lambda g: g["k"].nunique(),
    ],
)
@pytest.mark.parametrize("options", [{}, {"as_index": False, "sort": False}], ids=["", "flat"])
def test_arguments(verb, options):
    check(ROWS, "k", verb, exact=False, **options)


@pytest.mark.parametrize("ddof", [0, 1, 3])
def test_spread_is_sound_where_values_are_large(ddof):
    """Squares of these would lose all of it."""
    rng = np.random.default_rng(0)
    df = pd.DataFrame({"k": rng.integers(0, 3, 999), "x": 1e9 + rng.normal(size=999), "c": 0.1})
    want = {}
    for key, values in df.groupby("k")["x"]:
        exact = [Fraction(value) for value in values.tolist()]
        mean = sum(exact) / len(exact)
        want[key] = float(sum((value - mean) ** 2 for value in exact) / (len(exact) - ddof))
    for partitions in (1, 2, 7, 50):
        got = parted(df, "k", partitions=partitions).var(ddof=ddof)
        assert got["x"].to_dict() == pytest.approx(want, rel=1e-12)
        assert (got["c"] == 0).all()
        assert_frame_equal(got, df.groupby("k").var(ddof=ddof), rtol=1e-6, atol=1e-15)  # pandas' own error


def test_only_small_tables_come_back_of_one_large_group():
    """A key with nearly all rows is parted, too."""
    df = pd.DataFrame({"k": np.where(np.arange(50_000) % 10, 7, np.arange(50_000)), "x": 1, "y": 0.5})
    sizes = []

    def run(items, fn, **_options):
        assert len(items) == 4
        assert max(item.nbytes for item in items) < 400_000
        results = [fn(item) for item in items]
        sizes.extend(len(pickle.dumps(result)) for result in results)
        return results

    got = parted(df[df["k"] < 100], "k", run=run, partitions=4).agg({"x": "sum", "y": ["mean", "std"]})
    assert_frame_equal(
        got, df[df["k"] < 100].groupby("k").agg({"x": "sum", "y": ["mean", "std"]}), rtol=1e-12
    )
    assert max(sizes) < 20_000


def test_what_is_sent_is_what_is_needed():
    run = Workers()
    by = parted(ROWS, "k", run=run)
    by[["x", "y"]].agg(["sum", "std", "first"])
    by["x"].median()
    by["x"].transform("cumsum")
    by["x"].apply(len)
    by["x"].agg(["sum", len])
    by[["x", "y"]].transform(lambda x: x - x.min())
    by[["x", "y"]].transform(lambda x: x * x.ndim)
    assert run.ways == ["Partial", "Whole", "NamedTransform", "EachGroup", *["Recorded"] * 3]
    by.size()
    assert len(run.ways) == 7


def test_each_group_is_called_once_and_nothing_else(tmp_path):
    def fn(rows):
        with (tmp_path / "calls").open("a") as file:
            file.write(f"{rows.name} {len(rows)}\n")
        return len(rows)

    parted(ROWS, "k", partitions=2)[["x", "y"]].apply(fn)
    assert (tmp_path / "calls").read_text().splitlines() == ["a 2", "b 3", "c 1"]
    (tmp_path / "calls").unlink()
    parted(ROWS[:0], "k")[["x", "y"]].apply(fn)
    assert not (tmp_path / "calls").exists()


def test_an_error_says_in_which_group():
    with pytest.raises(ZeroDivisionError) as caught:
        parted(ROWS, "k").apply(lambda rows: 1 / (len(rows) - 1))
    assert "(in group 'c')" in caught.value.__notes__


@pytest.mark.parametrize("data", [[1, 2], {"k": [1]}, None, np.zeros(3)])
def test_what_is_no_frame(data):
    with pytest.raises(ConfigError, match=type(data).__name__):
        grouped(data, "k", {}, Workers())


def test_what_makes_no_sense():
    with pytest.raises(ConfigError, match="sort"):
        parted(ROWS, "k", sorted=True)
    with pytest.raises(ConfigError, match="partitions"):
        parted(ROWS, "k", partitions=0)
    with pytest.raises(ConfigError, match="callable"):
        parted(ROWS, "k").apply(3)
    with pytest.raises(ConfigError, match="callable"):
        parted(ROWS, "k").filter(3)
    with pytest.raises(ConfigError, match=r"rolling.*apply"):
        parted(ROWS, "k").rolling(2)
    with pytest.raises(AttributeError):
        _ = parted(ROWS, "k").nothing_at_all
    assert not hasattr(parted(ROWS, "k"), "rolling")


def test_how_it_is_shown():
    by = parted(ROWS, "k")
    assert repr(by) == "<GroupBy of 6 rows in 3 groups>"
    assert {"x", "y", "apply"} <= set(dir(by))
    assert [key for key, _ in by] == ["a", "b", "c"]
