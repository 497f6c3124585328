from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
from elsewhere import Notebook, run_elsewhere

from nbmr import shipped
from nbmr.codec import encode, encode_function
from nbmr.errors import NbmrError
from nbmr.tracebacks import MAX_ENCODED, decode_exception, encode_exception, format_remote

CELL = """
class Custom(Exception):
    def __init__(self, code, *, detail): super().__init__(code); self.detail = detail
def inner(row):
    return row["value"] / row["count"]  # the line to show
def fn(df):
    return df.apply(inner, axis=1)
def chained(x):
    try:
        {}["missing"]
    except KeyError as exc:
        raise ValueError("no such key") from exc
def during(x):
    try:
        {}["missing"]
    except KeyError:
        raise ValueError("another")
def forever(x): return ping(x)
def ping(x): return forever(x)
def syntax(x): return eval("1 +")
def group(x):
    errors = []
    for value in (1, "a"):
        try:
            int("z") if value == 1 else [].pop()
        except Exception as exc:
            errors.append(exc)
    raise ExceptionGroup("both failed", errors)
class BadStr(Exception):
    def __str__(self): raise RuntimeError("no")
def bad_str(x): raise BadStr
def noted(x):
    exc = ValueError("told"); exc.add_note("see row 7"); raise exc
def custom(x): raise Custom(3, detail="d")
def json_error(x):
    import json
    return json.loads("{")
"""


@pytest.fixture(scope="module")
def cell() -> dict:
    return Notebook().cell(CELL)


def remote(tmp_path: Path, fn: object, data: object = 1) -> tuple[str, BaseException | None]:
    kind, text, encoded = run_elsewhere(tmp_path, encode_function(fn), encode(data))
    assert kind == "raised"
    return text, encoded and decode_exception(encoded)


def test_users_lines_first_then_the_library(cell: dict, tmp_path: Path) -> None:
    text, exc = remote(tmp_path, cell["fn"], pd.DataFrame({"value": [1, 2]}))
    body, _, library = text.partition("Library frames")
    assert body.index("in fn") < body.index("in inner")
    assert 'return row["value"] / row["count"]  # the line to show' in body
    assert "return df.apply(inner, axis=1)" in body
    assert "library frames, the last" in body
    assert body.rstrip().endswith("KeyError: 'count'")
    assert body.count("library frames, the last") == 3, "one before the cause, two around inner"
    assert body.count("  File ") == 2
    assert "pandas/core/frame.py" in library.replace("\\", "/")
    assert "nbmr/codec" not in text
    assert "shipped.py" not in text
    assert isinstance(exc, KeyError)


def test_chains(cell: dict, tmp_path: Path) -> None:
    text, exc = remote(tmp_path, cell["chained"])
    assert (
        text.index("KeyError: 'missing'") < text.index("direct cause") < text.index("ValueError: no such key")
    )
    assert isinstance(exc, ValueError)
    assert isinstance(exc.__cause__, KeyError)
    text, exc = remote(tmp_path, cell["during"])
    assert text.index("KeyError") < text.index("During handling") < text.index("ValueError: another")
    assert exc is not None
    assert exc.__cause__ is None
    assert isinstance(exc.__context__, KeyError)


def test_endless_recursion_is_bounded(cell: dict, tmp_path: Path) -> None:
    text, exc = remote(tmp_path, cell["forever"])
    assert len(text) < 8_000
    assert "more frames …" in text
    assert "RecursionError: maximum recursion depth exceeded" in text
    assert isinstance(exc, RecursionError)


def test_syntax_error(cell: dict, tmp_path: Path) -> None:
    text, exc = remote(tmp_path, cell["syntax"])
    assert 'return eval("1 +")' in text
    assert "SyntaxError: invalid syntax" in text
    assert isinstance(exc, SyntaxError)


def test_exception_group(cell: dict, tmp_path: Path) -> None:
    text, exc = remote(tmp_path, cell["group"])
    assert "ExceptionGroup: both failed (2 sub-exceptions)" in text
    assert "  | ValueError: invalid literal" in text
    assert "  | IndexError: pop from empty list" in text
    assert isinstance(exc, ExceptionGroup)
    assert [type(e) for e in exc.exceptions] == [ValueError, IndexError]


def test_message_that_raises_and_notes(cell: dict, tmp_path: Path) -> None:
    text, exc = remote(tmp_path, cell["bad_str"])
    assert "BadStr: <exception str() failed>" in text
    assert exc is None
    text, exc = remote(tmp_path, cell["noted"])
    assert text.rstrip().endswith("ValueError: told\nsee row 7")
    assert exc is not None
    assert exc.__notes__ == ["see row 7"]


def test_what_does_not_round_trip_gives_none(cell: dict, tmp_path: Path) -> None:
    text, exc = remote(tmp_path, cell["custom"])
    assert "Custom: 3" in text
    assert exc is None


def test_a_library_that_raises(cell: dict, tmp_path: Path) -> None:
    text, exc = remote(tmp_path, cell["json_error"])
    assert 'return json.loads("{")' in text
    assert "json/decoder.py" in text.partition("Library frames")[2].replace("\\", "/")
    assert isinstance(exc, json.JSONDecodeError)


def test_a_library_function_as_fn(tmp_path: Path) -> None:
    text, _ = remote(tmp_path, json.loads, "{")
    assert text.startswith("Traceback (most recent call last):\n  File ")
    assert "in raw_decode" in text


def test_cell_goes_by_its_notebooks_name() -> None:
    source = "def fn():\n    return 1 / 0\n"
    shipped.install_cell("/tmp/ipykernel_9/1.py", source, "Cell In[5]")
    names: dict = {}
    exec(compile(source, "/tmp/ipykernel_9/1.py", "exec"), names)
    with pytest.raises(ZeroDivisionError) as caught:
        names["fn"]()
    assert "  Cell In[5], line 2, in fn\n    return 1 / 0" in format_remote(caught.value)


def test_label_comes_from_ipython(monkeypatch: pytest.MonkeyPatch) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    from nbmr.shipped import cell_label

    shell = InteractiveShell.instance()
    try:
        name = shell.compile.cache("1 + 1", 7)
        assert cell_label(name) == "Cell In[7]"
        assert cell_label("/no/such/cell.py") == ""
    finally:
        InteractiveShell.clear_instance()
        shell.history_manager.end_session()


class HeldError(Exception):
    pass


@pytest.mark.parametrize("args", [(threading.Lock(),), ("x" * 2 * MAX_ENCODED,)])
def test_what_can_not_travel_gives_none(args: tuple) -> None:
    assert encode_exception(HeldError(*args)) is None


def test_a_cause_that_can_not_travel_is_dropped() -> None:
    exc = NbmrError("kept")
    exc.__cause__ = HeldError(threading.Lock())
    data = encode_exception(exc)
    assert data is not None
    back = decode_exception(data)
    assert isinstance(back, NbmrError)
    assert str(back) == "kept"
    assert back.__cause__ is None


def test_rubbish_decodes_to_none() -> None:
    assert decode_exception(b"rubbish") is None
    assert decode_exception(b"") is None


def test_long_messages_are_bounded() -> None:
    assert len(format_remote(ValueError("x" * 100_000))) < 5_000
    circle = ValueError("a")
    circle.__cause__ = ValueError("b")
    circle.__cause__.__cause__ = circle
    assert format_remote(circle).count("ValueError") == 2


def test_no_traceback_at_all() -> None:
    assert format_remote(ValueError("bare")) == "ValueError: bare\n"
    assert sys.exc_info() == (None, None, None)
