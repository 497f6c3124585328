"""Which files a pattern stands for, how they are read, and what is refused at once."""

from __future__ import annotations

import importlib.util
import pickle
import sys

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import nbmr
from nbmr.filelist import Files
from nbmr.reading import Read, pandas_reader

FRAME = pd.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "z"]})


@pytest.fixture
def folder(tmp_path):
    """Some files, made in no order."""
    for name in ("b.csv", "a.csv", "c.tsv", "sub/d.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        FRAME.to_csv(tmp_path / name, index=False)
    return tmp_path


def test_patterns_come_sorted_and_lists_as_given(folder):
    assert nbmr.files(f"{folder}/*.csv") == [f"{folder}/a.csv", f"{folder}/b.csv"]
    assert nbmr.files(f"{folder}/**/*.csv") == [f"{folder}/{name}.csv" for name in ("a", "b", "sub/d")]
    assert nbmr.files([f"{folder}/b.csv", folder / "a.csv"]) == [f"{folder}/b.csv", f"{folder}/a.csv"]
    assert nbmr.files(folder / "sub" / "*.csv") == [f"{folder}/sub/d.csv"]
    assert nbmr.files(path for path in [folder / "c.tsv"]) == [f"{folder}/c.tsv"]
    assert nbmr.files([f"{folder}/c.tsv", f"{folder}/*.csv"])[0] == f"{folder}/c.tsv"
    assert nbmr.files([]) == []


def test_paths_become_absolute(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    assert nbmr.files("a.csv") == nbmr.files("~/a.csv") == nbmr.files("sub/../*a.csv") == [f"{folder}/a.csv"]
    assert nbmr.files(f"file://{folder}/a.csv") == [f"{folder}/a.csv"]


def test_a_path_that_exists_is_no_pattern(folder):
    FRAME.to_csv(folder / "x[1].csv", index=False)
    assert nbmr.files(f"{folder}/x[1].csv") == [f"{folder}/x[1].csv"]


def test_what_it_says_of_itself(folder):
    found = nbmr.files(f"{folder}/*.csv")
    assert repr(found) == f"<Files: 2 files, 32 B from {folder}>"
    assert found.nbytes == 32
    missing = nbmr.files(["/nowhere/x.csv"])
    assert missing.nbytes is None
    assert "size not known here" in repr(missing)
    assert repr(nbmr.files([])) == "<Files: 0 files, 0 B>"


def test_copies_and_parts_read_alike(folder):
    found = nbmr.files(f"{folder}/*.csv", usecols=["a"])
    for other in (found[:1], pickle.loads(pickle.dumps(found)), nbmr.files(found)):
        assert isinstance(other, Files)
        assert list(other.read(other[0])) == ["a"]
    assert nbmr.files(found, nrows=1).read(found[0]).shape == (1, 1)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("*.parquet", "No file matches"),
        ("missing.csv", "There is no file"),
        ("sub", "is a folder.*sub/\\*.csv"),
        (["sub"], "is a folder"),
        (["*.parquet"], "No file matches"),
        ("", "not empty"),
        ([1], "has to be a text or a Path"),
        ([b"a.csv"], "has to be a text or a Path"),
        (b"a.csv", "takes a path"),
        (7, "takes a path"),
        ({"a.csv": 1}, "takes a path"),
        (["a.xlsx"], "isn't clear"),
        (["a"], "isn't clear"),
        (["a.parquet.gz"], "isn't clear"),
        (["a.pkl"], "unpickling runs what is in the file"),
        ("zip://*.csv::s3://bucket/a.zip", "'::'"),
        ("nosuch://bucket/*.csv", "can't be listed"),
    ],
)
def test_what_is_refused_at_once(folder, monkeypatch, given, match):
    monkeypatch.chdir(folder)
    with pytest.raises(nbmr.ConfigError, match=match):
        nbmr.files(given)


def test_readers_and_options_that_are_refused(folder):
    with pytest.raises(nbmr.ConfigError, match=r"no option of pandas\.read_csv"):
        nbmr.files(f"{folder}/*.csv", seperator=";")
    with pytest.raises(nbmr.ConfigError, match="has to be a function"):
        nbmr.files(f"{folder}/*.csv", "csv")
    assert nbmr.files(["x.xlsx"], pd.read_excel, sheet_name="a").read.options == {"sheet_name": "a"}


def test_urls_need_fsspec(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "fsspec" else find(name))
    with pytest.raises(nbmr.ConfigError, match=r"pip install fsspec.*s3fs"):
        nbmr.files("s3://bucket/*.parquet")
    assert nbmr.files("https://example.org/a.csv?x=1") == ["https://example.org/a.csv?x=1"]


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # by early ones of fsspec
def test_urls_are_listed_by_fsspec(folder):
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for name in ("a.csv", "b.csv"):
        memory.pipe(f"/listed/{name}", (folder / name).read_bytes())
    try:
        found = nbmr.files("memory://listed/*.csv")
        assert [url.rpartition("/")[2] for url in found] == ["a.csv", "b.csv"]
        assert all(url.startswith("memory://") for url in found)
        assert_frame_equal(found.read(found[0]), FRAME)
        with pytest.raises(nbmr.ConfigError, match="No file matches"):
            nbmr.files("memory://listed/*.jsonl")
    finally:
        memory.rm("/listed", recursive=True)
    assert nbmr.files(["s3://bucket/a.csv"]) == ["s3://bucket/a.csv"]


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("a.CSV", "read_csv"),
        ("a.csv.gz", "read_csv"),
        ("a.tsv.zst", "read_csv"),
        ("a.json", "read_json"),
        ("a.jsonl.bz2", "read_json"),
        ("a.ndjson", "read_json"),
        ("a.parquet", "read_parquet"),
        ("a.snappy.parquet", "read_parquet"),
        ("a.pq", "read_parquet"),
        ("a.feather", "read_feather"),
        ("https://example.org/a.csv?version=2.x", "read_csv"),
    ],
)
def test_suffixes(name, reader):
    assert pandas_reader(name)[0] == reader


def test_without_pyarrow_it_says_what_to_install(folder, monkeypatch):
    file = folder / "x.parquet"
    FRAME.to_parquet(file)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    with pytest.raises(ImportError, match=r"pip install 'nbmr\[parquet\]'") as caught:
        Read(None, {})(str(file))
    assert str(file) in str(caught.value)
