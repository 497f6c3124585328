"""Map-reduce by keys gives what pandas' groupby gives, whatever the keys are."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import os
import subprocess
import sys
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from here import travel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal, assert_series_equal

from nbmr import mapreduce, unit
from nbmr.buckets import Bucket
from nbmr.errors import ConfigError
from nbmr.hashing import bucket_of
from nbmr.mapping import Map, Reduce


def run(parts, reducer, by, count=3, mapper=lambda part: part, combiner=None, held=None):
    """Map and reduce here, with all that travels pickled."""
    names = mapreduce.check(mapper, reducer, by, combiner, count)
    mapped = [travel(Map(mapper, names, combiner, count, items=False)(part)) for part in parts]
    reduced = []
    for number in range(count):
        unit.enter(number)
        try:
            reduced.append(travel(Reduce(reducer, by, count, combiner, held)(mapped)))
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


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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


# ---------------------------------------------------------------- large buckets


@pytest.mark.parametrize("held", [300, 1_000])
@pytest.mark.parametrize("keys", KEYS.values(), ids=KEYS)
def test_a_bucket_in_pieces(keys, held):
    """As if no more than so many bytes fitted into memory."""
    parts = parts_of(keys)
    for reducer in (REDUCERS["series"], REDUCERS["order"]):
        same(run(parts, reducer, "k", held=held), wanted(parts, reducer, "k"))


def test_pieces_have_about_so_many_bytes():
    rng = np.random.default_rng(0)
    parts = [pd.DataFrame({"k": rng.integers(0, 1_000, 5_000), "v": range(5_000)}) for _ in range(4)]
    mapped = [travel(Map(lambda part: part, ["k"], None, 1, items=False)(part)) for part in parts]
    bucket = Bucket(mapped, [0])
    pieces = [len(piece) for piece in bucket.pieces(["k"], bucket.nbytes // 10)]
    assert sum(pieces) == 20_000
    assert len(pieces) in (10, 11)
    assert max(pieces) < 4_000
    rows = [rows for _, rows in Bucket(mapped, [0]).numbered_pieces(["k"], 1 << 30)]
    assert not rows[0].size  # nobody has asked for numbers


@pytest.mark.parametrize("held", [500, 3_000, 1 << 30])
def test_a_combiner_runs_again_where_a_bucket_is_large(held):
    parts = [pd.DataFrame({"k": np.arange(60) % 30, "v": range(60)}) for _ in range(20)]
    calls = []

    def combiner(frame):
        calls.append(len(frame))
        return frame.groupby("k", as_index=False).sum()

    seen = []

    def reducer(rows):
        seen.append(len(rows))
        return rows.v.sum()

    same(run(parts, reducer, "k", 2, combiner=combiner, held=held), wanted(parts, REDUCERS["scalar"], "k"))
    again = len(calls) > len(parts)
    assert again == (held < 1 << 30)
    # where combined rows are still too many, it is not called for ever, and each key has its rows at once
    assert max(seen) < 20 if held == 3_000 else max(seen) == 20


def test_what_a_combiner_gives_is_checked_there_too():
    parts = [pd.DataFrame({"k": np.arange(60) % 30, "v": range(60)}) for _ in range(20)]
    calls = []

    def combiner(frame):
        calls.append(frame)
        return frame if len(calls) <= len(parts) else frame.assign(z=1)

    with pytest.raises(ValueError, match="columns that it gets"):
        run(parts, len, "k", 2, combiner=combiner, held=3_000)


def test_types_are_those_of_all_rows_together():
    """Also in a bucket that has rows of some partitions only, and where partitions have other columns."""
    parts = [
        pd.DataFrame({"k": [1, 1, 2, 3], "v": [1, 2, 3, 4], "c": pd.Categorical(list("abab"))}),
        pd.DataFrame({"k": [4.5], "v": [0.5], "c": pd.Categorical(["z"])}),
        pd.DataFrame({"k": [5, 6], "w": [True, False]}),
    ]
    for count in (1, 5):
        for reducer in (REDUCERS["scalar"], lambda rows: str(rows.dtypes.to_dict()), lambda rows: rows.max()):
            same(run(parts[:2], reducer, "k", count), wanted(parts[:2], reducer, "k"))
        reducer = lambda rows: str(rows.dtypes.to_dict())  # noqa: E731
        same(run([*parts, parts[0][:0]], reducer, "k", count), wanted([*parts, parts[0][:0]], reducer, "k"))


@pytest.mark.parametrize(
    "values",
    [
        [pd.array([np.nan, 0.0]), pd.array([True, False], "boolean")],
        [np.array([np.nan, 0.0]), pd.array([True, False], "boolean")],
        [np.array([2**60 + 1] * 2), np.array([0.5, 1.5]), np.array(["a", "b"], object)],  # no digit is lost
        [np.array(["NaT", 0], "datetime64[ns]"), np.array([0.5, 1.5])],
        [pd.Categorical([1, None]), np.array([1, 2])],
        [pd.Categorical([1, 2]), np.array([], float), np.array([1, 2])],
        [np.array([np.nan, np.nan]), pd.array([1, 2], "Int64"), np.array([], object)],
    ],
)
@pytest.mark.parametrize("held", [300, 1 << 30])
@pytest.mark.filterwarnings("ignore:The behavior of .* concatenation:FutureWarning")  # by pandas 2
def test_rows_of_some_partitions_are_as_among_all(values, held):
    """Also where a bucket has no row of the one that makes the type what it is, or none that has a value."""
    *usual, last = [pd.DataFrame({"k": range(len(one)), "v": one}).astype({"k": "int64"}) for one in values]
    parts = [*usual, last.assign(k=last.k + 7)]

    def reducer(rows):
        return f"{rows.v.dtype} {list(rows.v)!r}"

    for count in (1, 9):
        same(run(parts, reducer, "k", count, held=held), wanted(parts, reducer, "k"))


class Named(str, enum.Enum):  # noqa: UP042 - its text is not its value
    A = "a"


class Equal:
    """Equal objects whose texts differ."""

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return isinstance(other, Equal) and self.number == other.number

    def __hash__(self):
        return hash(self.number)

    def __lt__(self, other):
        return self.number < other.number


@pytest.mark.parametrize(
    "values",
    [
        [(1, "a"), (1.0, "a"), (True, np.str_("a"))],
        [1, 1.0, 1 + 0j, np.complex128(1), Fraction(1)],
        ["a", Named.A],
        [Equal(1), Equal(1)],
        [frozenset("abc"), frozenset("cba")],
        [10**400, decimal.Decimal(10**400)],
        [pd.Interval(0, 1), pd.Interval(0.0, 1.0)],
        [b"a", b"a"],
        [pd.Period("2020-01"), pd.Period("2020-01")],
        [0.0, -0.0, False],
    ],
)
def test_what_is_equal_shares_a_bucket(values):
    mixed = pd.DataFrame({"k": pd.Series(values, dtype=object)})
    alone = [bucket_of(pd.DataFrame({"k": pd.Series([value], dtype=object)}), 997)[0] for value in values]
    assert len({*bucket_of(mixed, 997), *alone}) == 1


@pytest.mark.parametrize(
    "dtype", ["Int64", "Float32", "boolean", "string", "category", "complex128", "datetime64[s]",
              "timedelta64[ms]", "Sparse[int]"],
)  # fmt: skip
def test_typed_keys_share_a_bucket_with_their_objects(dtype):
    """A partition of another type may make the column one of objects."""
    values = pd.Series([1, 0, 1, 1], dtype="int64").astype(dtype)
    objects = pd.Series(list(values), dtype=object)
    typed_, plain = (bucket_of(pd.DataFrame({"k": one}), 997) for one in (values, objects))
    assert list(typed_) == list(plain)
    assert typed_[0] == typed_[2]


def test_buckets_do_not_depend_on_the_process():
    """Python hashes texts otherwise in each."""
    program = (
        "import pandas as pd; from nbmr.hashing import bucket_of;"
        "print(list(bucket_of(pd.DataFrame({'k': pd.Series([frozenset('abc'), ('a', 1), 'x', b'y', 2.5,"
        " object], dtype=object)}), 997)))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True,
            text=True, check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(found) == 1


KEY = st.integers(-3, 3) | st.floats(width=16) | st.booleans() | st.sampled_from(["a", "b", ""]) | st.none()
COLUMNS = {
    "int64": st.integers(-3, 3),
    "float64": st.integers(-3, 3) | st.just(float("nan")),
    "Int64": st.integers(-3, 3) | st.none(),
    "boolean": st.booleans() | st.none(),
    "bool": st.booleans(),
    "str": st.sampled_from(["a", "b", ""]) | st.none(),
    "category": st.sampled_from(["a", "b"]) | st.none(),
    "datetime64[ns, Europe/Berlin]": st.sampled_from([0, 10**18]).map(pd.Timestamp) | st.none(),
}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_keys(data):
    """Partitions whose key columns have types of their own; and keys of several columns."""
    dtypes = data.draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=3))
    width = data.draw(st.integers(1, 2))
    parts, start = [], 0
    for dtype in dtypes:
        rows = data.draw(st.integers(0, 6))
        columns = {
            f"k{number}": pd.Series(
                data.draw(st.lists(COLUMNS[dtype], min_size=rows, max_size=rows)), dtype=dtype
            )
            for number in range(width)
        }
        parts.append(pd.DataFrame(columns).assign(v=range(start, start + rows)))
        start += rows
    by = [f"k{number}" for number in range(width)] if width > 1 else "k0"
    count, held = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([600, 1 << 30]))
    outcomes = []
    for way in (
        lambda: wanted(parts, REDUCERS["order"], by),
        lambda: run(parts, REDUCERS["order"], by, count, held=held),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                outcomes.append(way())
            except TypeError as exc:  # they can't be sorted
                outcomes.append(exc)
    want, got = outcomes
    if isinstance(want, TypeError):
        return
    if isinstance(got, TypeError):
        raise got
    if not len(want):
        assert not len(got)
        return
    # what type pandas infers for a level of objects depends on which rows it was told of
    assert_series_equal(got, want, check_exact=True, check_index_type=width == 1)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(parts=st.lists(st.lists(KEY, max_size=6), min_size=1, max_size=3), count=st.integers(1, 4))
def test_keys_of_any_objects(parts, count):
    frames = [pd.DataFrame({"k": pd.Series(part, dtype=object), "v": range(len(part))}) for part in parts]
    try:
        want = wanted(frames, REDUCERS["order"], "k")
    except TypeError:  # pandas can't sort them
        return
    got = run(frames, REDUCERS["order"], "k", count)
    if len(want):
        assert_series_equal(got, want, check_exact=True)
    else:
        assert not len(got)


VALUE_COLUMNS = COLUMNS | {
    "Float64": st.sampled_from([0.5, -2.0]) | st.none(),
    "large": st.sampled_from([2**60 + 1, 2**53 + 1]),  # which no float has
    "numbers as categories": st.integers(0, 2) | st.none(),
    "datetime64[s]": st.sampled_from([0, 86400 * 10**9]).map(pd.Timestamp) | st.none(),
    "timedelta64[ns]": st.sampled_from([0, 10**9]).map(pd.Timedelta) | st.none(),
    "object": st.integers(0, 2) | st.just("a") | st.none(),
}
OTHER_NAMES = {"large": "int64", "numbers as categories": "category"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_values(data):
    """Rows are as among all rows together: types, values, what stands for missing ones, and labels."""
    parts, start = [], 0
    for _ in range(data.draw(st.integers(1, 4))):
        rows = data.draw(st.integers(0, 4))
        columns = {"k": data.draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))}
        for name in data.draw(st.sampled_from([["v"], ["v", "w"], ["w", "v"]])):
            dtype = data.draw(st.sampled_from(list(VALUE_COLUMNS)))
            values = data.draw(st.lists(VALUE_COLUMNS[dtype], min_size=rows, max_size=rows))
            columns[name] = pd.Series(values, dtype=OTHER_NAMES.get(dtype, dtype))
        label = data.draw(st.sampled_from([int, float, str]))
        part = pd.DataFrame(columns).astype({"k": "int64"})
        parts.append(part.set_axis(pd.Index([label(n) for n in range(start, start + rows)], dtype=label)))
        start += rows

    def told(rows):
        found = [f"{name} {rows[name].dtype}: {list(rows[name])!r}" for name in rows.columns]
        return "; ".join([*found, f"{rows.index.dtype}: {list(rows.index)}"])

    count, held = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([300, 1 << 30]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want, got = wanted(parts, told, "k"), run(parts, told, "k", count, held=held)
    assert got.to_dict() == (want.to_dict() if len(want) else {})
