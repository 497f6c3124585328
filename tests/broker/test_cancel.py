"""Stop really stops: what runs is ended within a second, what is queued never runs, the next call works."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time

import pytest
from notes import lines, note

import nbmr
from nbmr import node

pytestmark = pytest.mark.slow

#: Seconds from the stop until the only worker has answered the next call. One is promised; machines are busy.
SOON = 2.0

KERNEL = """
import hashlib, os, signal, subprocess, sys, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # even if the tests run in the background
from pathlib import Path
import numpy as np
import nbmr

def sleep():
    time.sleep(60)

def spin():
    while True:
        pass

def wait():
    threading.Event().wait(60)

def c_code():
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 300_000_000)

def hogs_the_gil():
    sum(range(10**11))

def deaf():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

def in_a_lock():
    with lock:
        time.sleep(60)

def children():
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    for new_session in (False, True):
        note(subprocess.Popen(command, start_new_session=new_session).pid)
    time.sleep(60)

def threads():
    note(os.getpid())
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    time.sleep(60)

def note(pid):
    with open(pids, "a") as file:
        file.write(f"{pid}\\n")

def fn(x, work, started):
    global lock, pids
    lock, pids = threading.Lock(), started + ".pids"
    with open(started, "a") as file:
        file.write(f"{x}\\n")
    work()

with nbmr.Client() as client:
    queue, work, started = sys.argv[1:]
    try:
        client.map(range(20), fn, globals()[work], started, queue=queue, partitions=20, progress=False)
    except KeyboardInterrupt:
        stopped = time.monotonic()
        out = client.map([1, 2], lambda x: x + 1, queue=queue, progress=False)
        print(out, time.monotonic() - stopped, flush=True)
"""


WORKS = ["sleep", "in_a_lock", "spin", "wait", "c_code", "hogs_the_gil", "deaf"]
#: How many processes these note down.
PIDS = {"children": 2, "threads": 1}


@pytest.fixture
def one_worker(client, queue):
    with client.workers(1, queue=queue):
        yield queue


@pytest.mark.parametrize("work", [*WORKS, "children", "threads"])
def test_ctrl_c_ends_the_running_task(one_worker, start, tmp_path, eventually, work):
    started = tmp_path / "started"
    kernel = start("-c", KERNEL, one_worker, work, str(started))
    eventually(lambda: lines(started))
    pids = tmp_path / "started.pids"
    if work in PIDS:
        eventually(lambda: len(lines(pids)) == PIDS[work])
    stopped = time.monotonic()
    kernel.send_signal(signal.SIGINT)
    out, err = kernel.communicate(timeout=30)
    took = time.monotonic() - stopped
    assert kernel.returncode == 0, err
    assert out.startswith("[2, 3]")
    assert len(lines(started)) == 1  # what was queued behind it never ran
    assert took < SOON + 0.5, f"{took:.2f} s, of which the next call waited {out}"
    assert not [pid for pid in lines(pids) if node.living(int(pid))]  # what it had started has ended, too


def test_ctrl_c_while_no_worker_listens(client, queue, start):
    """There is nothing to wait for; the kernel is free at once."""
    kernel = start(
        "-c",
        "import signal, sys, nbmr\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "c = nbmr.Client()\n"
        "def items():\n"
        "    print('reading', flush=True)\n"
        "    yield from range(10**9)\n"
        "try:\n"
        "    c.map(items(), str, queue=sys.argv[1], progress=False)\n"
        "except KeyboardInterrupt:\n"
        "    print('stopped')\n",
        queue,
    )
    assert kernel.stdout.readline() == "reading\n"
    began = time.monotonic()
    kernel.send_signal(signal.SIGINT)
    out, err = kernel.communicate(timeout=20)
    assert out == "stopped\n", err
    assert time.monotonic() - began < SOON


def test_cancel_ends_what_runs_and_drops_what_is_queued(client, one_worker, tmp_path, eventually):
    started, ended = tmp_path / "started", tmp_path / "ended"

    def fn(x):
        try:
            note(started, f"{x} {os.getpid()}")  # in here: the interrupt may come right behind it
            time.sleep(30)
        finally:
            note(ended, x)

    job = client.submit(range(10), fn, queue=one_worker, partitions=10)
    eventually(lambda: lines(started))
    stopped = time.monotonic()
    job.cancel()
    eventually(lambda: lines(ended))
    assert time.monotonic() - stopped < SOON
    assert job.status == "cancelled"
    with pytest.raises(nbmr.JobCancelled):
        job.result()
    with pytest.raises(nbmr.JobCancelled):
        list(job)
    job.cancel()  # no harm
    ((_, pid),) = [line.split() for line in lines(started)]
    assert client.map([0], lambda _: os.getpid(), queue=one_worker) == [int(pid)]  # it was asked, not killed
    assert len(lines(started)) == 1


def test_cancel_from_another_thread(client, one_worker, tmp_path, eventually):
    """Whoever waits for the result is told at once, and the same worker takes the next job."""
    started = tmp_path / "started"
    job = client.submit(
        range(5), lambda x: note(started, x) or time.sleep(30), queue=one_worker, partitions=5
    )

    def cancel():
        eventually(lambda: lines(started))
        job.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(nbmr.JobCancelled):
        job.result(20)
    stopped = time.monotonic()
    assert client.map([1], lambda x: x, queue=one_worker) == [1]
    assert time.monotonic() - stopped < SOON
    canceller.join()
    assert len(lines(started)) == 1


@pytest.mark.usefixtures("in_messages")
def test_cancel_while_a_huge_result_is_sent(client, one_worker, eventually):
    """Its rest is not waited for."""
    (before,) = client.map([1], lambda _: os.getpid(), queue=one_worker)
    job = client.submit([0], lambda _: bytes(700_000_000), queue=one_worker)
    eventually(lambda: job.progress.bytes_received > 0)
    stopped = time.monotonic()
    job.cancel()
    (after,) = client.map([1], lambda _: os.getpid(), queue=one_worker)
    assert time.monotonic() - stopped < SOON
    assert after != before  # it was ended in the midst of it


def test_cancel_in_the_midst_of_an_import(client, one_worker, tmp_path, eventually):
    """A module that is half imported would not be imported again by the next task."""
    (tmp_path / "slow_module.py").write_text(
        f"open({str(tmp_path / 'on')!r}, 'w').close(); import time; time.sleep(30)"
    )

    def slow(folder):
        import sys

        sys.path.insert(0, folder)
        import slow_module  # noqa: F401

    (before,) = client.map([1], lambda _: os.getpid(), queue=one_worker)
    job = client.submit([str(tmp_path)], slow, queue=one_worker)
    eventually((tmp_path / "on").exists)
    job.cancel()
    (after,) = client.map([1], lambda _: os.getpid(), queue=one_worker)
    assert after != before


def test_cancel_one_job_of_two(client, tmp_path, eventually):
    started = tmp_path / "started"
    long = client.submit(range(30), lambda x: note(started, x) or time.sleep(20), partitions=30)
    eventually(lambda: len(lines(started)) == 2)
    short = client.submit(range(10), lambda x: x, partitions=10)
    assert not short.wait(0.2)
    long.cancel()
    assert short.result(10) == list(range(10))
    assert len(lines(started)) == 2
    short.forget()


def test_cancel_what_was_never_started(client, queue, tmp_path):
    """Its tasks wait in the queue; a worker that comes later drops them."""
    ran = tmp_path / "ran"
    job = client.submit(range(5), lambda x: note(ran, x), queue=queue, partitions=5)
    # the private node starts workers for a queue that has none; it may be quicker than we are
    job.cancel()
    with client.workers(1, queue=queue):
        assert client.map([1], lambda x: x, queue=queue) == [1]
    assert len(lines(ran)) <= 1


def test_cancel_while_results_are_large(client, one_worker, eventually):
    """In the midst of chunks: what comes after is dropped, and the worker goes on."""
    job = client.submit(range(6), lambda _: os.urandom(30_000_000), queue=one_worker, partitions=6)
    eventually(lambda: job.progress.bytes_received > 0)
    job.cancel()
    assert client.map([1], lambda x: x, queue=one_worker) == [1]


def test_an_endless_iterable_can_be_cancelled(client, one_worker, eventually):
    job = client.submit(itertools.count(), lambda x: x, queue=one_worker)
    eventually(lambda: job.progress.done > 100)
    job.cancel()
    assert client.map([1], lambda x: x, queue=one_worker) == [1]


def test_a_cancelled_task_does_not_leak_into_the_next(client, one_worker, tmp_path, eventually):
    """An interrupt that comes late finds no user code to hit."""
    for _ in range(5):
        # it is told of as begun after 0.1 s, and cancelled just before its end, or just behind it
        job = client.submit([0], lambda _: time.sleep(0.11), queue=one_worker)
        eventually(lambda job=job: job.progress.running or job.progress.done)
        job.cancel()
        assert client.map([1, 2], lambda x: x, queue=one_worker) == [1, 2]
        job.forget()  # it may have been done


GUARD = """
import os, time
from nbmr import codec
from nbmr.worker.cleaner import clean_after
from nbmr.worker.guard import Guard, Stopped

told = []

def run(guard, fn, why_stop, begun_after=60.0):
    function, data = codec.encode_function(fn, (), {}), codec.encode([1])
    parts = [*function, *data]
    header = {
        "inline": len(function), "function": f"{fn} {begun_after}", "function_layout": [],
        "function_blob": None,
        "data_layout": [], "retries": 0, "start": 0, "count": 1, "results": [],
        "stop_at_error": True, "skip": [], "together": False, "apart": [],
        "shared": "", "run": "result0",
        "layout": codec.layout(parts),
    }
    pieces = codec.pieces(parts)
    tell = lambda: told.append(begun_after)
    reply = guard.run(header, pieces, [], None, why_stop, lambda text, dropped: True, tell, begun_after)
    guard.receive(reply["size"])
    assert not reply["failures_encoded"]
    return reply

guard = Guard()
guard.start()
try:
    guard.wake()
    try:
        run(guard, lambda x: time.sleep(60), lambda: "cancelled")
    except Stopped as stop:
        print(stop)
    guard.wake()
    print(run(guard, lambda x: x, lambda: "")["op"], told)
    run(guard, lambda x: time.sleep(0.3), lambda: "", begun_after=0.1)
    print(told)
finally:
    guard.close()
    clean_after(os.getpid())
"""


def test_a_cancel_just_before_the_task_begins(start):
    """When it is too late to drop the task, and too early to interrupt it."""
    out, err = start("-c", GUARD).communicate(timeout=30)
    assert out.splitlines()[:2] == ["cancelled", "done []"], err


def test_what_takes_long_is_told_of_as_begun(start):
    out, err = start("-c", GUARD).communicate(timeout=30)
    assert out.splitlines()[1:] == ["done []", "[0.1]"], err
