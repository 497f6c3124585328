"""joblib knows the backend "nbmr" after both were imported, in any order; and its import is never harmed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nbmr

pytestmark = pytest.mark.slow
pytest.importorskip("joblib")
ROOT = Path(nbmr.__file__).parents[1]
LOOK = "print('nbmr' in joblib.parallel.BACKENDS, [f for f in sys.meta_path if 'nbmr' in type(f).__module__])"


def run(code):
    """What a fresh Python prints."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "code",
    [
        "import nbmr; import joblib",
        "import joblib; import nbmr",
        "from joblib import parallel_config; import nbmr, joblib",
        "import nbmr; from joblib.parallel import Parallel; import joblib",
        "import nbmr, importlib.util; importlib.util.find_spec('joblib.parallel'); import joblib",
    ],
)
def test_in_any_order(code):
    assert run(f"{code}; {LOOK}") == "True []"


def test_it_can_be_chosen_and_loads_nothing_before():
    code = "import nbmr, joblib; print('nbmr.joblib_backend' in sys.modules, 'pika' in sys.modules);"
    code += "c = joblib.parallel_config(backend='nbmr', queue='gpu');"
    code += "print(c.parallel_config['backend'].options['queue'])"
    assert run(code) == "False False\ngpu"


def test_import_nbmr_does_not_load_joblib():
    assert run("import nbmr; print('joblib' in sys.modules)") == "False"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("raise OSError('broken')", "OSError"),
        ("BACKENDS = {}", "nothing"),  # one that is so old, or so new, that it has no such function
        ("def register_parallel_backend(name, factory): raise ValueError", "nothing"),
    ],
)
def test_the_import_of_joblib_is_not_harmed(tmp_path, text, wanted):
    (tmp_path / "joblib").mkdir()
    (tmp_path / "joblib" / "__init__.py").write_text("from . import parallel")
    (tmp_path / "joblib" / "parallel.py").write_text(text)
    attempt = "try:\n import joblib\n print('nothing')\nexcept BaseException as e:\n print(type(e).__name__)"
    assert run(f"import nbmr; sys.path.insert(0, {str(tmp_path)!r})\n{attempt}") == wanted


def test_a_loader_that_can_not_be_changed_is_left_alone():
    code = """
import importlib.machinery, types
class Loader:
    __slots__ = ()
    def create_module(self, spec): return None
    def exec_module(self, module): module.BACKENDS = {}
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("joblib"):
            return importlib.machinery.ModuleSpec(name, Loader(), is_package=name == "joblib")
sys.meta_path.insert(0, Finder())
import nbmr, joblib.parallel
print(joblib.parallel.BACKENDS)
"""
    assert run(code) == "{}"
