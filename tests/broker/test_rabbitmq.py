"""What RabbitMQ does by itself, or differently in its versions: timeouts, lost subscriptions, warnings."""

from __future__ import annotations

import time

import pika
import pytest

import nbmr
from nbmr import topology

#: From this version on, RabbitMQ reads its acknowledgement timeout from the queue.
TIMEOUT_OF_QUEUE = (3, 12)
#: From this version on, it tells of the use of what is deprecated.
WARNINGS = (3, 13)
#: How long it waits for an acknowledgement here.
SECONDS = 3.0


def slow(x, log, slow_one, seconds):
    began = time.monotonic()
    try:
        if x == slow_one:
            time.sleep(seconds)
    finally:
        with log.open("a") as f:
            f.write(f"{x} {time.monotonic() - began}\n")
    return x


def meet(x, folder):
    """Return when two of us run at the same time."""
    (folder / f"met-{x}").touch()
    until = time.monotonic() + 30
    while len(list(folder.glob("met-*"))) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    return x


def runs(log, wanted):
    """How long each run of one item took, in seconds."""
    lines = [line.split() for line in log.read_text().splitlines()]
    return [float(seconds) for x, seconds in lines if x == str(wanted)]


@pytest.fixture
def version(server):
    return tuple(int(number) for number in server.info.rabbitmq_version.split(".")[:2])


@pytest.fixture
def channel(server):
    with pika.BlockingConnection(pika.URLParameters(server.info.url + "?heartbeat=0")) as connection:
        yield connection.channel()


@pytest.fixture
def impatient(server):
    """RabbitMQ with a short acknowledgement timeout, for channels that are opened now."""
    setting = "application:set_env(rabbit, {}, {}),".format
    server.eval(
        setting("consumer_timeout", round(SECONDS * 1000)) + setting("channel_tick_interval", 250) + "ok."
    )
    yield
    server.eval(setting("consumer_timeout", "undefined") + setting("channel_tick_interval", 60_000) + "ok.")


@pytest.fixture
def plain_queue(channel, queue):
    """A queue that doesn't say how long RabbitMQ has to wait, as in versions that don't ask it."""
    tasks = topology.task_queue(queue)
    arguments = {name: value for name, value in tasks.arguments.items() if name != "x-consumer-timeout"}
    channel.exchange_declare(tasks.exchange, "topic", durable=True)
    channel.queue_declare(tasks.name, durable=True, arguments=arguments)
    channel.queue_bind(tasks.name, tasks.exchange, tasks.key)
    return queue


def test_a_task_that_outlives_the_acknowledgement_timeout_fails_once(
    client, impatient, plain_queue, tmp_path
):
    """It is neither run again and again nor left alone; its neighbours and its workers go on."""
    log = tmp_path / "log"
    with client.workers(2, queue=plain_queue) as workers:
        pids = set(workers.pids)
        job = client.submit(
            range(4), slow, log, 1, 60.0, queue=plain_queue, partitions=4, on_error="keep", retries=3
        )
        assert job.wait(60)
        (failure,) = job.failures
        assert failure.number == 1
        assert isinstance(failure.error(), nbmr.TaskTimeout)
        assert f"acknowledgement timeout of {SECONDS:g} s" in failure.summary
        assert "consumer_timeout in the broker's rabbitmq.conf" in failure.summary
        assert failure.attempts == 1
        with pytest.warns(RuntimeWarning, match="acknowledgement timeout"):
            assert job.result() == [0, failure, 2, 3]
        job.forget()
        # both workers take tasks again: whichever got it back has dropped it, long before its time
        assert client.map([5, 6], meet, tmp_path, queue=plain_queue, partitions=2) == [5, 6]
        assert sum(seconds > SECONDS / 2 for seconds in runs(log, 1)) == 1
        assert set(workers.pids) == pids


def test_a_job_that_outlives_the_acknowledgement_timeout_raises(client, impatient, plain_queue, tmp_path):
    with client.workers(1, queue=plain_queue):
        with pytest.raises(nbmr.TaskTimeout, match="consumer_timeout"):
            client.map([1], slow, tmp_path / "log", 1, 60.0, queue=plain_queue)
        # the same worker takes the next task
        assert client.map([2], slow, tmp_path / "log", 1, 60.0, queue=plain_queue) == [2]


def test_our_queues_make_rabbitmq_wait(version, client, impatient, queue, tmp_path):
    if version < TIMEOUT_OF_QUEUE:
        pytest.skip("RabbitMQ asks the queue from 3.12 on")
    with client.workers(1, queue=queue):
        began = time.monotonic()
        assert client.map([1], slow, tmp_path / "log", 1, 3 * SECONDS, queue=queue) == [1]
        assert time.monotonic() - began > 3 * SECONDS
    assert len(runs(tmp_path / "log", 1)) == 1


def test_workers_make_a_deleted_queue_again(client, queue, channel, eventually):
    """Whoever deletes the queue of tasks, or of the dead, gets other workers for those that lost it."""
    with client.workers(1, queue=queue) as workers:
        for lost in (topology.task_queue(queue), topology.dead_queue(queue)):
            (pid,) = workers.pids
            channel.queue_delete(lost.name)
            eventually(lambda pid=pid: workers.pids and pid not in workers.pids, 60)
            eventually(lambda: client._broker.exists(topology.dead_queue(queue)))
            assert client.map([1, 2], lambda x: -x, queue=queue) == [-1, -2]


def test_a_payload_that_may_not_be_read_loses_its_task(named, server, queue):
    """It is no reason to think that its job is over, and to drop the task without a word."""
    permit = (
        'rabbit_auth_backend_internal:set_permissions(<<"tester">>, <<"named">>,'
        ' <<".*">>, <<".*">>, <<"{}">>, <<"tests">>).'
    ).format
    with nbmr.Client(named.url, named.key) as client, client.workers(1, queue=queue):
        server.eval(permit(r"^(?!.*[.]blob[.]).*$"))
        try:
            with pytest.raises(nbmr.TaskLost):
                client.map([b"x" * (9 << 20)], len, queue=queue)
        finally:
            server.eval(permit(".*"))


def test_a_queue_of_another_version_is_named(client, queue, channel):
    tasks = topology.task_queue(queue)
    channel.queue_declare(tasks.name, durable=True, arguments={**tasks.arguments, "x-delivery-limit": 17})
    with pytest.raises(nbmr.BrokerError, match=rf"{queue}.*another version of nbmr, or by hand"):
        client.map([1], lambda x: x, queue=queue)


def test_what_is_deprecated_is_noticed(version, server, channel, eventually):
    """The end of the session checks that RabbitMQ warned of nothing; this checks that check."""
    if version < WARNINGS:
        pytest.skip("RabbitMQ warns of what is deprecated from 3.13 on")
    assert server.deprecated() == []
    channel.queue_declare("", durable=False, auto_delete=True)
    (line,) = eventually(server.deprecated)
    assert "transient_nonexcl_queues" in line
    server.expected.append(line)
