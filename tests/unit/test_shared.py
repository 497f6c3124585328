"""Payloads in shared memory: written, verified, mapped, removed."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from types import SimpleNamespace

import pytest

from nbmr import shared
from nbmr.shared import SharedGone

LARGE = shared.LEAST_BYTES


@pytest.fixture
def data_dir(tmp_path):
    folder = tmp_path / f"node-{secrets.token_hex(4)}"
    folder.mkdir()
    yield folder
    shared.remove_node(folder)
    assert not shared.node_folder(folder).exists()


@pytest.fixture(params=["memory", "data folder"])
def folder(request, data_dir, monkeypatch):
    if request.param == "data folder":
        monkeypatch.setattr(shared, "MEMORY", data_dir / "missing")
    return shared.make_folder(str(data_dir), "job1")


def test_what_is_written_is_mapped(folder):
    parts = [os.urandom(LARGE), bytearray(b"abc"), memoryview(os.urandom(3 * LARGE)).cast("H")]
    reference = shared.write(folder, "data0", parts)
    assert reference["size"] == 4 * LARGE + 3
    view = shared.map_file(reference)
    assert view == b"".join(map(bytes, parts))
    assert view.readonly
    shared.remove_folder(folder)
    assert view[LARGE : LARGE + 3] == b"abc"  # whoever has mapped it keeps it


def test_only_its_user_can_read_it(folder):
    reference = shared.write(folder, "data0", [bytes(LARGE)])
    assert Path(reference["file"]).stat().st_mode & 0o077 == 0
    assert Path(folder).stat().st_mode & 0o077 == 0
    assert Path(folder).parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("size", [0, 1, LARGE - 1])
def test_what_is_small_rides_in_a_message(folder, size):
    assert shared.write(folder, "data0", [bytes(size)]) is None
    assert not list(Path(folder).iterdir())


def test_without_a_folder_all_rides_in_messages(folder):
    assert shared.make_folder("", "job1") == ""
    assert shared.write("", "data0", [bytes(LARGE)]) is None
    shared.remove_folder(folder)
    assert shared.write(folder, "data0", [bytes(LARGE)]) is None  # the job is over
    assert not Path(folder).exists()


def test_a_name_is_used_once(folder):
    assert shared.write(folder, "data0", [bytes(LARGE)])
    assert shared.write(folder, "data0", [bytes(LARGE)]) is None


def opened_in(folder):
    """Yield the files of a folder that this process has open; other threads may open and close others."""
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if (target := str(file.readlink())).startswith(folder):
                yield target


@pytest.mark.parametrize("how", ["byte", "longer", "shorter", "gone", "link"])
def test_what_was_altered_is_noticed(folder, how):
    reference = shared.write(folder, "data0", [bytes(2 * LARGE)])
    file = Path(reference["file"])
    if how == "byte":
        with file.open("r+b") as opened:
            opened.seek(LARGE)
            opened.write(b"\x01")
    elif how == "gone":
        file.unlink()
    elif how == "link":
        file.rename(file.with_name("other"))
        file.symlink_to(file.with_name("other"))
    else:
        os.truncate(file, 2 * LARGE + (1 if how == "longer" else -1))
    for look in (shared.open_file, shared.map_file):
        with pytest.raises(SharedGone):
            look(reference)
    assert not list(opened_in(folder))


def test_a_full_file_system_leaves_nothing(folder, monkeypatch):
    write, written = os.write, []

    def full(file, piece):
        if written:
            raise OSError(28, "No space left on device")
        written.append(write(file, piece[:1000]))
        return written[0]

    monkeypatch.setattr(os, "write", full)
    assert shared.write(folder, "data0", [bytes(LARGE)]) is None
    assert written == [1000]
    assert not list(Path(folder).iterdir())


def test_an_interrupt_leaves_nothing(folder, monkeypatch):
    def interrupted(_file, _piece):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shared.write(folder, "data0", [bytes(LARGE)])
    assert not list(Path(folder).iterdir())


def test_the_last_of_the_room_is_left(folder, monkeypatch):
    found = os.statvfs(folder)
    assert not shared._room(folder, found.f_bavail * found.f_frsize)
    memory = SimpleNamespace(available=4 * LARGE - 4)
    monkeypatch.setattr(shared.psutil, "virtual_memory", lambda: memory)
    assert shared.write(folder, "data0", [bytes(LARGE)]) is None
    memory.available = 4 * LARGE
    assert shared.write(folder, "data0", [bytes(LARGE)])


@pytest.mark.parametrize("what", ["a file", "a link", "open to others"])
def test_a_folder_that_somebody_else_made_is_not_used(data_dir, tmp_path, what):
    node = shared.node_folder(data_dir)
    if what == "a file":
        node.touch()
    elif what == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        node.symlink_to(tmp_path / "elsewhere")
    else:
        node.mkdir()
        node.chmod(0o777)
    try:
        assert shared.make_folder(str(data_dir), "job1") == ""
    finally:
        if not node.is_dir() or node.is_symlink():
            node.unlink()


def test_only_its_own_folders_are_removed(tmp_path, folder):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("mine")
    shared.remove_folder(str(mine))
    shared.remove_file({"file": str(mine / "file")})
    shared.remove_file({"name": "a blob", "size": 1})
    shared.remove_file(None)
    assert (mine / "file").read_text() == "mine"
    reference = shared.write(folder, "data0", [bytes(LARGE)])
    shared.remove_file(reference)
    shared.remove_file(reference)
    assert not list(Path(folder).iterdir())
    assert not shared.is_gone(reference)
    shared.remove_folder(folder)
    shared.remove_folder(folder)
    assert {path.name for path in Path(folder).parent.glob("*")} <= {"spare"}
    assert shared.is_gone(reference)
