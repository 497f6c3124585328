from __future__ import annotations

import os

import pytest

from nbmr import config, node
from nbmr.codec import encode_function
from nbmr.config import Settings, read_key, resolve
from nbmr.errors import ConfigError, PickleError

URL, KEY = "amqp://me:secret@broker", "k" * 64


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """No setting of the environment, and no private node that could be started."""
    for name in ("NBMR_URL", "NBMR_KEY", "NBMR_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(node, "ensure", lambda *_: pytest.fail("a private node was started"))


@pytest.fixture
def key_file(tmp_path):
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    file.chmod(0o600)
    return file


def test_arguments():
    assert resolve(URL, KEY) == Settings(URL, KEY, "")


def test_the_environment(monkeypatch):
    monkeypatch.setenv("NBMR_URL", URL)
    monkeypatch.setenv("NBMR_KEY", KEY)
    assert resolve() == Settings(URL, KEY)


def test_arguments_win_over_the_environment(monkeypatch, key_file):
    monkeypatch.setenv("NBMR_URL", "amqp://other")
    monkeypatch.setenv("NBMR_KEY", "o" * 64)
    assert resolve(URL, KEY) == Settings(URL, KEY)
    assert resolve(URL, key_file=key_file) == Settings(URL, KEY)
    assert resolve(URL).key == "o" * 64


def test_a_key_wins_over_a_key_file_of_the_environment(monkeypatch, key_file):
    monkeypatch.setenv("NBMR_KEY_FILE", str(key_file))
    assert resolve(URL, "o" * 64).key == "o" * 64
    assert resolve(URL).key == KEY
    monkeypatch.setenv("NBMR_KEY", "e" * 64)
    assert resolve(URL).key == "e" * 64


def test_an_empty_url_is_none(monkeypatch):
    class Info:
        url, key, data_dir = "amqp://private", KEY, "/data"

    monkeypatch.setattr(node, "ensure", lambda _tell: Info)
    monkeypatch.setenv("NBMR_URL", "")
    assert resolve() == Settings("amqp://private", KEY, "/data")
    assert resolve("") == Settings("amqp://private", KEY, "/data")


def test_the_private_node_tells_how_it_goes(monkeypatch):
    class Info:
        url, key, data_dir = "amqp://private", KEY, "/data"

    told = []
    monkeypatch.setattr(node, "ensure", lambda tell: tell("starting") or Info)
    assert resolve(on_progress=told.append).node == "/data"
    assert told == ["starting"]


def test_a_broker_without_a_key_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"no signing key.*NBMR_KEY.*--key-file.*token_hex"):
        resolve(URL)
    monkeypatch.setenv("NBMR_KEY", "")
    with pytest.raises(ConfigError, match="no signing key"):
        resolve(URL)


def test_a_key_without_a_broker_is_refused(key_file):
    with pytest.raises(ConfigError, match="no broker"):
        resolve(key=KEY)
    with pytest.raises(ConfigError, match="no broker"):
        resolve(key_file=key_file)


def test_nothing_is_read_at_import(monkeypatch):
    monkeypatch.setenv("NBMR_URL", "nonsense")
    import importlib

    importlib.reload(config)
    assert config.resolve(URL, KEY).url == URL


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o601])
def test_a_key_file_that_others_can_read_is_refused(key_file, mode):
    key_file.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {key_file}"):
        read_key(key_file)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_file_of_ones_own(key_file, mode):
    key_file.chmod(mode)
    assert read_key(key_file) == KEY


def test_a_key_file_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match=r"missing can't be read"):
        read_key(tmp_path / "missing")
    with pytest.raises(ConfigError, match="can't be read"):
        read_key(tmp_path)
    (tmp_path / "noise").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "noise").chmod(0o600)
    with pytest.raises(ConfigError, match="can't be read"):
        read_key(tmp_path / "noise")


def test_an_empty_key_file_is_no_key(tmp_path):
    file = tmp_path / "empty"
    file.touch(0o600)
    with pytest.raises(ConfigError):
        resolve(URL, key_file=file)


def test_a_key_file_of_another_user_is_refused(key_file, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    with pytest.raises(ConfigError, match=f"chown 4321 {key_file}"):
        read_key(key_file)


def test_no_representation_shows_secrets():
    assert repr(Settings(URL, KEY, "/data")) == "Settings(node='/data', job_ttl=86400.0, compression='auto')"


def test_settings_do_not_travel():
    """A function that reaches them would put the key into a task."""
    settings = Settings(URL, KEY)
    with pytest.raises(PickleError, match="key doesn't travel"):
        encode_function(lambda: settings)
