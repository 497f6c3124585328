"""Memory of large arrays is used again, and never while anybody has it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nbmr.frames import gather, memory

SHAPE = (4, 1 << 18)  # 8 MiB of floats
FLOATS = np.dtype("f8")


@pytest.fixture(autouse=True)
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A pool that has nothing yet."""
    fresh = memory._Pool()
    monkeypatch.setattr(memory, "_pool", fresh)
    yield fresh
    monkeypatch.setattr(memory, "KEEP_SECONDS", 0.0)
    fresh.let_go(fresh.take(4096))  # wakes the thread
    kept(fresh, 0)


def kept(pool: Any, count: int) -> None:
    """Wait until so many pieces are kept."""
    until = time.monotonic() + 10
    while len(pool._kept) != count or pool._returned:
        assert time.monotonic() < until
        time.sleep(0.01)


def place(array: Any) -> int:
    return int(array.ctypes.data)


def test_what_is_let_go_is_used_again():
    array = memory.empty(SHAPE, FLOATS)
    array[:] = 1.0
    before = place(array)
    del array
    again = memory.empty(SHAPE, FLOATS)
    assert place(again) == before
    smaller = memory.empty((1, 1 << 19), FLOATS)  # there is none for it
    assert place(smaller) != before
    del again
    smaller = memory.empty((3, 1 << 18), np.dtype("i8"), "F")
    assert place(smaller) == before
    assert smaller.flags.f_contiguous
    assert smaller.shape == (3, 1 << 18)
    assert smaller.dtype == "i8"


@pytest.mark.parametrize(
    "holds",
    [
        lambda array: array[1, 5:10],
        memoryview,
        lambda array: pd.Series(array[0], copy=False).iloc[5:10],
        lambda array: pd.DataFrame(array.T, copy=False),
        lambda array: np.asarray(memoryview(array)),
    ],
)
def test_not_while_somebody_has_a_part_of_it(holds):
    array = memory.empty(SHAPE, FLOATS)
    array[:] = 1.0
    before = place(array)
    part = holds(array)
    del array
    other = memory.empty(SHAPE, FLOATS)
    other[:] = 2.0
    assert place(other) != before
    assert (np.asarray(part) == 1.0).all()
    del part
    assert place(memory.empty(SHAPE, FLOATS)) == before


def test_not_where_it_would_be_more_than_half_empty():
    array = memory.empty(SHAPE, FLOATS)
    before = place(array)
    del array
    assert place(memory.empty((1, 1 << 19), np.dtype("f4"))) != before


def test_small_arrays_and_those_of_objects_are_numpys_own(pool):
    assert memory.empty((2, 10), FLOATS).base is None
    assert memory.empty((1, 1 << 20), np.dtype(object)).base is None
    assert pool._sweeper is None


def test_it_is_given_back_after_a_moment(pool, monkeypatch):
    monkeypatch.setattr(memory, "KEEP_SECONDS", 0.3)
    del_me = [memory.empty(SHAPE, FLOATS) for _ in range(3)]
    del_me.clear()
    kept(pool, 3)
    kept(pool, 0)


def test_only_so_much_is_kept(pool, monkeypatch):
    monkeypatch.setattr(memory, "_MOST_BYTES", 20 << 20)
    arrays = [memory.empty(SHAPE, FLOATS) for _ in range(5)]
    arrays.clear()
    kept(pool, 2)


def test_an_array_may_end_while_the_pool_is_busy(pool):
    array = memory.empty(SHAPE, FLOATS)
    with pool._lock:
        del array  # as where memory is collected in the middle of `take`
    assert memory.empty(SHAPE, FLOATS).size


def test_after_a_fork_it_is_the_parents(pool):
    array = memory.empty(SHAPE, FLOATS)
    array[:] = 1.0
    del array
    kept(pool, 1)
    with pool._lock:
        child = os.fork()  # while another thread has the lock, say
        if not child:
            works = False
            try:
                mine = memory.empty(SHAPE, FLOATS)
                mine[:] = 2.0
                works = memory._pool is not pool
            finally:
                os._exit(0 if works else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (memory.empty(SHAPE, FLOATS) == 1.0).all()  # untouched


def test_several_threads_never_share_one():
    wrong: list[Any] = []

    def work(number: int) -> None:
        for step in range(20):
            array = memory.empty((1, 1 << 19), FLOATS)
            value = number * 1000.0 + step
            array[:] = value
            if not (array == value).all():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_gathered_frame_lies_in_it_and_is_its_users_own(pool):
    parts = [pd.DataFrame(np.full((200_000, 4), float(n)), columns=list("abcd")) for n in range(3)]
    want = pd.concat(parts)
    first = gather(list(parts), of_frame=True)
    pd.testing.assert_frame_equal(first, want, check_exact=True)
    column = first["b"]
    del first
    second = gather([part + 1 for part in parts], of_frame=True)  # elsewhere: a column is still there
    pd.testing.assert_series_equal(column, want["b"], check_exact=True)
    pd.testing.assert_frame_equal(second, want + 1, check_exact=True)
    del second, column
    kept(pool, 2)
