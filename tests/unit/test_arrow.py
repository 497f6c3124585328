"""Arrow's tables: cut, sent and gathered, they are what they were. See also test_libraries.py."""

from __future__ import annotations

import datetime as dt
import decimal

import numpy as np
import pandas as pd
import pytest
from here import TIMES, mapped

from nbmr import codec, frames
from nbmr.frames import library_of
from nbmr.tasks import source_of, weight

pa = pytest.importorskip("pyarrow", minversion="15")
import pyarrow.compute as pc  # noqa: E402

#: One column of every type.
COLUMNS = {
    "int": pa.array([1, None, 3, 4, 5], pa.int8()),
    "float": pa.array([0.1, None, float("inf"), -0.0, 1.0]),
    "half": pa.array(np.array([1, 2, 3, 4, 5], np.float16)),
    "bool": pa.array([True, None, False, True, True]),
    "text": pa.array(["a", None, "", "ä" * 40, "x"]),
    "large text": pa.array(["a", None, "", "ä" * 40, "x"], pa.large_string()),
    "bytes": pa.array([b"a", None, b"", b"\0", b"x" * 40]),
    "fixed bytes": pa.array([b"ab", None, b"cd", b"\0\0", b"xx"], pa.binary(2)),
    "null": pa.nulls(5),
    "date": pa.array([dt.date(2026, 1, 1), None, *[dt.date(1969, 1, 1)] * 3]),
    "time": pa.array([dt.time(1), None, dt.time(2), dt.time(3), dt.time(23, 59)]),
    "naive": pa.array(TIMES, pa.timestamp("ns")),
    "zone": pa.array(TIMES, pa.timestamp("ms", "Europe/Paris")),
    "span": pa.array([dt.timedelta(hours=1), None, *[dt.timedelta(microseconds=-1)] * 3]),
    "decimal": pa.array([decimal.Decimal("1.50"), None, *[decimal.Decimal("-2.25")] * 3]),
    "dictionary": pa.array(["a", "b", None, "a", "c"]).dictionary_encode(),
    "list": pa.array([[1], None, [], [1, None], [2, 3]]),
    "fixed list": pa.array([[1, 2], None, [3, 4], [5, 6], [7, 8]], pa.list_(pa.int8(), 2)),
    "struct": pa.array([{"a": 1, "b": [{"c": "x"}]}] * 4 + [None]),
    "map": pa.array([[("a", 1)], None, [], [("b", 2)], [("c", None)]], pa.map_(pa.string(), pa.int8())),
    "union": pa.UnionArray.from_sparse(
        pa.array([0, 1, 0, 1, 1], pa.int8()), [pa.array(range(5)), pa.array(list("abcde"))]
    ),
    "runs": pc.run_end_encode(pa.array([1, 1, 1, 2, 2])),
}
EVERY = pa.table(COLUMNS).replace_schema_metadata({"made by": "us"})


def same(got, want):
    assert type(got) is type(want)
    if hasattr(want, "schema"):
        assert got.schema.equals(want.schema, check_metadata=True)
    assert got.equals(want), (got, want)
    if hasattr(got, "validate"):
        got.validate(full=True)


# ---------------------------------------------------------------- the same as on the whole


@pytest.mark.parametrize("partitions", [1, 2, 5, 99])
@pytest.mark.parametrize("name", COLUMNS)
def test_every_type(name, partitions):
    table = EVERY.select([name])
    same(mapped(table, lambda part: part, partitions), table)
    same(mapped(table, lambda part: part, 2), table)
    same(mapped(table.slice(0, 0), lambda part: part, partitions), table.slice(0, 0))
    if name != "runs":  # pyarrow has no way to join them in one array
        batch = table.combine_chunks().to_batches()[0]
        same(mapped(batch, lambda part: part, partitions), batch)


ROWWISE = {
    "all of it": lambda part: part,
    "computed": lambda part: part.append_column("twice", pc.multiply(part["float"], 2)),
    "some rows": lambda part: part.filter(pc.greater(part["int"], 3)),
    "no rows": lambda part: part.filter(pc.greater(part["int"], 9)),
    "column": lambda part: part["text"],
    "values": lambda part: pc.is_null(part["int"]),
    "no columns": lambda part: part.select([]),
    "guessed types": lambda part: pa.table({"x": [1 if x == 3 else None for x in part["int"].to_pylist()]}),
    "the same name twice": lambda part: pa.table([part["int"], part["text"]], names=["x", "x"]),
}
PLAIN = EVERY.select(["int", "float", "text", "dictionary", "zone", "struct"])


@pytest.mark.parametrize("partitions", [1, 2, 5])
@pytest.mark.parametrize("fn", ROWWISE.values(), ids=ROWWISE)
def test_the_same_as_the_function_on_the_whole(fn, partitions):
    same(mapped(PLAIN, fn, partitions), fn(PLAIN))
    chunked = pa.concat_tables([PLAIN[:2], PLAIN[2:3], PLAIN[:0], PLAIN[3:]])
    same(mapped(chunked, fn, partitions), fn(PLAIN))


def test_batches_and_arrays():
    batch = PLAIN.combine_chunks().to_batches()[0]
    same(mapped(batch, lambda part: part.slice(0, 1), 5), batch)
    same(mapped(batch, lambda part: part.column(0), 3), batch.column(0))
    same(mapped(batch, lambda part: part.select([]), 2), batch.select([]))
    assert mapped(batch, lambda part: part.select([]), 2).num_rows == 5
    assert mapped(EVERY.select([]), len, 2).to_pylist() == [3, 2]
    # a list's results are items, not pieces of one array
    arrays = mapped([1, 2], lambda item: pa.array([item]), 2)
    assert [array.to_pylist() for array in arrays] == [[1], [2]]


def test_rows_of_pandas_are_numbered_on():
    got, want = mapped(PLAIN, pa.Table.to_pandas, 3), PLAIN.to_pandas()
    pd.testing.assert_frame_equal(got, want, check_exact=True)
    assert isinstance(got.index, pd.RangeIndex)
    there = pa.Table.from_pandas(pd.DataFrame({"a": range(6)}, index=list("uvwxyz")))
    pd.testing.assert_frame_equal(mapped(there, pa.Table.to_pandas, 3), there.to_pandas(), check_exact=True)
    ranged = pa.Table.from_pandas(pd.DataFrame({"a": range(6)}))
    pd.testing.assert_frame_equal(mapped(ranged, pa.Table.to_pandas, 3), ranged.to_pandas(), check_exact=True)


# ---------------------------------------------------------------- results of other kinds


def test_scalars_of_arrow_become_arrays():
    got = mapped(PLAIN, lambda part: pa.scalar(1 if len(part) == 3 else 2.5), 2)
    assert got.to_pylist() == [1, 2.5]


def test_tables_with_nested_columns_are_left_out_where_nothing_came():
    same(mapped(PLAIN, lambda part: part if len(part) == 2 else None, 2), PLAIN[3:])


# ---------------------------------------------------------------- what travels


def size(value):
    return sum(memoryview(part).nbytes for part in codec.encode(value))


def test_partitions_together_are_as_large_as_the_table():
    words = pa.array([f"some text {number:06}" for number in range(100_000)])
    table = pa.table(
        {
            "a": range(100_000), "b": np.arange(100_000.0), "text": words,
            "pairs": pa.FixedSizeListArray.from_arrays(pa.array(range(200_000)), 2),
            "flag": pa.array([True, None] * 50_000), "few": pa.array(["x", "y"] * 50_000).dictionary_encode(),
        }
    )  # fmt: skip
    source = source_of(table, 16, 2)
    sent = [codec.encode(task.units) for task in source.tasks(lambda: None)]
    assert sum(memoryview(part).nbytes for parts in sent for part in parts) < 1.02 * size(table)
    assert all(len(parts[0]) < 3_000 for parts in sent)  # the data is out of band
    estimated = library_of(table).row_bytes(table) * len(table)
    assert estimated == pytest.approx(size(table), rel=0.1)
    assert weight(table) == pytest.approx(estimated, rel=0.1)
    # also what a function returns, whatever holds it
    part = table.slice(500, 100)
    assert size({"head": [part, part["text"].chunk(0)]}) < size(table) / 100
    assert size(part.to_batches()[0]) < size(table) / 100


def test_a_dictionary_does_not_make_many_partitions():
    codes = pa.array(np.arange(1000) % 3, pa.int32())
    words = pa.array(["x" * 1_000_000, "y" * 1_000_000, "z" * 30_000_000])
    table = pa.table({"a": pa.DictionaryArray.from_arrays(codes, words)})
    assert source_of(table, None, 1).units == 8


def test_whole_columns_are_not_copied():
    numbers = np.arange(100_000.0)
    buffers = codec.encode(pa.table({"a": numbers}))
    assert any(np.shares_memory(np.frombuffer(buffer, np.uint8), numbers) for buffer in buffers[1:])
    received = bytearray(b"".join(codec.pieces(buffers)))
    back = codec.decode(codec.slices(memoryview(received), codec.layout(buffers)))
    joined = frames.gather([back, back], of_frame=True, library="pyarrow")
    assert np.shares_memory(joined["a"].chunk(1).to_numpy(), np.frombuffer(received, np.uint8))
