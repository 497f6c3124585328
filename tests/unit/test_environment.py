"""What workers run in: another interpreter, variables and a folder, checked before any is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nbmr
from nbmr import environment, pools
from nbmr.config import Settings
from nbmr.environment import Environment
from nbmr.errors import ConfigError


@pytest.fixture(scope="module")
def other(virtual_environment, tmp_path_factory):
    """A virtual environment that has nbmr."""
    return virtual_environment(tmp_path_factory.mktemp("other") / "venv")


def program(file, text):
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


def test_by_default_it_is_ours():
    made = Environment.check()
    assert made.python == sys.executable
    assert made.is_ours
    assert str(Path(nbmr.__file__).parents[1]) in made.variables()["PYTHONPATH"].split(os.pathsep)
    assert Environment.check(python=sys.executable).is_ours
    assert Environment.check(python=Path(sys.executable).parent / "python").is_ours


def test_another_interpreter_finds_its_own_nbmr(other, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(Path(nbmr.__file__).parents[1]))
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    (tmp_path / "nbmr").mkdir()  # a folder of that name is not it
    made = Environment.check(python=other, cwd=tmp_path)
    assert not made.is_ours
    assert made.python == str(other / "bin" / "python")
    code = "import nbmr, os, shutil, sys; print(nbmr.__file__, sys.prefix, shutil.which('python'))"
    command = [*made.command("nbmr")[:-2], "-c", code]
    told = subprocess.run(
        command, env=made.variables(), cwd=made.cwd, capture_output=True, text=True, check=True
    )
    file, prefix, python = told.stdout.split()
    assert file.startswith(str(other))
    assert (prefix, python) == (str(other), str(other / "bin" / "python"))
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & made.variables().keys()


def test_paths_are_relative_to_here_and_home(other, monkeypatch):
    monkeypatch.chdir(other.parent)
    assert Environment.check(python=other.name).python == str(other / "bin" / "python")
    monkeypatch.setenv("HOME", str(other.parent))
    assert Environment.check(python=f"~/{other.name}/bin/python").python == str(other / "bin" / "python")
    assert Environment.check(cwd="~").cwd == str(other.parent)
    assert Environment.check(cwd=other.name).cwd == str(other)


def test_a_name_is_looked_for_on_the_path(other, monkeypatch):
    monkeypatch.setenv("PATH", str(other / "bin"))
    assert Environment.check(python="python").python == str(other / "bin" / "python")


@pytest.mark.parametrize("python", ["/nowhere/python", "no-such-python", 5, None.__class__])
def test_no_interpreter(python):
    with pytest.raises(ConfigError, match=r"python=.*(no such interpreter|has to be the path)"):
        Environment.check(python=python)


def test_what_is_no_interpreter(tmp_path):
    with pytest.raises(ConfigError, match="no virtual environment"):
        Environment.check(python=tmp_path)
    (tmp_path / "text").write_text("x")
    with pytest.raises(ConfigError, match="no program that can be run"):
        Environment.check(python=tmp_path / "text")
    broken = program(tmp_path / "broken", "echo no libpython here >&2; exit 7")
    with pytest.raises(ConfigError, match="status 7 and said: no libpython here"):
        Environment.check(python=broken)
    (tmp_path / "alien").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "alien").chmod(0o755)
    with pytest.raises(ConfigError, match="can't be run"):
        Environment.check(python=tmp_path / "alien")


def test_one_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "PROBE_SECONDS", 0.5)
    with pytest.raises(ConfigError, match=r"within 0\.5 s"):
        Environment.check(python=program(tmp_path / "slow", "exec sleep 60"))


def test_without_nbmr_it_says_how_to_install_it(virtual_environment, tmp_path):
    bare = virtual_environment(tmp_path / "bare", with_nbmr=False)
    with pytest.raises(ConfigError) as raised:
        Environment.check(python=bare)
    assert "No module named 'nbmr'" in str(raised.value)
    assert f"{bare}/bin/python -m pip install {Path(nbmr.__file__).parents[1]}" in str(raised.value)


def answer(tmp_path, **told):
    """A program that tells what an interpreter would."""
    text = repr(told).replace("'", '"')
    return program(tmp_path / "told", f"echo chatter\necho '{environment._MARK}{text}'")


def test_another_version_of_python(tmp_path):
    told = answer(tmp_path, python="3.9.1", error="SyntaxError: bad", versions={})
    with pytest.raises(ConfigError, match=r"Python 3.* on the client and 3\.9\.1 on the worker"):
        Environment.check(python=told)


def test_another_version_of_nbmr(tmp_path):
    ours = {**environment.local_versions(), "nbmr": nbmr.__version__}
    told = answer(tmp_path, python=ours["python"], error="", versions=ours | {"nbmr": "9.8.7"})
    with pytest.raises(ConfigError, match=r"nbmr .* on the client and 9\.8\.7 on the worker"):
        Environment.check(python=told)


def test_a_package_that_is_missing(tmp_path):
    ours = {**environment.local_versions(), "nbmr": nbmr.__version__}
    del ours["pandas"]
    told = answer(tmp_path, python=ours["python"], error="", versions=ours)
    with pytest.raises(ConfigError, match=r"pandas isn't installed there.*-m pip install pandas"):
        Environment.check(python=told)


def test_variables_are_set_and_removed(monkeypatch):
    monkeypatch.setenv("OLD", "1")
    monkeypatch.setenv("NBMR_KEY", "k" * 64)
    made = Environment.check(env={"NEW": "2", "OLD": None, "NEVER": None, "PYTHONPATH": "/mine"})
    found = made.variables()
    assert found["NEW"] == "2"
    assert not {"OLD", "NEVER", "NBMR_KEY"} & found.keys()
    assert found["PYTHONPATH"].split(os.pathsep) == ["/mine", str(Path(nbmr.__file__).parents[1])]


def test_values_are_not_shown():
    made = Environment.check(env={"API_TOKEN": "hunter2"})
    assert "hunter2" not in repr(made) + str(made.about())
    assert made.about()["variables"] == ["API_TOKEN"]


@pytest.mark.parametrize("name", ["NBMR_KEY", "NBMR_URL", "NBMR_KEY_FILE"])
def test_the_broker_is_not_chosen_by_variables(name):
    with pytest.raises(ConfigError, match=name):
        Environment.check(env={name: "x"})


@pytest.mark.parametrize(
    "env", ["A=1", [("A", "1")], {1: "1"}, {"": "1"}, {"A=B": "1"}, {"A": 1}, {"A": "\0"}]
)
def test_what_are_no_variables(env):
    with pytest.raises(ConfigError, match="env"):
        Environment.check(env=env)


def test_a_wrong_value_is_not_shown():
    with pytest.raises(ConfigError) as raised:
        Environment.check(env={"TOKEN": b"hunter2"})
    assert "hunter2" not in str(raised.value)
    assert "'TOKEN'" in str(raised.value)


def test_the_folder_has_to_be_there(tmp_path):
    (tmp_path / "file").touch()
    for cwd in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(ConfigError, match="no such folder"):
            Environment.check(cwd=cwd)
    with pytest.raises(ConfigError, match="path of a folder"):
        Environment.check(cwd=5)


def test_a_pool_is_started_in_it(other, tmp_path):
    settings = Settings("amqp://me:secret@127.0.0.1:1", "k" * 64, str(tmp_path))
    made = Environment.check(other, {"NEW": "2"}, tmp_path)
    pool, process = pools.start(settings, 1, environment=made)
    try:
        assert process.args[0] == str(other / "bin" / "python")
        with pytest.raises(nbmr.WorkerError, match="Nothing listens at 127"):
            pool.wait(1, process)
    finally:
        process.wait(30)
    assert process.returncode == 1
