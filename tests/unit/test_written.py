"""Where results are written to, and as what; and what a folder that has some says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import nbmr
from nbmr import unit, written
from nbmr.written import Target, Writing

FRAME = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}, index=[5, 6])


@pytest.fixture
def at():
    """Give a function that has this process be at a unit, for one call."""

    def at(number, fn, *args):
        unit.enter(number)
        try:
            return fn(*args)
        finally:
            unit.enter(None)

    return at


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_to_means(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Target.parse("out") == Target.parse("out/") == Target(f"{tmp_path}/out", "parquet")
    assert (
        Target.parse(Path("out")) == Target.parse("~/out/*.parquet") == Target(f"{tmp_path}/out", "parquet")
    )
    assert Target.parse("a/../out/*.csv") == Target(f"{tmp_path}/out", "csv")
    assert Target.parse("*.csv") == Target(str(tmp_path), "csv")
    assert Target.parse("all.csv/") == Target(f"{tmp_path}/all.csv", "parquet")


@pytest.mark.parametrize(
    "to", ["", 1, b"out", "out.csv", "x/out.parquet", "out/*.json", "out/*", "out/a*.csv", "s3://b/"]
)
def test_what_to_must_not_be(to):
    with pytest.raises(nbmr.ConfigError, match="to="):
        Target.parse(to)


def test_folders_that_are_refused(tmp_path):
    Target(str(tmp_path), "csv").check()
    Target(f"{tmp_path}/new/newer", "csv").check()
    (tmp_path / "file").touch()
    with pytest.raises(nbmr.ConfigError, match="is a file"):
        Target(f"{tmp_path}/file", "csv").check()
    with pytest.raises(nbmr.ConfigError, match="can't be made"):
        Target(f"{tmp_path}/file/out", "csv").check()
    (tmp_path / "part-00003.parquet").touch()
    with pytest.raises(nbmr.ConfigError, match=r"part-00003\.parquet"):
        Target(str(tmp_path), "csv").check()


def test_one_write(tmp_path, at):
    target = Target(f"{tmp_path}/out", "parquet")
    write = Writing(lambda frame: frame, target, "job1")
    path = at(7, write, FRAME)
    assert path == f"{tmp_path}/out/part-00007.parquet"
    assert_frame_equal(pd.read_parquet(path), FRAME)
    assert at(7, write, FRAME) == path  # a second time, as after a lost answer
    assert at(8, write, None) is None
    assert names(tmp_path / "out") == [".nbmr-job", "part-00007.parquet"]
    with pytest.raises(nbmr.ConfigError, match="job job1"):
        target.check()
    target.sweep("job1")
    assert names(tmp_path / "out") == ["part-00007.parquet"]


def test_another_job_is_kept_out(tmp_path, at):
    target = Target(str(tmp_path), "csv")
    at(0, Writing(lambda frame: frame, target, "job1"), FRAME)
    other = Writing(lambda frame: frame, target, "job2")
    with pytest.raises(FileExistsError, match="job job1"):
        at(1, other, FRAME)
    target.sweep("job2")  # which has nothing here
    assert names(tmp_path) == [".nbmr-job", "part-00000.csv"]
    target.sweep("job1")
    with pytest.raises(FileExistsError, match="holds results already"):
        at(1, other, FRAME)
    assert names(tmp_path) == ["part-00000.csv"]


def test_a_file_system_without_links(tmp_path, at, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    assert at(0, Writing(lambda frame: frame, Target(str(tmp_path), "csv"), "job1"), FRAME)
    assert (tmp_path / ".nbmr-job").read_text() == "job1"


def test_what_fails_leaves_nothing(tmp_path, at, monkeypatch):
    target = Target(str(tmp_path), "csv")
    write = Writing(lambda frame: frame, target, "job1")
    with pytest.raises(TypeError, match="returned a int"):
        at(0, write, 7)

    def full(_number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(written.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        at(0, write, FRAME)
    assert names(tmp_path) == [".nbmr-job"]


def test_what_a_killed_process_left_is_removed(tmp_path, at):
    target = Target(str(tmp_path), "csv")
    for number in (1, 2):
        target.temporary("job1", number).touch()
    target.temporary("job2", 1).touch()
    target.sweep_parts("job1", [1])
    assert [name.rpartition("-")[0] for name in names(tmp_path)] == [
        ".part-00001.csv.job2",
        ".part-00002.csv.job1",
    ]
    at(2, Writing(lambda frame: frame, target, "job1"), FRAME)
    assert [name for name in names(tmp_path) if "job1" in name] == []


def test_in_a_kernel_nothing_is_written(tmp_path):
    write = Writing(lambda frame: frame, Target(f"{tmp_path}/out", "csv"), "job1")
    assert write(FRAME) is FRAME
    with pytest.raises(TypeError, match="returned a str"):
        write("text")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (FRAME, "a,b\n1,x\n2,y\n"),
        (FRAME.rename_axis("key"), "key,a,b\n5,1,x\n6,2,y\n"),
        (FRAME["a"], "a\n1\n2\n"),
        (pd.Series([1.5]), "0\n1.5\n"),
        (FRAME[:0], "a,b\n"),
        (pd.DataFrame({"a": ['é "q"', "x\ny"]}), 'a\n"é ""q"""\n"x\ny"\n'),
    ],
)
def test_csv(tmp_path, result, text):
    written.write(result, tmp_path / "x", "csv")
    assert (tmp_path / "x").read_text(encoding="utf-8") == text


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    with pytest.raises(ImportError, match=r"nbmr\[parquet\]"):
        written.write(FRAME, tmp_path / "x", "parquet")
