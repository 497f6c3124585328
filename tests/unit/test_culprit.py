from __future__ import annotations

import functools
import pickle
import sqlite3
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from elsewhere import Notebook

from nbmr.codec import encode, encode_function
from nbmr.culprit import Root, explain
from nbmr.errors import PickleError

CELL = """
import functools, sqlite3, threading
conn = sqlite3.connect(":memory:")
class Model:
    def __init__(self): self.parts = {"k": [1, threading.Lock()]}
    def predict(self, x): return x
class Slotted:
    __slots__ = ("lock",)
    def __init__(self): self.lock = threading.Lock()
model, slotted = Model(), Slotted()
def query(x): return conn.execute(x)
def outer(x): return query(x)
def nested(x):
    def inner(): return conn
    return inner()
def with_default(x, lock=threading.Lock()): return x
def keyword(x, *, lock=threading.Lock()): return x
def closure():
    rows = (i for i in range(3))
    return lambda x: next(rows)
def uses_model(x): return model.predict(x)
def uses_slots(x): return slotted
@functools.lru_cache
def cached(x): return conn
class Job:
    lock = threading.Lock()
    def __call__(self, x): return self.lock
"""


@pytest.fixture(scope="module")
def cell() -> dict:
    return Notebook().cell(CELL)


def message_of(fn, *args, **kwargs) -> str:
    with pytest.raises(PickleError) as caught:
        encode_function(fn, args, kwargs)
    assert caught.value.__cause__ is not None
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "query",
            "can't send `query`: its global `conn` (sqlite3.Connection) can't be pickled; a connection stays",
        ),
        ("outer", "can't send `outer`: its global `query`, whose global `conn` (sqlite3.Connection)"),
        ("nested", "can't send `nested`: its global `conn`"),
        ("with_default", "can't send `with_default`: its default value of `lock` (_thread.lock)"),
        ("keyword", "can't send `keyword`: its default value of `lock` (_thread.lock)"),
        ("uses_model", "can't send `uses_model`: its global `model.parts['k'][1]` (_thread.lock)"),
        ("uses_slots", "can't send `uses_slots`: its global `slotted.lock` (_thread.lock)"),
        ("cached", "can't send `cached`: its global `conn` (sqlite3.Connection)"),
    ],
)
def test_variable_of_a_function(cell: dict, name: str, expected: str) -> None:
    assert expected in message_of(cell[name])


def test_other_callables(cell: dict) -> None:
    assert "can't send `lambda`: its closure variable `rows` (generator)" in message_of(cell["closure"]())
    assert "its object `self.parts['k'][1]` (_thread.lock)" in message_of(cell["model"].predict)
    assert "can't send `outer`: its global `query`" in message_of(functools.partial(cell["outer"], 1))
    assert "its argument `lock` (_thread.lock)" in message_of(functools.partial(max, lock=threading.Lock()))
    assert "can't send `Job`: its class `Job.lock` (_thread.lock)" in message_of(cell["Job"]())


def test_argument() -> None:
    fn = lambda df, table, *more, flag=None: (df, table, more, flag)  # noqa: E731
    assert "can't send argument `table`: a _thread.lock can't be pickled" in message_of(fn, threading.Lock())
    assert "can't send argument `flag`: item ['a']" in message_of(fn, 1, flag={"a": threading.Lock()})
    assert "can't send argument 2: " in message_of(print, 1, threading.Lock())
    assert "can't send argument 1: " in message_of(max, threading.Lock())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            (i for i in ""),
            "can't send the result: a generator can't be pickled; it can be read only once: make it a list",
        ),
        ([1, [2, threading.Lock()]], "can't send the result: item [1][1] (_thread.lock)"),
        ({"k": threading.Lock()}, "can't send the result: item ['k'] (_thread.lock)"),
        (np.array([1, threading.Lock()]), "can't send the result: item [1] (_thread.lock)"),
        (Path(__file__).open("rb"), "open it by its path inside the function"),  # noqa: SIM115
    ],
)
def test_data(data: object, expected: str) -> None:
    with pytest.raises(PickleError) as caught:
        encode(data, what="the result")
    assert expected in str(caught.value)
    if hasattr(data, "close"):
        data.close()


def test_column_and_row() -> None:
    rows = [1, 2, 3, (i for i in ""), 5]
    frame = pd.DataFrame({"y": range(5), "x": pd.Series(rows, index=list("abcde"), dtype=object).to_numpy()})
    with pytest.raises(PickleError, match=r"can't send the data: column 'x', row label 3 \(generator\)"):
        encode(frame)


def test_too_deep_and_circular() -> None:
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(PickleError, match="a list is nested too deeply"):
        encode(deep)
    circle: list = [threading.Lock()]
    circle.insert(0, circle)
    with pytest.raises(PickleError, match=r"item \[1\] \(_thread.lock\)"):
        encode(circle)


class Stubborn:
    def __reduce__(self):
        raise ValueError("never")


def test_users_own_refusal_is_told() -> None:
    with pytest.raises(PickleError, match=r"Stubborn\).*\[ValueError: never\]"):
        encode([Stubborn()])


def test_looking_is_bounded_in_time() -> None:
    def slow(obj: object) -> None:
        time.sleep(0.02)
        pickle.dumps(obj)

    data = [[str(i)] for i in range(1_000)] + [threading.Lock()]
    start = time.monotonic()
    error = explain([Root(data, "x")], TypeError("no"), slow, seconds=0.2)
    assert time.monotonic() - start < 2
    assert "can't send x: a list can't be pickled" in str(error)


def test_error_pickles() -> None:
    with pytest.raises(PickleError) as caught:
        encode(sqlite3.connect(":memory:"))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
