"""A named broker is killed, restarted, short of memory, or says nothing: jobs wait, say why, and complete."""

from __future__ import annotations

import os
import queue
import secrets
import signal
import socket
import threading
import time

import numpy as np
import psutil
import pytest
from notes import connections_of
from servers import started

import nbmr
from nbmr import node, progress, sender, topology
from nbmr.broker import address, connect, patience

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def broker(rabbitmq, tmp_path_factory):
    """A server of this module's own."""
    with started(node.find_server(), tmp_path_factory.mktemp("broker")) as server:
        yield server


@pytest.fixture(scope="module")
def client(broker):
    """A client of it, with two workers."""
    with nbmr.Client(broker.url, secrets.token_hex(32)) as client, client.workers(2):
        assert client.map([1], lambda x: x) == [1]
        yield client


@pytest.fixture(autouse=True)
def _all_well(client, eventually):
    """Each test begins and ends with connections that are open."""
    yield
    eventually(lambda: not client._broker.trouble and client.slots("default") == 2, 60)


@pytest.fixture
def workers(client):
    """Process ids of the two workers."""
    return set(client.workers().pid)


@pytest.fixture
def alarm(broker):
    """Give functions that raise RabbitMQ's memory alarm, and clear it."""
    resource = "{resource_limit, memory, node()}"

    def on():
        broker.eval(f"rabbit_alarm:set_alarm({{{resource}, []}}).")

    def off():
        broker.eval(f"rabbit_alarm:clear_alarm({resource}).")

    yield on, off
    off()


@pytest.fixture
def interrupt():
    """Give a function that presses Ctrl-C in a moment, and one that tells how long ago that was."""
    pressed = []

    def press():
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timers = []

    def soon(seconds):
        timers.append(threading.Timer(seconds, press))
        timers[-1].start()

    yield soon, lambda: time.monotonic() - pressed[-1]
    for timer in timers:
        timer.cancel()
        timer.join()


def slow(x):
    time.sleep(0.05)
    return x


def gated(x, gate):
    while not gate.exists():
        time.sleep(0.01)
    return x


def seen(job):
    """Every result as it arrived, with its number."""
    return list(job)


# ---------------------------------------------------------------- killed


def test_killed_while_tasks_run(client, broker, eventually):
    job = client.submit(range(60), slow, partitions=60)
    eventually(lambda: job.progress.done >= 3)
    broker.restart()
    arrived = seen(job)
    assert sorted(arrived) == [(x, x) for x in range(60)]  # nothing lost, nothing doubled
    assert job.result(30) == list(range(60))
    assert not job.failures
    job.forget()


def test_killed_while_tasks_are_sent(client, broker):
    def items():
        for number in range(40):
            if number == 20:
                broker.kill()
                restart.start()
            yield np.full(200_000, number)

    restart = threading.Thread(target=broker.start)
    assert client.map(items(), lambda a: int(a.sum()), partitions=40) == [n * 200_000 for n in range(40)]
    restart.join()


def test_killed_while_large_results_arrive(client, broker, eventually):
    job = client.submit([1, 2, 3], lambda n: np.full(4_000_000, n), partitions=3)  # 32 MB each, in chunks
    eventually(lambda: job.progress.bytes_received > 0)
    broker.restart()
    out = job.result(60)
    assert [(a.size, int(a.min()), int(a.max())) for a in out] == [(4_000_000, n, n) for n in (1, 2, 3)]
    job.forget()


def test_killed_while_the_next_job_reads_results(client, broker, eventually):
    job = client.submit(range(8), lambda n: np.full(2_000_000, n), partitions=8)  # 16 MB each, in chunks
    following = client.submit(job, lambda array: (array.size, int(array.min()), int(array.max())))
    eventually(lambda: following.progress.done, 60)
    broker.restart()
    assert following.result(100) == [(2_000_000, n, n) for n in range(8)]
    broker.restart()
    assert client.map(job, lambda array: int(array[0])) == list(range(8))
    following.forget()
    job.forget()


def test_killed_while_a_large_function_is_read(client, broker, tmp_path, eventually):
    model, gate = np.arange(2_000_000), tmp_path / "gate"
    job = client.submit(range(4), lambda n: (gated(n, gate), int(model[n])), partitions=4)
    eventually(lambda: job.progress.running)
    broker.restart()
    gate.touch()
    assert job.result(60) == [(n, n) for n in range(4)]
    job.forget()


def test_killed_just_as_a_new_queue_is_made(client, broker, monkeypatch):
    """RabbitMQ 3.10 breaks a queue that was made less than a second before it is killed."""
    monkeypatch.setattr(sender, "ANSWER_SECONDS", 0.5)  # it is down for longer than that, and asked again
    new = f"new-{secrets.token_hex(4)}"
    job = client.submit(range(4), slow, queue=new)
    broker.restart()
    with client.workers(1, queue=new):
        try:
            found = job.result(90)
        except nbmr.BrokerError as error:
            # the job's log is as young as the queue, and is lost now and then: that is told
            if "does not have a replica" not in str(error):
                raise
            job.forget()
            found = client.map(range(4), slow, queue=new)
    assert found == [0, 1, 2, 3]
    job.forget()


def test_a_stream_that_is_not_up_yet_is_not_gone(client, broker):
    """RabbitMQ answers half a second before its streams do, and says then that they are not found."""
    job = client.submit([1], slow)
    assert job.result(30) == [1]
    broker.restart()
    early = connect(broker.url.replace("127.0.0.1", "localhost"))
    try:
        deliveries = queue.SimpleQueue()
        lost = queue.SimpleQueue()
        early.consume(topology.job_log(job.id), deliveries.put, offset="first", on_lost=lost.put)
        assert early.exists(topology.job_log(job.id))
        assert deliveries.get(timeout=20).offset == 0
        assert lost.empty()
    finally:
        early.release()
    job.forget()


def test_to_ask_whether_a_queue_serves_costs_its_tasks_nothing(client, broker, eventually):
    """Who consumes from it knows; who doesn't may hold a task for a moment, and must not reject it."""
    tasks, dead = (
        make(f"asked-{secrets.token_hex(4)}") for make in (topology.task_queue, topology.dead_queue)
    )
    asking = connect(broker.url.replace("127.0.0.1", "localhost"))
    try:
        asking.declare(tasks, dead)
        asking.append(tasks, [b"a task"]).result(10)
        assert asking._serves(tasks)
        eventually(lambda: asking.count(tasks) == (1, 0))  # back in its queue, and with nobody
        deliveries = queue.SimpleQueue()
        asking.consume(tasks, deliveries.put, prefetch=1)
        assert deliveries.get(timeout=10).returned <= 1
        for _ in range(4):
            assert asking._serves(tasks)
        assert asking.count(tasks)[1] == 1  # no other consumer came
        assert deliveries.empty()
        assert asking.count(dead)[0] == 0
    finally:
        asking.delete(tasks, dead)
        asking.release()


@pytest.fixture
def hasty(monkeypatch):
    """What RabbitMQ owes an answer for is asked again after three seconds."""
    monkeypatch.setattr(patience, "FIRST_SECONDS", 3)


@pytest.fixture
def asking(client, broker, hasty):
    """Connections of our own."""
    asking = connect(broker.url.replace("127.0.0.1", "localhost"))
    yield asking
    asking.release()


def suspend(broker, processes):
    """Keep some of RabbitMQ's own processes from doing anything, for 20 s from now on."""
    broker.eval(
        "Self = self(), spawn(fun() ->"
        f" [erlang:suspend_process(P) || P <- {processes}], Self ! suspended, timer:sleep(20000) end),"
        " receive suspended -> ok end."
    )


def test_channels_that_fall_silent(asking, broker):
    """RabbitMQ can lose messages and calls while it restarts: then it owes the answer for ever."""
    stream = topology.job_log(secrets.token_hex(4))
    asking.declare(stream)
    assert asking.append(stream, [b"one"]).result(20)
    connections = asking._publishing._connection, asking._consuming._connection
    ports = [connection._transport._sock.getsockname()[1] for connection in connections]
    named = " orelse ".join(f'binary:match(N, <<":{port} ">>) =/= nomatch' for port in ports)
    suspend(
        broker, f"[C || C <- rabbit_channel:list(), [{{_, N}}] <- [rabbit_channel:info(C, [name])], {named}]"
    )
    sent = [asking.append(stream, [text]) for text in (b"two", b"three")]
    assert asking.exists(stream)
    assert [stored.result(40) for stored in sent] == [True, True]
    arrived = queue.SimpleQueue()
    asking.consume(stream, arrived.put, offset="first")
    assert {bytes(arrived.get(timeout=20).body) for _ in range(3)} == {b"one", b"two", b"three"}
    asking.delete(stream)


def test_a_connection_that_is_read_no_more(asking, broker, monkeypatch):
    """RabbitMQ goes on to send its heartbeats on it, and new channels are not answered either."""
    monkeypatch.setattr(patience, "FIRST_SECONDS", 2)
    stream = topology.job_log(secrets.token_hex(4))
    asking.declare(stream)
    assert asking.append(stream, [b"one"]).result(20)
    port = asking._publishing._connection._transport._sock.getsockname()[1]
    its = f"rabbit_networking:connection_info(P, [peer_port]) =:= [{{peer_port, {port}}}]"
    suspend(broker, f"[P || P <- rabbit_networking:connections(), {its}]")
    began = time.monotonic()
    sent = asking.append(stream, [b"two"])
    assert sent.result(40)
    assert time.monotonic() - began < 18  # before it would be read again
    assert asking._publishing._connection._transport._sock.getsockname()[1] != port
    asking.delete(stream)


def test_a_queue_that_falls_silent(asking, broker):
    tasks = topology.task_queue(f"silent-{secrets.token_hex(4)}")
    asking.declare(tasks)
    assert asking.append(tasks, [b"a task"]).result(20)
    resource = f'rabbit_misc:r(<<"/">>, queue, <<"{tasks.name}">>)'
    suspend(
        broker, f"[whereis(element(1, amqqueue:get_pid(element(2, rabbit_amqqueue:lookup({resource})))))]"
    )
    arrived = queue.SimpleQueue()
    consumer = asking.consume(tasks, arrived.put)
    assert not consumer.subscribed.wait(5)  # and is asked for again meanwhile
    delivery = arrived.get(timeout=60)
    delivery.ack()
    assert bytes(delivery.body) == b"a task"
    assert arrived.empty()  # one of the subscriptions counts
    asking.delete(tasks)


def test_down_for_long(client, broker, eventually):
    job = client.submit(range(30), slow, partitions=30)
    eventually(lambda: job.progress.done >= 3)
    broker.kill()
    hint = eventually(lambda: job.hint)
    assert hint.startswith("RabbitMQ: reconnecting")
    eventually(lambda: f"Nothing listens at 127.0.0.1:{broker.port}" in job.hint)
    with pytest.raises(nbmr.JobTimeout, match="reconnecting"):
        job.result(timeout=10)  # it waits, and goes on to wait
    broker.start()
    assert job.result(60) == list(range(30))
    assert not job.hint
    job.forget()


def test_a_worker_that_is_to_end_gives_up_a_broker_that_is_down(client, broker, start, tmp_path, eventually):
    program = (
        "import sys; from nbmr.worker import worker; worker.GIVE_UP_SECONDS = 2.0;"
        "from nbmr.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    queue = f"ending-{secrets.token_hex(4)}"
    options = ["--url", broker.url, "--queue", queue]
    worker = start("-c", program, "worker", *options, env={"NBMR_KEY": client.settings.key})
    assert worker.stderr.readline().startswith("Ready")
    job = client.submit([1], gated, tmp_path / "gate", queue=queue)
    eventually(lambda: job.progress.running)
    broker.kill()
    worker.terminate()
    _, err = worker.communicate(timeout=60)
    assert worker.returncode == 0
    assert "RabbitMQ takes no results (reconnecting" in err
    broker.start()
    job.forget()


def test_ctrl_c_while_it_is_down(client, broker, interrupt):
    soon, since = interrupt
    broker.kill()
    soon(1.5)
    with pytest.raises(KeyboardInterrupt):
        client.map(range(4), slow)  # asks RabbitMQ first, and waits for the answer
    assert since() < 1
    broker.start()
    assert client.map([1, 2], slow) == [1, 2]


# ---------------------------------------------------------------- short of memory


def test_an_alarm_at_the_start_of_a_job(client, alarm, eventually, capsys):
    on, off = alarm
    on()
    job = client.submit(range(4), slow)
    hint = eventually(lambda: job.hint)
    assert hint.startswith("RabbitMQ: blocked")
    assert "memory" in hint
    with progress.follow(job, "terminal"):
        off()
        assert job.result(30) == [0, 1, 2, 3]
    assert "blocked" in capsys.readouterr().err
    assert not job.hint
    job.forget()


def test_an_alarm_while_tasks_are_sent(client, alarm, eventually):
    on, off = alarm
    hints = []

    def items():
        for number in range(40):
            if number == 20:
                on()
            yield np.full(500_000, number)  # 80 MB in all: more than is sent ahead

    job = client.submit(items(), lambda a: int(a.sum()), partitions=40)
    hints.append(eventually(lambda: job.hint))
    off()
    assert job.result(60) == [n * 500_000 for n in range(40)]
    assert hints[0].startswith("RabbitMQ: blocked")
    job.forget()


def test_an_alarm_while_workers_answer(client, alarm, eventually, tmp_path):
    on, off = alarm
    job = client.submit(range(2), gated, tmp_path / "gate", partitions=2)
    eventually(lambda: job.progress.running == 2)
    on()
    (tmp_path / "gate").touch()
    with pytest.raises(nbmr.JobTimeout, match="blocked"):
        job.result(timeout=4)  # shown, although this client has nothing to send any more
    off()
    assert job.result(30) == [0, 1]
    job.forget()


def test_ctrl_c_while_it_is_blocked(client, alarm, interrupt):
    on, off = alarm
    soon, since = interrupt
    on()
    soon(1.5)
    with pytest.raises(KeyboardInterrupt):
        client.map((np.zeros(500_000) for _ in range(40)), len, partitions=40)
    assert since() < 1
    off()
    assert client.map([1, 2], slow) == [1, 2]


def test_closing_while_it_is_blocked(client, alarm, broker):
    on, _ = alarm
    with nbmr.Client(broker.url.replace("127.0.0.1", "localhost"), client.settings.key) as other:
        on()
        job = other.submit([1], slow)
        job.cancel()
        began = time.monotonic()
    assert time.monotonic() - began < 8  # RabbitMQ does not even answer a goodbye
    assert len(ports([os.getpid()], broker.port)) == 2  # those of the first client


# ---------------------------------------------------------------- says nothing


def ports(pids, port):
    """The local ports of connections to the broker."""
    return {
        c.laddr.port
        for pid in pids
        for c in connections_of(psutil.Process(pid))
        if c.raddr and c.raddr.port == port and c.status == "ESTABLISHED"
    }


def test_a_broker_that_hangs(client, broker, workers, eventually, interrupt):
    soon, since = interrupt
    job = client.submit(range(100), slow, partitions=100)
    eventually(lambda: job.progress.done >= 3)
    ours, theirs = ports([os.getpid()], broker.port), ports(workers, broker.port)
    assert ours
    assert theirs
    broker.pause()
    try:
        began = time.monotonic()
        eventually(lambda: "silent" in job.hint, 15)
        soon(0.5)
        with pytest.raises(KeyboardInterrupt):
            job.result()
        assert since() < 1
        eventually(lambda: "reconnecting" in job.hint, 30)
        eventually(lambda: not ours & ports([os.getpid()], broker.port), 30)
        eventually(lambda: not theirs & ports(workers, broker.port), 30)
        assert time.monotonic() - began < 30
    finally:
        broker.resume()
    assert job.result(60) == list(range(100))
    job.forget()


def test_one_that_accepts_and_says_nothing(monkeypatch, client):
    monkeypatch.setattr(address, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(nbmr.BrokerUnreachable, match=rf"127\.0\.0\.1:{port} doesn't answer: it accepts"):
            nbmr.Client(f"amqp://a:b@127.0.0.1:{port}", client.settings.key)
        assert time.monotonic() - began < 5
