"""The fold over a job's log: what is genuine and makes no sense must not stop who reads it."""

from types import SimpleNamespace

import pytest

from nbmr import codec, message
from nbmr.joblog import JobLog, Status
from nbmr.signing import Signer

KEY = Signer("k" * 64)
WHO = {"worker": "w", "host": "h", "pid": 1, "run": "r"}


def tell(log, kind, task=-1, **fields):
    log.read(SimpleNamespace(body=b"".join(message.seal(KEY, kind, job="j", task=task, **fields)), offset=0))


def result(log, task, values, run="r"):
    buffers = codec.encode(values)
    tell(log, "result", task, buffers=buffers, start=task, count=len(values), **WHO | {"run": run})


@pytest.fixture
def log():
    log = JobLog("j", KEY)
    tell(log, "opened", units=2, on_error="raise")
    return log


def test_a_result_that_comes_twice_counts_once(log):
    for _ in range(3):
        result(log, 0, ["a"])
    assert (log.progress().done, log.ended) == (1, False)


def test_a_job_is_done_when_it_is_sealed_and_every_task_is(log):
    result(log, 1, ["b"])
    result(log, 0, ["a"])
    assert not log.ended  # an iterable may still have more
    tell(log, "sealed", tasks=2, units=2)
    assert log.status == Status.DONE
    assert log.complete


def test_the_first_failure_ends_it_before_it_is_complete(log):
    tell(
        log,
        "result",
        0,
        start=0,
        count=1,
        all_failed={"reason": "lost", "summary": "s", "attempts": 3},
        **WHO,
    )
    assert log.status == Status.FAILED
    assert not log.complete
    assert log.failures()[0].summary == "s"


@pytest.mark.parametrize("kind", ["result", "started", "chunk", "died", "sealed", "opened"])
def test_a_genuine_entry_that_lacks_everything_is_counted_and_passed_over(log, kind):
    tell(log, kind, 0)
    assert log.rejected == 1
    result(log, 0, ["a"])
    result(log, 1, ["b"])
    tell(log, "sealed", tasks=2, units=2)
    assert log.status == Status.DONE


def test_chunks_that_lie_about_their_length_are_no_result(log):
    tell(log, "chunk", 0, buffers=[b"abc"], run="r", offset=0, total=100)
    tell(log, "result", 0, start=0, count=1, chunked=100, layout=[(0, 100)], **WHO)
    assert log.rejected == 1
    assert not log.outcomes


def test_whether_a_sender_lives_goes_by_its_own_words(log):
    tell(log, "opened", units=None)
    tell(log, "sending")
    told = log.sender_heard_at
    assert told >= log.opened_at > 0
    result(log, 0, ["a"])
    tell(log, "kept")
    assert log.sender_heard_at == told
    assert log.heard_at >= told
