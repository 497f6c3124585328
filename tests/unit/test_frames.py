"""Gathering results: the rules, one by one."""

import gc
import pickle
import warnings
import weakref

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal, assert_series_equal

from nbmr.errors import ConfigError, GatherError
from nbmr.frames import check_how, gather

PANDAS_3 = int(pd.__version__.split(".")[0]) >= 3
TEXT = "str" if PANDAS_3 else "object"


def join(*results, how="auto", of_frame=True):
    return gather(list(results), of_frame=of_frame, how=how)


def column(*pieces):
    """Gather one-column frames, each with its own index values, and give the column."""
    starts = np.cumsum([0, *map(len, pieces)])
    parts = [
        pd.DataFrame({"c": piece}, index=range(start, start + len(piece)))
        for piece, start in zip(pieces, starts, strict=False)
    ]
    return join(*parts)["c"]


# ------------------------------------------------------------------ which rule


@pytest.mark.parametrize("how", ["auto", "list", "concat"])
def test_known_ways(how):
    check_how(how)


@pytest.mark.parametrize("how", ["Auto", "", None, "frame"])
def test_an_unknown_way_is_refused(how):
    with pytest.raises(ConfigError, match=r"gather=.*'auto', 'list', 'concat'"):
        check_how(how)
    with pytest.raises(ConfigError):
        gather([1], of_frame=False, how=how)


@pytest.mark.parametrize("of_frame", [True, False])
def test_frames_and_series_are_concatenated(of_frame):
    frames = [pd.DataFrame({"a": [1, 2]}, index=[5, 6]), pd.DataFrame({"a": [3]}, index=[7])]
    assert_frame_equal(join(*frames, of_frame=of_frame), pd.DataFrame({"a": [1, 2, 3]}, index=[5, 6, 7]))
    series = [pd.Series([1.5], name="x"), pd.Series([2.5], name="x", index=[1])]
    assert_series_equal(join(*series, of_frame=of_frame), pd.Series([1.5, 2.5], name="x"))


def test_one_dict_a_partition_makes_one_row():
    got = join({"n": 2, "s": "x"}, {"n": 3, "t": 1.5})
    assert_frame_equal(got, pd.DataFrame({"n": [2, 3], "s": ["x", np.nan], "t": [np.nan, 1.5]}))
    assert isinstance(got.index, pd.RangeIndex)


SCALARS = [
    [1, 2, 3],
    [1, 2.5],
    ["a", "b"],
    [True, False],
    [pd.Timestamp("2024"), pd.NaT],
    [pd.NA, 1],
    [b"x"],
    [np.float32(1)],
    [pd.Period("2024", "D")],
    [1 + 2j],
]


@pytest.mark.parametrize("values", SCALARS, ids=str)
def test_one_scalar_a_partition_makes_a_series(values):
    assert_series_equal(join(*values), pd.Series(values))


@pytest.mark.parametrize(
    "results",
    [
        [1, {"a": 1}],
        [[1], [2]],
        [pd.Series([1]), pd.DataFrame({"a": [1]})],
        [pd.DataFrame({"a": [1]}), {"a": 1}],
        [pd.DataFrame({"a": []}), {"a": 1}],
        [(1, 2)],
        [np.array([1, 2])],
        [ValueError("x"), 1],
        [],
        [None, None],
    ],
    ids=str,
)
def test_anything_else_is_a_list(results):
    kept = list(results)
    got = gather(results, of_frame=True)
    assert isinstance(got, list)
    assert len(got) == len(kept)
    assert all(one is other for one, other in zip(got, kept, strict=True))


@pytest.mark.parametrize("results", [[{"a": 1}], [1, 2], ["a"]])
def test_dicts_and_scalars_of_a_list_stay_a_list(results):
    assert gather(list(results), of_frame=False) == results


def test_how_list_is_always_the_list():
    frames = [pd.DataFrame({"a": [1]}), None]
    got = join(*frames, how="list")
    assert got[0] is frames[0]
    assert got[1] is None


def test_none_is_dropped():
    part = pd.DataFrame({"a": [1]})
    assert_frame_equal(join(None, part, None, part.set_axis([1])), pd.DataFrame({"a": [1, 1]}))
    assert_series_equal(join(1, None, 2), pd.Series([1, 2]))
    assert_frame_equal(join(None, {"a": 1}), pd.DataFrame({"a": [1]}))


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (
            [pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]}), [2]],
            "partition 2 gave a value of type list, but partition 0",
        ),
        ([[1]], "partition 0 gave a value of type list, which can't"),
        (
            [None, 1, {"a": 1}],
            "partition 2 gave a value of type dict, but partition 1 gave a value of type int",
        ),
        ([pd.Series([1]), pd.DataFrame({"a": [1]})], "partition 1 gave a value of type pandas.*DataFrame"),
        ([None], "every partition gave None"),
    ],
)
def test_how_concat_says_what_cannot_be_concatenated(results, message):
    with pytest.raises(GatherError, match=message) as caught:
        gather(results, of_frame=True, how="concat")
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ConfigError)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), GatherError)


def test_how_concat_concatenates():
    assert_frame_equal(join(pd.DataFrame({"a": [1]}), how="concat"), pd.DataFrame({"a": [1]}))
    assert_series_equal(join(1, 2, how="concat"), pd.Series([1, 2]))


def test_frames_that_pandas_refuses_are_a_list():
    parts = [pd.DataFrame([[1, 2]], columns=["a", "a"]), pd.DataFrame([[1, 2]], columns=["b", "a"])]
    got = join(*parts)
    assert [one is other for one, other in zip(got, parts, strict=True)] == [True, True]
    with pytest.raises(GatherError, match="pandas can't concatenate"):
        join(*parts, how="concat")


# --------------------------------------------------------- consumption and memory


def test_a_lone_partition_is_returned_as_it_is():
    part = pd.DataFrame({"a": [1]})
    assert join(part) is part


def test_results_are_consumed_one_after_the_other():
    parts = [pd.DataFrame({"a": np.full(10, float(number)), "t": ["x"] * 10}) for number in range(4)]
    living = [weakref.ref(part) for part in parts]
    seen = []

    class Watching(list):
        def __setitem__(self, key, value):
            super().__setitem__(key, value)
            if isinstance(key, int):
                gc.collect()
                seen.append([ref() is not None for ref in living])

    results = Watching(parts)
    del parts
    gather(results, of_frame=True)
    assert list(results) == [None] * 4
    # As each is taken, only that one and those after it are alive.
    assert [sum(alive) for alive in seen] == [4, 3, 2, 1]


def received(frame):
    """Pickle and unpickle a frame, so that its arrays are views of read-only bytes."""
    buffers = []
    head = pickle.dumps(frame, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(head, buffers=[bytes(buffer.raw()) for buffer in buffers])


MIXED = {
    "a": np.arange(5.0),
    "b": np.arange(5),
    "t": pd.array(list("abcde"), dtype="string[python]"),
    "c": pd.Categorical(list("abcab")),
    "i": pd.array([1, None, 3, 4, 5], dtype="Int64"),
    "z": pd.date_range("2024", periods=5, tz="UTC"),
    "o": np.array([1, "x", None, 2, 3], dtype=object),
}


@pytest.mark.parametrize("name", [*MIXED, "all"])
def test_the_result_is_writable_and_its_own(name):
    frame = pd.DataFrame(MIXED if name == "all" else {name: MIXED[name], "other": MIXED[name]})
    one, two = received(frame), received(frame)
    got = join(one, two.set_axis(range(5, 10)))
    want = pd.concat([frame, frame], ignore_index=True)
    assert_frame_equal(got, want)
    for number in range(got.shape[1]):
        got.iloc[0, number] = want.iloc[3, number]
        got.iloc[:, number].array[1] = want.iloc[3, number]  # raises where it is read-only
        assert got.iloc[0, number] == want.iloc[3, number]
    assert_frame_equal(one, frame)  # what was received did not change


def test_columns_of_one_dtype_are_one_block_and_contiguous():
    parts = [pd.DataFrame(np.random.default_rng(0).random((50_000, 4))) for _ in range(3)]
    got = join(*parts)
    assert got.to_numpy().base is not None  # a view: pandas did not have to gather columns
    assert np.shares_memory(got.to_numpy(), got.iloc[:, 0].to_numpy())
    assert all(got.iloc[:, number].to_numpy().flags.c_contiguous for number in range(4))


# ------------------------------------------------------------------------ dtypes


@pytest.mark.parametrize(
    ("pieces", "dtype"),
    [
        ([["a"], [None]], TEXT),
        ([[None], ["a"]], TEXT),
        ([[np.nan, np.nan], ["a"]], TEXT),
        ([[1, 2], [None, None]], "float64"),
        ([[1, 2], [0.5]], "float64"),
        ([[True], [None]], "object"),
        ([[True], [1]], "object"),
        ([[pd.Timestamp("2024")], [None]], pd.Series([pd.Timestamp("2024")]).dtype),
        ([[1], ["a"]], "object"),
    ],
    ids=str,
)
def test_dtypes_that_drift_become_what_the_whole_would_be(pieces, dtype):
    got = column(*pieces)
    values = [value for piece in pieces for value in piece]
    whole = pd.DataFrame({"c": values})["c"]
    assert_series_equal(got, whole, check_exact=True)
    assert got.dtype == dtype
    if dtype == "object":
        assert list(map(type, got)) == list(map(type, values))  # True is not 1


def test_other_columns_are_not_inferred_again():
    objects = pd.Series([1, 2], dtype=object)
    got = join(pd.DataFrame({"o": objects, "x": [1, 2]}), pd.DataFrame({"o": objects, "x": [None, "a"]}))
    assert got["o"].dtype == object


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_part_without_rows_does_not_count(where):
    parts = [pd.DataFrame({"a": [1], "d": pd.date_range("2024", periods=1)}, index=[n]) for n in range(2)]
    parts.insert(where, pd.DataFrame({"a": [], "d": []}, dtype=object))
    got = join(*parts)
    assert got.dtypes.tolist() == parts[where - 1].dtypes.tolist()
    assert got.index.tolist() == [0, 1]


def test_a_part_without_rows_may_have_another_type():
    # What apply(axis=1) gives for a frame without rows.
    assert_series_equal(join(pd.DataFrame({"a": []}), pd.Series([1, 2])), pd.Series([1, 2]))


def test_all_parts_without_rows_give_the_first():
    parts = [
        pd.DataFrame({"a": pd.Series([], dtype="Int16")}),
        pd.DataFrame({"a": pd.Series([], dtype=object)}),
    ]
    assert_frame_equal(join(*parts), parts[0])


@pytest.mark.parametrize(
    ("one", "two", "categories"),
    [
        (["b", "b"], ["a", None], ["a", "b"]),
        ([3, 1], [2], [1, 2, 3]),
        ([1], [0.5], [0.5, 1.0]),
        ([None], ["x"], ["x"]),
        ([1], ["x"], [1, "x"]),
        (["x", b"y"], ["a"], [b"y", "a", "x"]),
    ],
    ids=str,
)
def test_categories_that_differ_are_united(one, two, categories):
    parts = [pd.Series(values, dtype=object).infer_objects().astype("category") for values in (one, two)]
    got = join(*parts)
    assert got.dtype.categories.tolist() == categories
    assert_series_equal(got.reset_index(drop=True), pd.Series(one + two).astype("category"))
    assert not got.dtype.ordered
    assert got.astype(object).where(got.notna(), None).tolist() == one + two


def test_what_pandas_cannot_unite_becomes_objects():
    parts = [pd.Series([(1,), "x"], dtype=object).astype("category"), pd.Series([2.5]).astype("category")]
    assert join(*parts).tolist() == [(1,), "x", 2.5]


def test_categories_that_are_the_same_stay_in_order():
    dtype = pd.CategoricalDtype(["z", "unused", "a"], ordered=True)
    got = join(pd.Series(["a", "z"], dtype=dtype), pd.Series(["z"], dtype=dtype))
    assert got.dtype == dtype
    assert got.cat.categories.tolist() == ["z", "unused", "a"]


def test_ordered_categories_that_differ_follow_pandas():
    parts = [pd.Series(pd.Categorical([value], ordered=True)) for value in "ba"]
    got = join(*parts)
    assert got.tolist() == ["b", "a"]
    assert got.dtype == TEXT


def test_many_categories_need_wide_codes():
    dtype = pd.CategoricalDtype(range(1000))
    got = join(pd.Series([999, 0], dtype=dtype), pd.Series([500], dtype=dtype))
    assert got.tolist() == [999, 0, 500]


def test_objects_are_not_inferred_where_all_parts_are_objects():
    objects = np.array([pd.Timestamp("2024"), "x"], dtype=object)
    one, two = pd.Series(objects[:1], dtype=object), pd.Series(objects[:1], dtype=object, index=[1])
    assert join(one, two).dtype == object
    assert join(one.to_frame(), two.to_frame()).dtypes.tolist() == [object]
    labels = pd.Index(objects[:1], dtype=object)
    assert join(one.set_axis(labels), two.set_axis(labels)).index.dtype == object


def test_categories_with_a_time_zone():
    stamps = pd.Series(pd.date_range("2024", periods=4, tz="UTC")).astype("category")
    assert_series_equal(join(stamps.iloc[:2], stamps.iloc[2:]), stamps)
    parts = [stamps.iloc[:2].cat.remove_unused_categories(), stamps.iloc[2:].cat.remove_unused_categories()]
    assert_series_equal(join(*parts), stamps)


def test_no_warning_is_shown():
    parts = [
        pd.DataFrame({"a": [np.nan], "b": [None], "s": pd.arrays.SparseArray([1], fill_value=0)}),
        pd.DataFrame({"a": ["x"], "b": [1], "s": pd.arrays.SparseArray([1], fill_value=1)}),
        pd.DataFrame({"a": [], "b": [], "s": []}),
        pd.DataFrame({"c": [None], "a": [None]}),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        join(*parts[:3])
        join(*parts)


def test_other_columns_in_other_parts():
    got = join(pd.DataFrame({"a": [1], "b": ["x"]}), pd.DataFrame({"b": [None], "c": [2.5]}, index=[1]))
    want = pd.DataFrame({"a": [1, np.nan], "b": ["x", None], "c": [np.nan, 2.5]})
    assert_frame_equal(got, want)


# ------------------------------------------------------------- index, names, flags


def test_ranges_stay_ranges_where_they_go_on():
    got = join(pd.Series([1, 2], index=range(2)), pd.Series([3], index=range(2, 3)))
    assert isinstance(got.index, pd.RangeIndex)
    got = join(pd.Series([1, 2], index=range(2)), pd.Series([3], index=range(7, 8)))
    assert got.index.tolist() == [0, 1, 7]


def test_dates_keep_their_frequency_where_they_go_on():
    index = pd.date_range("2024-03-30", periods=6, freq="D", tz="Europe/Berlin")  # over a change of clocks
    series = pd.Series(range(6), index=index)
    assert join(*[series.iloc[i : i + 2] for i in (0, 2, 4)]).index.freq == index.freq
    assert join(series.iloc[:1], series.iloc[1:3]).index.freq == index.freq
    gap = join(series.iloc[:2], series.iloc[4:])
    assert gap.index.freq is None
    assert gap.index.equals(index[[0, 1, 4, 5]])
    every_other = series.iloc[::2]
    assert join(every_other.iloc[:2], every_other.iloc[2:]).index.freq == every_other.index.freq


def test_columns_may_have_any_labels():
    labels = pd.MultiIndex.from_tuples([("a", 1), ("a", 1), ("b", None)], names=["x", None])
    part = pd.DataFrame([[1, "s", 2.5]], columns=labels)
    got = join(part, part.set_axis([1]))
    assert_frame_equal(got, pd.concat([part, part], ignore_index=True), check_column_type=True)


@pytest.mark.parametrize("rows", [2, 3])
def test_frames_without_columns_keep_their_rows(rows):
    parts = [pd.DataFrame(index=range(rows)), pd.DataFrame(index=range(rows, 2 * rows))]
    assert_frame_equal(join(*parts), pd.DataFrame(index=range(2 * rows)))


def test_levels_keep_dtype_and_missing_labels():
    index = pd.MultiIndex.from_arrays([[1, None, 3, 1], list("abca")], names=["n", None])
    assert index.levels[0].dtype != object
    series = pd.Series(range(4), index=index)
    got = join(series.iloc[:1], series.iloc[1:3], series.iloc[3:])
    assert_series_equal(got, series, check_index_type=True)
    assert got.index.levels[0].dtype == index.levels[0].dtype


def test_an_index_whose_dtype_drifts():
    got = join(pd.Series([1], index=pd.Index([None], dtype=object)), pd.Series([2], index=["a"]))
    assert_series_equal(got, pd.Series([1, 2], index=[None, "a"]))


def test_levels_that_differ_are_united():
    parts = [
        pd.Series([1, 2], index=pd.MultiIndex.from_arrays([["b", None], [1, 2]])),
        pd.Series([3, 4], index=pd.MultiIndex.from_arrays([[None, "a"], [2, 9]])),
    ]
    got = join(*parts)
    labels = [("b", 1), (None, 2), (None, 2), ("a", 9)]
    assert [(None if pd.isna(one) else one, two) for one, two in got.index] == labels
    assert [level.tolist() for level in got.index.levels] == [["a", "b"], [1, 2, 9]]


def test_names_that_differ_are_dropped():
    got = join(pd.Series([1], name="a", index=pd.Index([0], name="i")), pd.Series([2], name="b"))
    assert got.name is None
    assert got.index.name is None


def test_attrs_and_flags():
    parts = [pd.DataFrame({"a": [n]}, index=[n]).set_flags(allows_duplicate_labels=False) for n in range(2)]
    for part in parts:
        part.attrs["unit"] = ["m"]
    attrs = parts[0].attrs
    got = join(*parts)
    assert got.attrs == {"unit": ["m"]}
    assert got.attrs["unit"] is not attrs["unit"]
    assert not got.flags.allows_duplicate_labels
    assert join(pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]})).flags.allows_duplicate_labels


class Special(pd.DataFrame):
    @property
    def _constructor(self):
        return Special


def test_subclasses_are_joined_by_pandas():
    results = [Special({"a": [1]}), Special({"a": ["x"]}, index=[1])]
    got = gather(results, of_frame=True)
    assert type(got) is Special
    assert got["a"].tolist() == [1, "x"]
    assert results == [None, None]


def test_arrow_columns_are_copied_out_of_messages():
    pa = pytest.importorskip("pyarrow")
    parts = [pd.Series([f"text {n}"] * 1000, dtype="string[pyarrow]") for n in range(4)]
    theirs = {chunk.buffers()[2].address for part in parts for chunk in part.array.__arrow_array__().chunks}
    got = join(*parts).array.__arrow_array__()
    assert isinstance(got, pa.ChunkedArray)
    assert got.num_chunks == 1
    assert not theirs & {chunk.buffers()[2].address for chunk in got.chunks}


def test_nested_arrow_columns():
    pa = pytest.importorskip("pyarrow")
    parts = [
        pd.DataFrame({"a": pd.Series(values, dtype=pd.ArrowDtype(kind)), "b": 1})
        for kind, values in [(pa.int64(), [1]), (pa.int64(), [None])]
    ]
    assert join(*parts)["a"].dtype == pd.ArrowDtype(pa.int64())
    kind = pd.ArrowDtype(pa.struct([("x", pa.int64()), ("y", pa.string())]))
    parts = [pd.Series([{"x": 1, "y": "a"}], dtype=kind), pd.Series([None], dtype=kind)]
    assert_series_equal(join(*parts), pd.Series([{"x": 1, "y": "a"}, None], dtype=kind, index=[0, 0]))
