"""polars' frames: cut, sent and gathered, they are what they were. See also test_libraries.py."""

from __future__ import annotations

import datetime as dt
import decimal

import numpy as np
import pandas as pd
import pytest
from here import TIMES, mapped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbmr import codec, frames
from nbmr.errors import ConfigError, GatherError, PickleError
from nbmr.frames import library_of
from nbmr.groups import grouped
from nbmr.reduction import first_level
from nbmr.tasks import source_of, weight

pl = pytest.importorskip("polars", minversion="1.32")
from polars.testing import assert_frame_equal, assert_series_equal  # noqa: E402
from polars.testing.parametric import dataframes  # noqa: E402

#: One column of every type that can travel.
EVERY = pl.DataFrame(
    {
        "int": [1, None, 3, 4, 5],
        "float": [0.1, None, float("nan"), float("inf"), -0.0],
        "bool": [True, None, False, True, True],
        "text": ["a", None, "", "ä" * 40, "x"],
        "bytes": [b"a", None, b"", b"\0", b"x" * 40],
        "null": [None] * 5,
        "date": [dt.date(2026, 1, 1), None, *[dt.date(1969, 1, 1)] * 3],
        "time": pl.Series([dt.time(1), None, dt.time(2), dt.time(3), dt.time(23, 59)]),
        "naive": TIMES,
        "zone": pl.Series(TIMES).dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Paris"),
        "span": pl.Series([dt.timedelta(hours=1), None, *[dt.timedelta(microseconds=-1)] * 3]),
        "decimal": pl.Series([decimal.Decimal("1.50"), None, *[decimal.Decimal("-2.25")] * 3]),
        "category": pl.Series(["a", "b", None, "a", "c"], dtype=pl.Categorical),
        "enum": pl.Series(["b", "a", None, "a", "a"], dtype=pl.Enum(["a", "b", "never"])),
        "list": [[1], None, [], [1, None], [2, 3]],
        "array": pl.Series([[1, 2]] * 4 + [None], dtype=pl.Array(pl.Int8, 2)),
        "struct": [{"a": 1, "b": [{"c": "x"}]}] * 4 + [None],
    }
)


# ---------------------------------------------------------------- the same as on the whole


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    dataframes(max_cols=4, max_size=12, excluded_dtypes=[pl.Object], allow_null=True),
    st.integers(1, 13),
)
def test_any_frame_is_what_it_was(frame, partitions):
    assert_frame_equal(mapped(frame, lambda part: part, partitions), frame)
    for column in frame.get_columns():
        assert_series_equal(mapped(column, lambda part: part, partitions), column)


@pytest.mark.parametrize("partitions", [1, 2, 5, 99])
@pytest.mark.parametrize("name", EVERY.columns)
def test_every_type(name, partitions):
    one = EVERY.select(name)
    assert_frame_equal(mapped(one, lambda part: part, partitions), one)
    assert_series_equal(mapped(one[name], lambda part: part, partitions), one[name])
    assert_frame_equal(mapped(one[:0], lambda part: part, partitions), one[:0])


ROWWISE = {
    "computed": lambda part: part.with_columns(twice=pl.col("int") * 2, text=pl.col("text") + "!"),
    "some rows": lambda part: part.filter(pl.col("int") > 3),
    "no rows": lambda part: part.filter(pl.col("int") > 9),
    "series": lambda part: part["float"] * 2,
    "expression": lambda part: part.select(pl.col("int").is_null()).to_series(),
    "no columns": lambda part: part.select([]),
    "guessed types": lambda part: pl.DataFrame({"x": [1 if x == 3 else None for x in part["int"]]}),
    "lazy": lambda part: part.lazy().filter(pl.col("int") > 3),
}


@pytest.mark.parametrize("partitions", [1, 2, 5])
@pytest.mark.parametrize("fn", ROWWISE.values(), ids=ROWWISE)
def test_the_same_as_the_function_on_the_whole(fn, partitions):
    got, want = mapped(EVERY, fn, partitions), fn(EVERY)
    assert type(got) is type(want)
    (assert_series_equal if isinstance(want, pl.Series) else assert_frame_equal)(got, want)


@pytest.mark.parametrize("to", [pl.DataFrame.to_pandas, lambda part: part["int"].to_pandas()])
def test_rows_of_pandas_are_numbered_on(to):
    numbers = EVERY.select("int", "float")
    got, want = mapped(numbers, to, 3), to(numbers)
    assert got.index.equals(want.index)
    assert isinstance(got.index, pd.RangeIndex)
    assert type(got) is type(want)
    labelled = mapped(numbers, lambda part: part.to_pandas().set_index("int"), 5)
    assert labelled.index.name == "int"


def test_the_data_is_what_it_was_when_the_job_was_made():
    frame = pl.DataFrame({"a": [1, 2, 3, 4]})
    source = source_of(frame, 2, 2)
    frame[0, "a"] = 99
    frame.insert_column(0, pl.Series("b", [0] * 4))
    assert [task.units[0]["a"].to_list() for task in source.tasks(lambda: None)] == [[1, 2], [3, 4]]
    assert source.again(1, 1, 1).units[0]["a"].to_list() == [3, 4]
    assert [task.rows for task in source.tasks(lambda: None)] == [("0", "1"), ("2", "3")]


# ---------------------------------------------------------------- results of other kinds


def test_scalars_of_numpy_become_series():
    assert_series_equal(mapped(EVERY, lambda part: np.float32(part.height), 5)[:1], pl.Series([1.0]))


def test_frames_of_every_type_are_left_out_where_nothing_came_and_other_libraries_make_a_list():
    assert_frame_equal(mapped(EVERY, lambda part: part if part.height == 2 else None, 2), EVERY[3:])
    kinds = mapped(EVERY, lambda part: part if part.height == 3 else part.to_pandas(), 2)
    assert list(map(type, kinds)) == [pl.DataFrame, pd.DataFrame]


def test_numbers_do_not_silently_become_text():
    def odd(part):
        return part.select(x=pl.col("int") if part.height == 3 else pl.col("text"))

    assert [part.height for part in mapped(EVERY, odd, 2)] == [3, 2]
    with pytest.raises(GatherError, match=r"polars can't .* 'x' is Int64 in one .* String in another"):
        mapped(EVERY, odd, 2, how="concat")
    nested = [pl.DataFrame({"x": [[{"a": 1}]]}), pl.DataFrame({"x": [[{"a": "1"}]]})]
    assert isinstance(frames.gather(list(nested), of_frame=True), list)
    assert mapped(EVERY, lambda part: {"a": 3 if part.height == 3 else "x"}, 2) == [{"a": 3}, {"a": "x"}]


def test_types_of_series_that_disagree_become_a_common_one():
    series = [pl.Series("a", [1]), pl.Series("a", [None]), pl.Series("a", [0.5])]
    assert_series_equal(frames.gather(series, of_frame=False), pl.Series("a", [1.0, None, 0.5]))


def test_a_frame_of_pandas_may_give_polars():
    frame = pd.DataFrame({"a": range(6)})
    assert_frame_equal(mapped(frame, pl.from_pandas, 3), pl.from_pandas(frame))


# ---------------------------------------------------------------- what travels


def test_partitions_together_are_as_large_as_the_frame():
    texts = pl.Series([f"some text {number:06}" for number in range(200_000)])
    frame = pl.DataFrame({"a": range(200_000), "b": np.arange(200_000.0), "text": texts})
    whole = sum(memoryview(part).nbytes for part in codec.encode(frame))
    source = source_of(frame, 16, 2)
    sent = [codec.encode(task.units) for task in source.tasks(lambda: None)]
    assert sum(memoryview(part).nbytes for parts in sent for part in parts) < 1.1 * whole
    assert all(len(parts[0]) < 1_000 for parts in sent)  # the data is out of band
    estimated = library_of(frame).row_bytes(frame) * len(frame)
    assert whole / 2 < estimated < whole * 2
    assert weight(frame) == pytest.approx(estimated, rel=0.1)
    assert source_of(frame, None, 2).units == 16


def test_objects_cannot_travel_and_are_named():
    frame = pl.DataFrame({"a": [1], "bad": pl.Series([object()], dtype=pl.Object)})
    with pytest.raises(PickleError, match=r"column 'bad'.*polars has no way to send Python objects"):
        codec.encode(frame)


# ---------------------------------------------------------------- what can't be


def test_a_lazy_frame_has_to_be_collected():
    for refuse in (lambda data: source_of(data, None, 2), lambda data: first_level(data, None)):
        with pytest.raises(ConfigError, match=r"LazyFrame.*\.collect\(\)"):
            refuse(EVERY.lazy())
    with pytest.raises(ConfigError, match=r"polars LazyFrame\. Pass its \.collect\(\)\.to_pandas\(\)"):
        grouped(EVERY.lazy(), "int", {}, None)
