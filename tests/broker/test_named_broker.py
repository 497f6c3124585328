"""A broker that was named: how to reach it, what is wrong with it, and who works there."""

from __future__ import annotations

import re
import socket
import threading
import time

import psutil
import pytest
from notes import connections_of

import nbmr
from nbmr import api, config, topology
from nbmr.broker import connect, link

pytestmark = pytest.mark.slow


def connections(port):
    """How many connections this process has to the broker."""
    found = connections_of(psutil.Process())
    return sum(c.raddr != () and c.raddr.port == port and c.status == "ESTABLISHED" for c in found)


@pytest.fixture
def other_key():
    return "f" * 64


@pytest.fixture
def queue_with_worker(named, queue):
    with nbmr.Client(named.url, named.key) as client, client.workers(1, queue=queue):
        yield queue


def test_a_client_as_a_context(named, queue_with_worker):
    with nbmr.Client(named.url, named.key) as client:
        assert client.map([1, 2], lambda x: x + 1, queue=queue_with_worker) == [2, 3]
        job = client.submit([1], lambda x: x, queue=queue_with_worker)
        assert job.result() == [1]
        job.forget()
        assert "named broker" in repr(client)
        assert client.usable
    assert not client.usable
    assert "closed" in repr(client)
    client.close()  # no harm


def test_a_closed_client_says_so(named):
    client = nbmr.Client(named.url, named.key)
    client.close()
    with pytest.raises(nbmr.BrokerError, match="closed"):
        client.map([1], lambda x: x)


def test_the_environment_names_it(named, monkeypatch, queue_with_worker):
    monkeypatch.setenv("NBMR_URL", named.url)
    monkeypatch.setenv("NBMR_KEY", named.key)
    with nbmr.Client() as client:
        assert client.map([1], lambda x: x, queue=queue_with_worker) == [1]
    monkeypatch.delenv("NBMR_KEY")
    monkeypatch.setenv("NBMR_KEY_FILE", str(named.key_file))
    with nbmr.Client() as client:
        assert client.map([1], lambda x: x, queue=queue_with_worker) == [1]


def test_connect_chooses_it_for_the_verbs_of_the_module(named, queue_with_worker):
    try:
        client = nbmr.connect(named.url, key=named.key)
        assert api.client() is client
        assert nbmr.map([1, 2], lambda x: -x, queue=queue_with_worker) == [-1, -2]
        with pytest.raises(nbmr.BrokerError):
            nbmr.connect(named.url.replace(":secret", ":guess"), key=named.key)
        assert api.client() is client  # a connect() that failed changes nothing
        second = nbmr.connect(named.url, key_file=named.key_file)
        assert api.client() is second
        assert not client.usable
    finally:
        api._default[0].close()
        api._default.clear()


# ---------------------------------------------------------------- what is wrong


def test_a_wrong_host_is_named(named):
    with pytest.raises(nbmr.BrokerUnreachable, match=r"no host called 'nowhere\.invalid'"):
        nbmr.Client("amqp://a:b@nowhere.invalid", named.key)


def test_a_wrong_port_is_named(named):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    with pytest.raises(nbmr.BrokerUnreachable, match=rf"Nothing listens at 127\.0\.0\.1:{free}"):
        nbmr.Client(f"amqp://tester:secret@127.0.0.1:{free}/named", named.key)


def test_what_listens_and_does_not_speak_amqp(named):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            peer, _ = server.accept()
            with peer:
                peer.recv(100)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        port = server.getsockname()[1]
        with pytest.raises(nbmr.BrokerUnreachable, match=str(port)):
            nbmr.Client(f"amqp://tester:secret@127.0.0.1:{port}", named.key)
        thread.join(5)


@pytest.mark.parametrize("wrong", [("secret", "guess"), ("tester", "nobody")])
def test_a_wrong_user_or_password_is_named_and_not_shown(named, wrong):
    with pytest.raises(nbmr.AccessRefused, match=r"user .*password") as caught:
        nbmr.Client(named.url.replace(*wrong), named.key)
    assert "guess" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("vhost", ["missing", ""])  # one that isn't there; one that the user may not use
def test_a_wrong_vhost_is_named(named, vhost):
    with pytest.raises(nbmr.AccessRefused, match=rf"virtual host '{vhost or '/'}'"):
        nbmr.Client(named.url.replace("/named", f"/{vhost}"), named.key)


def test_a_wrong_key_is_told_when_connecting(named, other_key):
    nbmr.Client(named.url, named.key).close()
    with pytest.raises(nbmr.WrongKey, match="reset-key"):
        nbmr.Client(named.url, other_key)


def test_a_wrong_key_is_told_to_workers_too(named, start, tmp_path, other_key):
    file = tmp_path / "key"
    file.write_text(other_key)
    file.chmod(0o600)
    nbmr.Client(named.url, named.key).close()
    process = start("-m", "nbmr", "worker", "--url", named.url, "--key-file", str(file))
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "another signing key" in err
    assert "Traceback" not in err


def test_no_key(named, monkeypatch, start):
    with pytest.raises(nbmr.ConfigError, match="no signing key"):
        nbmr.Client(named.url)
    process = start("-m", "nbmr", "worker", "--url", named.url)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "no signing key" in err


def test_workers_that_cannot_start_say_why(named, monkeypatch):
    with nbmr.Client(named.url, named.key) as client:
        wrong = config.Settings(named.url.replace("secret", "guess"), named.key)
        monkeypatch.setattr(client, "settings", wrong)
        with pytest.raises(nbmr.WorkerError, match="refuses user"):
            client.workers(1, queue="never")


def test_several_hosts_are_tried_in_turn(named, queue_with_worker):
    url = f"amqp://tester:secret@nowhere.invalid,127.0.0.1:1,127.0.0.1:{named.port}/named"
    with nbmr.Client(url, named.key) as client:
        assert client.map([1], lambda x: x, queue=queue_with_worker) == [1]
    url = f"amqp://tester:secret@127.0.0.1:1/named,{named.url}"
    with nbmr.Client(url, named.key) as client:
        assert client.map([1], lambda x: x, queue=queue_with_worker) == [1]


def test_each_host_that_failed_is_told(named):
    with pytest.raises(nbmr.BrokerUnreachable) as caught:
        nbmr.Client("amqp://a:b@nowhere.invalid,127.0.0.1:1", named.key)
    assert "nowhere.invalid" in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value)


# ---------------------------------------------------------------- connections


def test_clients_of_one_url_share_connections(named):
    before = connections(named.port)
    with nbmr.Client(named.url, named.key) as one:
        assert connections(named.port) == before + 2  # one that publishes, one that consumes
        with nbmr.Client(named.url, named.key) as two:
            assert two._broker is one._broker
            assert connections(named.port) == before + 2
        assert one.usable  # the other one's close took nothing away
        assert one.slots("nobody-listens") == 0
    assert connections(named.port) == before


def test_a_closed_client_leaves_no_file_open(named):
    nbmr.Client(named.url, named.key).close()
    before = psutil.Process().num_fds()
    for _ in range(3):
        nbmr.Client(named.url, named.key).close()
    assert psutil.Process().num_fds() <= before


def test_threads_that_connect_at_once_share_connections(named):
    before = connections(named.port)
    clients = []
    threads = [
        threading.Thread(target=lambda: clients.append(nbmr.Client(named.url, named.key))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(clients) == 6
    assert len({id(client._broker) for client in clients}) == 1
    assert connections(named.port) == before + 2
    for client in clients:
        client.close()
    assert connections(named.port) == before


#: Erlang that has RabbitMQ close every connection of the named broker.
CLOSE_CONNECTIONS = (
    '[rabbit_networking:close_connection(P, "test") || [{pid, P}, {vhost, <<"named">>}] <-'
    " rabbit_networking:connection_info_all([pid, vhost])]."
)


def test_one_broken_connection_is_mended_unseen(named, server, queue_with_worker, tmp_path, eventually):
    """RabbitMQ closes every connection in the middle of a job: all results come, each once."""
    log = tmp_path / "log"

    def fn(x):
        with log.open("a") as file:
            file.write(f"{x}\n")
        time.sleep(0.05)
        return x

    with nbmr.Client(named.url, named.key) as client:
        job = client.submit(range(40), fn, queue=queue_with_worker, partitions=40)
        eventually(lambda: job.progress.done >= 3)
        server.eval(CLOSE_CONNECTIONS)
        seen = dict(job)
        assert seen == {x: x for x in range(40)}
        assert job.result(30) == list(range(40))
        job.forget()


def test_what_is_forgotten_while_it_reconnects_is_gone_when_the_client_is_closed(
    named, server, queue_with_worker, eventually, monkeypatch
):
    monkeypatch.setattr(link, "FINISH_SECONDS", 30.0)  # where the machine is busy
    with nbmr.Client(named.url, named.key) as client:
        job = client.submit([1], lambda x: x, queue=queue_with_worker)
        assert job.result() == [1]
        log = topology.job_log(job.id).name
        assert log in server.queues()
        server.eval(CLOSE_CONNECTIONS)
        eventually(lambda: client._broker.trouble)
        job.forget()
    eventually(lambda: log not in server.queues())


def test_many_jobs_leave_no_channel_behind(named, server, queue_with_worker):
    count = "length(rabbit_channel:list())."
    with nbmr.Client(named.url, named.key) as client:
        client.map([1], lambda x: x, queue=queue_with_worker)
        before = int(server.eval(count))
        for _ in range(20):
            client.map([1], lambda x: x, queue=queue_with_worker)
        assert int(server.eval(count)) <= before + 1


# ---------------------------------------------------------------- without workers


def test_a_call_waits_visibly_and_goes_on_when_a_worker_joins(named, queue, eventually):
    with nbmr.Client(named.url, named.key) as client:
        out = []
        job = client.submit([1, 2, 3], lambda x: x * 2, queue=queue)
        thread = threading.Thread(target=lambda: out.append(job.result()))
        thread.start()
        hint = eventually(lambda: job.hint)
        assert queue in hint
        assert re.search(rf"`nbmr worker .*--queue {queue}`", hint)
        assert f"nbmr.workers(2, queue={queue!r})" in hint
        assert job.status == "pending"
        with pytest.raises(nbmr.JobTimeout, match="No worker listens"):
            job.result(timeout=1.2)
        with client.workers(1, queue=queue):
            thread.join(20)
        assert out == [[2, 4, 6]]
        assert job.hint == ""
        job.forget()


def test_a_default_queue_without_workers_has_the_plain_hint(named, eventually):
    with nbmr.Client(named.url, named.key) as client:
        job = client.submit([1], lambda x: x)
        with pytest.raises(nbmr.JobTimeout, match=r"nbmr\.workers\(2\) in a cell, or `nbmr worker"):
            job.result(timeout=1.2)
        job.cancel()
        assert client.workers().empty  # none were started behind the caller's back


def test_the_key_can_be_changed_on_purpose(server, start, other_key, named, tmp_path):
    server.eval('rabbit_vhost:add(<<"rekeyed">>, <<"tests">>).')
    server.eval(
        'rabbit_auth_backend_internal:set_permissions(<<"tester">>, <<"rekeyed">>, <<".*">>, <<".*">>,'
        ' <<".*">>, <<"tests">>).'
    )
    url = named.url.replace("/named", "/rekeyed")
    nbmr.Client(url, named.key).close()
    with pytest.raises(nbmr.WrongKey):
        nbmr.Client(url, other_key)
    process = start("-m", "nbmr", "broker", "reset-key", "--url", url, "--key-file", str(named.key_file))
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert "next key" in out
    nbmr.Client(url, other_key).close()
    with pytest.raises(nbmr.WrongKey):
        nbmr.Client(url, named.key)


def test_pooled_connections_are_forgotten_when_closed(named):
    first = connect(named.url)
    first.release()
    second = connect(named.url)
    assert first.closed
    assert not second.closed
    second.release()
