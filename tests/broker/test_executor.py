"""nbmr.Executor does what PEP 3148 says of executors, and cancels what runs, too."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import gc
import os
import signal
import threading
import time
import weakref

import numpy as np
import pytest
from notes import lines, note

import nbmr
from nbmr import shared

pytestmark = pytest.mark.slow

#: Seconds that anything here may take.
PATIENCE = 60


@pytest.fixture
def executor(client):
    with nbmr.Executor(client=client) as executor:
        yield executor


def gated(log, gate, x=0):
    note(log, f"{x} {os.getpid()}")
    while not gate.exists():
        time.sleep(0.01)
    return x


@pytest.fixture
def gate(tmp_path):
    gate = tmp_path / "gate"
    yield gate
    gate.touch()


def test_submit(executor):
    assert executor.submit(pow, 2, 3).result(PATIENCE) == 8
    assert executor.submit(lambda *args, **kwargs: (args, kwargs), 1, a=2).result(PATIENCE) == (
        (1,),
        {"a": 2},
    )
    assert executor.submit(lambda self, fn: (self, fn), self=1, fn=2).result(PATIENCE) == (1, 2)
    assert executor.submit(os.getpid).result(PATIENCE) != os.getpid()


def test_a_future_and_its_callbacks(executor, tmp_path, gate):
    log, called = tmp_path / "log", []
    future = executor.submit(gated, log, gate, 7)
    future.add_done_callback(called.append)
    assert not future.done()
    with pytest.raises(cf.TimeoutError):
        future.result(0.05)
    with pytest.raises(cf.TimeoutError):
        future.exception(0.05)
    gate.touch()
    assert future.result(PATIENCE) == 7
    assert future.exception() is None
    assert future.done()
    assert not future.running()
    assert not future.cancelled()
    assert not future.cancel()
    future.add_done_callback(called.append)
    assert called == [future, future]


def test_exceptions(executor):
    class Own(Exception):
        pass

    def fn(kind):
        raise kind("mine")

    for kind in (ValueError, Own, SystemExit, KeyboardInterrupt):
        future = executor.submit(fn, kind)
        with pytest.raises(kind, match="mine") as caught:
            future.result(PATIENCE)
        assert isinstance(caught.value.__cause__, nbmr.TaskError)
        assert 'raise kind("mine")' in str(caught.value.__cause__)
    with pytest.raises(nbmr.PickleError, match="lock"):
        executor.submit(print, threading.Lock()).result(PATIENCE)
    with pytest.raises(nbmr.PickleError, match="lock"):
        executor.submit(threading.Lock).result(PATIENCE)
    assert executor.submit(abs, -1).result(PATIENCE) == 1


def test_map(executor):
    assert list(executor.map(pow, range(10), range(10))) == [x**x for x in range(10)]
    assert list(executor.map(pow, [2, 3], [4])) == [16]
    assert list(executor.map(abs, [])) == []
    for size in (1, 3, 100):
        assert list(executor.map(lambda x: x * 2, range(50), chunksize=size)) == list(range(0, 100, 2))
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(abs, [1], chunksize=0)
    results = executor.map(divmod, [5, 5, 5], [1, 0, 1])
    assert next(results) == (5, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(cf.TimeoutError):
        list(executor.map(time.sleep, [0, 30], timeout=1))
    endless = executor.map(abs, (x for x in range(3)))
    assert list(endless) == [0, 1, 2]


def test_wait_and_as_completed(executor, tmp_path, gate):
    log = tmp_path / "log"
    slow, quick, wrong = (
        executor.submit(gated, log, gate),
        executor.submit(abs, 1),
        executor.submit(divmod, 1, 0),
    )
    assert cf.wait([slow, quick], PATIENCE, cf.FIRST_COMPLETED) == ({quick}, {slow})
    done, _ = cf.wait([slow, wrong], PATIENCE, cf.FIRST_EXCEPTION)
    assert done == {wrong}
    assert set(cf.as_completed([quick, wrong], PATIENCE)) == {quick, wrong}
    with pytest.raises(cf.TimeoutError):
        list(cf.as_completed([slow], 0.05))
    gate.touch()
    assert cf.wait([slow, quick, wrong], PATIENCE).not_done == set()


def test_cancel_what_waits_and_what_runs(client, queue, tmp_path, gate, eventually):
    log, called = tmp_path / "log", []
    with client.workers(1, queue=queue), nbmr.Executor(queue, client=client) as executor:
        running, waiting = executor.submit(gated, log, gate, 1), executor.submit(gated, log, gate, 2)
        for future in (running, waiting):
            future.add_done_callback(called.append)
        eventually(lambda: lines(log))
        assert running.running()
        assert not waiting.running()
        assert waiting.cancel()
        assert waiting.cancelled()
        assert running.cancel()
        assert running.cancelled()
        assert running.cancel()
        assert not running.running()
        assert called == [waiting, running]
        assert cf.wait([running, waiting], 0).not_done == set()
        with pytest.raises(cf.CancelledError):
            running.result()
        begun = time.monotonic()
        assert executor.submit(abs, -5).result(PATIENCE) == 5
        assert time.monotonic() - begun < 10  # not behind what never ends
        assert [line.split()[0] for line in lines(log)] == ["1"]


def test_shutdown(client, tmp_path, gate):
    log = tmp_path / "log"
    executor = nbmr.Executor(client=client)
    executor.shutdown()  # nothing was begun
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)
    executor = nbmr.Executor(client=client)
    futures = [executor.submit(gated, log, gate, x) for x in range(8)]
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)
    assert not any(future.done() for future in futures)
    gate.touch()
    assert [future.result(PATIENCE) for future in futures] == list(range(8))
    executor.shutdown()


def test_shutdown_cancels_what_has_not_begun(client, queue, tmp_path, gate, eventually):
    log = tmp_path / "log"
    with client.workers(1, queue=queue):
        executor = nbmr.Executor(queue, client=client)
        futures = [executor.submit(gated, log, gate, x) for x in range(8)]
        eventually(lambda: lines(log))
        executor.shutdown(wait=False, cancel_futures=True)
        assert [future.cancelled() for future in futures] == [False] + [True] * 7
        eventually(lambda: client._broker._publishing.idle)  # RabbitMQ has told the worker
        gate.touch()
        assert futures[0].result(PATIENCE) == 0
        executor.shutdown()
    assert len(lines(log)) == 1


def test_no_more_than_so_many_at_once(client, queue, tmp_path):
    def work(log):
        note(log, "1")
        time.sleep(0.05)
        note(log, "-1")

    log = tmp_path / "log"
    with client.workers(3, queue=queue), nbmr.Executor(queue, client=client, max_workers=2) as executor:
        assert executor._max_workers == 2  # what Dask asks for
        assert nbmr.Executor(queue, client=client)._max_workers == 3
        futures = [executor.submit(work, log) for _ in range(12)]
        assert cf.wait(futures, PATIENCE).not_done == set()
        endless = [executor.submit(time.sleep, 1000) for _ in range(2)]
        waiting = executor.submit(abs, -1)
        assert not any(future.cancel() is False for future in endless)
        assert waiting.result(PATIENCE) == 1
    running = np.cumsum([int(line) for line in lines(log)])
    assert running.max() <= 2
    assert running[-1] == 0
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            nbmr.Executor(max_workers=wrong)


def test_a_result_that_was_taken_is_kept_by_nobody(executor, eventually):
    for array in executor.map(np.zeros, range(10, 20)):
        known = weakref.ref(array)
        del array
        eventually(lambda known=known: known() is None)


def test_what_keeps_calls_waiting_is_said(named, queue, capsys, monkeypatch, eventually):
    monkeypatch.setattr("nbmr.calls_job._SAY_SECONDS", 1.0)
    with nbmr.Client(named.url, key=named.key) as other:
        executor = nbmr.Executor(queue, client=other, name="lonely")
        future, said = executor.submit(abs, -1), []
        eventually(lambda: said.append(capsys.readouterr().err) or any(said), PATIENCE)
        assert "".join(said).startswith(f"nbmr: lonely waits. No worker listens to queue '{queue}'")
        assert future.cancel()
        executor.shutdown()


def test_after_the_end_of_the_program_no_call_is_taken(server, start):
    code = (
        "import atexit, nbmr\n"
        "executor = nbmr.Executor()\n"
        "atexit.register(lambda: print(executor.submit(abs, 1)))\n"
    )
    process = start("-c", code)
    out, errors = process.communicate(timeout=PATIENCE)
    assert "RuntimeError: cannot schedule new futures after interpreter shutdown" in errors
    assert not out


def test_nothing_is_left(client, server):
    with nbmr.Executor(client=client, name="leaves-nothing") as executor:
        assert list(executor.map(len, [bytes(3_000_000)] * 4)) == [3_000_000] * 4
        assert "leaves-nothing" in set(client.jobs()["name"])
        job, folder = executor._job.job.id, executor._job.job.shared
    assert "leaves-nothing" not in set(client.jobs()["name"])
    assert not [name for name in server.queues() if job in name]
    assert not os.path.exists(folder)  # noqa: PTH110


def test_one_that_is_dropped_ends_when_its_calls_are_done(client, tmp_path, gate, eventually):
    executor = nbmr.Executor(client=client, name="dropped")
    future = executor.submit(gated, tmp_path / "log", gate)
    del executor
    gc.collect()
    eventually(future.running)
    assert "dropped" in set(client.jobs()["name"])
    gate.touch()
    assert future.result(PATIENCE) == 0
    eventually(lambda: "dropped" not in set(client.jobs()["name"]))


def test_one_that_was_not_used_connects_to_nothing_at_its_end(monkeypatch):
    monkeypatch.setattr("nbmr.api.client", lambda **_options: pytest.fail("it asks for a client"))
    nbmr.Executor().shutdown(cancel_futures=True)


def test_an_initializer(client, queue):
    def prepare(value):
        import builtins

        builtins.prepared = getattr(builtins, "prepared", 0) + value

    def look():
        import builtins

        return builtins.prepared

    with client.workers(1, queue=queue):
        with nbmr.Executor(queue, client=client, initializer=prepare, initargs=(5,)) as executor:
            assert list(executor.map(lambda _: look(), range(5))) == [5] * 5
        with nbmr.Executor(queue, client=client, initializer=lambda: 1 / 0) as executor:
            with pytest.raises(cf.BrokenExecutor, match="ZeroDivisionError"):
                executor.submit(abs, 1).result(PATIENCE)
            with pytest.raises(cf.BrokenExecutor, match="ZeroDivisionError"):
                executor.submit(abs, 1)
    with pytest.raises(nbmr.ConfigError, match="initializer"):
        nbmr.Executor(initializer=3)


def test_a_worker_that_dies(executor, tmp_path):
    marker = tmp_path / "marker"

    def once():
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "done"

    assert executor.submit(once).result(PATIENCE) == "done"
    lost, other = executor.submit(os._exit, 3), executor.submit(abs, -2)
    with pytest.raises(nbmr.TaskLost, match="exit code 3"):
        lost.result(PATIENCE)
    assert other.result(PATIENCE) == 2


def test_a_job_that_is_cancelled_from_elsewhere_breaks_it(client, tmp_path, gate, eventually):
    executor = nbmr.Executor(client=client)
    future = executor.submit(gated, tmp_path / "log", gate)
    eventually(future.running)
    client.attach(executor._job.job.id).cancel()
    with pytest.raises(cf.BrokenExecutor, match="cancelled"):
        future.result(PATIENCE)
    with pytest.raises(cf.BrokenExecutor):
        executor.submit(abs, 1)
    executor.shutdown()


def test_a_start_that_failed_is_tried_again(client, monkeypatch):
    """Nothing had begun: once RabbitMQ is within reach again, say, the same executor works."""
    begun, go_on, reason = threading.Semaphore(0), threading.Event(), nbmr.BrokerUnreachable("not now")
    start = client.start

    def fail(*_args):
        begun.release()
        assert go_on.wait(PATIENCE)
        raise reason

    executor = nbmr.Executor(client=client)
    monkeypatch.setattr(client, "start", fail)

    async def in_an_event_loop():
        return [executor.submit(abs, -x) for x in range(3)]

    waiting = asyncio.run(in_an_event_loop())
    assert begun.acquire(timeout=PATIENCE)
    go_on.set()
    for future in waiting:
        assert future.exception(PATIENCE) is reason
    with pytest.raises(nbmr.BrokerUnreachable, match="not now"):
        executor.submit(abs, 1)  # who doesn't run an event loop is told at once
    monkeypatch.setattr(client, "start", start)
    assert executor.submit(abs, -2).result(PATIENCE) == 2
    assert list(executor.map(abs, range(-3, 0))) == [3, 2, 1]
    executor.shutdown()


def test_an_executor_that_was_shut_down_while_its_start_failed_stays_so(client, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def fail(*_args):
        begun.set()
        assert go_on.wait(PATIENCE)
        raise nbmr.BrokerUnreachable("not now")

    monkeypatch.setattr(client, "start", fail)
    executor = nbmr.Executor(client=client)

    async def in_an_event_loop():
        return executor.submit(abs, 1)

    future = asyncio.run(in_an_event_loop())
    assert begun.wait(PATIENCE)
    executor.shutdown(wait=False)
    go_on.set()
    with pytest.raises(nbmr.BrokerUnreachable, match="not now"):
        future.result(PATIENCE)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(abs, 1)


def test_a_limit_of_time(client):
    with nbmr.Executor(client=client, timeout=0.3) as executor:
        slow, quick = executor.submit(time.sleep, 60), executor.submit(abs, -1)
        with pytest.raises(nbmr.TaskTimeout):
            slow.result(PATIENCE)
        assert quick.result(PATIENCE) == 1


def test_many_short_calls_from_many_threads(executor):
    def work(base):
        futures = [executor.submit(pow, base, x) for x in range(200)]
        return [future.result(PATIENCE) for future in futures]

    with cf.ThreadPoolExecutor(4) as threads:
        for base, results in zip(range(2, 6), threads.map(work, range(2, 6)), strict=True):
            assert results == [base**x for x in range(200)]
    assert not executor._job.calls._sent
    assert not executor._job.calls._left
    assert not any(outcome.payload for outcome in executor._job.job.log.outcomes.values())


def test_large_arguments_and_results(executor):
    array = np.arange(500_000.0)
    assert array.nbytes > shared.LEAST_BYTES
    doubled = executor.submit(lambda a: a * 2, array).result(PATIENCE)
    assert (doubled == array * 2).all()
    doubled[0] = 1.0
    assert executor.submit(lambda a: a.__setitem__(0, 5.0) or a[0], array).result(PATIENCE) == 5.0


def test_an_event_loop(executor, tmp_path, gate, eventually):
    async def work():
        loop = asyncio.get_running_loop()
        assert await asyncio.gather(*[loop.run_in_executor(executor, pow, 2, x) for x in range(20)]) == [
            2**x for x in range(20)
        ]
        future = loop.run_in_executor(executor, gated, tmp_path / "log", gate)
        while not (tmp_path / "log").exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    asyncio.run(work())


def test_a_process_that_ends_waits_for_its_calls(server, start, tmp_path):
    file = tmp_path / "done"
    code = (
        "import nbmr, time\n"
        f"f = nbmr.Executor().submit(lambda: time.sleep(1) or open({str(file)!r}, 'w').close())\n"
    )
    process = start("-c", code)
    assert process.wait(PATIENCE) == 0
    assert file.exists()
