from __future__ import annotations

import ssl

import pytest

from nbmr.broker.address import CONNECT_SECONDS, HEARTBEAT, parse
from nbmr.errors import ConfigError


def test_all_of_a_url():
    (address,) = parse("amqp://me:secret@broker.example.org:5673/lab")
    assert (address.host, address.port) == ("broker.example.org", 5673)
    assert (address.user, address.password, address.vhost) == ("me", "secret", "lab")
    assert not address.tls


@pytest.mark.parametrize(
    ("url", "port", "vhost", "user"),
    [
        ("amqp://host", 5672, "/", "guest"),
        ("amqps://host", 5671, "/", "guest"),
        ("amqp://host/", 5672, "/", "guest"),
        ("amqp://host/%2F", 5672, "/", "guest"),
        ("amqp://host/%2Flab", 5672, "/lab", "guest"),
        ("amqp://me:p@host", 5672, "/", "me"),
        ("amqp://m%40e:p@host/a%20b", 5672, "a b", "m@e"),
        ("  amqp://host  ", 5672, "/", "guest"),
    ],
)
def test_defaults_and_escapes(url, port, vhost, user):
    (address,) = parse(url)
    assert (address.host, address.port, address.vhost, address.user) == ("host", port, vhost, user)


@pytest.mark.parametrize("password", ["p%40%3A%2F", "%25"])
def test_escaped_passwords(password):
    from urllib.parse import unquote

    (address,) = parse(f"amqp://me:{password}@host")
    assert address.password == unquote(password)


def test_several_hosts_share_the_rest():
    addresses = parse("amqp://me:secret@one,two:5673,[::1]:5674/lab")
    assert [(a.host, a.port) for a in addresses] == [("one", 5672), ("two", 5673), ("::1", 5674)]
    assert {(a.user, a.password, a.vhost) for a in addresses} == {("me", "secret", "lab")}


@pytest.mark.parametrize("separator", [",", " ", ", ", "\n"])
def test_several_urls(separator):
    addresses = parse(f"amqp://a:b@one/x{separator}amqps://c:d@two/y")
    assert [(a.host, a.user, a.vhost, a.tls) for a in addresses] == [
        ("one", "a", "x", False),
        ("two", "c", "y", True),
    ]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "empty"),
        (None, "empty"),
        ("broker", "amqp://"),
        ("http://broker", "http"),
        ("amqp://", "host"),
        ("amqp://a:b@", "host"),
        ("amqp://one,,two", "host"),
        ("amqp://host:port", "host:port"),
        ("amqp://host:0", "out of range"),
        ("amqp://host:70000", "out of range"),
        ("amqp://host?heartbeet=5", "heartbeet"),
        ("amqp://host?heartbeat=soon", "soon"),
        ("amqps://host?cacertfile=/no/such/file", "/no/such/file"),
        ("amqps://host?keyfile=/dev/null", "not a file"),
        (f"amqps://host?keyfile={__file__}", "no certfile"),
        ("amqps://host?verify=no", "verify_none"),
        ("amqp://host?verify=verify_none", "amqps://"),
        (f"amqp://host?cacertfile={__file__}", "amqps://"),
    ],
)
def test_wrong_urls_say_what_is_wrong(url, said):
    with pytest.raises(ConfigError) as caught:
        parse(url)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "url", ["me:secret@host", "amq://me:secret@host", "amqp://me:secret@ho st:x", "amqp://me:secret@host?x=1"]
)
def test_no_message_shows_the_password(url):
    with pytest.raises(ConfigError) as caught:
        parse(url)
    assert "secret" not in str(caught.value)


def test_no_representation_shows_the_password():
    (address,) = parse("amqp://me:secret@host/lab")
    assert "secret" not in f"{address} {address!r}"
    assert str(address) == "amqp://me@host:5672/lab"
    assert parse(str(address).replace("me@", "me:secret@")) == (address,)


def test_pikas_parameters():
    (address,) = parse("amqp://me:secret@host:1234/lab?heartbeat=30")
    parameters = address.parameters("a name")
    assert (parameters.host, parameters.port, parameters.virtual_host) == ("host", 1234, "lab")
    assert parameters.credentials.username == "me"
    assert parameters.heartbeat == 30
    assert parameters.socket_timeout == CONNECT_SECONDS
    assert parameters.client_properties["connection_name"] == "a name"
    assert parameters.ssl_options is None
    assert parse("amqp://host")[0].parameters("x").heartbeat == HEARTBEAT


def test_tls_checks_certificates_and_names():
    (address,) = parse("amqps://host?server_name_indication=other")
    options = address.parameters("x").ssl_options
    assert options.context.verify_mode == ssl.CERT_REQUIRED
    assert options.context.check_hostname
    assert options.server_hostname == "other"
    assert parse("amqps://host")[0].parameters("x").ssl_options.server_hostname == "host"


def test_tls_checks_are_off_only_where_that_is_spelled_out():
    for query in ("", "?verify=verify_peer"):
        options = parse(f"amqps://host{query}")[0].parameters("x").ssl_options
        assert (options.context.verify_mode, options.context.check_hostname) == (ssl.CERT_REQUIRED, True)
    options = parse("amqps://host?verify=verify_none")[0].parameters("x").ssl_options
    assert (options.context.verify_mode, options.context.check_hostname) == (ssl.CERT_NONE, False)


def test_a_certificate_file_that_is_none(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    (address,) = parse(f"amqps://host?cacertfile={file}")
    with pytest.raises(ConfigError, match="certificate"):
        address.parameters("x")
