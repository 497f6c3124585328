"""The key: changed under living workers and clients, and never seen where it doesn't belong."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import stat
import subprocess
import sys
import traceback

import pika
import psutil
import pytest

import nbmr
from nbmr import message, node, topology
from nbmr.broker import connect
from nbmr.signing import Signer, new_key
from nbmr.worker.worker import Options


@pytest.fixture
def url(server, named):
    """A broker of this test's own, on which no key was used yet: a virtual host."""
    grant = 'rabbit_auth_backend_internal:set_permissions(<<"tester">>, <<"keys">>'
    server.eval(
        f'rabbit_vhost:add(<<"keys">>, <<"tests">>), {grant}, <<".*">>, <<".*">>, <<".*">>, <<"tests">>).'
    )
    yield named.url.replace("/named", "/keys")
    server.eval('rabbit_vhost:delete(<<"keys">>, <<"tests">>).')


def reset_key(url, key):
    environment = {**os.environ, "NBMR_KEY": key}
    command = [sys.executable, "-m", "nbmr", "broker", "reset-key", "--url", url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- a key that is changed


@pytest.mark.slow
def test_a_key_is_changed_under_workers_and_clients_and_nothing_is_lost(url, start, queue, eventually):
    old, new = new_key(), new_key()
    start_worker = ("-m", "nbmr", "worker", "--url", url, "--queue", queue)
    first = start(*start_worker, env={"NBMR_KEY": old})
    assert "Ready" in first.stderr.readline()
    with nbmr.Client(url, old) as client:
        assert client.map([1], lambda x: x, queue=queue) == [1]
        waiting = client.submit([1], lambda x: x, queue="nobody-listens")
        reset_key(url, old)
        assert first.wait(20) == 1  # it ends by itself, and says why
        assert "signing key of this broker was changed" in first.stderr.read()
        with nbmr.Client(url, new) as other:
            job = other.submit([1, 2], lambda x: -x, queue=queue)
            with pytest.raises(nbmr.WrongKey, match="was changed"):
                waiting.result(20)  # so does a client that waits
            second = start(*start_worker, env={"NBMR_KEY": new})
            assert job.result(30) == [-1, -2]
            job.forget()
        waiting.forget()
        second.terminate()
        assert second.wait(10) == 0


@pytest.mark.slow
def test_a_worker_of_another_key_gives_tasks_back(url, start, queue, monkeypatch, server, eventually):
    """One that missed the change, since it had no connection: it finds out before it drops anything."""
    old, new = new_key(), new_key()
    with nbmr.Client(url, old):
        worker = start("-m", "nbmr", "worker", "--url", url, "--queue", queue, env={"NBMR_KEY": old})
        assert "Ready" in worker.stderr.readline()
    worker_process = psutil.Process(worker.pid)
    worker_process.suspend()
    broker = connect(url)
    broker.delete(topology.key_stream())
    broker.declare(topology.key_stream())
    broker.append(topology.key_stream(), message.seal(Signer(new), "key", time=0.0)).result(10)
    with nbmr.Client(url, new) as client:
        job = client.submit([1, 2, 3], lambda x: x + 1, queue=queue, partitions=3)
        job._sending.join(10)
        worker_process.resume()
        assert worker.wait(20) == 1
        assert "signing key of this broker was changed" in worker.stderr.read()
        eventually(lambda: broker.count(topology.task_queue(queue)) == (3, 0))  # they are all there again
        second = start("-m", "nbmr", "worker", "--url", url, "--queue", queue, env={"NBMR_KEY": new})
        assert job.result(30) == [2, 3, 4]
        job.forget()
        second.terminate()
        assert second.wait(10) == 0
    broker.release()


def test_garbage_does_not_make_workers_doubt_their_key(url, start, queue, eventually):
    key = new_key()
    worker = start("-m", "nbmr", "worker", "--url", url, "--queue", queue, env={"NBMR_KEY": key})
    assert "Ready" in worker.stderr.readline()
    broker = connect(url)
    for target in (topology.key_stream(), topology.task_queue(queue), topology.dead_queue(queue)):
        for body in ([b"noise"], message.seal(Signer(new_key()), "key", time=0.0)):
            assert broker.append(target, body).result(10)
    with nbmr.Client(url, key) as client:
        assert client.map([1], lambda x: x, queue=queue) == [1]
    eventually(lambda: broker.count(topology.dead_queue(queue))[0] == 0)
    broker.release()
    worker.terminate()
    assert worker.wait(10) == 0
    assert worker.stderr.read().count("rejected") >= 4


def test_the_private_node_gets_a_new_key_by_starting_anew(start):
    process = start("-m", "nbmr", "broker", "reset-key")
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "nbmr broker stop" in err


# ---------------------------------------------------------------- where the key is seen


class Secrets:
    """Looks for keys and passwords in every form in which they could be written."""

    def __init__(self, *secrets):
        self.forms = set()
        for secret in secrets:
            raw = [secret.encode()]
            with contextlib.suppress(ValueError):
                raw.append(bytes.fromhex(secret))
            self.forms |= {form for text in raw for form in (text, base64.b64encode(text).rstrip(b"="))}

    def are_in(self, text):
        data = text if isinstance(text, bytes) else str(text).encode()
        return any(form in data for form in self.forms)


@pytest.fixture
def secret_broker(server, named):
    """A broker with a user of its own: its URL, its password, and all messages that cross it."""
    password = "p4ssw0rd-" + new_key()[:12]
    server.eval(
        'rabbit_vhost:add(<<"secrets">>, <<"tests">>),'
        f' rabbit_auth_backend_internal:add_user(<<"me">>, <<"{password}">>, <<"tests">>),'
        ' rabbit_auth_backend_internal:set_permissions(<<"me">>, <<"secrets">>, <<".*">>, <<".*">>, <<".*">>,'
        ' <<"tests">>), rabbit_trace:start(<<"secrets">>).'
    )
    url = f"amqp://me:{password}@127.0.0.1:{named.port}/secrets"
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as tracer:
        channel = tracer.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.queue_bind(queue, "amq.rabbitmq.trace", "#")

        def messages():
            for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=2):
                if method is None:
                    break
                yield body
                yield repr(properties)

        yield url, password, messages
    server.eval(
        'rabbit_trace:stop(<<"secrets">>), rabbit_vhost:delete(<<"secrets">>, <<"tests">>),'
        ' rabbit_auth_backend_internal:delete_user(<<"me">>, <<"tests">>).'
    )


def refusals(url, key, port):
    """Every way not to get in, as a person sees it."""
    for bad_url, bad_key in (
        (url, new_key()), (url.replace("me:", "you:"), key), (url.replace("/secrets", "/no"), key),
        (url.replace("amqp:", "amqps:"), key), (url.replace("127.0.0.1", "nowhere.invalid"), key),
        (url + "?x=1", key), (url.replace(str(port), "1"), key), (url, key[:31]),
    ):  # fmt: skip
        with pytest.raises(nbmr.NbmrError) as refused:
            nbmr.Client(bad_url, bad_key)
        yield "".join(traceback.format_exception(refused.value))


def processes(but):
    """Arguments and environment of every process; not the environment of one."""
    for pid in psutil.pids():
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            yield process.cmdline()
            if pid != but:
                yield {pid: process.environ()}


def exposed_files(folder, secrets):
    """Files that hold a secret and shouldn't, or that others can read."""
    for file in folder.rglob("*"):
        if file.is_file() and secrets.are_in(file.read_bytes()):
            allowed = file.name in ("nbmr-node.json", "advanced.config")
            if not allowed or stat.S_IMODE(file.stat().st_mode) != 0o600:
                yield file


@pytest.mark.slow
def test_keys_and_passwords_are_seen_nowhere(
    secret_broker, named, home, client, queue, start, caplog, tmp_path
):
    """Workers that log everything, a map that fails, wrong keys, all that is shown: nothing has them."""
    url, password, messages = secret_broker
    key, private = new_key(), client.settings
    secrets = Secrets(key, password, private.key, pika.URLParameters(private.url).credentials.password)
    assert all(secrets.are_in(text) for text in (url, bytes.fromhex(private.key)))  # they would be found
    caplog.set_level(logging.DEBUG)
    code = (
        "import logging; logging.basicConfig(level=logging.DEBUG);"
        "logging.getLogger('pika').setLevel = lambda _: None; from nbmr.cli import main; main()"
    )
    with (tmp_path / "worker.log").open("w") as log:
        environment = {"NBMR_KEY": key, "NBMR_URL": url}
        worker = start("-c", code, "worker", "--queue", queue, env=environment, stderr=log)
    with nbmr.Client(url, key) as named_client, named_client.workers(1, queue=queue) as workers:
        shown = named_client.map(range(4), lambda _: dict(os.environ), queue=queue, partitions=4)
        with pytest.raises(nbmr.TaskError) as failed:
            named_client.map([0], lambda x: 1 / x, queue=queue)
        shown += ["".join(traceback.format_exception(failed.value)), failed.value]
        shown += refusals(url, key, named.port)
        job = named_client.submit([1], lambda x: x, queue=queue)
        shown += [job.result(20), job, job._repr_mimebundle_(), job._log]
        job.forget()
        shown += [named_client, named_client.settings, named_client._signer, named_client._broker, workers]
        shown += [named_client._broker._publishing._addresses, named_client.workers(), node.ensure()]
        shown += [Options(url, key), Options(url, key).__dict__.keys()]
        for command in (["status"], ["broker", "status"], ["broker", "reset-key"]):
            process = start("-m", "nbmr", *command, stderr=subprocess.STDOUT)
            shown.append(process.communicate(timeout=30)[0])
        shown += processes(but=worker.pid)  # whose environment is what its user made it
        assert not list(exposed_files(home, secrets))
    worker.terminate()
    worker.wait(10)
    shown += [(tmp_path / "worker.log").read_text(), caplog.text]
    assert "DEBUG" in shown[-2]
    assert "DEBUG" in shown[-1]
    crossed = list(messages())
    assert len(crossed) > 20
    for what in (*shown, *crossed):
        assert not secrets.are_in(what), what


@pytest.mark.slow
def test_files_are_private_whatever_the_umask(client, named, home, queue):
    """Of the node, of pools of workers, of whatever lies in our folders."""
    before = os.umask(0)
    try:
        with (
            client.workers(1, queue=queue) as ours,
            nbmr.Client(named.url, named.key) as other,
            other.workers(1, queue=queue) as theirs,
        ):
            ours.scale(2)
            theirs.scale(2)
            assert client.map([1], lambda x: x, queue=queue) == [1]
            tops = [home / "state", *(home / "runtime").glob("nbmr-*")]  # Jupyter has files in the latter
            found = [path for top in tops for path in (top, *top.rglob("*"))]
            modes = {}
            for path in found:
                with contextlib.suppress(FileNotFoundError):  # RabbitMQ has deleted it meanwhile
                    if not path.is_symlink():
                        modes[path] = stat.S_IMODE(path.lstat().st_mode)
    finally:
        os.umask(before)
    assert len([path for path in modes if path.parent.name in ("pools", "nbmr-pools")]) >= 4
    assert [path for path, mode in modes.items() if mode & 0o077] == []
