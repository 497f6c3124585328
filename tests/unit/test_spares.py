"""Files that are done with are written again, unless somebody still has them; and go soon."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nbmr import shared, spares

SIZE = shared.LEAST_BYTES


@pytest.fixture
def node(tmp_path):
    data_dir = tmp_path / "node-1"
    data_dir.mkdir()
    yield data_dir
    shared.remove_node(data_dir)


@pytest.fixture
def folder(node):
    return shared.make_folder(str(node), "job1")


def spare(node):
    found = shared.node_folder(node) / "spare"
    return sorted(found.iterdir()) if found.exists() else []


def inode(reference):
    return Path(reference["file"]).stat().st_ino


def written(folder, name, size, byte):
    return shared.write(folder, name, [bytes([byte]) * size])


@pytest.mark.parametrize("size", [SIZE, SIZE + 1, 2 * SIZE - 1, 2 * SIZE, 4 * SIZE])
def test_a_file_is_written_again(node, folder, size):
    first = written(folder, "data0", 2 * SIZE, 1)
    number = inode(first)
    shared.remove_file(first)
    assert not Path(first["file"]).exists()
    second = written(folder, "data1", size, 2)
    assert inode(second) == number
    assert bytes(shared.map_file(second)) == b"\2" * size
    assert not spare(node)


def test_one_that_is_far_too_large_is_left(node, folder):
    first = written(folder, "data0", 4 * SIZE + 1, 1)
    number = inode(first)
    shared.remove_file(first)
    second = written(folder, "data1", 2 * SIZE, 2)
    assert inode(second) != number
    assert len(spare(node)) == 1


def test_what_fits_best_is_taken(node, folder):
    references = {size: written(folder, f"data{size}", size, 1) for size in (SIZE, 2 * SIZE, 3 * SIZE)}
    numbers = {size: inode(reference) for size, reference in references.items()}
    for reference in references.values():
        shared.remove_file(reference)
    assert inode(written(folder, "more", 2 * SIZE - 5, 2)) == numbers[2 * SIZE]
    assert inode(written(folder, "less", 3 * SIZE + 5, 2)) == numbers[3 * SIZE]


@pytest.mark.parametrize("how", ["private", "shared", "open", "other process"])
def test_one_that_somebody_has_is_never_written(node, folder, how):
    first = written(folder, "data0", SIZE, 1)
    opened = os.open(first["file"], os.O_RDONLY)
    look = lambda: os.pread(opened, SIZE, 0)  # noqa: E731
    process = None
    if how in ("private", "shared"):
        flags = mmap.MAP_PRIVATE if how == "private" else mmap.MAP_SHARED
        mapped = mmap.mmap(opened, SIZE, flags, mmap.PROT_READ)
        look = lambda: mapped[:]  # noqa: E731
        os.close(opened)
    elif how == "other process":
        code = f"import mmap; m = mmap.mmap({opened}, {SIZE}, prot=mmap.PROT_READ); input(); print(set(m[:]))"
        process = subprocess.Popen(
            [sys.executable, "-c", f"print(0, flush=True); {code}"], pass_fds=[opened], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout.readline() == "0\n"
    shared.remove_file(first)
    second = written(folder, "data1", SIZE, 2)
    assert bytes(shared.map_file(second)) == b"\2" * SIZE
    if process is None:
        assert look() == b"\1" * SIZE
    else:
        os.close(opened)
        assert process.communicate("\n")[0] == "{1}\n"
    assert not spare(node)


def test_where_nothing_tells_who_has_a_file_none_is_written_again(node, folder, monkeypatch):
    monkeypatch.delattr(spares.fcntl, "F_SETLEASE")
    first = written(folder, "data0", SIZE, 1)
    number = inode(first)
    view = shared.map_file(first)
    shared.remove_file(first)
    assert inode(written(folder, "data1", SIZE, 2)) != number
    assert bytes(view) == b"\1" * SIZE


def test_a_job_that_ends_just_as_a_file_is_taken(node, folder, monkeypatch):
    shared.remove_file(written(folder, "data0", SIZE, 1))
    opening = os.open

    def late(*args):
        if Path(folder).exists():
            Path(folder).rename(f"{folder}.gone")  # as `remove_folder` begins
        return opening(*args)

    monkeypatch.setattr(spares.os, "open", late)
    assert written(folder, "data1", SIZE, 2) is None
    assert not spare(node)


def test_files_on_a_disk_are_removed(node, monkeypatch, tmp_path):
    monkeypatch.setattr(shared, "MEMORY", tmp_path / "missing")
    folder = shared.make_folder(str(node), "job1")
    shared.remove_file(written(folder, "data0", SIZE, 1))
    written(folder, "data1", SIZE, 1)
    shared.remove_folder(folder)
    assert not list((node / "shared").iterdir())


def test_a_job_hands_its_files_on_and_not_too_many(node, folder, monkeypatch):
    for number in range(5):
        written(folder, f"data{number}", SIZE, number)
    memory = psutil.virtual_memory()._replace(available=16 * (4 * SIZE + 5))
    monkeypatch.setattr(spares.psutil, "virtual_memory", lambda: memory)
    shared.remove_folder(folder)
    assert len(spare(node)) == 4
    assert [path.name for path in shared.node_folder(node).iterdir()] == ["spare"]
    other = shared.make_folder(str(node), "job2")
    monkeypatch.undo()
    reference = written(other, "data0", SIZE, 7)
    assert bytes(shared.map_file(reference)) == b"\7" * SIZE
    assert shared.write(other, "data0", [bytes(SIZE)]) is None  # a name is given once
    assert len(spare(node)) == 3
    shared.remove_folder(other)
    assert shared.write(other, "data1", [bytes(SIZE)]) is None  # the job is over
    assert len(spare(node)) == 4


def test_of_very_many_files_few_are_kept(node, folder, monkeypatch):
    monkeypatch.setattr(spares, "_MOST_FILES", 3)
    for number in range(5):
        written(folder, f"data{number}", SIZE, number)
    shared.remove_folder(folder)
    assert len(spare(node)) == 3


def test_they_go_soon(node, folder, monkeypatch):
    monkeypatch.setattr(spares, "KEEP_SECONDS", 0.2)
    shared.remove_file(written(folder, "data0", SIZE, 1))
    assert len(spare(node)) == 1
    until = time.monotonic() + 10
    while (shared.node_folder(node) / "spare").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not (shared.node_folder(node) / "spare").exists()


def test_a_worker_sweeps_what_was_left(node, folder):
    shared.remove_file(written(folder, "data0", SIZE, 1))
    (
        shared.remove_file(written(folder, "data1", SIZE, 1)),
        shared.remove_file(written(folder, "data2", SIZE, 1)),
    )
    old = spare(node)[0]
    os.utime(old, (0, 0))
    left = len(spare(node)) - 1
    shared.sweep(str(node))
    assert len(spare(node)) == left
    assert not old.exists()
    shared.sweep("")


def test_a_process_leaves_none(node, folder):
    code = f"""
import os
from nbmr import shared
folder = shared.make_folder({str(node)!r}, "job2")
shared.remove_file(shared.write(folder, "data0", [bytes({SIZE})]))
if not os.fork():
    raise SystemExit  # a fork has no files of its own
os.wait()
print(len(os.listdir(os.path.join(os.path.dirname(folder), "spare"))))
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout == "1\n"
    assert not spare(node)
