"""polars' frames and Arrow's tables alike: results of all kinds are gathered by the data's own library."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import pytest
from here import mapped

from nbmr import frames
from nbmr.errors import ConfigError, GatherError
from nbmr.groups import grouped


@dataclass(frozen=True)
class Library:
    """What the tests need of a library."""

    name: str
    #: Make a table of a dict; and a column of a list.
    table: Any
    column: Any
    #: Add up a column.
    total: Any
    #: Its table's type, as errors name it.
    kind: str
    #: What it says of types that have none in common.
    disagree: str

    def same(self, got, want):
        assert type(got) is type(want)
        if self.name == "pyarrow":
            if hasattr(want, "schema"):
                assert got.schema.equals(want.schema, check_metadata=True)
            assert got.equals(want), (got, want)
            got.validate(full=True)
        else:
            testing = importlib.import_module("polars.testing")
            check = "assert_frame_equal" if hasattr(want, "columns") else "assert_series_equal"
            getattr(testing, check)(got, want)


@pytest.fixture(params=["polars", "pyarrow"])
def library(request):
    if request.param == "polars":
        pl = pytest.importorskip("polars", minversion="1.32")
        said = r"polars can't concatenate .*'a' is Int64 in one .* String in another"
        return Library("polars", pl.DataFrame, pl.Series, lambda column: column.sum(), "DataFrame", said)
    pa = pytest.importorskip("pyarrow", minversion="15")
    total = importlib.import_module("pyarrow.compute").sum
    said = r"pyarrow can't concatenate .* int64 vs string"
    return Library("pyarrow", pa.table, pa.array, total, "Table", said)


@pytest.fixture
def table(library):
    return library.table({"int": [1, None, 3, 4, 5], "text": ["a", None, "", "ä" * 40, "x"]})


def test_dicts_and_scalars_become_tables_and_columns(library, table):
    rows = mapped(table, lambda part: {"rows": len(part), "sum": library.total(part["int"])}, 2)
    library.same(rows, library.table({"rows": [3, 2], "sum": [4, 9]}))
    library.same(mapped(table, len, 2), library.column([3, 2]))
    library.same(mapped(table, lambda part: library.total(part["int"]), 2), library.column([4, 9]))
    mixed = mapped(table, lambda part: 1 if len(part) == 3 else 2.5, 2)
    library.same(mixed, library.column([1.0, 2.5]))
    ragged = mapped(table, lambda part: {"a": 1} if len(part) == 3 else {"b": "x"}, 2)
    library.same(ragged, library.table({"a": [1, None], "b": [None, "x"]}))


def test_rows_and_scalars_are_gathered_where_the_library_was_not_used(library):
    library.same(frames.gather([1, 2], of_frame=True, library=library.name), library.column([1, 2]))


def test_none_is_dropped_and_anything_else_is_a_list(library, table):
    library.same(mapped(table, lambda part: part if len(part) == 2 else None, 2), table[3:])
    assert mapped(table, lambda part: [len(part)], 2) == [[3], [2]]
    assert mapped(table, lambda _part: None, 2) == [None, None]
    assert mapped(table, lambda part: {1: len(part)}, 2) == [{1: 3}, {1: 2}]
    assert mapped(table, lambda part: 3 if len(part) == 3 else "x", 2) == [3, "x"]
    assert list(map(len, mapped(table, lambda part: part, 2, how="list"))) == [3, 2]


def test_types_that_disagree_become_a_common_one(library):
    parts = [library.table(columns) for columns in ({"a": [1]}, {"a": [None]}, {"b": [1], "a": [2.5]})]
    joined = frames.gather(list(parts), of_frame=True, library=library.name)
    library.same(joined, library.table({"a": [1.0, None, 2.5], "b": [None, None, 1]}))
    swapped = [library.table({"a": [1], "b": [2]}), library.table({"b": [4], "a": [3]})]
    joined = frames.gather(list(swapped), of_frame=False)
    library.same(joined, library.table({"a": [1, 3], "b": [2, 4]}))


def test_numbers_do_not_silently_become_text(library):
    odd = [library.table({"a": [1]}), library.table({"a": ["x"]})]
    got = frames.gather(list(odd), of_frame=True)
    assert [id(one) for one in got] == [id(one) for one in odd]
    with pytest.raises(GatherError, match=library.disagree):
        frames.gather(list(odd), of_frame=True, how="concat")


def test_groupby_needs_pandas(library, table):
    with pytest.raises(ConfigError, match=rf"got {library.name} {library.kind}\. Pass its \.to_pandas\(\)"):
        grouped(table, "int", {}, None)
