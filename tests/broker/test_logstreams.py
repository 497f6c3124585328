"""The streams of short jobs' logs are used again, by the next jobs of the kernel, and are deleted in time."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

import nbmr
from nbmr import logstreams, sender, topology
from nbmr.errors import JobNotFound, TaskError
from nbmr.logstreams import LogStream


@pytest.fixture(autouse=True)
def kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream is kept for as long as a test looks at it, also where the machine is busy."""
    monkeypatch.setattr(logstreams, "KEEP_SECONDS", 120.0)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[LogStream]:
    """The streams that jobs were given, one a job."""
    given: list[LogStream] = []
    new = logstreams.LogStreams.new

    def noted(self: Any, *, brief: bool) -> LogStream:
        given.append(new(self, brief=brief))
        return given[-1]

    monkeypatch.setattr(logstreams.LogStreams, "new", noted)
    return given


@pytest.fixture
def fresh(server: Any) -> Iterator[nbmr.Client]:
    """A client that keeps no stream yet."""
    with nbmr.Client() as client:
        yield client


def streams(server: Any) -> set[str]:
    return {name for name in server.queues() if name.startswith("nbmr.job.")}


def test_jobs_are_logged_one_behind_the_other(fresh, server, used):
    before = streams(server)
    for start in range(5):
        assert fresh.map(range(start, start + 3), lambda x: x + 1) == [start + 1, start + 2, start + 3]
    assert len(set(map(id, used))) == 1
    assert used[0].job.endswith("-6")  # what the next one would be called
    assert streams(server) - before == {topology.job_log(used[0].job).name}


def test_a_stream_that_is_kept_is_no_job(fresh, used):
    fresh.map([1], str)
    stem, _, _ = used[0].job.partition("-")
    assert not [job for job in fresh.jobs()["id"] if job.startswith(stem)]
    for ident in (stem, used[0].job, ""):
        with pytest.raises(JobNotFound):
            fresh.attach(ident)


def test_it_goes_after_a_moment(fresh, server, used, eventually, monkeypatch):
    monkeypatch.setattr(logstreams, "KEEP_SECONDS", 0.5)
    fresh.map([1], str)
    name = topology.job_log(used[0].job).name
    eventually(lambda: name not in streams(server), 10)
    assert fresh.map([2], str) == ["2"]
    assert used[1] is not used[0]


def test_it_goes_with_its_client(server, used):
    with nbmr.Client() as client:
        client.map([1], str)
        assert topology.job_log(used[0].job).name in streams(server)
    assert topology.job_log(used[0].job).name not in streams(server)


def test_a_job_that_failed_or_was_interrupted_leaves_no_stream(fresh, server, used, monkeypatch):
    fresh.map([1], str)  # so that it is a stream which was used before
    with pytest.raises(TaskError):
        fresh.map([0], lambda x: 1 // x)
    assert used[1] is used[0]
    name = topology.job_log(used[0].job).name
    assert name not in streams(server)
    fresh.map([1], str)

    def interrupted(*_args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("nbmr.job.Job.result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fresh.map([60], time.sleep)  # not over before the interrupt
    assert used[3] is used[2]
    assert topology.job_log(used[3].job).name not in streams(server)
    assert fresh.map([5], str) == ["5"]


def test_what_cannot_be_sent_leaves_no_stream(fresh, server, used):
    fresh.map([1], str)
    lock = threading.Lock()
    with pytest.raises(nbmr.PickleError):
        fresh.map([1], lambda x: (lock, x))
    assert topology.job_log(used[0].job).name not in streams(server)


def test_a_long_log_is_not_used_again(fresh, used, in_messages, monkeypatch):
    monkeypatch.setattr(logstreams, "_MOST_BYTES", 1 << 20)
    noise = secrets.token_bytes(200_000)
    for _ in range(8):  # each result is a message of 0.2 MB
        assert fresh.map([noise], lambda x: x) == [noise]
    # the sixth of them crosses 1 MiB, and so on
    assert 2 <= len({stream.job.partition("-")[0] for stream in used}) <= 3


def test_a_stream_is_not_used_by_a_new_connection(fresh, server, used, eventually):
    fresh.map([1], str)
    generation = fresh._broker.generation
    fresh._broker.consume_elsewhere()
    eventually(lambda: fresh._broker.generation > generation and not fresh._broker.trouble, 30)
    assert fresh.map([2], str) == ["2"]
    assert used[1] is not used[0]
    assert topology.job_log(used[0].job).name not in streams(server)


def test_a_stream_that_somebody_deleted_is_not_used(fresh, server, used, eventually):
    fresh.map([1], str)
    with nbmr.Client() as other:
        other._broker.delete(topology.job_log(used[0].job))
    eventually(lambda: used[0].lost is not None, 10)
    assert fresh.map([2], str) == ["2"]


def test_who_attaches_gets_the_job_and_not_those_before(fresh, client, used):
    fresh.map([10, 20], lambda x: x, partitions=2)  # tasks of the same numbers
    with pytest.raises(TaskError):
        fresh.map([0, 30], lambda x: 1 // x, partitions=2)
    fresh.map(["a", "b"], lambda x: x, partitions=2)
    job, send = fresh.start(["c", "d"], lambda x: x, (), {"partitions": 2}, brief=True)
    assert used[-1] is used[-2]
    job.send(send)
    there = client.attach(job.id)
    assert there.result(30) == ["c", "d"]
    assert sorted(there) == [(0, "c"), (1, "d")]
    assert there.rejected == 0
    assert client.map(there, lambda x: x * 2, gather="list") == ["cc", "dd"]  # as the data of another job
    assert job.result(30) == ["c", "d"]
    job.forget()
    with pytest.raises(JobNotFound):
        client.attach(job.id)


def test_a_failure_is_replayed_with_its_own_input(fresh, used):
    for value in (1, 2, 3):
        fresh.map([value], lambda x: x)
    job, send = fresh.start([4], lambda x: x // 0, (), {"on_error": "keep"}, brief=True)
    assert used[-1] is used[0]
    job.send(send)
    job.wait(30)
    with pytest.raises(ZeroDivisionError):
        job.failures[0].replay()
    job.forget()


def test_in_several_threads(fresh, server, used):
    wrong: list[Any] = []

    def work(number: int) -> None:
        for start in range(number * 100, number * 100 + 15):
            found = fresh.map([start, start + 1], lambda x: x * 2, progress=False)
            if found != [2 * start, 2 * start + 2]:
                wrong.append((start, found))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert len(used) == 90
    assert len(set(map(id, used))) < 45
    fresh.close()
    assert not {topology.job_log(stream.job).name for stream in used} & streams(server)


SCRIPT = """
import nbmr, sys, time
print(nbmr.map([1, 2], lambda x: x + 1, progress=False), flush=True)
if sys.argv[1] == "stay":
    time.sleep(600)
"""


def test_a_process_that_ends_leaves_none(server, start):
    before = streams(server)
    process = start("-c", SCRIPT, "end")
    out, _ = process.communicate(timeout=60)
    assert "[2, 3]" in out
    assert streams(server) <= before


@pytest.mark.slow
def test_that_of_a_killed_process_is_deleted_by_a_worker(client, server, start, eventually, monkeypatch):
    client.map([1], str)  # there is a worker
    before = streams(server)
    process = start("-c", SCRIPT, "stay")
    assert process.stdout.readline().strip() == "[2, 3]"
    os.kill(process.pid, signal.SIGKILL)
    killed = time.monotonic()
    assert streams(server) - before
    eventually(lambda: not streams(server) - before, 2 * logstreams.SPARE_SECONDS)
    assert time.monotonic() - killed > 1.0  # or else the process did it


def test_the_ids_of_jobs_in_one_stream():
    names: Callable[[str], str] = lambda job: topology.job_log(job).name  # noqa: E731 - three times below
    assert topology.next_job("ab12") == "ab12-2"
    assert topology.next_job("ab12-9") == "ab12-10"
    assert names("ab12") == names("ab12-2") != names("ab13-2")
    assert topology.share_log("ab12", "ab12-2")
    assert not topology.share_log("ab12", "ab12")
    assert not topology.share_log("ab12-2", "ab13-2")


def test_a_job_reads_its_log_from_its_first_entry_on(fresh, used, monkeypatch):
    opening = sender.Sender.open

    def slowly(self: Any) -> None:
        opening(self)
        time.sleep(0.05)  # so that it is read before anything else is done

    monkeypatch.setattr(sender.Sender, "open", slowly)
    for start in range(3):
        job, send = fresh.start([start], lambda x: x, (), {}, brief=True)
        job.send(send)
        assert job.take() == [start]
        assert job.log.opened_at
        assert job.log.about["units"] == 1
        job.forget()
    assert len(set(map(id, used))) == 1


@pytest.mark.parametrize("outcome", [None, False, nbmr.BrokerError("refused")])
def test_a_stream_whose_registration_is_not_stored_is_deleted(fresh, server, used, monkeypatch, outcome):
    """By a RabbitMQ that doesn't answer, has no registry any more, or refuses it."""
    monkeypatch.setattr(logstreams, "_REGISTER_SECONDS", 0.1)
    register = logstreams.registry.register

    def unstored(broker: Any, signer: Any, entry: Any) -> Any:
        if not entry.spare:
            return register(broker, signer, entry)
        answer: Future[bool] = Future()
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        elif outcome is not None:
            answer.set_result(outcome)
        return answer

    monkeypatch.setattr(logstreams.registry, "register", unstored)
    assert fresh.map([1], str) == ["1"]
    assert fresh.map([2], str) == ["2"]
    assert used[1] is not used[0]
    assert topology.job_log(used[0].job).name not in streams(server)
