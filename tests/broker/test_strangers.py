"""Who has the broker's password and not the key gets nowhere, on any path, while genuine work goes on.

The strangers here use plain pika. Whatever they publish, nothing of it is unpickled, nobody crashes, and a
genuine job that runs meanwhile ends with the exact answer.
"""

from __future__ import annotations

import os
import pickle
import random
import struct
import time

import pika
import pytest
from pika import frame, spec

import nbmr
from nbmr import message, pools, topology, widgets
from nbmr.signing import Signer, new_key

pytestmark = pytest.mark.slow


@pytest.fixture
def workers(client, queue):
    with client.workers(2, queue=queue) as workers:
        yield workers


@pytest.fixture
def running(client, queue, workers, tmp_path, eventually, in_messages):
    """A genuine job, with a large function (a blob), one of whose tasks runs until it is told to end."""
    gate, table = tmp_path / "gate", os.urandom(200_000)
    expected = [table[i] for i in range(60)]

    def fn(i):
        while not i and not gate.exists():
            time.sleep(0.01)
        return table[i]

    job = client.submit(range(60), fn, queue=queue, partitions=20)
    eventually(lambda: job.progress.done == 57)
    before = workers.pids
    yield job
    gate.touch()
    assert job.result(60) == expected
    assert workers.pids == before  # nobody crashed
    job.forget()


def harm(genuine, touch, count=200):
    """Bodies that are not genuine, made from one that is."""
    chance = random.Random(7)
    yield from (pickle.dumps(touch, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1))
    for _ in range(count):
        flipped = bytearray(genuine)
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        yield bytes(flipped)
        start, stop = sorted(chance.sample(range(len(genuine)), 2))
        yield genuine[start:stop]
    other = b"".join(message.seal(Signer(new_key()), "task", job="j", buffers=[pickle.dumps(touch)]))
    yield other
    yield other[:-32] + genuine[-32:]  # a genuine signature on something else
    yield genuine[:-32] + other[-32:]
    yield b""


def paths(job, queue):
    """Every queue and stream that a job of this queue is read from."""
    return {
        "tasks": topology.task_queue(queue),
        "dead": topology.dead_queue(queue),
        "log": topology.job_log(job.id),
        "blob": job.blobs[0],
        "control": topology.control_stream(),
        "registry": topology.jobs_stream(),
    }


# ---------------------------------------------------------------- forged, changed, moved


def test_no_path_lets_anything_in(client, queue, running, outsider, touch, eventually, rejections):
    entries = outsider.take(topology.job_log(running.id), 2)
    control = b"".join(message.seal(Signer(client.settings.key), "cancel", job="f" * 12, time=0.0))
    bodies = {
        "log": list(harm(entries[1], touch)),
        "tasks": list(harm(entries[0], touch)),
        "dead": list(harm(entries[0], touch)),
        "blob": list(harm(entries[1], touch)),
        "control": list(harm(control, touch, 20)),
        "registry": list(harm(outsider.take(topology.jobs_stream(), 1)[0], touch, 20)),
    }
    for name, path in paths(running, queue).items():
        outsider.put_many(path, bodies[name])
    eventually(lambda: running.rejected == len(bodies["log"]))
    for name in ("tasks", "dead"):
        eventually(lambda name=name: client._broker.count(paths(running, queue)[name])[0] == 0)
    assert running.id in set(client.jobs()["id"])
    assert "not signed with this key" in str(rejections(client, queue))
    count = f"{len(bodies['log'])} messages rejected"  # where a person sees it
    assert count in repr(running)
    assert count in widgets.mimebundle(running)["text/plain"]
    assert count in widgets.mimebundle(running)["text/html"]


def test_what_is_genuine_elsewhere_is_not_genuine_here(client, queue, running, outsider, eventually):
    """Signatures cover the place of a message: its kind, job and task."""
    log = topology.job_log(running.id)
    other = client.submit([1, 2], lambda x: time.sleep(0.2) or x + 100, queue=queue)
    assert other.result(20) == [101, 102]
    entries = outsider.take(topology.job_log(other.id), 6)  # opened, started, result, sealed, …
    outsider.put(log, *entries)  # another job's log, among it genuine results for the same task numbers
    result = next(body for body in outsider.take(log, 12) if b'"kind":"result"' in body)
    moved = result.replace(b'"task":', b'"task":1')
    assert moved != result
    outsider.put(log, moved)
    eventually(lambda: running.rejected == len(entries) + 1)
    outsider.put(topology.task_queue(queue), *entries, result)
    eventually(lambda: client._broker.count(topology.task_queue(queue))[0] == 0)
    outsider.put(topology.control_stream(), *entries, result)
    client.submit([0], lambda x: x, queue=queue).cancel()  # goes behind them
    other.forget()


def test_a_jobs_own_entries_may_come_again(client, queue, running, outsider, eventually):
    """Started, results, chunks, all of them, in any order: each counts once."""
    log = topology.job_log(running.id)
    before = running.progress
    entries = outsider.take(log, 12)
    for order in (entries, entries[::-1]):
        outsider.put(log, *order)
    died = {"attempt": 1, "cause": "it came", "host": "h", "pid": 1}
    last = message.seal(Signer(client.settings.key), "died", job=running.id, task=10**6, **died)
    outsider.put(log, b"".join(last))
    eventually(lambda: 10**6 in running._log.attempts.deaths)  # it was read behind them
    assert running.progress.done == before.done
    assert running.progress.failed == 0
    assert running.progress.total == 60
    assert running.rejected == 0


def test_a_genuine_task_in_the_queue_of_the_dead_is_a_failure_that_is_told(
    client, queue, outsider, monkeypatch
):
    """Who can log in can disturb a job. The answer may then be missing, but it is never wrong."""
    monkeypatch.setattr(pools, "ensure", lambda *_: None)
    job = client.submit([1], lambda x: x, queue=queue)
    job._sending.join(10)
    (body,) = outsider.take(topology.task_queue(queue), 1, acknowledge=True)
    outsider.put(topology.dead_queue(queue), body)
    with client.workers(1, queue=queue), pytest.raises(nbmr.TaskLost, match="3 workers took it"):
        job.result(20)
    job.forget()


# ---------------------------------------------------------------- properties


def put_with_properties(url, queue, body, table):
    """Publish with a table of headers that pika would not write; tell whether RabbitMQ takes it."""
    properties = struct.pack(">HHQH", 60, 0, len(body), spec.BasicProperties.FLAG_HEADERS)
    properties += struct.pack(">I", len(table)) + table
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    number = channel.channel_number
    published = frame.Method(number, spec.Basic.Publish(exchange="", routing_key=queue.name)).marshal()
    for kind, data in ((spec.FRAME_HEADER, properties), (spec.FRAME_BODY, body)):
        published += struct.pack(">BHL", kind, number, len(data)) + data + bytes([spec.FRAME_END])
    connection._impl._output_marshaled_frames([published])
    try:
        channel.close()  # RabbitMQ has it then
        connection.close()
    except pika.exceptions.AMQPError:
        return False
    return True


def test_strange_properties_end_no_connection(client, queue, running, outsider, eventually):
    """Properties aren't signed, and RabbitMQ hands on what it doesn't look at."""
    headers = [
        {"x-delivery-count": "many", "x-stream-offset": "first"},
        {"x-delivery-count": -5, "x-stream-offset": -5},
        {"x-delivery-count": 10**12, "x-stream-offset": 10**12},
        {"x-delivery-count": None, "x-stream-offset": [1, {"a": None}]},
    ]
    tables = [
        b"\x01t" + b"T" + struct.pack(">Q", 2**63),  # a date that no calendar has
        b"\x01t" + b"D" + struct.pack(">Bi", 255, 1),
        b"\x02\xff\xfe" + b"S" + struct.pack(">I", 2) + b"\xff\xfe",
    ]
    taken = {}
    for name, path in paths(running, queue).items():
        for some in headers:
            outsider.put(path, b"noise", headers=some)
        taken[name] = [put_with_properties(outsider.url, path, b"noise", table) for table in tables]
    assert taken["tasks"].count(True) > 1  # RabbitMQ doesn't protect us from them
    eventually(lambda: running.rejected == len(headers) + taken["log"].count(True))
    assert not client._broker.trouble
    for name in ("tasks", "dead"):
        eventually(lambda name=name: client._broker.count(paths(running, queue)[name])[0] == 0)


def test_a_routing_key_that_is_no_text_ends_no_connection(client, queue, running, outsider, eventually):
    channel = outsider.channel
    channel.exchange_declare(queue, "fanout", auto_delete=True)
    for path in (topology.task_queue(queue), topology.job_log(running.id)):
        channel.queue_bind(path.name, queue)
    channel.basic_publish(queue, b"\xff\xfe\x00", b"noise", mandatory=True)
    eventually(lambda: running.rejected == 1)
    channel.exchange_delete(queue)


# ---------------------------------------------------------------- many


def noise(count):
    chance = random.Random(11)
    return [chance.randbytes(chance.randrange(200)) for _ in range(count)]


def test_a_hundred_thousand_random_messages(client, queue, running, outsider, eventually, rejections):
    """At a client's job log, and some of them at the queue of tasks: the job goes on between them.

    A worker takes 500 to 1500 a second from a quorum queue, one at a time.
    """
    bodies = noise(100_000)
    outsider.put_many(topology.job_log(running.id), bodies)
    eventually(lambda: running.rejected == len(bodies), 60)
    outsider.put_many(topology.task_queue(queue), bodies[:2000])
    eventually(lambda: client._broker.count(topology.task_queue(queue))[0] == 0, 100)
    counted = [int(count) for _, count in rejections(client, queue)]
    assert max(counted) >= 1000
    assert len(counted) < 200  # the log is not flooded
