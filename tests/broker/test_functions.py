"""What can be sent as a function, and how often it travels."""

from __future__ import annotations

import functools
import json
import operator
import os
import threading

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import nbmr

pytestmark = pytest.mark.slow


def at_top(x):
    return x + 1


class Adder:
    def __init__(self, n):
        self.n = n

    def __call__(self, x):
        return x + self.n

    def method(self, x):
        return x - self.n

    @classmethod
    def of_class(cls, x):
        return cls(1)(x)

    @staticmethod
    def static(x):
        return -x


def closure(n):
    def inner(x):
        return at_top(x) * n

    return inner


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda x: x * 2, [2, 4]),
        (at_top, [2, 3]),
        (closure(10), [20, 30]),
        (functools.partial(pow, 2), [2, 4]),
        (functools.partial(operator.sub, 10), [9, 8]),
        (functools.partial(closure(3)), [6, 9]),
        (Adder(5), [6, 7]),
        (Adder(5).method, [-4, -3]),
        (Adder.of_class, [2, 3]),
        (Adder.static, [-1, -2]),
        (str, ["1", "2"]),
        (float(3).__add__, [4.0, 5.0]),
        (np.square, [1, 4]),
        (functools.lru_cache(at_top), [2, 3]),
    ],
    ids=[
        "lambda",
        "module's",
        "closure",
        "partial",
        "partial of a builtin",
        "partial of a closure",
        "instance",
        "method",
        "class method",
        "static method",
        "class",
        "bound builtin",
        "ufunc",
        "cached",
    ],
)
def test_callables(client, fn, expected):
    assert client.map([1, 2], fn) == expected


def test_a_recursive_function(client):
    def factorial(n):
        return n * factorial(n - 1) if n else 1

    assert client.map([3, 5], factorial) == [6, 120]


def test_instances_come_back_as_the_callers_own_class(client):
    (out,) = client.map([Adder(3)], lambda adder: Adder(adder.n + 1))
    assert type(out) is Adder
    assert out.n == 4


CELLS = """
import pandas as pd
import nbmr

RATE = 3

class Point:
    def __init__(self, x):
        self.x = x
    def scaled(self, by):
        return Point(self.x * by)

def scale(x):
    return Point(x).scaled(RATE)

if __name__ == "__main__":
    with nbmr.Client() as client:
        points = client.map(range(3), scale, progress=False)
        assert all(type(p) is Point for p in points), points
        print([p.x for p in points])
        RATE = 5
        print([p.x for p in client.map(points, lambda p: p.scaled(RATE), progress=False)])
"""


def test_functions_and_classes_of_cells(client, start, tmp_path):
    """What is defined in ``__main__``, as a notebook's cells are, travels with the globals it uses."""
    (tmp_path / "cells.py").write_text(CELLS)
    script = start("cells.py", cwd=tmp_path)
    out, err = script.communicate(timeout=60)
    assert out.splitlines() == ["[0, 3, 6]", "[0, 15, 30]"], err


def test_modules_beside_the_notebook(client, start, tmp_path):
    """They are found by a worker that runs elsewhere, with their own imports and changed globals."""
    (tmp_path / "helpers.py").write_text(
        "from inner.deep import twice\nLIMIT = 1\ndef fn(x):\n    return twice(x) + LIMIT\n"
    )
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "__init__.py").write_text("")
    (tmp_path / "inner" / "deep.py").write_text(
        "from . import base\ndef twice(x):\n    return x * base.TWO\n"
    )
    (tmp_path / "inner" / "base.py").write_text("TWO = 2\n")
    notebook = """
import nbmr, helpers
def cell(x):
    from inner import deep
    return helpers.fn(x), deep.twice(x)
with nbmr.Client() as client:
    print(client.map([1, 2], helpers.fn, progress=False), client.map([1, 2], cell, progress=False))
    helpers.LIMIT = 10
    print(client.map([1, 2], helpers.fn, progress=False))
"""
    out, err = start("-c", notebook, cwd=tmp_path).communicate(timeout=60)
    assert out.splitlines() == ["[3, 5] [(3, 2), (5, 4)]", "[12, 14]"], err


def test_an_edited_module_is_sent_anew(client, start, tmp_path):
    """A second kernel, with a changed file, is not answered by the version that a worker has loaded."""
    said = []
    for number in (1, 2):
        (tmp_path / "changing.py").write_text(f"def fn(x):\n    return x + {number}\n")
        notebook = (
            "import nbmr, changing\n"
            "with nbmr.Client() as client: print(client.map(range(4), changing.fn, progress=False))"
        )
        environment = {"PYTHONDONTWRITEBYTECODE": "1"}
        said.append(start("-c", notebook, cwd=tmp_path, env=environment).communicate(timeout=60)[0].strip())
    assert said == ["[1, 2, 3, 4]", "[2, 3, 4, 5]"]


@pytest.mark.usefixtures("in_messages")
def test_a_large_closure_is_sent_once_to_each_worker(client, server):
    table = np.random.default_rng(0).integers(0, 9, 3_000_000)  # 24 MB
    client.map(range(2), lambda x: x, partitions=2)  # connections are open
    before = server.bytes_sent()
    out = client.map(range(24), lambda i: int(table[i]), partitions=24)
    sent = server.bytes_sent() - before
    assert out == table[:24].tolist()
    assert table.nbytes <= sent < 2.1 * table.nbytes + 1_000_000


def test_the_same_large_closure_in_the_next_job_is_there_already(client, server):
    table = np.random.default_rng(1).integers(0, 9, 1_000_000)

    def fn(i):
        return int(table[i])

    client.map(range(24), fn, partitions=24)
    before = server.bytes_sent()
    client.map(range(24), fn, partitions=24)
    assert server.bytes_sent() - before < 1_000_000


def test_a_large_argument_beside_a_large_partition(client):
    """Both go by blobs."""
    table = np.arange(100_000.0)
    big = np.arange(2_000_000.0)
    assert client.map([big, big + 1], lambda x, t: x[-1] + t[-1], table) == [2_099_998.0, 2_099_999.0]


# ---------------------------------------------------------------- what can't travel


def test_a_lock_in_a_closure_is_named(client):
    guard = threading.Lock()

    def fn(x):
        with guard:
            return x

    with pytest.raises(nbmr.PickleError, match=r"(?s)lock.*guard|guard.*lock"):
        client.map([1], fn)


def test_an_open_file_in_the_data_is_named(client, tmp_path):
    with (tmp_path / "open").open("w") as file, pytest.raises(nbmr.PickleError, match="TextIOWrapper"):
        client.map([{"handle": file}], len)


def test_a_connection_among_the_arguments_is_named(client):
    import contextlib
    import sqlite3

    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        with pytest.raises(nbmr.PickleError, match=r"sqlite3\.Connection"):
            client.map([1], lambda x, y: (x, y), db)
        frame = pd.DataFrame({"a": [1]}).astype(object)
        frame.loc[0, "a"] = db
        with pytest.raises(nbmr.PickleError, match=r"sqlite3\.Connection"):
            client.map(frame, lambda part: part)


def test_a_later_partition_that_cannot_travel_ends_the_job(client, tmp_path, eventually):
    items = [*range(40), threading.Lock()]
    with pytest.raises(nbmr.PickleError, match="lock"):
        client.map(items, lambda x: x, partitions=41)
    assert client.map([1], lambda x: x) == [1]


def test_a_result_that_cannot_travel_is_the_functions_error(client):
    with pytest.raises(nbmr.TaskError, match=r"(?s)result.*lock") as caught:
        client.map([1, 2, 3], lambda x: threading.Lock() if x == 2 else x)
    assert caught.value.partition == 1
    with pytest.warns(RuntimeWarning, match="1 of 3"):
        out = client.map([1, 2, 3], lambda x: threading.Lock() if x == 2 else x, on_error="keep")
    assert (out[0], out[2]) == (1, 3)
    assert "lock" in out[1].summary


def test_workers_keep_no_state_of_a_function_between_jobs(client):
    def count(x, seen=[]):  # noqa: B006 - that's the point
        seen.append(x)
        return os.getpid(), len(seen)

    first = client.map([0], count, partitions=1)
    assert first[0][1] == 1


def test_what_is_printed_does_not_disturb(client, tmp_path):
    def fn(part):
        print("text " * 50_000)
        os.write(1, b"\x00\xff raw\n")
        return part

    frame = pd.DataFrame({"a": range(4)})
    assert_frame_equal(client.map(frame, fn, partitions=2), frame)


def test_the_environment_of_a_task(client):
    """The key and the broker's password are nowhere that user code could print by accident."""
    (seen,) = client.map([0], lambda _: json.dumps(dict(os.environ)))
    assert "NBMR_KEY" not in json.loads(seen)
    assert client.settings.key not in seen
    assert client.settings.url not in seen
