from __future__ import annotations

import json
import os
import stat
import subprocess
import sys

import pytest

from nbmr import pools, private
from nbmr.config import Settings
from nbmr.errors import ConfigError
from nbmr.node import connection_file


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_files_and_folders_are_private_whatever_the_umask(umask, tmp_path):
    folder = private.make_folder(tmp_path / "a" / "b")
    private.write(folder / "file", "text")
    private.write(folder / "file", "other text")
    assert [mode(path) for path in (folder.parent, folder, folder / "file")] == [0o700, 0o700, 0o600]
    assert private.read(folder / "file", "It") == "other text"
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_the_connection_file_is_private_whatever_the_umask(umask, tmp_path):
    info = connection_file.ConnectionInfo(
        url="amqp://nbmr:x@127.0.0.1:9/%2F", key="00", keeper_pid=1, keeper_started=1.0, node_pid=1,
        data_dir="/d", rabbitmq_version="3", started=1.0,
    )  # fmt: skip
    file = tmp_path / "state" / "runtime" / "nbmr-node.json"
    connection_file.write(info, file)
    assert [mode(path) for path in (file.parents[1], file.parent, file)] == [0o700, 0o700, 0o600]
    assert connection_file.read(file) == info


@pytest.mark.parametrize("exposed", [0o640, 0o604, 0o620, 0o602, 0o610])
def test_a_file_that_others_can_get_at_is_refused(tmp_path, exposed):
    file = tmp_path / "it's a file"
    file.write_text("secret")
    file.chmod(exposed)
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        private.read(file, "The file")
    command = str(caught.value).partition("Run: ")[2]
    subprocess.run(command, shell=True, check=True)  # what it says to do mends it
    assert private.read(file, "The file") == "secret"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("exposed", [0o770, 0o702, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(tmp_path, exposed):
    folder = tmp_path / "a folder"
    folder.mkdir()
    folder.chmod(exposed)
    with pytest.raises(ConfigError, match="chmod go-w") as caught:
        private.make_folder(folder)
    subprocess.run(str(caught.value).partition("Run: ")[2], shell=True, check=True)
    assert private.make_folder(folder) == folder


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_what_is_anothers_is_refused_with_the_command_that_mends_it(tmp_path):
    folder, file = tmp_path / "folder", tmp_path / "file"
    folder.mkdir()
    file.touch(0o600)
    for path, look in ((folder, private.make_folder), (file, lambda f: private.read(f, "It"))):
        os.chown(path, 65534, -1)
        with pytest.raises(ConfigError, match="another user") as caught:
            look(path)
        subprocess.run(str(caught.value).partition("Run: ")[2], shell=True, check=True)
        look(path)


def test_pools_are_not_looked_for_where_others_can_write(tmp_path, monkeypatch):
    """They could name a process of ours there, to be ended with the pool."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / "nbmr-pools"
    folder.mkdir()
    (folder / "1.json").write_text(json.dumps({"pid": 1, "started": 0, "failed": ""}))
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="chmod go-w"):
        pools.living(Settings("amqp://named", "k" * 64))


def test_secrets_are_not_inherited(monkeypatch):
    monkeypatch.setenv("NBMR_KEY", "k" * 64)
    monkeypatch.setenv("NBMR_URL", "amqp://me:secret@host")
    monkeypatch.setenv("NBMR_KEY_FILE", "/a/path/is/no/secret")
    assert private.environment().keys() == os.environ.keys() - {"NBMR_KEY", "NBMR_URL"}
    private.forget_secrets()
    said = subprocess.run(
        [sys.executable, "-c", "import os; print(*os.environ)"], capture_output=True, check=True
    )
    assert b"NBMR_KEY_FILE" in said.stdout
    assert not {b"NBMR_KEY", b"NBMR_URL"} & set(said.stdout.split())
