"""What a stranger puts on the broker is counted and dropped, and nothing of it is ever unpickled or run."""

from __future__ import annotations

import os
import pickle
import time

import pytest

import nbmr
from nbmr import codec, message, pools, topology, versions
from nbmr.broker import connect
from nbmr.message import Message
from nbmr.signing import Signer, new_key

pytestmark = pytest.mark.slow


@pytest.fixture
def stranger(server):
    """Who knows the broker's password, and not the key."""
    broker = connect(server.info.url.replace("127.0.0.1", "localhost"))
    yield broker
    broker.release()


@pytest.fixture
def captured(client, stranger, queue, monkeypatch):
    """A genuine task for this test's queue, which nobody has taken: its body, and its job."""
    monkeypatch.setattr(pools, "ensure", lambda *_: None)
    job = client.submit([1], lambda x: x, queue=queue)
    job._sending.join(10)
    bodies = []
    consumer = stranger.consume(topology.task_queue(queue), bodies.append)
    until = time.monotonic() + 10
    while not bodies and time.monotonic() < until:
        time.sleep(0.01)
    bodies[0].ack()
    consumer.close()
    yield bytes(bodies[0].body), job
    job.forget()


def publish(stranger, queue, *bodies):
    for body in bodies:
        assert stranger.publish(topology.TASKS_EXCHANGE, queue, [body] if body else []).result(10)


def task(signer, job, queue, payload, **other):
    """A task as `nbmr.sender` would send it, but for what differs."""
    buffers = codec.encode_function(payload, (), {})
    fields = {
        "inline": len(buffers), "data_blob": None, "data_layout": [], "function": "0" * 64,
        "function_layout": codec.layout(buffers), "function_blob": None, "start": 0, "count": 1, "rows": [],
        "queue": queue, "timeout": None, "retries": 0, "stop_at_error": True,
        "versions": versions.local_versions(),
    }  # fmt: skip
    body = message.seal(
        signer, "task", job=job, task=0, buffers=[*buffers, *codec.encode([1])], **fields | other
    )
    return b"".join(body)


# ---------------------------------------------------------------- to workers


def test_workers_reject_what_is_not_genuine(client, stranger, queue, captured, touch, eventually, rejections):
    genuine, job = captured
    ours, theirs = Signer(client.settings.key), Signer(new_key())
    forged = task(theirs, job.id, queue, touch)
    flipped = bytearray(genuine)
    flipped[len(genuine) // 3] ^= 1
    signature = bytearray(genuine)
    signature[-1] ^= 1
    unsigned = task(ours, job.id, queue, touch)[:-32] + bytes(32)
    other_kind = b"".join(message.seal(ours, "result", job=job.id, task=0, queue=queue))
    bad = {
        "a pickle": pickle.dumps(touch),
        "nothing": b"",
        "noise": os.urandom(5000),
        "forged": forged,
        "unsigned": unsigned,
        "flipped": bytes(flipped),
        "signature": bytes(signature),
        "truncated": genuine[:-1],
        "beheaded": genuine[1:],
        "longer": genuine + b"\0",
        "signature only": genuine[-60:],
        "kind": other_kind,
        "queue": task(ours, job.id, "another", touch),
    }
    with client.workers(1, queue=queue):
        publish(stranger, queue, *bad.values())
        assert client.map([1, 2], lambda x: x, queue=queue) == [1, 2]  # it works on behind them
        eventually(lambda: client._broker.count(topology.task_queue(queue))[0] == 0)
        said = rejections(client, queue)
        assert len(said) >= 10
        assert "not signed with this key" in str(said)
        assert "too short" in str(said)
    assert job.progress.done == 0


def test_a_genuine_task_that_is_replayed_runs_for_nobody(client, stranger, queue, captured, tmp_path):
    """Its job is over: the worker finds no log, and drops it."""
    genuine, job = captured
    job.forget()
    with client.workers(1, queue=queue):
        publish(stranger, queue, genuine, genuine)
        assert client.map([1], lambda x: x, queue=queue) == [1]


def test_a_task_that_comes_twice_counts_once(client, stranger, queue, captured):
    genuine, job = captured
    with client.workers(1, queue=queue):
        publish(stranger, queue, genuine, genuine)
        assert job.result(20) == [1]
        assert job.progress.done == 1


def test_cancellations_by_strangers_are_ignored(client, stranger, queue, tmp_path, eventually, rejections):
    gate, started = tmp_path / "gate", tmp_path / "started"

    def fn(x):
        started.touch()
        while not gate.exists():
            time.sleep(0.01)
        return x

    with client.workers(1, queue=queue):
        job = client.submit([5], fn, queue=queue)
        eventually(started.exists)
        forged = message.seal(Signer(new_key()), "cancel", job=job.id, time=time.time())
        control = topology.control_stream()
        assert stranger.append(control, forged).result(10)
        assert stranger.append(control, [b"noise"]).result(10)
        other = client.submit([0], lambda x: x, queue="default")
        other.cancel()  # goes behind the forged ones
        eventually(lambda: len(rejections(client, queue)) >= 2)
        gate.touch()
        assert job.result(10) == [5]
        job.forget()


@pytest.mark.usefixtures("in_messages")
def test_a_blob_that_was_tampered_with_is_not_used(client, stranger, queue, touch, monkeypatch):
    """Chunks of strangers are passed over; the genuine ones make the blob."""
    monkeypatch.setattr(pools, "ensure", lambda *_: None)
    table = os.urandom(300_000)
    job = client.submit([1, 2], lambda i: table[i], queue=queue)
    job._sending.join(10)
    (blob,) = job.blobs
    theirs = Signer(new_key())
    chunk = message.seal_raw(theirs, "blob", [pickle.dumps(touch)], job=job.id, name="fn", offset=0)
    assert stranger.append(blob, chunk).result(10)
    with client.workers(1, queue=queue):
        assert job.result(20) == [table[1], table[2]]
    job.forget()


# ---------------------------------------------------------------- to clients


def test_clients_reject_what_is_not_genuine(client, stranger, queue, touch, eventually, monkeypatch):
    monkeypatch.setattr(pools, "ensure", lambda *_: None)
    job = client.submit([1, 2], lambda x: x * 10, queue=queue)
    job._sending.join(10)
    log = topology.job_log(job.id)
    ours, theirs = Signer(client.settings.key), Signer(new_key())
    fields = {
        "start": 0, "count": 2, "of": 2, "failures": [], "seconds": 0.0, "run": "", "pid": 1, "host": "h",
        "worker": "w",
    }  # fmt: skip
    result = {"job": job.id, "task": 0, "buffers": codec.encode([touch, touch])}
    bad = [
        message.seal(theirs, "result", **result, **fields),
        message.seal(ours, "result", **result | {"job": "0" * 12}, **fields),
        message.seal(ours, "task", **result, **fields),
        message.seal(theirs, "sealed", job=job.id, tasks=0, units=0),
        [b"".join(message.seal(ours, "result", **result, **fields))[:-5]],
        [pickle.dumps(touch)],
        [],
    ]
    for body in bad:
        assert stranger.append(log, body).result(10)
    eventually(lambda: job._log.rejected == len(bad))
    assert job.status == "pending"
    with client.workers(1, queue=queue):
        assert job.result(20) == [10, 20]
    job.forget()


def test_a_genuine_message_that_makes_no_sense_does_not_stop_the_reading(
    client, stranger, queue, monkeypatch
):
    """Signed by our key, as by another version of nbmr, and without the fields that belong there."""
    monkeypatch.setattr(pools, "ensure", lambda *_: None)
    job = client.submit([1], lambda x: x, queue=queue)
    job._sending.join(10)
    ours = Signer(client.settings.key)
    for kind in ("started", "result", "chunk", "died"):
        assert stranger.append(topology.job_log(job.id), message.seal(ours, kind, job=job.id, task=0)).result(
            10
        )
    with client.workers(1, queue=queue):
        assert job.result(20) == [1]
    job.forget()


def test_a_genuine_task_that_makes_no_sense_does_not_stop_the_worker(client, stranger, queue, captured):
    _, job = captured
    ours = Signer(client.settings.key)
    empty = b"".join(message.seal(ours, "task", job=job.id, task=0, queue=queue))
    with client.workers(1, queue=queue) as workers:
        before = workers.pids
        publish(stranger, queue, empty)
        fine = client.submit([1], lambda x: x, queue=queue)
        assert fine.result(20) == [1]
        assert workers.pids == before
        fine.forget()


# ---------------------------------------------------------------- versions and secrets


def test_a_signed_task_of_other_versions_is_refused_before_it_is_decoded(
    client, stranger, queue, captured, touch
):
    _, job = captured
    ours = Signer(client.settings.key)
    body = task(ours, job.id, queue, touch, versions={"python": "3.8.10", "pandas": "1.0.0"})
    with client.workers(1, queue=queue):
        publish(stranger, queue, body)
        with pytest.raises(nbmr.VersionMismatch, match=r"Python 3\.8\.10 on the client"):
            job.result(20)


def test_the_key_is_on_no_command_line_and_in_no_environment(client, queue):
    import psutil

    with client.workers(1, queue=queue) as workers:
        (pid,) = workers.pids
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        family += psutil.Process(pid).parents()[:1]
        for process in family:
            for text in (*process.cmdline(), *process.environ().values()):
                assert client.settings.key not in text
                assert client.settings.url not in text
    assert client.settings.key not in repr(client)
    assert client.settings.key not in repr(client.settings)
    assert client.settings.url not in repr(client.settings)


def test_the_key_is_in_no_message(client, stranger, queue, captured):
    genuine, _ = captured
    assert isinstance(message.unseal(Signer(client.settings.key), genuine), Message)
    assert client.settings.key.encode() not in genuine
    assert bytes.fromhex(client.settings.key) not in genuine
