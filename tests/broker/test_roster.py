"""Who works: what workers tell of themselves while somebody looks, and that it can be believed."""

from __future__ import annotations

import os
import secrets
import signal
import time

import psutil
import pytest

import nbmr
from nbmr import message, topology, versions
from nbmr.errors import BrokerUnreachable
from nbmr.signing import Signer

pytestmark = pytest.mark.slow


@pytest.fixture
def roster(client):
    return client.roster


def of(roster, queue):
    return [facts for facts in roster.facts() if facts.queue == queue]


def wait_for_file(file):
    while not file.exists():
        time.sleep(0.02)


def test_workers_are_seen(client, queue):
    with client.workers(2, queue=queue, memory_limit="3GB") as workers:
        seen = client.workers_seen(queue)
        assert {facts.pid for facts in seen} == set(workers.pids)
        for facts in seen:
            assert (facts.queue, facts.state, facts.memory_limit) == (queue, "here", 3_000_000_000)
            assert facts.worker == f"{facts.host}:{facts.pid}"
            assert facts.versions == versions.local_versions()
            assert not facts.mismatch
            assert facts.memory > psutil.Process(facts.pid).memory_info().rss
            assert abs(facts.started - psutil.Process(facts.pid).create_time()) < 60
            assert [slot.state for slot in facts.slots] == ["idle"]
        assert {facts.queue for facts in client.workers_seen()} >= {queue, "default"}


def test_what_a_worker_is_at_and_what_it_has_done(client, queue, roster, tmp_path, eventually):
    go = tmp_path / "go"
    with client.workers(1, queue=queue):
        job = client.submit([go], wait_for_file, queue=queue, name="waits")

        def job_of():
            return [slot for facts in of(roster, queue) for slot in facts.slots if slot.job == job.id]

        slot = eventually(job_of)[0]
        assert (slot.state, slot.name, slot.task, slot.attempt) == ("running", "waits", 0, 1)
        child = psutil.Process(slot.pid)
        assert of(roster, queue)[0].pid in [process.pid for process in child.parents()]
        later = eventually(lambda: [slot for slot in job_of() if slot.seconds > 1])[0]
        assert later.pid == slot.pid
        go.touch()
        job.result()
        job.forget()
        with pytest.raises(nbmr.TaskError, match="ZeroDivisionError"):
            client.map([0], lambda x: 1 / x, queue=queue, progress=False)
        facts = eventually(lambda: [f for f in of(roster, queue) if f.done == 1 and f.failed == 1])[0]
        assert facts.slots[0].state == "idle"


def test_a_busy_worker_says_how_busy(client, queue, roster, eventually):
    with client.workers(1, queue=queue):
        job = client.submit([1], lambda _: [None for _ in iter(int, 1)], queue=queue)
        eventually(lambda: [facts for facts in of(roster, queue) if facts.cpu > 15])
        job.cancel()


def test_a_worker_that_ends_says_so_and_a_killed_one_is_not_heard_of(client, queue, roster, eventually):
    with client.workers(2, queue=queue) as workers:
        eventually(lambda: len(of(roster, queue)) == 2)
        workers.scale(1)
        eventually(lambda: len(of(roster, queue)) == 1)
        (stays,) = of(roster, queue)
        assert [stays.pid] == workers.pids
        os.kill(stays.pid, signal.SIGSTOP)
        eventually(lambda: not of(roster, queue))
        os.kill(stays.pid, signal.SIGCONT)
        eventually(lambda: of(roster, queue))
    eventually(lambda: not of(roster, queue), seconds=4.5)  # sooner than silence would tell


def test_slots_that_are_expected_are_waited_for(client, queue, roster):
    with client.workers(1, queue=queue):
        began = time.monotonic()
        assert len(roster.look(timeout=30, expected=1, queue=queue)) == 1
        assert time.monotonic() - began < 20
        assert len(roster.look(timeout=0.5, expected=2, queue=queue)) == 1
    assert roster.look(timeout=0.2, queue=queue) == []


def test_after_a_broken_connection_workers_are_seen_again(client, queue, roster, server, eventually):
    with client.workers(1, queue=queue):
        assert len(client.workers_seen(queue)) == 1
        link = client._broker._consuming
        before = link.generation
        server.eval(
            '[rabbit_networking:close_connection(P, "test") || P <- rabbit_networking:connections()].'
        )
        eventually(lambda: link.generation > before and link.state == "open")
        assert len(roster.look(timeout=40, expected=1, queue=queue)) == 1


def test_where_nobody_looks_nothing_is_sent(client, queue, outsider, eventually):
    with client.workers(1, queue=queue):
        mine = outsider.channel.queue_declare("", exclusive=True).method.queue
        outsider.channel.queue_bind(mine, topology.EVENTS_EXCHANGE, topology.tell_key(queue))

        def count():
            outsider.connection.process_data_events()
            return outsider.channel.queue_declare(mine, passive=True).method.message_count

        signer = Signer(client.settings.key)
        eventually(lambda: count_stays(count), seconds=60)  # whoever looked before looks no more
        before = count()
        body = b"".join(message.seal(signer, "ask"))
        outsider.channel.basic_publish(topology.EVENTS_EXCHANGE, topology.ask_key(queue), body)
        eventually(lambda: count() > before)
        eventually(lambda: count_stays(count), seconds=60)
        assert before + 3 < count() < before + 25


def count_stays(count):
    """Whether no message comes for three times as long as a worker that tells waits."""
    before = count()
    time.sleep(3)
    return count() == before


def test_strangers_are_not_believed(client, queue, roster, outsider, rejections, eventually):
    """A worker that another key tells of isn't shown, and a question of another key has no answer."""
    stranger = Signer(secrets.token_hex(32))
    with client.workers(1, queue=queue):
        assert len(client.workers_seen(queue)) == 1
        rejected = roster.rejected
        facts = genuine(queue)
        for body in (b"", b"x" * 100, b"".join(message.seal(stranger, "worker", **facts))):
            outsider.channel.basic_publish(topology.EVENTS_EXCHANGE, topology.tell_key(queue), body)
        eventually(lambda: roster.rejected == rejected + 3)
        signer = Signer(client.settings.key)
        for wrong in ({"slots": [{}]}, {"memory": -1}, {"id": "a b"}, {"state": "fine"}):
            body = b"".join(message.seal(signer, "worker", **facts | wrong))
            outsider.channel.basic_publish(topology.EVENTS_EXCHANGE, topology.tell_key(queue), body)
        eventually(lambda: roster.rejected == rejected + 7)
        assert len(of(roster, queue)) == 1
        ask = b"".join(message.seal(stranger, "ask"))
        outsider.channel.basic_publish(topology.EVENTS_EXCHANGE, topology.ask_key(queue), ask)
        eventually(lambda: rejections(client, queue))
        assert client.map([1], lambda x: x + 1, queue=queue, progress=False) == [2]


def genuine(queue):
    return {
        "id": "ab",
        "state": "here",
        "worker": "evil:1",
        "host": "evil",
        "pid": 1,
        "queue": queue,
        "memory": 1,
        "memory_limit": None,
        "cpu": 0.0,
        "versions": {"python": "2.7.18"},
        "started": 0.0,
        "done": 0,
        "failed": 0,
        "slots": [],
    }


def test_a_worker_that_could_not_run_our_functions_and_an_old_message(
    client, queue, roster, outsider, eventually
):
    signer = Signer(client.settings.key)
    first, second = (b"".join(message.seal(signer, "worker", **genuine(queue) | {"done": n})) for n in (1, 2))

    def tell(body):
        outsider.channel.basic_publish(topology.EVENTS_EXCHANGE, topology.tell_key(queue), body)

    assert client.workers_seen(queue) == []
    tell(second)
    (facts,) = eventually(lambda: of(roster, queue))
    assert "Python" in facts.mismatch
    assert "2.7.18" in facts.mismatch
    gone = b"".join(message.seal(signer, "worker", **genuine(queue) | {"state": "gone"}))
    tell(gone)
    eventually(lambda: not of(roster, queue))
    tell(first)
    time.sleep(0.01)
    tell(b"".join(message.seal(signer, "worker", **genuine(queue) | {"id": "cd"})))
    eventually(lambda: of(roster, queue))
    assert [facts.id for facts in of(roster, queue)] == ["cd"]


def test_a_closed_client_looks_no_more(server, queue):
    client = nbmr.Client()
    assert client.workers_seen(queue) == []
    roster = client.roster
    client.close()
    with pytest.raises(BrokerUnreachable):
        client.workers_seen()
    roster.close()
