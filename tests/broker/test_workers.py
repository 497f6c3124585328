"""Workers: started from a cell or by the command line, joining late, leaving early."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import psutil
import pytest
from notes import lines, note

import nbmr
from nbmr import node, topology

pytestmark = pytest.mark.slow


def gated(x, log, gate):
    note(log, x)
    while not gate.exists():
        time.sleep(0.01)
    return x, os.getppid()


@pytest.fixture
def worker(start, named):
    """Give a function that starts ``nbmr worker`` for the named broker, and returns when it is ready."""

    def worker(queue, *options):
        process = start(
            "-m", "nbmr", "worker", "--url", named.url, "--key-file", str(named.key_file), "--queue", queue,
            *options,
        )  # fmt: skip
        line = process.stderr.readline()
        assert line.startswith("Ready"), line + process.stderr.read()
        return process

    return worker


# ---------------------------------------------------------------- from a cell


def test_workers_from_a_cell(client, queue):
    with client.workers(2, queue=queue) as workers:
        assert len(workers) == 2
        assert "2 workers" in repr(workers)
        assert client.slots(queue) == 2
        assert len(set(workers.pids)) == 2
        first = set(workers.pids)
        assert workers.scale(3) is workers
        assert len(workers) == 3
        assert first < set(workers.pids)
        workers.scale(1)
        assert len(workers) == 1
        assert client.map([1], lambda x: x, queue=queue) == [1]
        (pid,) = workers.pids
        workers.stop()
        assert len(workers) == 0
        assert not psutil.pid_exists(pid)
        assert "stopped" in repr(workers)
        with pytest.raises(nbmr.WorkerError, match="ended"):
            workers.scale(2)
    workers.stop()  # no harm


def test_they_are_listed(client, queue):
    with client.workers(1, queue=queue) as workers:
        table = client.workers()
        row = table[table.queue == queue].iloc[0]
        assert row.pid == workers.pids[0]
        assert row.state == "ready"
        assert row.memory_mb > 10


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_wrong_counts(client, count):
    with pytest.raises(nbmr.ConfigError, match="whole number"):
        client.workers(count)


def test_wrong_names_and_sizes(client):
    with pytest.raises(nbmr.ConfigError, match="queue"):
        client.workers(1, queue="no good")
    with pytest.raises(nbmr.ConfigError, match="bytes"):
        client.workers(1, memory_limit="a lot")


def test_starting_workers_warns_of_nothing(server, queue, start):
    """Where warnings are errors, as in many test suites, they can be started too."""
    code = (
        "import sys, nbmr\nwith nbmr.Client() as client:\n"
        "    with client.workers(1, queue=sys.argv[1]):\n        print(len(client.workers()) >= 1)\n"
    )
    early = "ignore:Jupyter is migrating its paths:DeprecationWarning"  # by jupyter_core before 5.8
    out, err = start("-W", "error", "-W", early, "-X", "dev", "-c", code, queue).communicate(timeout=60)
    assert out == "True\n", err
    assert err == ""


def test_scaling_down_finishes_what_runs(client, queue, tmp_path, eventually):
    log, gate = tmp_path / "log", tmp_path / "gate"
    with client.workers(2, queue=queue) as workers:
        job = client.submit(range(4), gated, log, gate, queue=queue, partitions=4)
        eventually(lambda: len(lines(log)) == 2)
        workers.scale(1)
        gate.touch()
        assert [x for x, _ in job.result(30)] == [0, 1, 2, 3]
        assert sorted(lines(log)) == ["0", "1", "2", "3"]  # each ran once
        job.forget()


def test_stop_now_gives_the_tasks_back(client, queue, tmp_path, eventually):
    log, gate = tmp_path / "log", tmp_path / "gate"
    first = client.workers(1, queue=queue)
    job = client.submit(range(2), gated, log, gate, queue=queue, partitions=2)
    eventually(lambda: lines(log))
    began = time.monotonic()
    first.stop(now=True)
    assert time.monotonic() - began < 5
    gate.touch()
    with client.workers(1, queue=queue):
        assert [x for x, _ in job.result(30)] == [0, 1]
    job.forget()


def test_a_killed_worker_is_replaced_and_its_task_done_by_another(client, queue, tmp_path, eventually):
    log, gate = tmp_path / "log", tmp_path / "gate"
    with client.workers(1, queue=queue) as workers:
        (pid,) = workers.pids
        job = client.submit(range(3), gated, log, gate, queue=queue, partitions=3)
        eventually(lambda: lines(log))
        children = psutil.Process(pid).children(recursive=True)
        os.kill(pid, signal.SIGKILL)
        gate.touch()
        assert [x for x, _ in job.result(60)] == [0, 1, 2]
        assert workers.pids != [pid]
        eventually(lambda: not any(child.is_running() for child in children))
        job.forget()


def test_a_killed_worker_leaves_no_task_running(named, worker, queue, tmp_path, eventually):
    """Out of memory, say: the child ends with its supervisor, and not with its task."""
    log = tmp_path / "log"
    first = worker(queue)
    with nbmr.Client(named.url, named.key) as client:
        job = client.submit([1], gated, log, tmp_path / "never", queue=queue)
        eventually(lambda: lines(log))
        family = psutil.Process(first.pid).children(recursive=True)
        assert family
        first.kill()
        try:
            eventually(lambda: not any(process.is_running() for process in family), 5)
        finally:
            (tmp_path / "never").touch()
        job.forget()


def test_memory_limit(client, queue):
    def hold(megabytes):
        kept = b"x" * (megabytes * 1_000_000)
        time.sleep(30 if megabytes > 300 else 0)
        return len(kept)

    with client.workers(1, queue=queue, memory_limit="400MB"):
        with pytest.raises(nbmr.TaskLost, match="memory limit of 400 MB"):
            client.map([800], hold, queue=queue)
        assert client.map([10], hold, queue=queue) == [10_000_000]


# ---------------------------------------------------------------- the command line


def test_the_command_line_joins_a_named_broker(named, worker, queue):
    process = worker(queue, "--slots", "2", "--max-idle", "0.5")
    with nbmr.Client(named.url, named.key) as client:
        assert client.slots(queue) == 2
        out = client.map(range(8), lambda x: (x, os.getpid(), os.getppid()), queue=queue, partitions=8)
    assert [x for x, _, _ in out] == list(range(8))
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "no task for 0.5 s" in err


def test_two_slots_work_at_the_same_time(named, worker, queue, tmp_path, eventually):
    log, gate = tmp_path / "log", tmp_path / "gate"
    worker(queue, "--slots", "2").stdout.close()
    with nbmr.Client(named.url, named.key) as client:
        job = client.submit(range(2), gated, log, gate, queue=queue, partitions=2)
        eventually(lambda: len(lines(log)) == 2)
        gate.touch()
        assert [x for x, _ in job.result(10)] == [0, 1]
        job.forget()


def test_sigterm_drains(named, worker, queue, tmp_path, eventually):
    """The running task is finished, the rest given back unharmed, and the status is 0."""
    log, gate = tmp_path / "log", tmp_path / "gate"
    first = worker(queue)
    with nbmr.Client(named.url, named.key) as client:
        job = client.submit(range(4), gated, log, gate, queue=queue, partitions=4)
        eventually(lambda: lines(log) == ["0"])
        first.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):  # the task still runs
            first.wait(0.7)
        gate.touch()
        _, err = first.communicate(timeout=10)
        assert first.returncode == 0, err
        assert job.progress.done == 1
        assert lines(log) == ["0"]
        second = worker(queue)
        assert [x for x, _ in job.result(30)] == [0, 1, 2, 3]
        assert sorted(lines(log)) == ["0", "1", "2", "3"]
        assert job.failures == []
        job.forget()
        second.send_signal(signal.SIGINT)
        assert second.wait(10) == 0


def test_sigterm_just_when_it_is_ready(named, worker, queue, tmp_path):
    """It takes nothing any more, although it has just made its queue."""
    log = tmp_path / "log"
    with nbmr.Client(named.url, named.key) as client:
        first = worker(queue)
        first.send_signal(signal.SIGTERM)
        job = client.submit([0], lambda x: note(log, x), queue=queue)
        _, err = first.communicate(timeout=20)
        assert first.returncode == 0, err
        assert lines(log) == []
        worker(queue)
        assert job.result(30) == [None]
        job.forget()


@pytest.mark.parametrize("items", [[7], [7, 8, 9]])
def test_a_second_signal_ends_it_at_once(named, worker, queue, tmp_path, eventually, items):
    log, gate = tmp_path / "log", tmp_path / "gate"
    first = worker(queue)
    with nbmr.Client(named.url, named.key) as client:
        job = client.submit(items, gated, log, gate, queue=queue, partitions=1)
        eventually(lambda: lines(log))
        first.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            first.wait(0.7)
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=5)
        gate.touch()
        worker(queue)
        assert [x for x, _ in job.result(20)] == items  # given back, not lost
        job.forget()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--key-file", "missing"], "missing"),
        (["--queue", "no good"], "no good"),
        (["--memory-limit", "much"], "much"),
        (["--slots", "0"], "slots"),
    ],
)
def test_wrong_options_are_told_in_one_line(named, start, options, said):
    process = start("-m", "nbmr", "worker", "--url", named.url, "--key-file", str(named.key_file), *options)
    _, err = process.communicate(timeout=20)
    assert process.returncode != 0
    assert said in err
    assert "Traceback" not in err


# ---------------------------------------------------------------- joining late


def test_a_late_joiner_gets_its_share(client, queue, tmp_path, eventually):
    """Of 40 tasks, the second worker, who comes when eight are done, does at least a third of the rest."""
    log, gate = tmp_path / "log", tmp_path / "gate"

    def fn(x):
        note(log, x)
        while x >= 8 and not gate.exists():
            time.sleep(0.01)
        time.sleep(0.1)
        return os.getppid()

    with client.workers(1, queue=queue):
        job = client.submit(range(40), fn, queue=queue, partitions=40)
        eventually(lambda: job.progress.done == 8 and job.progress.running == 1)
        with client.workers(1, queue=queue):
            gate.touch()
            out = job.result(30)
        job.forget()
    first = out[0]
    assert set(out[:9]) == {first}
    others = sum(parent != first for parent in out)
    assert others >= len(out[9:]) / 3


# ---------------------------------------------------------------- zero configuration


def test_two_kernels_at_the_same_moment_share_a_node_and_its_workers(server, start, tmp_path, monkeypatch):
    """And both outlive them."""
    for name, folder in [("JUPYTER_RUNTIME_DIR", "runtime"), ("XDG_STATE_HOME", "state")]:
        monkeypatch.setenv(name, str(tmp_path / folder))
    code = """
import json, os, nbmr
out = nbmr.map(range(40), lambda x: (x, os.getppid()), partitions=40)
assert [x for x, _ in out] == list(range(40))
from nbmr import api
print(json.dumps([api.client().settings.node, sorted(nbmr.workers().pid)]))
"""
    try:
        kernels = [start("-c", code, stderr=None) for _ in range(2)]
        said = [kernel.communicate(timeout=90)[0] for kernel in kernels]
        assert said[0] == said[1] != ""
        status = node.status()
        assert status["answers"]
        assert not status["clients"]
        assert status["pools"] == 1
        began = time.monotonic()
        third = start("-c", code, stderr=None)
        assert third.communicate(timeout=30)[0] == said[0]
        assert time.monotonic() - began < 8  # and not the seconds that a node takes
    finally:
        assert nbmr.shutdown()
    assert node.status() is None
    assert not nbmr.shutdown()


def test_workers_outlive_the_kernel_and_work_on(client, queue, start, tmp_path, eventually):
    """The job of a kernel that has ended is finished: its log is there for whoever attaches."""
    log = tmp_path / "log"
    code = """
import sys, time, nbmr
client = nbmr.Client()
queue, log = sys.argv[1:]
def fn(x):
    time.sleep(0.05)
    with open(log, "a") as file:
        file.write(f"{x}\\n")
job = client.submit(range(12), fn, queue=queue, partitions=12)
job._sending.join()
print(job.id, flush=True)
"""
    with client.workers(1, queue=queue):
        kernel = start("-c", code, queue, str(log))
        job, err = kernel.communicate(timeout=30)
        assert kernel.returncode == 0, err
        eventually(lambda: len(lines(log)) == 12)
    assert sorted(map(int, lines(log))) == list(range(12))
    client._broker.delete(topology.job_log(job.strip()))
