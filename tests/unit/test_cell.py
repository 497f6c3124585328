"""A cell's body as it runs in a worker's process."""

from __future__ import annotations

import builtins
import sys
import traceback
import types

import pytest

from nbmr import cell
from nbmr.cell import Cell
from nbmr.errors import ConfigError


@pytest.fixture(autouse=True)
def main(monkeypatch):
    """A ``__main__`` of our own; what cells leave in builtins is taken back."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    yield main
    for name in [*cell._left]:
        delattr(builtins, name)
    cell._left.clear()


def test_the_last_line_has_a_value():
    assert Cell("x = 1\nx + 1")() == "2"
    assert Cell("'text'")() == "'text'"
    for nothing in ("", "x = 1", "None", "# nothing", "print('x');\npass"):
        assert Cell(nothing)() is None


def test_data_that_comes_with_a_task_is_no_matter():
    assert Cell("1")(object()) == "1"


def test_one_cell_sees_what_another_defined(main):
    Cell("x = 20")()
    assert Cell("def f():\n    return x + 1\nf()")() == "21"
    assert main.x == 20


def test_functions_from_elsewhere_find_what_cells_define():
    Cell("import math as theirs\ndef double(x): return 2 * x\ndef __dunder__(): pass")()
    lone = types.FunctionType((lambda: double(theirs.floor(2.5))).__code__, {})  # noqa: F821
    assert lone() == 4
    Cell("def double(x): return 3 * x")()
    assert lone() == 6
    assert not hasattr(builtins, "__dunder__")
    Cell("del double")()
    with pytest.raises(NameError):
        lone()


def test_what_is_defined_before_an_error_is_there():
    with pytest.raises(ZeroDivisionError):
        Cell("before = 1\n1 / 0\nafter = 2")()
    assert Cell("before")() == "1"
    with pytest.raises(NameError):
        Cell("after")()


def test_builtins_are_not_replaced():
    real = builtins.len
    Cell("def len(x): return -1")()
    assert builtins.len is real
    assert Cell("len([])")() == "-1"  # among themselves, cells have their own


def test_a_traceback_shows_the_cells_lines():
    body = Cell("x = 0\ndef f():\n    return 1 / x\nf()", "%%nbmr")
    try:
        body()
    except ZeroDivisionError:
        text = traceback.format_exc()
    assert "return 1 / x" in text
    assert body.filename.startswith(cell.FILENAME)


@pytest.mark.parametrize("source", ["x =", "def f(:", "return 1", "await f()", "x = 'a", "  x = 1"])
def test_syntax_errors_are_found_where_it_is_written(source):
    with pytest.raises(SyntaxError):
        Cell(source)


def transformed(source):
    from IPython.core.inputtransformer2 import TransformerManager

    return TransformerManager().transform_cell(source)


@pytest.mark.parametrize(
    "source", ["%pip install x", "x = %env", "y = 1\n%matplotlib inline", "%%bash\nls", "len?"]
)
def test_magics_are_refused(source):
    with pytest.raises(ConfigError, match="magic of IPython"):
        Cell(transformed(source))


def test_commands_run_by_the_shell(capfd):
    assert Cell(transformed("!echo one; echo two\nlines = !echo three\nlines"))() == "['three']"
    assert capfd.readouterr().out == "one\ntwo\n"
    with pytest.raises(RuntimeError, match="exit status 3"):
        Cell(transformed("!exit 3"))()


def test_a_very_long_value_is_cut():
    assert len(Cell("'x' * 10_000_000")()) == cell.MOST_TEXT
