"""Map-reduce by keys gives what pandas' groupby gives, whatever the keys are."""

from __future__ import annotations

import datetime as dt
import decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal, assert_series_equal

from nbmr import codec, mapreduce, unit
from nbmr.buckets import Map, Reduce, bucket_of
from nbmr.errors import ConfigError


def travel(value):
    return codec.decode([bytearray(part) for part in codec.encode(value)])


def run(parts, reducer, by, count=3, mapper=lambda part: part, combiner=None):
    """Map and reduce here, with all that travels pickled."""
    names = mapreduce.check(mapper, reducer, by, combiner, count)
    mapped = [travel(Map(mapper, names, combiner, count, items=False)(part)) for part in parts]
    reduced = []
    for number in range(count):
        unit.enter(number)
        try:
            reduced.append(travel(Reduce(reducer, by, count)(mapped)))
        finally:
            unit.enter(None)
    return mapreduce.gather(reduced, by, names)


def wanted(parts, reducer, by):
    """What pandas gives."""
    whole = pd.concat(parts)
    rest = [name for name in whole.columns if name != by and name not in (by if isinstance(by, list) else ())]
    return whole.groupby(by, sort=True, observed=True)[rest].apply(reducer)


def same(got, expected):
    check = assert_frame_equal if isinstance(expected, pd.DataFrame) else assert_series_equal
    check(got, expected, check_exact=True)


KEYS = {
    "ints": [[1, 2, 1], [2, 3]],
    "ints and floats": [[1, 2, 1], [2.0, 3.5]],
    "bools and ints": [[True, False, True], [1, 0]],
    "small and large": [np.array([1, 2, 1], "int8"), np.array([2, 300], "uint64")],
    "zeros": [[0.0, 1.0, -0.0], [-0.0, 2.0]],
    "missing": [[1.0, np.nan, 1.0], [np.nan, 2.0]],
    "texts": [["a", "b", "a"], ["b", "ü"]],
    "text types": [pd.array(["a", "b", "a"], "str"), np.array(["b", None], object)],
    "texts and numbers": [np.array(["a", 1, "a"], object), [1.0, 2.0]],
    "categories": [pd.Categorical(["a", "b", "a"], list("abc")), pd.Categorical(["b", "c"], list("abc"))],
    "other categories": [pd.Categorical(["a", "b", "a"]), pd.Categorical(["b", "c"])],
    "dates": [pd.date_range("2020", periods=3), pd.to_datetime(["2020-01-02", "1969-12-31"])],
    "units": [pd.date_range("2020", periods=3, unit="s"), pd.date_range("2020", periods=2, unit="ns")],
    "zones": [pd.date_range("2020", periods=3, tz="CET"), pd.date_range("2020", periods=2, tz="CET")],
    "durations": [pd.timedelta_range("1h", periods=3), pd.timedelta_range("2h", periods=2)],
    "nullable": [pd.array([1, None, 1], "Int64"), pd.array([2, 1], "Int64")],
    "days": [[dt.date(2020, 1, 1), dt.date(2020, 1, 2)], [dt.date(2020, 1, 2)] * 2],
    "decimals": [[decimal.Decimal(1), decimal.Decimal(2), decimal.Decimal(1)], [decimal.Decimal("2.0")] * 2],
    "tuples": [[(1, 2), (3, 4), (1, 2)], [(3, 4), (5, 6)]],
}  # fmt: skip
REDUCERS = {
    "scalar": lambda rows: rows.v.sum(),
    "count": len,
    "series": lambda rows: pd.Series({"n": len(rows), "first": rows.v.iloc[0]}),
    "rows": lambda rows: rows[["v"]],
    "head": lambda rows: rows.head(1),
    "order": lambda rows: list(rows.v),
    "types": lambda rows: {"n": len(rows)},
}


def parts_of(keys):
    parts, start = [], 0
    for one in keys:
        parts.append(pd.DataFrame({"k": one, "v": range(start, start + len(one))}))
        start += len(one)
    return parts


@pytest.mark.parametrize("reducer", REDUCERS.values(), ids=REDUCERS)
@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_keys(keys, reducer):
    parts = parts_of(keys)
    try:
        expected = wanted(parts, reducer, "k")
    except ValueError as error:
        assert pd.__version__ < "3"  # which can't label rows by tuples
        with pytest.raises(ValueError, match=str(error)):
            run(parts, reducer, "k")
    else:
        same(run(parts, reducer, "k"), expected)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_several_keys(count):
    rng = np.random.default_rng(count)
    parts = [
        pd.DataFrame({"a": rng.integers(0, 4, 20), "b": rng.choice(["x", "y", None], 20), "v": range(20)})
        for _ in range(3)
    ]
    for by in (["a", "b"], ["b"], "a"):
        same(run(parts, REDUCERS["scalar"], by, count), wanted(parts, REDUCERS["scalar"], by))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    parts=st.lists(
        st.lists(st.tuples(st.integers(-3, 3) | st.floats(width=16) | st.none(), st.integers())),
        min_size=1,
        max_size=4,
    ),
    count=st.integers(1, 5),
)
def test_any_numbers(parts, count):
    frames = [pd.DataFrame(part, columns=["k", "v"]).astype({"k": float, "v": object}) for part in parts]
    got = run(frames, lambda rows: list(rows.v), "k", count)
    whole = pd.concat(frames).dropna(subset="k")
    expected = {key: list(group.v) for key, group in whole.groupby("k")}
    assert got.to_dict() == expected
    assert list(got.index) == sorted(expected)


def test_equal_keys_of_any_type_share_a_bucket():
    for values in (
        [1, 1.0, True, np.int8(1), decimal.Decimal(1)],
        [pd.Timestamp("2020"), dt.datetime(2020, 1, 1), np.datetime64("2020-01-01")],  # noqa: DTZ001
        ["a", np.str_("a")],
    ):
        mixed = pd.DataFrame({"k": np.array(values, dtype=object)})
        alone = [bucket_of(pd.DataFrame({"k": [value]}), 1000)[0] for value in values]
        assert len({*bucket_of(mixed, 1000), *alone}) == 1


def test_keys_are_spread():
    for keys in (range(10_000), [f"word {n}" for n in range(10_000)], pd.date_range("2020", periods=10_000)):
        found = np.bincount(bucket_of(pd.DataFrame({"k": keys}), 8), minlength=8)
        assert found.min() > 1_000


def test_a_combiner():
    parts = parts_of([[1, 2, 1, 1], [2, 3, 2]])
    calls = []

    def combiner(frame):
        calls.append(len(frame))
        return frame.groupby("k", as_index=False).sum()

    got = run(parts, lambda rows: rows.v.sum(), "k", combiner=combiner)
    assert got.to_dict() == {1: 5, 2: 11, 3: 5}


def test_nothing_at_all():
    parts = [pd.DataFrame({"k": pd.Series([], dtype=str), "v": []})]
    got = run(parts, len, "k")
    assert len(got) == 0
    assert got.index.name == "k"
    assert len(mapreduce.gather([None, None], "k", ["k"])) == 0
    assert len(run([None], len, "k", mapper=lambda _: None)) == 0


@pytest.mark.parametrize(
    ("mapper", "combiner", "kind", "said"),
    [
        (lambda _: 5, None, TypeError, "mapper has to give a DataFrame of pandas; it gave a int"),
        (lambda part: part[["v"]], None, KeyError, "no column 'k'"),
        (lambda part: part, lambda part: part.v, TypeError, "combiner has to give a DataFrame"),
        (lambda part: part, lambda part: part.assign(z=1), ValueError, "columns that it gets"),
    ],
)
def test_what_mapper_and_combiner_must_give(mapper, combiner, kind, said):
    with pytest.raises(kind, match=said):
        run(parts_of([[1, 2]]), len, "k", mapper=mapper, combiner=combiner)


def test_an_error_names_the_key():
    with pytest.raises(ZeroDivisionError) as caught:
        run(parts_of([["x", "y"]]), lambda rows: 1 // (rows.name != "y"), "k")
    assert caught.value.__notes__ == ["in the group of the key 'y', which has 1 rows"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((3, len, "k", None, None), "mapper has to be callable"),
        ((len, 3, "k", None, None), "reducer has to be callable"),
        ((len, len, "k", 3, None), "combiner has to be callable"),
        ((len, len, [], None, None), "name of a column"),
        ((len, len, ["a", "a"], None, None), "name of a column"),
        ((len, len, "k", None, 0), "reducers=0"),
        ((len, len, "k", None, 65), "reducers=65"),
        ((len, len, "k", None, 2.0), r"reducers=2\.0"),
    ],
)
def test_what_makes_no_sense(given, said):
    with pytest.raises(ConfigError, match=said):
        mapreduce.check(*given)


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000])
@pytest.mark.parametrize("lazy", [False, True])
def test_items_are_cut_into_few_partitions(count, lazy):
    data = [bytes(2 << 20)] * count if count < 70 else list(range(count))
    chunks, partitions, items = mapreduce.cut(iter(data) if lazy else data, None)
    assert items
    assert partitions == len(chunks) <= mapreduce.MOST_PARTITIONS
    assert [item for chunk in chunks for item in chunk] == data
    assert mapreduce.cut([], None)[0] is None
