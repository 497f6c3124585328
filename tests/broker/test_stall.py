"""Tasks that somebody took away or damaged are missed, and sent again."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pandas as pd
import pika
import pytest

import nbmr
from nbmr import pools, session, stall, topology


@pytest.fixture
def attentive(monkeypatch):
    """What is with nobody is noticed soon, and no worker is started unasked."""
    monkeypatch.setattr(pools, "ensure", lambda *_: None)
    monkeypatch.setattr(stall, "PATIENCE", 2.0)
    monkeypatch.setattr(stall, "SEND_AGAIN_AFTER", 2.0)
    monkeypatch.setattr(stall, "TOLD_AFTER", 1.0)
    monkeypatch.setattr(session, "_COUNT_SECONDS", 0.2)


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
