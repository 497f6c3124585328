"""Which neighbours `reduce` folds together: all of them, in order, and the same whatever the workers."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbmr.errors import ConfigError, NothingToReduce
from nbmr.reduction import FAN_IN, first_level, next_level

MEGABYTE = "x" * (1 << 20)


@given(st.lists(st.integers(), min_size=1, max_size=300), st.none() | st.integers(1, 400), st.booleans())
def test_every_item_is_in_one_chunk_in_order(data, partitions, lazy):
    chunks = list(first_level(iter(data) if lazy else data, partitions, "initial"))
    assert list(itertools.chain.from_iterable(chunks)) == ["initial", *data]
    assert all(chunks)
    assert len(chunks) <= (partitions if partitions and not lazy else 64)


@given(st.integers(1, 60), st.none() | st.integers(1, 70))
def test_every_row_is_in_one_chunk_in_order(rows, partitions):
    data = pd.DataFrame({"x": range(rows)})
    chunks = first_level(data, partitions)
    pd.testing.assert_frame_equal(pd.concat(itertools.chain.from_iterable(chunks)), data)
    assert all(len(chunk) == 2 for chunk in chunks[:-1])


@pytest.mark.parametrize("lazy", [False, True])
def test_heavy_items_come_two_by_two(lazy):
    data = [MEGABYTE] * 7
    chunks = list(first_level(iter(data) if lazy else data, None))
    assert [len(chunk) for chunk in chunks] == [2, 2, 2, 1]
    assert all(chunk.nbytes >= len(chunk) << 20 for chunk in chunks)


def test_an_iterable_is_read_as_it_is_asked_for():
    read = []
    chunks = iter(first_level((read.append(x) or x for x in range(5_000)), None))
    next(chunks)
    assert 1 <= len(read) < 5_000


def test_levels_shrink_to_one():
    chunks, sizes = [[number] for number in range(1_000)], []
    while len(chunks) > 1:
        chunks = next_level([chunk[0] for chunk in chunks])
        sizes.append(len(chunks))
    assert sizes == [125, 16, 2, 1]
    assert FAN_IN == 8


@pytest.mark.parametrize(
    "data", [[], iter(()), range(0), pd.DataFrame({"x": []}), pd.Series([], dtype=float)]
)
def test_nothing(data):
    with pytest.raises(NothingToReduce, match=r"initial=") as caught:
        first_level(data, None)
    assert isinstance(caught.value, TypeError)


def test_none_is_an_initial_value():
    assert first_level([], None, None) == [[None]]


@pytest.mark.parametrize("data", ["text", b"text", {"a": 1}, 7])
def test_what_is_no_data(data):
    with pytest.raises(ConfigError, match=type(data).__name__):
        first_level(data, None)


@pytest.mark.parametrize("partitions", [0, -1, 1.5, True, "2"])
@pytest.mark.parametrize("data", [[1, 2], pd.Series([1, 2])])
def test_partitions_that_make_no_sense(data, partitions):
    with pytest.raises(ConfigError, match="partitions"):
        first_level(data, partitions)
