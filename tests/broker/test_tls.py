"""`amqps://`: who has which certificate, and what the other side says to it."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

import nbmr
from nbmr.node.configuration import free_ports

#: TLS listeners: which certificate each has.
CERTIFICATES = {"good": "good", "elsewhere": "elsewhere", "expired": "expired", "demanding": "good"}


@dataclass(frozen=True)
class Listeners:
    """TLS listeners of the node, and certificates for their clients."""

    folder: Path
    ports: dict[str, int]

    def url(self, listener, scheme="amqps", host="127.0.0.1", ca="ca.pem", **options):
        """The URL of a listener; options that are files of the folder are named by their names there."""
        options = ({"cacertfile": ca} if ca else {}) | options
        text = "&".join(
            f"{name}={self.folder / value if name.endswith('file') else value}"
            for name, value in options.items()
        )
        return f"{scheme}://tester:secret@{host}:{self.ports[listener]}/named" + (f"?{text}" if text else "")


@pytest.fixture(scope="module")
def tls(server, named, tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    ca, strangers = trustme.CA(), trustme.CA()
    now, day = dt.datetime.now(dt.UTC), dt.timedelta(1)
    issued = {
        "good": ca.issue_cert("127.0.0.1", "localhost"),
        "elsewhere": ca.issue_cert("rabbit.example.org"),
        "expired": ca.issue_cert("127.0.0.1", not_before=now - 2 * day, not_after=now - day),
        "client": ca.issue_cert("me@example.org"),
        "stranger": strangers.issue_cert("me@example.org"),
    }
    ca.cert_pem.write_to_path(folder / "ca.pem")
    strangers.cert_pem.write_to_path(folder / "strangers.pem")
    for name, certificate in issued.items():
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")
    ports = dict(zip(CERTIFICATES, free_ports(len(CERTIFICATES)), strict=True))
    starts = []
    for name, port in ports.items():
        pem = folder / f"{CERTIFICATES[name]}.pem"
        verify = "verify_peer" if name == "demanding" else "verify_none"
        starts.append(
            f'ok = rabbit_networking:start_ssl_listener({{"127.0.0.1", {port}}},'
            f' [{{cacertfile, "{folder / "ca.pem"}"}}, {{certfile, "{pem}"}}, {{keyfile, "{pem}"}},'
            f" {{verify, {verify}}}, {{fail_if_no_peer_cert, {str(name == 'demanding').lower()}}}], 1)"
        )
    server.eval(f"{{ok, _}} = application:ensure_all_started(ssl), {', '.join(starts)}.")
    return Listeners(folder, ports)  # they end with the node


@pytest.fixture
def refused(named):
    """Give a function that connects, and gives the error's text: it came quickly, and shows no password."""

    def refused(url):
        began = time.monotonic()
        with pytest.raises(nbmr.BrokerUnreachable) as caught:
            nbmr.Client(url, named.key)
        assert time.monotonic() - began < 5
        said = str(caught.value)
        assert "secret" not in said
        assert "127.0.0.1" in said or "localhost" in said
        return said

    return refused


# ---------------------------------------------------------------- what works


def test_clients_and_workers_over_tls(tls, named, queue, start, eventually):
    worker = start(
        "-m", "nbmr", "worker", "--queue", queue, "--url", tls.url("good"), "--key-file", str(named.key_file)
    )  # fmt: skip
    assert "Ready" in worker.stderr.readline()
    with nbmr.Client(tls.url("good", host="localhost"), named.key) as client:
        assert client.map(range(20), lambda x: x * 2, queue=queue) == list(range(0, 40, 2))
    worker.terminate()
    assert worker.wait(10) == 0


def test_workers_of_a_cell_over_tls_with_client_certificates(tls, named, queue):
    with (
        nbmr.Client(tls.url("demanding", certfile="client.pem", keyfile="client.pem"), named.key) as client,
        client.workers(1, queue=queue),
    ):
        assert client.map([1, 2], lambda x: -x, queue=queue) == [-1, -2]


@pytest.mark.parametrize(
    ("listener", "options"),
    [
        ("elsewhere", {"server_name_indication": "rabbit.example.org"}),
        ("good", {"verify": "verify_peer"}),
        ("expired", {"verify": "verify_none"}),
        ("elsewhere", {"verify": "verify_none", "ca": ""}),
        ("demanding", {"certfile": "client.pem"}),  # the key is in the same file
    ],
)
def test_what_else_is_accepted(tls, named, listener, options):
    nbmr.Client(tls.url(listener, **options), named.key).close()


# ---------------------------------------------------------------- what doesn't, and why


def test_an_unknown_authority(tls, refused):
    for ca in ("strangers.pem", ""):
        assert "cacertfile=" in refused(tls.url("good", ca=ca))


def test_a_wrong_host_name(tls, refused):
    said = refused(tls.url("elsewhere"))
    assert "not valid for '127.0.0.1'" in said
    assert "server_name_indication=" in said
    assert "not valid for 'other.example.org'" in refused(
        tls.url("good", server_name_indication="other.example.org")
    )


def test_an_expired_certificate(tls, refused):
    assert "certificate has expired" in refused(tls.url("expired"))


def test_a_missing_client_certificate(tls, refused):
    said = refused(tls.url("demanding"))
    assert "a client certificate" in said
    assert "certfile=" in said


def test_a_client_certificate_of_a_stranger(tls, refused):
    said = refused(tls.url("demanding", certfile="stranger.pem"))
    assert "refuse the client's certificate" in said
    assert "certfile" in said


def test_plain_amqp_to_the_tls_port(tls, refused):
    assert "write amqps://" in refused(tls.url("good", scheme="amqp", ca=""))


def test_tls_to_the_plain_port(tls, named, refused):
    assert "doesn't speak TLS" in refused(named.url.replace("amqp://", "amqps://"))


def test_a_worker_says_it_too(tls, named, start):
    worker = start("-m", "nbmr", "worker", "--url", tls.url("expired"), "--key-file", str(named.key_file))
    _, err = worker.communicate(timeout=20)
    assert worker.returncode == 1
    assert "certificate has expired" in err
    assert "Traceback" not in err
    assert "secret" not in err
