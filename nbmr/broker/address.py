"""Where a broker is: the URL, read once, into what pika wants."""

from __future__ import annotations

import ipaddress
import re
import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pika
import psutil

from nbmr.errors import ConfigError

#: AMQP's heartbeat in seconds. pika looks every 5 s more than that whether anything has come since it looked
#: last, so a broker that doesn't answer is noticed within 26 s.
HEARTBEAT = 8
#: Seconds to wait for one host before the next is tried.
CONNECT_SECONDS = 5.0
_PORTS = {"amqp": 5672, "amqps": 5671}
#: Options of a URL, named as in RabbitMQ's own (https://www.rabbitmq.com/uri-query-parameters.html).
_TLS_OPTIONS = {"cacertfile", "certfile", "keyfile", "verify", "server_name_indication"}
_OPTIONS = {"heartbeat"} | _TLS_OPTIONS
_FILES = ("cacertfile", "certfile", "keyfile")


@dataclass(frozen=True)
class Address:
    """One host of a broker."""

    host: str
    port: int
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    vhost: str = "/"
    tls: bool = False
    options: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{'amqps' if self.tls else 'amqp'}://{self.user}@{self.host}:{self.port}{self._path}"

    @property
    def _path(self) -> str:
        return "" if self.vhost == "/" else f"/{self.vhost}"

    def parameters(self, connection_name: str) -> pika.ConnectionParameters:
        """Return pika's parameters for a connection of that name."""
        options = dict(self.options)
        tls = None
        if self.tls:
            tls = pika.SSLOptions(_tls_context(options), options.get("server_name_indication", self.host))
        return pika.ConnectionParameters(
            host=self.host,
            port=self.port,
            virtual_host=self.vhost,
            credentials=pika.PlainCredentials(self.user, self.password),
            ssl_options=tls,
            heartbeat=int(options.get("heartbeat", HEARTBEAT)),
            connection_attempts=1,
            socket_timeout=CONNECT_SECONDS,
            stack_timeout=2 * CONNECT_SECONDS,
            client_properties={"connection_name": connection_name, "product": "nbmr"},
        )


def is_here(host: str) -> bool:
    """Whether a host's name or address leads to this host, by whatever network."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:  # not now
        return False
    ours = {own.address for owns in psutil.net_if_addrs().values() for own in owns}
    return all(ipaddress.ip_address(address).is_loopback or address in ours for address in map(str, found))


def parse(url: str) -> tuple[Address, ...]:
    """Read a broker's URL, or a list of them parted by commas or spaces.

    ``amqp://user:password@host:5672/vhost``, or ``amqps://…`` for TLS; several hosts may share the rest:
    ``amqp://user:password@one,two:5673/vhost``. Behind ``?``, joined by ``&``, may stand:

    - ``heartbeat``: seconds between two heartbeats.
    - ``cacertfile``: certificates of the authorities that are trusted; by default, those of the system.
    - ``certfile``, ``keyfile``: the client's own certificate and its key, where the broker asks for one.
    - ``server_name_indication``: the name that the broker's certificate has to be for; by default, the host.
    - ``verify=verify_none``: don't check the broker's certificate at all. The default is ``verify_peer``.

    Raises
    ------
    ConfigError
        If it isn't such a URL; the message says what is wrong, and shows no password.

    Examples
    --------
    >>> [str(a) for a in parse("amqp://me:secret@one,two:5673/lab")]
    ['amqp://me@one:5672/lab', 'amqp://me@two:5673/lab']
    """
    if not isinstance(url, str) or not url.strip():
        raise ConfigError("The broker's URL is empty; it looks like amqp://user:password@host:5672/vhost.")
    return tuple(address for one in re.split(r"[\s,]+(?=amqps?://)", url.strip()) for address in _parse(one))


def _parse(url: str) -> list[Address]:
    found_hosts = re.match(r"[A-Za-z]+://([^/?#]*)", url)
    # Without the hosts: newer Pythons refuse an IPv6 address that isn't the first of several.
    parts = urlsplit(url[: found_hosts.start(1)] + url[found_hosts.end(1) :]) if found_hosts else None
    if found_hosts is None or parts is None or parts.scheme not in _PORTS:
        start = url.partition(":")[0] if ":" in url else url[:8]
        raise ConfigError(f"The broker's URL starts with {start!r}; it has to be amqp:// or amqps://.")
    account, _, hosts = found_hosts[1].rpartition("@")
    user, _, password = account.partition(":")
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if unknown := sorted(options.keys() - _OPTIONS):
        raise ConfigError(
            f"The broker's URL has an unknown option {unknown[0]!r}; there are {', '.join(sorted(_OPTIONS))}."
        )
    if not options.get("heartbeat", "1").isdigit():
        raise ConfigError(f"The URL's heartbeat is {options['heartbeat']!r}; it has to be whole seconds.")
    _check_tls(parts.scheme, options)
    found = []
    for host in hosts.split(","):
        name, port = _host(host.strip(), _PORTS[parts.scheme])
        found.append(
            Address(
                name,
                port,
                unquote(user) if user else "guest",
                unquote(password) if account else "guest",
                unquote(parts.path[1:]) or "/",
                parts.scheme == "amqps",
                tuple(sorted(options.items())),
            )
        )
    return found


def _check_tls(scheme: str, options: dict[str, str]) -> None:
    tls = sorted(options.keys() & _TLS_OPTIONS)
    if tls and scheme != "amqps":
        raise ConfigError(f"The URL's {tls[0]} is for TLS; write amqps:// in place of {scheme}://.")
    for name in _FILES:
        if name in options and not Path(options[name]).is_file():
            raise ConfigError(f"The URL's {name} {options[name]!r} is not a file here.")
    if "keyfile" in options and "certfile" not in options:
        raise ConfigError(
            "The URL has a keyfile and no certfile; a client's key is of use with its certificate."
        )
    if options.get("verify", "verify_peer") not in ("verify_peer", "verify_none"):
        raise ConfigError(
            f"The URL's verify is {options['verify']!r}; it has to be verify_peer or verify_none."
        )


def _tls_context(options: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("cacertfile"))
        if "certfile" in options:
            context.load_cert_chain(options["certfile"], options.get("keyfile"), _no_passphrase)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"The URL's certificate files can't be read: {exc}") from exc
    if options.get("verify") == "verify_none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _no_passphrase() -> str:
    raise ConfigError("The URL's keyfile is encrypted. Give one without a passphrase, readable by you alone.")


def _host(text: str, default_port: int) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::(\d+))?", text)
    if not match:
        raise ConfigError(f"{text!r} is no host in the broker's URL; it looks like host or host:5672.")
    port = int(match[2] or default_port)
    if not 0 < port < 1 << 16:
        raise ConfigError(f"The port {port} in the broker's URL is out of range.")
    return match[1].strip("[]"), port
