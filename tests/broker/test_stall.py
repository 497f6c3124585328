"""Tasks that somebody took away or damaged are missed, and sent again."""

from __future__ import annotations

import contextlib
import threading
import time

import numpy as np
import pandas as pd
import pika
import pytest

import nbmr
from nbmr import hearing, message, pools, queue_counts, stall, topology


@pytest.fixture
def attentive(monkeypatch):
    """What is with nobody is noticed soon, and no worker is started unasked."""
    monkeypatch.setattr(pools, "ensure", lambda *_: None)
    monkeypatch.setattr(stall, "PATIENCE", 2.0)
    monkeypatch.setattr(stall, "SEND_AGAIN_AFTER", 2.0)
    monkeypatch.setattr(stall, "TOLD_AFTER", 1.0)
    monkeypatch.setattr(queue_counts, "FRESH_SECONDS", 0.2)


def damage(outsider, queue):
    """Change the first of a queue's two tasks."""
    bodies = outsider.take(topology.task_queue(queue), 2, acknowledge=True)
    damaged = bytearray(bodies[0])
    damaged[10] ^= 1
    outsider.put(topology.task_queue(queue), bytes(damaged), bodies[1])


@pytest.mark.parametrize("data", [[1, 2], pd.DataFrame({"x": [1, 2]})], ids=["list", "frame"])
def test_a_task_that_was_damaged_is_sent_again(client, queue, attentive, outsider, data):
    """The worker drops it: nothing in it can be trusted. The client finds that it is with nobody."""
    job = client.submit(data, lambda x: x, queue=queue, partitions=2)
    job._sending.join(10)
    damage(outsider, queue)
    with client.workers(1, queue=queue):
        out = job.result(60)
    assert out == data if isinstance(data, list) else out.equals(data)
    job.forget()


def test_a_large_task_that_was_taken_is_sent_again(client, queue, attentive, outsider):
    """Its data is a blob: that is written again, under another name."""
    items = [np.arange(1_500_000), np.arange(1_500_000) * 2]
    job = client.submit(items, lambda a: int(a.sum()), queue=queue, partitions=2)
    job._sending.join(30)
    outsider.take(topology.task_queue(queue), 2, acknowledge=True)
    with client.workers(1, queue=queue):
        assert job.result(60) == [int(item.sum()) for item in items]
    job.forget()


def test_a_task_that_was_damaged_and_cannot_be_sent_again_ends_its_job(client, queue, attentive, outsider):
    job = client.submit(iter([1, 2]), lambda x: x, queue=queue, partitions=2)
    job._sending.join(10)
    damage(outsider, queue)
    with client.workers(1, queue=queue):
        with pytest.raises(nbmr.BrokerError, match=r"1 task of job .* got lost: neither queued"):
            job.result(60)
        assert job.partial() in ([1], [2])
    job.forget()


@pytest.mark.parametrize("again", [True, False], ids=["sent again", "an iterable's"])
def test_a_task_whose_answer_rabbitmq_has_lost(client, queue, attentive, outsider, monkeypatch, again):
    """Its log says that it runs; but all workers say that they are not at it. One that runs is waited for."""
    monkeypatch.setattr(stall, "QUIET_SECONDS", 1.0)

    def fn(x):
        time.sleep(8 * x)
        return x

    data = [0, 1]
    job = client.submit(data if again else iter(data), fn, queue=queue, partitions=2)
    job._sending.join(10)
    bodies = outsider.take(topology.task_queue(queue), 2, acknowledge=True)
    with client.workers(1, queue=queue) as workers:
        (facts,) = client.workers_seen(queue)
        who = {"worker": facts.worker, "host": facts.host, "pid": workers.pids[0], "run": "r", "attempt": 1}
        started = message.seal(client._signer, "started", job=job.id, task=0, **who)
        outsider.put(topology.job_log(job.id), b"".join(started))
        outsider.put(topology.task_queue(queue), bodies[1])
        if again:
            assert job.result(60) == [0, 1]
        else:
            with pytest.raises(nbmr.BrokerError, match=r"1 task of job .* got lost: neither queued"):
                job.result(60)
    job.forget()


def test_tasks_that_get_lost_again_and_again_end_their_job(client, queue, attentive, server):
    job = client.submit([1, 2], lambda x: x, queue=queue, partitions=2)
    taken = []
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(server.info.url))) as thief:
        channel = thief.channel()
        channel.basic_consume(
            topology.task_queue(queue).name, lambda *args: taken.append(args), auto_ack=True
        )
        over = threading.Event()

        def take():
            while not over.is_set():
                thief.process_data_events(0.1)

        thread = threading.Thread(target=take)
        thread.start()
        try:
            with pytest.raises(nbmr.BrokerError, match=r"2 tasks of job .* got lost: neither queued"):
                job.result(60)
        finally:
            over.set()
            thread.join()
    assert len(taken) == 4  # each of them twice, and no more
    job.forget()


def test_a_reader_that_rabbitmq_has_forgotten_reads_on(client, queue, tmp_path, eventually, monkeypatch):
    """As after the death of a cluster's server: nothing comes from a subscription that looks well."""
    monkeypatch.setattr(hearing, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(hearing, "BACK_SECONDS", 1.0)
    gate = tmp_path / "gate"

    def fn(x):
        while x and not gate.exists():
            time.sleep(0.01)
        return x

    with client.workers(1, queue=queue):
        job = client.submit([0, 1, 2], fn, queue=queue, partitions=3)
        eventually(lambda: job.progress.done == 1)
        consumer = job._stream._consumer
        consumer._do(lambda: consumer.channel.basic_cancel(consumer._tag))
        deaf = consumer.channel
        eventually(lambda: not deaf.consumer_tags)
        gate.touch()
        assert job.result(60) == [0, 1, 2]
        assert consumer.channel is not deaf
        job.forget()


@pytest.mark.slow
def test_a_worker_that_rabbitmq_has_forgotten_gets_tasks_again(client, queue, server, eventually):
    with client.workers(1, queue=queue) as workers:
        assert client.map([1], lambda x: x, queue=queue) == [1]
        before = workers.pids
        server.eval(
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"nbmr.tasks.{queue}">>)),'
            " Pid = amqqueue:get_pid(Q),"
            " {ok, {_, Found}, _} = ra:leader_query(Pid, fun rabbit_fifo:query_consumers/1),"
            " [ra:process_command(Pid, rabbit_fifo:make_checkout(Id, cancel, #{}))"
            " || Id <- maps:keys(Found)]."
        )
        eventually(lambda: client._broker.count(topology.task_queue(queue))[1] == 0)
        assert client.map([2], lambda x: x, queue=queue) == [2]
        assert workers.pids == before
