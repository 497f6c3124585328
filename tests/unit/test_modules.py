"""Modules beside the notebook travel: every payload here runs where they don't exist."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from elsewhere import CHILD, Notebook, run_elsewhere

from nbmr import modules, shipped
from nbmr.codec import decode, encode, encode_function
from nbmr.imports import imported_names
from nbmr.plain import is_plain

FILES = {
    "helpers.py": """
import threading, logging
import cleaning
LIMIT = 10
TABLE = None
SEEN = {}
MISSING = object()
_lock = threading.Lock()
_log = logging.getLogger("helpers")
class Point:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return isinstance(other, Point) and self.x == other.x
    __hash__ = None
    @classmethod
    def make(cls, x): return cls(x)
    @staticmethod
    def half(x): return x / 2
def clean(x, default=MISSING):
    with _lock:
        return cleaning.strip(x) if default is MISSING else "not the same sentinel"
def limited(x, seen=SEEN): return min(x, LIMIT), sorted(seen), seen is SEEN
def lookup(x): return int(TABLE["v"].iloc[x])
def adder(n):
    def add(x):
        with _lock:
            return x + n + LIMIT
    return add
tenfold = lambda x: x * LIMIT
def is_point(p): return isinstance(p, Point) and p.x
""",
    "cleaning.py": "def strip(x):\n    import helpers\n    return x.strip()[: helpers.LIMIT]\n",
    "kit/__init__.py": "from .core import double\n",
    "kit/core.py": """
from . import deep
from .deep.base import BASE
def double(x):
    from .late import one
    return x * 2 + BASE + one()
""",
    "kit/extra.py": "def two(): return 2\n",  # nothing imports it by a name that can be read
    "kit/late.py": "def one(): return 1\n",
    "kit/deep/__init__.py": "",
    "kit/deep/base.py": "from ..constants import *\nBASE = HUNDRED\n",
    "kit/constants.py": "HUNDRED = 100\n",
    "spaced/inner.py": "def f(x): return x + 1000\n",
    "broken.py": "import no_such_module_anywhere\n",
    "named.py": "def f(x): return x + 7\n",
}


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A notebook's folder, on sys.path as Jupyter puts it there."""
    folder = tmp_path / "notebook"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {path.partition("/")[0].removesuffix(".py") for path in FILES}:
            del sys.modules[name]


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
def helpers(beside: Path) -> ModuleType:
    return importlib.import_module("helpers")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    later = time.time() + 10  # the import system compares times in whole seconds
    os.utime(path, (later, later))
    importlib.invalidate_caches()


@pytest.mark.parametrize(
    ("source", "value", "expected"),
    [
        ("from helpers import clean as fn", "  abc  ", "abc"),
        ("import helpers\nfn = lambda x: helpers.clean(x)", "  abc  ", "abc"),
        ("def fn(x):\n    import helpers\n    return helpers.clean(x)", "  abc  ", "abc"),
        (
            (
                "def fn(x):\n    def inner():\n        from helpers import clean\n        return clean(x)\n"
                "    return inner()"
            ),
            " a ",
            "a",
        ),
        ("import importlib\ndef fn(x): return importlib.import_module('named').f(x)", 1, 8),
        ("from kit import double as fn", 4, 109),
        ("import kit.core\nfn = lambda x: kit.core.double(x)", 4, 109),
        ("def fn(x):\n    from kit.late import one\n    return one()", 4, 1),
        (
            (
                "import importlib, kit\nname = 'kit.extra'\nimportlib.import_module(name)\n"
                "fn = lambda x: kit.double(x) + importlib.import_module(name).two()"
            ),
            4,
            111,
        ),
        ("import spaced.inner\nfn = spaced.inner.f", 4, 1004),
        ("import helpers\nfn = helpers.adder(5)", 1, 16),
        ("import helpers\nfn = helpers.tenfold", 2, 20),
        ("import helpers\nfn = helpers.Point.half", 2, 1.0),
        ("import helpers\nclass Sub(helpers.Point): pass\nfn = lambda x: Sub.make(x).x", 2, 2),
    ],
)
def test_what_a_cell_can_reach(
    beside: Path, notebook: Notebook, tmp_path: Path, source: str, value: object, expected: object
) -> None:
    notebook.cell(source)
    assert run_elsewhere(tmp_path, encode_function(notebook["fn"]), encode(value)) == expected


def test_results_and_data_are_of_the_clients_class(
    helpers: ModuleType, notebook: Notebook, tmp_path: Path
) -> None:
    notebook.cell("def fn(p): return p, isinstance(p, type(p))")  # doesn't name helpers: the data brings it
    (point, _) = run_elsewhere(tmp_path, encode_function(notebook["fn"]), encode(helpers.Point(3)))
    assert type(point) is helpers.Point
    assert point.x == 3
    both = encode_function(helpers.is_point)
    assert run_elsewhere(tmp_path, both, encode(pd.Series([helpers.Point(4)])[0])) == 4
    assert type(run_elsewhere(tmp_path, encode_function(helpers.Point.make), encode(5))) is helpers.Point


def test_changed_globals_travel(helpers: ModuleType, tmp_path: Path) -> None:
    helpers.LIMIT = 3
    helpers.SEEN["a"] = 1
    helpers.TABLE = pd.DataFrame({"v": [5, 6, 7]})
    assert run_elsewhere(tmp_path, encode_function(helpers.limited), encode(8)) == (3, ["a"], True)
    assert run_elsewhere(tmp_path, encode_function(helpers.lookup), encode(2)) == 7


def test_what_was_sent_wins_over_the_workers_own(beside: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "named.py").write_text("def f(x): return 'of the worker'\n")
    named = importlib.import_module("named")
    assert run_elsewhere(tmp_path, encode_function(named.f), encode(1)) == 8
    filler = CHILD.replace("shipped.prefer_shipped()", "")
    assert run_elsewhere(tmp_path, encode_function(named.f), encode(1), child=filler) == "of the worker"


def test_reload_sends_the_new_code(beside: Path, tmp_path: Path) -> None:
    named = importlib.import_module("named")
    assert run_elsewhere(tmp_path, encode_function(named.f), encode(1)) == 8
    edit(beside / "named.py", "x + 7", "x + 70")
    assert run_elsewhere(tmp_path, encode_function(named.f), encode(1)) == 8, "not reloaded yet: as here"
    importlib.reload(named)
    assert run_elsewhere(tmp_path, encode_function(named.f), encode(1)) == 71


def test_functions_patched_in_place_send_the_new_code(beside: Path, tmp_path: Path) -> None:
    """As IPython's autoreload does it: no reload, no new spec."""
    named = importlib.import_module("named")
    encode_function(named.f)
    edit(beside / "named.py", "def f(x): return x + 7", "# moved down\n\ndef f(x): return x + 70")
    fresh: dict = {"__name__": "named"}
    exec(compile((beside / "named.py").read_text(), named.__file__, "exec"), fresh)
    named.f.__code__ = fresh["f"].__code__
    assert run_elsewhere(tmp_path, encode_function(named.f), encode(1)) == 71


def test_moved_lines_are_no_edit(beside: Path, recwarn: pytest.WarningsRecorder) -> None:
    named = importlib.import_module("named")
    edit(beside / "named.py", "def f", "\n# a comment\ndef f")
    encode_function(named.f)
    assert not recwarn.list


def test_edit_before_the_first_use_warns(beside: Path, tmp_path: Path) -> None:
    named = importlib.import_module("named")
    edit(beside / "named.py", "x + 7", "x + 70")
    with pytest.warns(UserWarning, match=r"named\.py was edited after it was imported"):
        function = encode_function(named.f)
    assert run_elsewhere(tmp_path, function, encode(1)) == 71


CHILD_TWO_VERSIONS = (
    CHILD.split("fn, args, kwargs = ")[0]
    + """
first, second, again = [decode(payload(name))[0] for name in (sys.argv[1], sys.argv[3], sys.argv[3])]
result = [first(1), second(1), again is second, shipped.generation(), decode(payload(sys.argv[1]))[0](1)]
result.append(shipped.generation())
"""
    + "buffers = encode(result)\n"
    + CHILD.split("buffers = encode(result)\n")[1]
)


def test_one_child_runs_two_versions(beside: Path, tmp_path: Path) -> None:
    named = importlib.import_module("named")
    old = encode_function(named.f)
    edit(beside / "named.py", "x + 7", "x + 70")
    importlib.reload(named)
    result = run_elsewhere(tmp_path, old, encode_function(named.f), child=CHILD_TWO_VERSIONS)
    assert result == [8, 71, True, 1, 8, 2]


def test_failing_import_tells_which_module(beside: Path, notebook: Notebook, tmp_path: Path) -> None:
    notebook.cell("def fn(x):\n    import broken\n    return x")
    kind, text, _ = run_elsewhere(tmp_path, encode_function(notebook["fn"]), encode(1))
    assert kind == "raised"
    assert "No module named 'no_such_module_anywhere'" in text
    assert "while importing module 'broken'" in text


def test_decoding_here_keeps_our_own_modules(helpers: ModuleType, notebook: Notebook) -> None:
    finders, path = list(sys.meta_path), list(sys.path)
    notebook.cell("import helpers\nfn = lambda x: helpers.clean(x)")
    function = encode_function(notebook["fn"])
    helpers.LIMIT = 2
    fn, _, _ = decode(function)
    assert fn(" abc ") == "ab"
    assert sys.modules["helpers"] is helpers
    assert decode(encode(helpers.Point)) is helpers.Point
    assert [f for f in sys.meta_path if f is not shipped._finder] == [
        f for f in finders if f is not shipped._finder
    ]
    assert sys.path == path
    assert cloudpickle.list_registry_pickle_by_value() == set()


def test_encoding_twice_gives_the_same_bytes(helpers: ModuleType) -> None:
    first, second = encode_function(helpers.adder(1)), encode_function(helpers.adder(1))
    assert [bytes(b) for b in first] == [bytes(b) for b in second]


def test_threads_encode_at_once(helpers: ModuleType) -> None:
    results: list[object] = []

    def work() -> None:
        for _ in range(20):
            fn, _, _ = decode(encode_function(helpers.adder(1)))
            results.append(fn(1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [12] * 80


def test_which_modules_are_local(helpers: ModuleType) -> None:
    importlib.import_module("kit.core")
    assert all(map(modules.is_local, ["helpers", "cleaning", "kit", "kit.core", "kit.late", "spaced.inner"]))
    library = [
        "json",
        "sys",
        "math",
        "pandas",
        "numpy.linalg",
        "cloudpickle",
        "pytest",
        "nbmr.codec",
        "__main__",
        "nowhere",
    ]
    assert not any(map(modules.is_local, library))
    assert "kit.late" not in sys.modules, "asking imports nothing"
    assert [s.name for s in modules.sources("helpers", state=False)] == ["cleaning", "helpers"]
    importlib.import_module("kit.extra")
    assert "kit.extra" in [s.name for s in modules.sources("kit", state=False)], (
        "what is loaded of a package travels"
    )


def test_a_package_with_extensions_goes_by_reference(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("kit")
    extension = ModuleType("kit._fast")
    extension.__file__ = str(beside / "kit" / "_fast.cpython-311-x86_64-linux-gnu.so")
    monkeypatch.setattr("importlib.machinery.EXTENSION_SUFFIXES", [".cpython-311-x86_64-linux-gnu.so"])
    assert modules.is_local("kit")
    monkeypatch.setitem(sys.modules, "kit._fast", extension)
    assert not modules.is_local("kit")


def test_no_warning_in_ordinary_use(helpers: ModuleType) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_function(helpers.clean)


def test_imported_names() -> None:
    code = compile(
        "import a.b\nfrom c import d, e\nfrom ..h import *\ndef f():\n    from . import g\n", "", "exec"
    )
    assert imported_names(code, "p.q") == {"a.b", "c", "c.d", "c.e", "p.q", "p.q.g", "p.h"}
    assert imported_names(compile("from . import x", "", "exec"), "") == set()


def test_plain_data() -> None:
    plain = [
        1,
        "a",
        None,
        {"k": [1, (2.0, b"x")]},
        np.arange(3),
        pd.DataFrame({"a": [1]}),
        pd.Index([1]),
        {1, 2},
    ]
    other = [
        object(),
        [object()],
        threading.Lock(),
        np.array([object()]),
        pd.DataFrame({"a": [object()]}),
        len,
        list(range(20_000)),
    ]
    assert all(map(is_plain, plain))
    assert not any(map(is_plain, other))
