"""Cutting a frame: which rows go into which partition, and what a partition weighs."""

import pickle
import sys

import numpy as np
import pandas as pd
import pytest

from nbmr.errors import ConfigError
from nbmr.frames import row_bounds, row_labels, take
from nbmr.frames.library import PARTITION_BYTES
from nbmr.frames.of_pandas import row_bytes


def encoded_size(value):
    buffers = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return len(head) + sum(buffer.raw().nbytes for buffer in buffers)


def sizes(bounds):
    return [stop - start for start, stop in bounds]


@pytest.mark.parametrize("rows", [1, 2, 7, 100, 101])
@pytest.mark.parametrize("partitions", [1, 2, 3, 7, 100, 1000, None])
def test_bounds_cover_all_rows_evenly(rows, partitions):
    bounds = row_bounds(pd.Series(range(rows)), partitions, 2)
    assert [row for start, stop in bounds for row in range(start, stop)] == list(range(rows))
    assert min(sizes(bounds)) >= 1
    assert max(sizes(bounds)) - min(sizes(bounds)) <= 1
    if partitions is not None:
        assert len(bounds) == min(partitions, rows)


@pytest.mark.parametrize("partitions", [None, 1, 5])
@pytest.mark.parametrize("frame", [pd.DataFrame(), pd.DataFrame({"a": []}), pd.Series([], dtype="int64")])
def test_a_frame_without_rows_is_one_partition(frame, partitions):
    assert row_bounds(frame, partitions, 2) == [(0, 0)]


@pytest.mark.parametrize("partitions", [0, -1, True, False, 2.0, "4", [1]])
def test_invalid_partitions_are_refused(partitions):
    with pytest.raises(ConfigError, match=r"partitions=.*whole number.*None"):
        row_bounds(pd.Series([1, 2]), partitions, 2)


def test_numpy_integers_are_whole_numbers():
    assert len(row_bounds(pd.Series(range(10)), np.int64(4), 2)) == 4


@pytest.mark.parametrize(("rows", "slots", "count"), [(50, 2, 16), (5, 2, 5), (50, 0, 8), (50, 16, 50)])
def test_few_small_rows_make_tasks_by_slots(rows, slots, count):
    frame = pd.DataFrame({"a": range(rows), "b": "x"})
    assert len(row_bounds(frame, None, slots)) == count


def test_rows_without_columns_make_tasks_by_slots():
    assert len(row_bounds(pd.DataFrame(index=range(1000)), None, 2)) == 16


WORDS = ["a", "some words", "a rather long sentence " * 20, None]
KINDS = {
    "floats": lambda n: pd.DataFrame(np.zeros((n, 8))),
    "series": lambda n: pd.Series(np.zeros(n)),
    "text": lambda n: pd.DataFrame({"a": pd.Series(WORDS * (n // 4), dtype="string")}),
    "python text": lambda n: pd.DataFrame({"a": pd.Series(WORDS * (n // 4), dtype="string[python]")}),
    "objects": lambda n: pd.DataFrame(
        {"a": pd.Series([str(i) * 40 for i in range(n)], dtype=object), "b": 1}
    ),
    "arrays": lambda n: pd.Series([np.zeros(100) for _ in range(n)]),
    "nullable": lambda n: pd.DataFrame({"a": pd.array([1, None] * (n // 2), dtype="Int64")}),
    "index of text": lambda n: pd.DataFrame(
        {"a": 1.0}, index=[f"a long label, number {i}" for i in range(n)]
    ),
    "sorted by size": lambda n: pd.DataFrame({"a": [f"{i}" * (1 + 200 * (i > n * 0.9)) for i in range(n)]}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_partitions_stay_under_the_message_limit(kind):
    data = KINDS[kind](160_000)
    parts = [take(data, *bounds) for bounds in row_bounds(data, None, 1)]
    largest = max(map(encoded_size, parts))
    assert largest < 1.5 * PARTITION_BYTES  # the limit of a message is twice as much
    total = sum(map(encoded_size, parts))
    assert len(parts) <= max(8, 12 * total / PARTITION_BYTES)  # a tenth of the rows may hold all bytes


def test_one_huge_cell_does_not_shatter_the_frame():
    cells = pd.Series(["x"] * 10_000, dtype=object)
    cells[0] = "y" * 50_000_000
    assert len(row_bounds(cells, None, 2)) <= 10_000 // 10


def test_the_estimate_looks_at_few_cells():
    class Cell:
        pickled = 0

        def __reduce__(self):
            Cell.pickled += 1
            return Cell, ()

    row_bytes(pd.DataFrame({"a": [Cell() for _ in range(50_000)], "b": 1.0}))
    assert 0 < Cell.pickled <= 1000


def test_cells_that_cannot_be_pickled_are_estimated():
    assert row_bytes(pd.Series([lambda: None] * 100)) > 0


def test_levels_may_share_a_name():
    index = pd.MultiIndex.from_arrays([["a", "b"], ["x", "y" * 100]], names=["n", "n"])
    assert 50 < row_bytes(pd.DataFrame({"v": [1, 2]}, index=index)) < 300


def test_many_columns_are_estimated_from_some():
    frame = pd.DataFrame({number: ["text"] * 4 for number in range(1000)}, dtype=object)
    one = row_bytes(frame.iloc[:, :1])
    assert row_bytes(frame) == pytest.approx(1000 * one)


def test_categories_do_not_make_more_partitions():
    data = pd.Series(pd.Categorical([f"name {i}" for i in range(200_000)]))
    assert len(row_bounds(data, None, 1)) == 8


class Special(pd.DataFrame):
    @property
    def _constructor(self):
        return Special


@pytest.mark.filterwarnings("ignore:Passing a BlockManager to Special:DeprecationWarning")  # by pandas 2.2.0
def test_take_keeps_type_and_attrs():
    frame = Special({"a": [1, 2, 3]})
    frame.attrs["unit"] = "m"
    part = take(frame, 1, 3)
    assert type(part) is Special
    assert part.attrs == {"unit": "m"}
    assert part["a"].tolist() == [2, 3]


def test_take_does_not_copy():
    frame = pd.DataFrame(np.zeros((100, 3)))
    assert np.shares_memory(take(frame, 10, 20).to_numpy(), frame.to_numpy())


ROWS = 10_000
LIGHT = {
    "float": lambda: pd.Series(np.zeros(ROWS)),
    "text": lambda: pd.Series([f"text {i}" for i in range(ROWS)]),
    "arrow": lambda: pd.Series([f"text {i}" for i in range(ROWS)], dtype="string[pyarrow]"),
    "nullable": lambda: pd.Series(range(ROWS), dtype="Int64"),
    "range": lambda: pd.Series(0.0, index=pd.RangeIndex(ROWS)),
    "dates": lambda: pd.Series(0.0, index=pd.date_range("2024", periods=ROWS, freq="min")),
    "periods": lambda: pd.Series(0.0, index=pd.period_range("2024", periods=ROWS, freq="min")),
    "intervals": lambda: pd.Series(0.0, index=pd.interval_range(0, ROWS)),
    "multi": lambda: pd.DataFrame(
        {"a": 0.0},
        index=pd.MultiIndex.from_arrays([[f"label {i}" for i in range(ROWS)], np.arange(ROWS), [1] * ROWS]),
    ),
}


@pytest.mark.parametrize("kind", LIGHT)
def test_a_partition_travels_without_the_rest(kind):
    if kind == "arrow":
        pytest.importorskip("pyarrow")
    data = LIGHT[kind]()
    part = take(data, 5000, 5010)
    assert encoded_size(part) < 6000
    if isinstance(data, pd.Series):
        pd.testing.assert_series_equal(part, data.iloc[5000:5010])
    else:
        pd.testing.assert_frame_equal(part, data.iloc[5000:5010])


def test_compacting_levels_keeps_what_they_mean():
    index = pd.MultiIndex.from_arrays(
        [
            [None if i % 3 == 0 else i for i in range(100)],
            pd.Categorical([f"c{i % 50}" for i in range(100)]),
            pd.date_range("2024", periods=100, tz="UTC"),
        ],
        names=["a", None, "c"],
    )
    data = pd.Series(range(100), index=index)
    part = take(data, 30, 34)
    pd.testing.assert_series_equal(part, data.iloc[30:34])
    assert [len(level) for level in part.index.levels] == [2, 4, 4]
    assert part.index.levels[0].dtype == index.levels[0].dtype
    assert part.index.levels[1].dtype == index.levels[1].dtype
    assert part.index.names == ["a", None, "c"]
    assert data.index is index  # the user's own stays as it is


def test_compacting_a_level_without_any_label():
    data = pd.Series(range(4), index=pd.MultiIndex.from_arrays([[None, None, 1.5, 2.5], range(4)]))
    pd.testing.assert_series_equal(take(data, 0, 1), data.iloc[0:1])
    pd.testing.assert_series_equal(take(data, 2, 2), data.iloc[2:2])


def test_row_labels_are_short_text():
    assert row_labels(pd.Series([1, 2, 3])) == ("0", "2")
    assert row_labels(pd.Series([1], index=["x"])) == ("'x'", "'x'")
    assert row_labels(pd.Series([1, 2], index=np.array([5, 7]))) == ("5", "7")
    multi = pd.MultiIndex.from_tuples([(1, "a"), (2, "b")])
    assert row_labels(pd.DataFrame({"a": [1, 2]}, index=multi)) == ("(1, 'a')", "(2, 'b')")
    assert row_labels(pd.Series([1], index=pd.DatetimeIndex(["2024-01-01"])))[0] == (
        "Timestamp('2024-01-01 00:00:00')"
    )
    long = row_labels(pd.Series([1], index=["x" * 1000]))[0]
    assert len(long) == 80
    assert long.endswith("x…")


class Unshowable:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize("value", [pd.DataFrame(), [1, 2], None, 7, pd.Series([1], index=[Unshowable()])])
def test_row_labels_never_raise(value):
    assert row_labels(value) == ()


def test_importing_frames_does_not_import_pandas():
    import subprocess

    code = "import sys, nbmr.frames as f; f.gather([1, 2], of_frame=False); sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
