from __future__ import annotations

import functools
import gc
import sys
from datetime import date
from decimal import Decimal
from operator import methodcaller
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from elsewhere import Notebook, run_elsewhere
from hypothesis import given
from hypothesis import strategies as st

from nbmr import codec
from nbmr.codec import ALIGNMENT, decode, encode, encode_function, layout, pieces, place, slices

N = 20_000
TIMES = pd.date_range("2024-01-01", periods=N, freq="min")
#: What pandas 3 makes of text by itself.
TEXT = "str" if pd.__version__ >= "3" else "string[pyarrow]"
COLUMNS = {
    "float": np.arange(N) / 3,
    "time": TIMES,
    "zone": TIMES.tz_localize("Europe/Paris"),
    "span": TIMES - TIMES[0],
    "str": pd.Series([f"row {i}" for i in range(N)], dtype=TEXT),
    "nullable": pd.array([1, None] * (N // 2), dtype="Int64"),
    "category": pd.Categorical(["a", "b"] * (N // 2)),
    "date": [date(2024, 1, 1 + i % 28) for i in range(N)],
    "decimal": [Decimal(i) for i in range(N)],
}


def writable(buffers: list[codec.Buffer]) -> list[codec.Buffer]:
    return slices(memoryview(bytearray(b"".join(pieces(buffers)))), layout(buffers))


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("rows", [slice(None), slice(10, 500), slice(0, 0)])
def test_column_round_trip(column: str, rows: slice) -> None:
    frame = pd.DataFrame({column: COLUMNS[column], "other": 1})[rows]
    pd.testing.assert_frame_equal(decode(writable(encode(frame))), frame)


@pytest.mark.parametrize("column", ["float", "time", "zone", "span", "str", "nullable", "category"])
def test_column_data_is_out_of_band(column: str) -> None:
    frame = pd.DataFrame({column: COLUMNS[column]})
    stream, *data = encode(frame)
    assert len(stream) < 2_500
    assert sum(map(len, data)) >= N


@pytest.mark.parametrize("column", ["float", "time", "zone", "span", "str", "nullable", "category"])
def test_slice_sends_its_own_rows_only(column: str) -> None:
    frame = pd.DataFrame({column: COLUMNS[column]})
    assert sum(map(len, encode(frame[:100]))) < 4_500


def test_whole_blocks_are_not_copied() -> None:
    block = np.arange(80_000.0).reshape(8, 10_000)
    frame = pd.DataFrame(block.T, copy=False)
    shared = [np.shares_memory(np.asarray(b), block) for b in encode(frame)[1:] if len(b) == block.nbytes]
    assert shared == [True]


def test_slice_of_a_block_is_out_of_band_and_keeps_its_order() -> None:
    block = np.arange(80_000.0).reshape(8, 10_000)
    stream, *data = encode(block[:, 100:9_000])
    assert len(stream) < 500
    back = decode([stream, *data])
    np.testing.assert_array_equal(back, block[:, 100:9_000])
    assert decode(encode(np.asfortranarray(block))).flags.f_contiguous


def test_decoded_arrays_are_writable_and_not_copied() -> None:
    frame = pd.DataFrame({"a": np.arange(N), "t": TIMES})
    buffers = encode(frame)
    memory = bytearray(b"".join(pieces(buffers)))
    back = decode(slices(memoryview(memory), layout(buffers)))
    for block in back._mgr.blocks:
        values = np.asarray(getattr(block.values, "_ndarray", block.values))
        assert values.flags.writeable
        assert np.shares_memory(values, np.frombuffer(memory, dtype="u1"))


def test_read_only_payload_gives_read_only_arrays() -> None:
    back = decode([bytes(buffer) for buffer in encode(np.arange(N))])
    assert not back.flags.writeable


def test_small_arrays_travel_in_the_stream_and_can_be_changed() -> None:
    frozen = np.arange(3)
    frozen.flags.writeable = False
    buffers = encode([np.arange(5), np.arange(5), frozen, np.arange(N)])
    assert [memoryview(buffer).nbytes for buffer in buffers[1:]] == [np.arange(N).nbytes]
    first, second, third, _ = decode(buffers)
    first += 1
    assert (first.tolist(), second.tolist(), third.tolist()) == ([1, 2, 3, 4, 5], [0, 1, 2, 3, 4], [0, 1, 2])


@given(st.lists(st.binary(max_size=300), max_size=12))
def test_layout_aligns_and_gives_back(buffers: list[bytes]) -> None:
    places = layout(buffers)
    joined = b"".join(pieces(buffers))
    assert all(start % ALIGNMENT == 0 for start, _ in places)
    assert [bytes(part) for part in slices(memoryview(joined), places)] == buffers
    memory = bytearray(len(joined))
    place(buffers, memoryview(memory))
    assert bytes(memory) == joined


def test_short_payload_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        slices(memoryview(b"abc"), [(0, 2), (64, 3)])


def test_what_main_defines_goes_by_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel could resolve ``__main__.Point``; a worker can't."""
    notebook = Notebook()
    notebook.cell("class Point:\n    def double(self): return self.x * 2")
    monkeypatch.setattr(sys.modules["__main__"], "Point", notebook["Point"], raising=False)
    point = notebook["Point"]()
    point.x = 4
    assert run_elsewhere(tmp_path, encode_function(methodcaller("double")), encode(point)) == 8


CELL = """
import functools, dataclasses, enum
import numpy as np
FACTOR = 3
big = np.arange(100_000)
def scaled(x): return x * FACTOR
def decorate(f):
    @functools.wraps(f)
    def inner(*a, **k): return f(*a, **k) + 1
    return inner
@decorate
def decorated(x): return x
def factorial(n): return 1 if n < 2 else n * factorial(n - 1)
@functools.lru_cache(maxsize=7)
def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
class Callable:
    def __init__(self, n): self.n = n
    def __call__(self, x): return x + self.n
    def method(self, x): return x - self.n
@dataclasses.dataclass
class Pair:
    a: int
    b: int = 2
class Colour(enum.Enum):
    RED = 1
def pair(x): return Pair(x), Colour.RED
def closure():
    return lambda x: int(big[x]) + FACTOR
def same(x): return isinstance(x, Pair) and x.b
callable_object = Callable(10)
"""


@pytest.fixture(scope="module")
def notebook() -> Notebook:
    notebook = Notebook()
    notebook.cell(CELL)
    return notebook


def test_functions_of_cells(notebook: Notebook, tmp_path: Path) -> None:
    names = notebook.names
    functions = {
        "scaled": (names["scaled"], 12),
        "decorated": (names["decorated"], 5),
        "factorial": (names["factorial"], 24),
        "fibonacci": (names["fibonacci"], 3),
        "object": (names["callable_object"], 14),
        "method": (names["callable_object"].method, -6),
        "partial": (functools.partial(names["scaled"]), 12),
        "closure": (names["closure"](), 7),
        "lambda": (lambda x: x + 1, 5),
        "builtin": (abs, 4),
        "ufunc": (np.negative, -4),
    }
    payload = encode_function(
        lambda x, all_: {k: f(x) for k, f in all_.items()}, [{k: f for k, (f, _) in functions.items()}]
    )
    assert run_elsewhere(tmp_path, payload, encode(4)) == {
        k: expected for k, (_, expected) in functions.items()
    }


def test_results_are_of_the_notebooks_own_classes(notebook: Notebook, tmp_path: Path) -> None:
    point, colour = run_elsewhere(tmp_path, encode_function(notebook["pair"]), encode(4))
    assert point == notebook["Pair"](4, 2)
    assert colour is notebook["Colour"].RED


def test_data_and_function_share_a_class(notebook: Notebook, tmp_path: Path) -> None:
    data = encode(notebook["Pair"](1, 5))
    assert run_elsewhere(tmp_path, encode_function(notebook["same"]), data) == 5


def test_big_closure_is_out_of_band_and_encoding_repeats(notebook: Notebook) -> None:
    fn = notebook["closure"]()
    first, second = encode_function(fn, (1,), {"k": 2}), encode_function(fn, (1,), {"k": 2})
    assert [bytes(b) for b in first] == [bytes(b) for b in second]
    assert len(first[0]) < 20_000
    assert len(first[1]) == 800_000


def test_many_small_buffers_share_a_group():
    parts = [b"x" * 10] * 1000
    groups = [b"".join(group) for group in codec.cut(parts, 4096)]
    assert [len(group) for group in groups] == [4096, 4096, 1808]
    assert b"".join(groups) == b"".join(parts)


def test_what_was_encoded_is_collected_without_a_warning():
    """Python 3.13 warns of streams that can't be closed when they are collected, and pytest fails then."""
    cycle = [encode([1, 2])]
    cycle.append(cycle)
    del cycle
    gc.collect()
