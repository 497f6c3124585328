"""The fold over a job's log: what is genuine and makes no sense must not stop who reads it."""

import gc
import time
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from nbmr import codec, message, outcome
from nbmr.joblog import JobLog
from nbmr.signing import Signer
from nbmr.standing import Status

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


@pytest.mark.parametrize("kind", ["result", "started", "output", "chunk", "died", "sealed", "opened"])
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


RUN = WHO | {"number": 0, "text": "", "dropped": 0}


def test_output_is_folded_in_order_and_once(log):
    tell(log, "output", 0, **RUN | {"text": "a\n\nb\n"})
    tell(log, "output", 0, **RUN | {"text": "a\n\nb\n"})  # sent again after a reconnect
    before = log.printed.version
    tell(log, "output", 1, **RUN | {"run": "s", "worker": "v", "text": "c\n"})
    assert log.printed.version > before
    assert [(line.task, line.worker, line.text) for line in log.printed.lines()] == [
        (0, "w", "a"), (0, "w", ""), (0, "w", "b"), (1, "v", "c"),
    ]  # fmt: skip
    buffers = codec.encode([1])
    for _ in range(2):
        tell(log, "result", 0, buffers=buffers, start=0, count=1, printed="last\n", dropped=0, **WHO)
    assert [line.text for line in log.printed.lines()][-2:] == ["c", "last"]
    assert log.progress().done == 1


def test_lines_that_were_left_out_are_counted_in_their_place(log):
    tell(log, "output", 0, **RUN | {"text": "a\n"})
    tell(log, "output", 0, **RUN | {"number": 1, "dropped": 1000})
    tell(log, "output", 0, **RUN | {"number": 2, "dropped": 234, "text": "z\n"})
    assert [line.text for line in log.printed.lines()] == ["a", "… 1,234 lines left out", "z"]
    assert log.printed.dropped == 1234


def test_only_the_last_lines_are_kept(log):
    for number in range(30):
        tell(log, "output", 0, **RUN | {"number": number, "text": "".join(f"{i}\n" for i in range(100))})
    assert len(log.printed.lines()) == 1000
    assert log.printed.lines()[-1].text == "99"


def test_who_does_what(log):
    about = {"host": "h", "pid": 1, "attempt": 1}
    tell(log, "started", 0, worker="a", **about)
    tell(log, "started", 1, worker="b", **about)
    crew = log.crew()
    assert {name: list(member.tasks) for name, member in crew.items()} == {"a": [0], "b": [1]}
    assert abs(crew["a"].tasks[0] - time.time()) < 60
    result(log, 0, ["x"])
    why = {"reason": "lost", "summary": "s", "attempts": 3}
    tell(log, "opened", units=2, on_error="keep")
    tell(log, "result", 1, start=1, count=1, all_failed=why, **WHO | {"worker": "b"})
    crew = log.crew()
    assert (crew["w"].done, crew["w"].failed, crew["b"].failed, crew["b"].host) == (1, 0, 1, "h")
    assert not any(member.tasks for member in crew.values())
    assert log.progress().workers == {"a", "b", "w"}


def test_of_a_short_result_little_is_kept_but_itself():
    """And not the message that it came in, which is ten times as long."""
    count = 200
    held = []
    for _ in range(3):  # other threads of this process may allocate something meanwhile, but not each time
        log = JobLog("j", KEY)
        tell(log, "opened", units=2, on_error="raise")
        gc.collect()
        tracemalloc.start()
        try:
            for task in range(count):
                result(log, task, [task])
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert [outcome.values() for outcome in log.outcomes.values()] == [[task] for task in range(count)]
    assert min(held) / count < 600


def test_of_a_result_in_many_buffers_nothing_outlives_its_job(log):
    before = outcome._same.cache_info().currsize
    result(log, 0, [np.arange(n) for n in range(200, 300)])
    assert len(log.outcomes[0].layout) == 101
    assert [len(array) for array in log.outcomes[0].values()] == list(range(200, 300))
    assert outcome._same.cache_info().currsize == before


@pytest.mark.parametrize("count", [150, 50_000], ids=["short", "long"])
@pytest.mark.parametrize("whole", [True, False], ids=["in one piece", "in several"])
def test_arrays_are_writable_where_that_is_asked_for_and_each_time_others(log, whole, count):
    """A message that came in several pieces is writable itself."""
    buffers = codec.encode([np.arange(200), np.arange(count)])
    assert len(buffers) == 3
    body = b"".join(message.seal(KEY, "result", job="j", task=0, buffers=buffers, start=0, count=2, **WHO))
    log.read(SimpleNamespace(body=body if whole else bytearray(body), offset=0))
    for last in (False, False, True):
        first, second = log.outcomes[0].values(writable=True, last=last)
        assert (first.tolist(), second.tolist()) == (list(range(200)), list(range(count)))
        first += 1
        second += 1
