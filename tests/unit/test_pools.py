from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import psutil
import pytest

from nbmr import pools
from nbmr.config import Settings
from nbmr.environment import Environment
from nbmr.errors import ConfigError, WorkerError
from nbmr.node import start_time
from nbmr.pools import Pool, parse_bytes
from nbmr.worker import pool as pool_process


@pytest.fixture
def settings(tmp_path):
    """A private node's settings, with a folder for its pools and nothing behind it."""
    return Settings("amqp://me:secret@127.0.0.1:1", "k" * 64, str(tmp_path))


@pytest.fixture
def sleeper():
    """A process that ends on SIGTERM."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


def tell(settings, process, **other):
    """Write a pool's file, as the pool itself would."""
    state = {
        "pid": process.pid, "started": start_time(process.pid), "queue": "default", "count": 2,
        "workers": [11, 12], "ready": [11, 12], "failed": "",
    } | other  # fmt: skip
    file = pools.folder(settings) / f"{process.pid}.json"
    file.write_text(json.dumps(state))
    return Pool(file)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (None, None),
        (5, 5),
        ("2000", 2000),
        ("2GB", 2_000_000_000),
        ("2 GiB", 2 << 30),
        ("1.5gb", 1_500_000_000),
        ("400 MB", 400_000_000),
        ("1k", 1000),
        ("3Ki", 3072),
        ("1T", 10**12),
    ],
)
def test_bytes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "2XB", "-5", "GB", "1.2.3GB", 0, -1, True, "0", "5 5"])
def test_what_are_no_bytes(text):
    with pytest.raises(ConfigError, match="bytes"):
        parse_bytes(text)


def test_cores():
    assert 1 <= pools.cores() <= (os.cpu_count() or 1)


def test_a_living_pool_is_found(settings, sleeper):
    pool = tell(settings, sleeper)
    assert pools.living(settings) == [pool]
    assert pool.state()["workers"] == [11, 12]
    pool.wait(2, timeout=0.1)
    with pytest.raises(WorkerError, match=r"not ready within 0\.1 s"):
        pool.wait(3, timeout=0.1)


def test_a_pool_whose_workers_are_not_ready_yet(settings, sleeper):
    pool = tell(settings, sleeper, ready=[11])
    with pytest.raises(WorkerError, match="not ready"):
        pool.wait(2, timeout=0.1)
    threading.Timer(0.1, lambda: tell(settings, sleeper)).start()
    pool.wait(2, timeout=5)


def test_the_file_of_a_dead_pool_is_removed(settings):
    gone = subprocess.Popen(["true"])
    record = psutil.Process(gone.pid)
    pool = tell(settings, record)
    gone.wait()
    assert pool.state() == {}
    assert not pool.file.exists()
    assert pools.living(settings) == []


def test_a_recycled_pid_is_no_pool(settings):
    pool = tell(settings, psutil.Process(), started=1.0)
    assert pool.state() == {}


def test_a_pool_that_failed_tells_why_once(settings, sleeper):
    pool = tell(settings, sleeper, failed="refused")
    with pytest.raises(WorkerError, match="can't be started: refused"):
        pool.wait(2)
    assert pools.living(settings) == []


@pytest.mark.parametrize("text", ["", "{", "[1"])
def test_a_file_that_cannot_be_read_is_no_pool(settings, text):
    file = pools.folder(settings) / "5.json"
    file.write_text(text)
    assert Pool(file).state() == {}


def test_stop_ends_it_and_waits(settings, sleeper):
    pool = tell(settings, sleeper)
    pool.stop()
    assert not sleeper.is_running() or sleeper.status() == psutil.STATUS_ZOMBIE
    assert not pool.file.exists()
    pool.stop()  # no harm
    with pytest.raises(WorkerError, match="have ended"):
        pool.scale(3)


def test_stop_now_does_not_wait_for_ever(settings, monkeypatch):
    monkeypatch.setattr(pools, "_STOP_SECONDS", 0.3)
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    deaf = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    assert deaf.stdout.readline() == b"1\n"
    tell(settings, psutil.Process(deaf.pid)).stop(now=True)
    assert deaf.wait(5) in (-signal.SIGKILL, 0)
    deaf.stdout.close()


def test_scale_asks_for_another_number(settings, sleeper, monkeypatch):
    pool = tell(settings, sleeper)
    sent = []
    monkeypatch.setattr(pools.os, "kill", lambda *args: sent.append(args))
    pool.scale(5)
    assert sent == [(sleeper.pid, signal.SIGHUP)]
    assert pool.file.with_suffix(".want").read_text() == "5"


def test_where_the_files_are(settings, tmp_path, monkeypatch):
    assert pools.folder(settings) == tmp_path / "pools"
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    assert pools.folder(Settings("amqp://x", "k")) == tmp_path / "runtime" / "nbmr-pools"
    assert (tmp_path / "runtime" / "nbmr-pools").stat().st_mode & 0o077 == 0


def test_ensure_starts_none_where_there_are_some(settings, sleeper, monkeypatch):
    started = []

    def start(_settings, count, queue):
        started.append((count, queue))
        return tell(settings, sleeper, queue=queue), None

    monkeypatch.setattr(pools, "start", start)
    pools.ensure(settings, "default")
    pools.ensure(settings, "default")
    assert started == [(pools.cores(), "default")]
    assert "starting on this machine" in pools.hint(settings, "default")
    assert pools.hint(settings, "gpu") == ""


def test_workers_get_no_secrets_by_their_environment(monkeypatch):
    monkeypatch.setenv("NBMR_URL", "amqp://secret")
    monkeypatch.setenv("NBMR_KEY", "secret")
    assert not {"NBMR_URL", "NBMR_KEY"} & Environment().variables().keys()
    assert "PATH" in Environment().variables()


# ---------------------------------------------------------------- the process itself


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """A pool whose workers are only noted down."""

    class Worker:
        count = 0

        def __init__(self):
            Worker.count += 1
            self.pid, self.returncode, self.ended = 1000 + Worker.count, None, []

        def terminate(self):
            self.ended.append("terminate")

        def kill(self):
            self.ended.append("kill")

    def start(self):
        worker = Worker()
        self._workers[worker.pid] = worker

    monkeypatch.setattr(pool_process.Pool, "_start", start)
    return pool_process.Pool({"queue": "default"}, 2, tmp_path)


def exits(pool, worker, status):
    worker.returncode = status
    pool._handle("exit", worker, "")


def test_it_replaces_workers_that_die(pool):
    pool._adjust()
    first, second = pool._workers.values()
    exits(pool, first, -9)
    assert len(pool._workers) == 2
    assert second.pid in pool._workers
    assert first.pid not in pool._workers


def test_it_replaces_none_that_had_nothing_to_do(pool):
    pool._adjust()
    first, _ = pool._workers.values()
    exits(pool, first, 0)
    assert len(pool._workers) == pool._count == 1


@pytest.fixture
def waits(monkeypatch):
    """The seconds of each timer that was started; it rings at once."""
    waits = []

    class Timer:
        def __init__(self, seconds, call, arguments):
            waits.append(seconds)
            self.start = lambda: call(*arguments)

    monkeypatch.setattr(pool_process.threading, "Timer", Timer)
    return waits


def test_it_backs_off_and_gives_up_when_they_keep_dying(pool, waits):
    pool._adjust()
    for _ in range(10):
        exits(pool, next(iter(pool._workers.values())), -9)
        assert not pool._stopping
        while not pool._events.empty():
            assert len(pool._workers) == 1  # it waits
            pool._handle(*pool._events.get())
        assert len(pool._workers) == 2
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    pool._handle("ready", next(iter(pool._workers.values())), "")
    pool._handle("failed", next(iter(pool._workers.values())), "no memory to fork")
    exits(pool, next(iter(pool._workers.values())), 1)
    assert pool._stopping
    assert "11 of them died within a minute, the last of exit status 1. no memory to fork" in pool._failed


def test_one_that_fails_later_is_replaced(pool):
    pool._adjust()
    first, second = pool._workers.values()
    pool._handle("ready", first, "")
    pool._handle("failed", first, "its fork server is gone")
    exits(pool, first, 1)
    assert len(pool._workers) == 2
    assert second.ended == []


def test_it_starts_no_more_than_are_wanted_while_it_waits(pool, waits):
    pool._adjust()
    for _ in range(3):
        exits(pool, next(iter(pool._workers.values())), -9)
    assert (len(pool._workers), pool._due) == (1, 1)
    pool._wish.write_text("3")
    pool._handle("SIGHUP", None, "")
    assert len(pool._workers) == 2
    pool._handle(*pool._events.get())
    assert len(pool._workers) == 3


def test_it_scales(pool, tmp_path):
    pool._adjust()
    first, second = pool._workers.values()
    pool._wish.write_text("1")
    pool._handle("SIGHUP", None, "")
    assert (first.ended, second.ended) == ([], ["terminate"])
    pool._wish.write_text("3")
    pool._handle("SIGHUP", None, "")
    pool._tell()
    state = json.loads(pool._file.read_text())
    assert state["count"] == len(state["workers"]) == 3
    assert second.pid not in state["workers"]
    exits(pool, second, 0)
    assert len(pool._workers) == 3


def test_it_drains_and_then_kills(pool):
    pool._adjust()
    workers = list(pool._workers.values())
    pool._handle("SIGTERM", None, "")
    assert [worker.ended for worker in workers] == [["terminate"]] * 2
    pool._handle("SIGTERM", None, "")
    assert [worker.ended for worker in workers] == [["terminate", "kill"]] * 2
    exits(pool, workers[0], -9)
    assert list(pool._workers.values()) == workers[1:]  # none is replaced any more


def test_a_worker_that_cannot_start_ends_the_pool(pool):
    pool._adjust()
    first, second = pool._workers.values()
    pool._handle("failed", first, "wrong key")
    assert pool._failed == "wrong key"
    assert second.ended == ["terminate"]
    pool._tell()
    assert json.loads(pool._file.read_text())["failed"] == "wrong key"
