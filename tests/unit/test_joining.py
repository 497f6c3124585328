"""The line that starts workers on another machine, and the passwords that it leaves out."""

from __future__ import annotations

import shlex

import pytest

from nbmr import joining
from nbmr.broker import passwords
from nbmr.broker.address import parse
from nbmr.config import Settings, resolve
from nbmr.errors import ConfigError

KEY = "k" * 64


def test_it_names_the_broker_and_a_key_file_and_holds_no_secret():
    settings = Settings("amqp://me:s3cr3t@broker.example.org:5673/lab", KEY)
    line = joining.command(settings)
    assert line == "nbmr worker --url amqp://me@broker.example.org:5673/lab --key-file nbmr.key"
    assert joining.command(settings, "gpu", 4, "2 GB", "/keys/lab key").endswith(
        " --key-file '/keys/lab key' --queue gpu --slots 4 --memory-limit '2 GB'"
    )
    assert " --key-file ~/'my keys/lab' " in joining.command(settings, "gpu", key_file="~/my keys/lab")


def test_the_key_file_is_called_as_here(tmp_path, monkeypatch):
    file = tmp_path / "lab.key"
    file.write_text(KEY)
    file.chmod(0o600)
    assert f" --key-file {file}" in joining.command(resolve("amqp://broker", key_file=file))
    monkeypatch.setenv("NBMR_KEY_FILE", str(file))
    assert f" --key-file {file}" in joining.command(resolve("amqp://broker"))
    assert " --key-file nbmr.key" in joining.command(resolve("amqp://broker", KEY))
    monkeypatch.setenv("NBMR_KEY", KEY)
    assert " --key-file nbmr.key" in joining.command(resolve("amqp://broker"))


def test_with_the_password_it_stands_in_no_argument():
    settings = Settings("amqp://me:s3cr3t@broker/?heartbeat=5", KEY)
    words = shlex.split(joining.command(settings, slots=2, with_password=True))
    assert words[0] == f"NBMR_URL={settings.url}"
    assert words[1:] == ["nbmr", "worker", "--key-file", "nbmr.key", "--slots", "2"]


def test_a_shell_reads_it_as_it_was_meant():
    url = "amqp://me:a;b@one,two:1/a%20b?heartbeat=5 amqps://you:$(x)@three/?verify=verify_none&heartbeat=6"
    words = shlex.split(joining.command(Settings(url, KEY)))
    addresses = parse(words[3])
    assert [(a.host, a.user, a.password) for a in addresses] == [
        ("one", "me", ""),
        ("two", "me", ""),
        ("three", "you", ""),
    ]
    assert [a.vhost for a in addresses] == ["a b", "a b", "/"]
    assert "$" not in words[3]


@pytest.mark.parametrize("settings", [None, Settings("amqp://nbmr:pw@127.0.0.1:5/", KEY, "/data")])
def test_nobody_else_reaches_the_private_node(settings):
    with pytest.raises(ConfigError) as raised:
        joining.command(settings, "gpu", 3)
    said = str(raised.value)
    assert "127.0.0.1 alone" in said
    assert "nbmr.connect(url, key=…)" in said
    assert said.endswith("nbmr worker --queue gpu --slots 3")
    assert "pw" not in said


@pytest.mark.parametrize("options", [{"slots": 0}, {"slots": 1.5}, {"queue": "a b"}, {"memory_limit": "x"}])
def test_options_that_make_no_sense(options):
    with pytest.raises(ConfigError):
        joining.command(Settings("amqp://broker", KEY), **options)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://host", "amqp://host"),
        ("amqp://me@host/x", "amqp://me@host/x"),
        ("amqp://me:a@b:c@host/x", "amqp://me@host/x"),
        ("amqp://me:@host", "amqp://me@host"),
        ("amqps://m%40e:p%2F@[::1]:5/", "amqps://m%40e@[::1]:5/"),
        ("amqp://a:b@one/x, amqp://c:d@two", "amqp://a@one/x, amqp://c@two"),
        ("", ""),
    ],
)
def test_a_url_without_passwords(url, shown):
    assert passwords.without(url) == shown


def test_passwords_are_put_in_where_they_are_missing():
    asked = []

    def ask(whose):
        asked.append(whose)
        return "p@:/"

    url = passwords.complete("amqp://me@one/x amqp://you:y@two amqp://me@one/z amqp://three", ask)
    assert [(a.host, a.user, a.password) for a in parse(url)] == [
        ("one", "me", "p@:/"),
        ("two", "you", "y"),
        ("one", "me", "p@:/"),
        ("three", "guest", "guest"),
    ]
    assert asked == ["me@one"]


def test_passwords_that_are_known_are_not_asked_for():
    def ask(whose):
        pytest.fail(whose)

    assert passwords.complete("amqp://me@one/x", ask, "amqp://me:p%40@one/y") == "amqp://me:p%40@one/x"
    with pytest.raises(pytest.fail.Exception, match="me@two"):
        passwords.complete("amqp://me@two/x", ask, "amqp://me:p@one/y")
