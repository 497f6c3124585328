from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from nbmr.codec import decode
from nbmr.errors import ConfigError, PickleError
from nbmr.frames import is_frame
from nbmr.tasks import Call, Units, source_of


def tasks(data, partitions=None, slots=2, seconds=None):
    return list(source_of(data, partitions, slots).tasks(lambda: seconds))


def items(found):
    return list(itertools.chain.from_iterable(task.units for task in found))


# ---------------------------------------------------------------- lists


@given(
    st.lists(st.integers(), max_size=300), st.none() | st.integers(1, 400), st.integers(1, 100), st.booleans()
)
def test_every_item_is_in_one_task_in_order(data, partitions, slots, lazy):
    found = tasks(iter(data) if lazy else data, partitions, slots)
    assert items(found) == data
    assert [task.start for task in found] == [0, *itertools.accumulate(len(t.units) for t in found)][:-1]
    assert all(task.units for task in found)
    if partitions is not None and not lazy:
        assert len(found) == min(partitions, len(data))
        sizes = {len(task.units) for task in found}
        assert not sizes or max(sizes) - min(sizes) <= 1


def test_large_batches_first_and_small_ones_at_the_end():
    sizes = [len(task.units) for task in tasks(range(10_000), slots=4)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
    assert sizes[0] <= 10_000 / 16
    assert len(sizes) < 500


def test_few_items_are_a_task_each():
    assert [len(task.units) for task in tasks(range(20), slots=2)] == [1] * 20


def test_many_items_are_few_tasks():
    assert len(tasks(range(1_000), slots=2)) < 200
    assert len(tasks(range(100_000), slots=2)) < 400


def test_short_items_make_fewer_batches_once_it_is_known_how_short_they_are():
    known = tasks(range(10_000), slots=2, seconds=1e-4)
    assert items(known) == list(range(10_000))
    sizes = [len(task.units) for task in known]
    assert max(sizes) * 1e-4 <= 0.05
    assert sizes[-1] <= max(sizes) / 2  # and still smaller ones at the end
    assert len(known) < len(tasks(range(10_000), slots=2)) / 2
    for seconds in (0.05, 1.0):  # long ones are as if nothing was known
        assert len(tasks(range(1_000), slots=2, seconds=seconds)) == len(tasks(range(1_000), slots=2))


def test_what_needs_no_balance_is_cut_evenly():
    assert [len(task.units) for task in tasks(range(1_000), slots=2, seconds=3e-5)] == [250] * 4
    assert [len(task.units) for task in tasks(range(1_000), slots=2, seconds=1e-6)] == [500] * 2
    assert [len(task.units) for task in tasks(range(5), slots=2, seconds=1e-6)] == [3, 2]


def test_how_short_items_are_is_learnt_from_the_first_ones():
    answers = itertools.chain([None] * 10, itertools.repeat(1e-6))
    found = list(source_of(range(1_000), None, 2).tasks(lambda: next(answers)))
    assert items(found) == list(range(1_000))
    assert len(found) <= 20


def parts(data, partitions, seconds, slots=2):
    """Cut a list into parts that may be sent together; how long they take is learnt after a while."""
    answers = itertools.chain([None] * 5, itertools.repeat(seconds))
    return list(source_of(data, partitions, slots, merges=True).tasks(lambda: next(answers)))


def test_very_short_parts_are_sent_together():
    found = parts(range(1_000), 1_000, 1e-6)
    assert items(found) == list(range(1_000))
    assert [task.start for task in found] == [0, *itertools.accumulate(len(t.units) for t in found)][:-1]
    sizes = [len(task.units) for task in found]
    assert len(sizes) < 75
    assert max(sizes) <= 1_000 / 8  # what comes may take longer
    assert sizes[:4] == sizes[-4:] == [1] * 4
    # parts of several items stay whole
    found = parts(range(1_000), 250, 1e-6)
    assert items(found) == list(range(1_000))
    assert {len(task.units) % 4 for task in found} == {0}
    assert len(found) < 100


@pytest.mark.parametrize("seconds", [None, 0.02, 1.0])
def test_parts_that_are_not_very_short_are_a_task_each(seconds):
    assert [len(task.units) for task in parts(range(200), 200, seconds)] == [1] * 200
    assert max(len(task.units) for task in parts(range(200), 200, 0.005)) <= 4  # 20 ms together


def test_parts_are_a_task_each_where_each_may_take_only_so_long():
    source = source_of(range(200), 200, 2, singly=True, merges=True)
    assert len(list(source.tasks(lambda: 1e-6))) == 200
    assert len(tasks(range(200), 200, seconds=1e-6)) == 200  # or where they go to places of their own


def test_heavy_parts_are_not_sent_together():
    array = np.zeros(50_000)  # 0.4 MB
    assert max(len(task.units) for task in parts([array] * 400, 400, 1e-6)) <= 2


@given(st.integers(0, 300), st.integers(1, 400), st.sampled_from([None, 1e-6, 1e-3, 0.1]), st.integers(1, 20))
def test_parts_are_all_sent_in_order(count, partitions, seconds, slots):
    found = parts(range(count), partitions, seconds, slots)
    assert items(found) == list(range(count))
    assert all(task.units for task in found)


def test_heavy_items_are_batched_by_their_weight():
    array = np.zeros(100_000)  # 0.8 MB
    assert max(len(task.units) for task in tasks([array] * 400, slots=1)) <= 2
    frame = pd.DataFrame({"a": range(100_000)})
    assert max(len(task.units) for task in tasks([frame] * 400, slots=1)) <= 2
    assert max(len(task.units) for task in tasks(["x" * 500_000] * 400, slots=1)) <= 3


# ---------------------------------------------------------------- iterables


def test_an_iterable_is_read_no_further_than_asked_for():
    pulled = []

    def endless():
        for i in itertools.count():
            pulled.append(i)
            yield i

    source = source_of(endless(), None, 2)
    assert source.lazy
    assert source.units is None
    assert pulled == []
    made = source.tasks(lambda: None)
    for number in range(5):
        assert next(made).units == [number]
    assert len(pulled) == 5


@pytest.mark.parametrize(("seconds", "size"), [(None, 1), (10.0, 1), (0.02, 10), (0.001, 200), (1e-9, 5_000)])
def test_batches_of_an_iterable_hold_a_fifth_of_a_second_of_work(seconds, size):
    made = source_of(itertools.count(), None, 2).tasks(lambda: seconds)
    batches = [len(next(made).units) for _ in range(4)]
    assert batches == pytest.approx([size] * 4, abs=1)


def test_a_slow_iterable_is_not_held_back():
    import time

    def slow():
        for i in range(3):
            time.sleep(0.06)
            yield i

    assert [task.units for task in tasks(slow(), seconds=1e-9)] == [[0], [1], [2]]


def test_later_changes_of_a_list_are_not_seen():
    data = [1, 2, 3]
    source = source_of(data, None, 2)
    data.append(4)
    assert source.units == 3
    assert items(source.tasks(lambda: None)) == [1, 2, 3]


# ---------------------------------------------------------------- frames


@pytest.mark.parametrize("partitions", [None, 1, 3, 10, 50])
def test_a_frame_is_cut_into_one_partition_a_task(partitions):
    df = pd.DataFrame({"a": range(10)}, index=[f"r{i}" for i in range(10)])
    source = source_of(df, partitions, 2)
    found = list(source.tasks(lambda: None))
    assert source.of_frame
    assert source.units == len(found) == min(partitions or 10, 10)
    assert [task.start for task in found] == list(range(len(found)))
    assert_frame_equal(pd.concat(items(found)), df)
    assert all(len(task.units) == 1 for task in found)
    assert "r0" in found[0].rows[0]
    assert "r9" in found[-1].rows[-1]


def test_an_empty_frame_is_one_partition():
    (task,) = tasks(pd.DataFrame({"a": []}))
    assert len(task.units[0]) == 0
    assert task.rows == ()


def test_later_changes_of_a_frame_are_not_seen():
    df = pd.DataFrame({"a": [1, 2]})
    source = source_of(df, 1, 1)
    df["a"] = 9
    df["b"] = 0
    (task,) = source.tasks(lambda: None)
    assert_frame_equal(task.units[0], pd.DataFrame({"a": [1, 2]}))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("data", ["text", b"bytes", {"a": 1}, 5, None, object()])
def test_what_is_no_list_of_items(data):
    with pytest.raises(ConfigError, match=rf"data is .*\b{type(data).__name__};"):
        source_of(data, None, 2)


@pytest.mark.parametrize("partitions", [0, -1, 1.5, True, "3"])
@pytest.mark.parametrize(
    "data", [[1, 2], pd.DataFrame({"a": [1]}), iter([1])], ids=["list", "frame", "iterator"]
)
def test_wrong_partitions(data, partitions):
    with pytest.raises(ConfigError, match="partitions"):
        source_of(data, partitions, 2)


def test_what_is_a_frame():
    assert is_frame(pd.DataFrame())
    assert is_frame(pd.Series([1]))
    assert not is_frame(pd.Index([1]))
    assert not is_frame(np.zeros(3))


# ---------------------------------------------------------------- calls


def test_a_call_is_encoded_once_with_its_arguments():
    call = Call.encode(lambda x, y, z=0: x + y + z, (10,), {"z": 100})
    fn, args, kwargs = decode([bytearray(memoryview(b)) for b in call.buffers])
    assert fn(1, *args, **kwargs) == 111
    assert call.size == sum(memoryview(b).nbytes for b in call.buffers)
    assert len(call.digest) == 64


def test_equal_calls_have_equal_digests_and_others_have_not():
    array = np.arange(100_000)
    assert Call.encode(np.dot, (array,), {}).digest == Call.encode(np.dot, (array.copy(),), {}).digest
    assert Call.encode(np.dot, (array,), {}).digest != Call.encode(np.dot, (array + 1,), {}).digest


def test_what_cannot_be_called():
    with pytest.raises(ConfigError, match="callable; got int"):
        Call.encode(5, (), {})


def test_what_cannot_travel():
    import threading

    with pytest.raises(PickleError, match="lock"):
        Call.encode(len, (threading.Lock(),), {})


# ---------------------------------------------------------------- partitions that turn out to be short


def partitions(seconds, data=None, slots=2, partitions=None, **options):
    """Cut a frame; how long a partition takes is learnt when every slot has one."""
    data = pd.DataFrame({"a": range(1_600)}) if data is None else data
    answers = itertools.chain([None] * slots, itertools.repeat(seconds))
    source = source_of(data, partitions, slots, merges=True, **options)
    found = list(source.tasks(lambda: next(answers)))
    assert_frame_equal(pd.concat(items(found)), data)
    assert [task.start for task in found] == [0, *itertools.accumulate(task.count for task in found)][:-1]
    return [task.count for task in found]


def test_short_partitions_make_one_task():
    assert partitions(0.001) == [1, 1, 7, 7]  # a quarter of a second: that needs no balance
    assert partitions(0.03) == [1, 1, 7, 7]
    assert partitions(0.05) == [1, 1, 5, 5, 2, 2]
    assert partitions(0.1) == [1, 1, *[2] * 6, 1, 1]  # a quarter of a second together
    assert partitions(0.02, slots=8) == [*[1] * 8, *[7] * 8]
    assert partitions(0.001, pd.DataFrame({"a": range(15)})) == [1, 1, 7, 6]


@pytest.mark.parametrize("seconds", [None, 0.2, 10.0])
def test_others_are_a_task_each(seconds):
    assert partitions(seconds) == [1] * 16


def test_partitions_are_a_task_each_where_it_was_said_how_many_and_where_each_may_take_only_so_long():
    assert partitions(0.001, partitions=16) == [1] * 16
    assert partitions(0.001, singly=True) == [1] * 16
    df = pd.DataFrame({"a": range(1_600)})
    assert [task.count for task in source_of(df, None, 2).tasks(lambda: 0.001)] == [1] * 16


def test_large_partitions_are_a_task_each():
    assert max(partitions(0.001, pd.DataFrame(np.zeros((100_000, 20))))) <= 4  # of 1 MB
    assert set(partitions(0.001, pd.DataFrame(np.zeros((100_000, 100))))) == {1}


def shared_out(shares, seconds, slots=2, items=None, **options):
    """Cut items of which it is known how much of the work each is; all of it takes so long."""
    data = Units(items or [f"item {n}" for n in range(len(shares))], {"told": 1}, shares)
    done = itertools.chain([None] * slots, itertools.repeat(seconds and seconds * shares[0] / sum(shares)))
    source = source_of(data, len(data), slots, merges=True, **options)
    assert source.about == {"told": 1}
    found = list(source.tasks(lambda: next(done)))
    assert [item for task in found for item in task.units] == list(data)
    assert [task.start for task in found] == [0, *itertools.accumulate(task.count for task in found)][:-1]
    return [task.count for task in found]


SHRINKING = [16, 16, 12, 12, 9, 9, 7, 7, 5, 5, 4, 4, 3, 3, 2, 2]


def test_items_whose_shares_are_known_make_one_task_where_they_are_short():
    first, second, third, fourth = shared_out(SHRINKING, 0.2)
    assert (first, second, third + fourth) == (1, 1, 14)
    assert sum(SHRINKING[2 : 2 + third]) == pytest.approx(sum(SHRINKING[2 + third :]), abs=9)
    assert max(shared_out([1] * 64, 1.0)) < 32  # that is more than a quarter of a second for each slot
    assert shared_out([1] * 15, 0.2) == [1, 1, 7, 6]
    assert shared_out(SHRINKING, 100.0) == shared_out(SHRINKING, None) == [1] * 16
    assert shared_out(SHRINKING, 0.2, singly=True) == [1] * 16


def test_how_long_items_take_is_known_at_once():
    source = source_of(Units("abcdef", {}, [1] * 6), 6, 2, merges=True)
    assert [item for task in source.tasks(lambda: 0.001) for item in task.units] == list("abcdef")


def test_large_items_whose_shares_are_known_are_a_task_each():
    large = pd.DataFrame(np.zeros((1_000_000, 2)))  # 16 MB
    assert shared_out([1] * 8, 0.1, items=[large] * 8) == [1] * 8


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_few_rows(rows):
    df = pd.DataFrame({"a": np.arange(rows)})
    assert sum(task.count for task in source_of(df, None, 2, merges=True).tasks(lambda: 0.001)) == max(
        rows, 1
    )


def test_a_task_of_several_partitions_is_cut_again_as_it_was():
    source = source_of(
        pd.DataFrame({"a": range(1_600)}, index=[f"r{n}" for n in range(1_600)]), None, 2, merges=True
    )
    for number, task in enumerate(source.tasks(lambda: 0.001)):
        again = source.again(number, task.start, task.count)
        assert (again.start, again.rows) == (task.start, task.rows)
        assert len(task.rows) == 2 * task.count
        for one, other in zip(task.units, again.units, strict=True):
            assert_frame_equal(one, other)
