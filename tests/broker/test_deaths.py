"""Whoever dies, at whatever moment: nothing is lost, nothing comes twice, and what fails says why."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import random
import resource
import secrets
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest
from notes import lines, note

import nbmr
from nbmr import message, pools, topology
from nbmr.broker import connect
from nbmr.signing import Signer
from nbmr.worker.blobs import Blobs

pytestmark = pytest.mark.slow


def gated(x, log, gate):
    note(log, f"{x} {os.getpid()}")
    while not gate.exists():
        time.sleep(0.01)
    return x


def fork_server(worker):
    """The fork server of a worker, if there is one at this moment."""
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(worker).children():
            with contextlib.suppress(psutil.Error):
                if "forkserver" in " ".join(process.cmdline()):
                    return process
    return None


def children(worker):
    """The processes in which a worker runs its tasks."""
    server = fork_server(worker)
    with contextlib.suppress(psutil.Error):
        return server.children() if server else []
    return []


# ---------------------------------------------------------------- anybody, repeatedly


class Killer(threading.Thread):
    """Kills one after another of what makes up the workers of a queue.

    Only under tasks that have lost none or one before: with the third, a task would rightly be lost.
    """

    def __init__(self, client, queue, folder, victims):
        super().__init__(daemon=True)
        self.settings, self.queue, self.folder = client.settings, queue, folder
        self.victims = victims
        self.killed = []
        self.over = threading.Event()

    def run(self):
        for kind in self.victims:
            self.over.wait(0.3)
            while not self.over.wait(0.01):
                found = self.find(kind)
                if found and (kind == "pool" or self.harmless(found)):
                    try:
                        found.kill()
                    except psutil.NoSuchProcess:
                        continue
                    self.killed.append(kind)
                    break

    def find(self, kind):
        try:
            pool = random.choice(
                [
                    pool.state()
                    for pool in pools.living(self.settings)
                    if pool.state().get("queue") == self.queue
                ]
            )
            if kind == "pool":
                return psutil.Process(pool["pid"])
            worker = random.choice(pool["ready"])
            if kind == "supervisor":
                return psutil.Process(worker)
            return fork_server(worker) if kind == "fork server" else random.choice(children(worker))
        except (IndexError, KeyError, psutil.Error):
            return None  # not at this moment

    def harmless(self, victim):
        """Whether it is known which task dies with it, and that this hasn't died before, as far as it says.

        A task may have died once more, before it could say anything; three deaths would be the end of it.
        """
        try:
            pids = {str(victim.pid), *(str(process.pid) for process in victim.children(recursive=True))}
        except psutil.Error:
            return False  # it is gone already
        tries = [lines(file) for file in self.folder.iterdir()]
        return [len(t) for t in tries if t[-1:] != ["done"] and pids.intersection(t[-1:])] == [1]


@pytest.mark.slow
def test_whoever_is_killed_every_task_is_done_once(client, queue, tmp_path):
    """Children, fork servers, supervisors and the pool itself, every 0.3 s, while 80 tasks run."""
    victims = ["child"] * 5 + ["fork server"] * 3 + ["supervisor"] * 3
    random.shuffle(victims)
    victims.insert(6, "pool")

    def fn(x):
        note(tmp_path / str(x), os.getpid())
        time.sleep(0.15)
        note(tmp_path / str(x), "done")
        return x, "x" * 1000

    client.workers(2, queue=queue)
    killer = Killer(client, queue, tmp_path, victims)
    job = client.submit(range(80), fn, queue=queue, partitions=80)
    killer.start()
    try:
        out = job.result(100)
    finally:
        killer.over.set()
        killer.join()
        job.forget()
    assert out == [(x, "x" * 1000) for x in range(80)]
    assert (job.progress.done, job.progress.failed) == (80, 0)
    assert len(killer.killed) >= 8, f"the job was too quick for the killer: {killer.killed}"
    assert any(len(lines(file)) > 2 for file in tmp_path.iterdir()), "no kill hit a task"
    assert client.map([1, 2], lambda x: x, queue=queue) == [1, 2]


def test_a_killed_pool_lets_its_workers_finish(client, queue, tmp_path, eventually):
    """Then they end, and the private node has others started."""
    log, gate = tmp_path / "log", tmp_path / "gate"
    client.workers(1, queue=queue)
    job = client.submit(range(3), gated, log, gate, queue=queue, partitions=3)
    eventually(lambda: lines(log))
    (pool,) = [pool for pool in pools.living(client.settings) if pool.state().get("queue") == queue]
    os.kill(pool.state()["pid"], signal.SIGKILL)
    gate.touch()
    assert job.result(60) == [0, 1, 2]
    assert len(lines(log)) == 3  # each ran once
    job.forget()


# ---------------------------------------------------------------- while there is no task


@pytest.mark.parametrize("who", ["child", "fork server"])
def test_an_idle_child_is_replaced_before_the_next_task(client, queue, eventually, who):
    with client.workers(1, queue=queue) as workers:
        (worker,) = workers.pids
        (before,) = client.map([1], lambda _: os.getpid(), queue=queue)
        victim = psutil.Process(before) if who == "child" else fork_server(worker)
        killed = time.monotonic()
        victim.kill()
        (after,) = eventually(lambda: [p for p in children(worker) if p.pid != before])
        took = time.monotonic() - killed
        assert client.map([1], lambda _: os.getpid(), queue=queue) == [after.pid]
        assert workers.pids == [worker]
        if who == "child":  # a new fork server loads pandas first
            assert took < 2, f"{took:.2f} s; it takes 0.1 s on a machine that does nothing else"


def test_what_a_child_prints_between_tasks_goes_to_the_log_of_its_worker(client, queue, tmp_path, eventually):
    """It would stop at a full pipe otherwise."""

    def fn(over):
        def chatter():
            for _ in range(30_000):
                print("x" * 100)
            over.touch()

        threading.Thread(target=chatter, daemon=True).start()

    with client.workers(1, queue=queue):
        client.map([tmp_path / "over"], fn, queue=queue)
        eventually((tmp_path / "over").exists)


# ---------------------------------------------------------------- the story of a death


def test_the_story_names_every_attempt(client):
    def fn(x):
        print(f"try of {os.getpid()}")
        ctypes.string_at(0)

    with pytest.raises(nbmr.TaskLost) as caught:
        client.map(range(3), lambda x: fn(x) if x == 1 else x, partitions=3)
    text = str(caught.value)
    assert "its worker process died 3 times, at last of SIGSEGV" in text
    assert "partition 1" in text
    assert "last output:\ntry of" in text
    for attempt in (1, 2):
        assert f"attempt {attempt}: SIGSEGV, on {platform.node()} (pid " in text


def test_the_story_of_an_item_is_its_own(client):
    """Of several items in one task, some kill their process: each has a story of its own."""

    def fn(x):
        if x in (2, 5):
            os._exit(x)
        return x

    with pytest.warns(RuntimeWarning, match="2 of 8"):
        out = client.map(range(8), fn, partitions=1, on_error="keep")
    assert [out[x] for x in (0, 1, 3, 4, 6, 7)] == [0, 1, 3, 4, 6, 7]
    for x in (2, 5):
        assert (out[x].reason, out[x].attempts) == ("lost", 3)
        assert out[x].traceback.count(f"exit code {x}") == 2
        assert out[x].traceback.count("attempt") == 2


def test_a_sigkill_says_whether_memory_was_short(client):
    """The kernel counts what it kills for want of memory; nothing was counted here."""
    with pytest.raises(nbmr.TaskLost) as caught:
        client.map([1], lambda _: os.kill(os.getpid(), signal.SIGKILL))
    assert "at last of SIGKILL\n" in str(caught.value)


@pytest.fixture
def little_memory():
    """A control group with 200 MB of memory, where this user may make one: the file that takes processes."""
    root = Path("/sys/fs/cgroup")
    if (root / "memory").is_dir():  # version 1
        group, limit = root / "memory" / f"nbmr-test-{os.getpid()}", "memory.limit_in_bytes"
    else:
        group, limit = root / f"nbmr-test-{os.getpid()}", "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text("200000000")
    except OSError as exc:
        with contextlib.suppress(OSError):
            group.rmdir()
        if os.environ.get("CI") and os.access(group.parent, os.W_OK):
            pytest.fail(f"{group.parent} can be written to, and yet: {exc}")
        pytest.skip(f"no control group can be made here: {exc}")  # as a user; or in a container, say
    yield group / "cgroup.procs"
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with contextlib.suppress(OSError):  # processes that were in it are still on their way out
            group.rmdir()
            return
        time.sleep(0.1)
    group.rmdir()


def test_a_kill_by_the_out_of_memory_killer(named, queue, start, little_memory):
    """A real one: the system ends the task's process, not its supervisor, and the job says so."""
    code = (
        f"import os, sys; open({str(little_memory)!r}, 'w').write(str(os.getpid()));"
        " os.execv(sys.executable, [sys.executable, '-m', 'nbmr', 'worker', *sys.argv[1:]])"
    )
    worker = start("-c", code, "--url", named.url, "--key-file", str(named.key_file), "--queue", queue)
    assert worker.stderr.readline().startswith("Ready")
    with nbmr.Client(named.url, named.key) as client:
        with pytest.raises(nbmr.TaskLost) as caught:
            client.map([1], lambda _: print("allocates") or len(bytearray(400_000_000)), queue=queue)
        assert caught.value.failure.attempts == 3
        assert "SIGKILL by the system's out-of-memory killer: too little memory" in str(caught.value)
        assert "allocates" in caught.value.failure.output
        assert client.map([1], lambda x: x, queue=queue) == [1]
    assert worker.poll() is None
    worker.terminate()
    worker.communicate(timeout=20)


def test_other_jobs_go_on_while_a_task_kills_its_workers(client):
    good = client.submit(range(40), lambda x: time.sleep(0.05) or x, partitions=40)
    with pytest.raises(nbmr.TaskLost, match="exit code 3"):
        client.map([1], lambda _: os._exit(3))
    assert good.result(30) == list(range(40))
    assert good.failures == []
    good.forget()


def test_a_task_whose_supervisor_is_killed_three_times(client, queue, tmp_path, eventually):
    """It comes through the queue for what was given back too often; the next worker tells."""
    log, gate = tmp_path / "log", tmp_path / "never"
    with client.workers(1, queue=queue) as workers:
        job = client.submit([0], gated, log, gate, queue=queue, name="doomed")
        other = client.submit([5], lambda x: x, queue=queue)
        killed = []
        for attempt in (1, 2, 3):
            eventually(lambda attempt=attempt: len(lines(log)) == attempt)
            killed += workers.pids
            os.kill(killed[-1], signal.SIGKILL)
        with pytest.raises(nbmr.TaskLost) as caught:
            job.result(30)
        assert other.result(30) == [5]
    error, text = caught.value, str(caught.value)
    assert (error.failure.attempts, error.failure.reason) == (3, "lost")
    assert "3 workers took it and never answered" in text
    for attempt, (worker, line) in enumerate(zip(killed, lines(log), strict=True), 1):
        pid = line.split()[1]
        assert f"attempt {attempt}: worker {platform.node()}:{worker} was killed" in text
        assert f"(pid {pid})" in text
    assert error.failure.pid == int(lines(log)[-1].split()[1])
    dead = topology.dead_queue(queue)
    eventually(lambda: client._broker.count(dead)[0] == 0)
    for one in (job, other):
        one.forget()


@pytest.mark.slow
def test_workers_that_keep_dying_end_with_a_reason(client, queue, eventually):
    """Each new one later than the one before; then whoever waits is told, and the next call starts others."""
    workers = client.workers(1, queue=queue)
    over = threading.Event()

    def kill():
        while not over.wait(0.01):
            for pid in workers.pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        (pool,) = [pool for pool in pools.living(client.settings) if pool.state().get("queue") == queue]
        eventually(lambda: pool.state()["failed"], 60)
    finally:
        over.set()
        killer.join()
    with pytest.raises(nbmr.WorkerError, match="11 of them died within a minute, the last of SIGKILL"):
        client.map([1], lambda x: x, queue=queue)
    assert client.map([1], lambda x: x, queue=queue) == [1]


# ---------------------------------------------------------------- a full disk, a large function


@pytest.fixture
def full_disk(tmp_path):
    """A folder whose disk has no room left, where this user may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        if os.environ.get("CI") and os.getuid() == 0:
            pytest.fail(made.stderr)
        pytest.skip(f"no small disk can be made here: {made.stderr}")  # as a user; or in a container, say
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def large_function():
    weights = os.urandom(3_000_000)
    return lambda x: print("hello") or x + len(weights)


def started_with_files_up_to(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_worker_without_room_says_so(named, queue, start):
    """Files that can't be written: told in the end, tried thrice, and the worker goes on."""
    worker = start(
        "-m", "nbmr", "worker", "--url", named.url, "--key-file", str(named.key_file), "--queue", queue,
        preexec_fn=started_with_files_up_to(1_000_000),
    )  # fmt: skip
    assert worker.stderr.readline().startswith("Ready")
    with nbmr.Client(named.url, named.key) as client:
        with pytest.raises(
            nbmr.TaskLost, match=r"a large payload could not be kept.*File too large"
        ) as caught:
            client.map([1], large_function(), queue=queue)
        assert caught.value.failure.attempts == 3
        assert "attempt 1: a large payload could not be kept" in str(caught.value)
        assert client.map([1], lambda x: x, queue=queue) == [1]


def test_a_task_goes_elsewhere_if_the_disk_is_full(named, queue, start, full_disk, tmp_path, eventually):
    options = ["--url", named.url, "--key-file", str(named.key_file), "--queue", queue]
    with (full_disk / "log").open("w") as log:
        full = start("-m", "nbmr", "worker", *options, env={"TMPDIR": str(full_disk)}, stderr=log)
    with nbmr.Client(named.url, named.key) as client:
        eventually(lambda: client._broker.exists(topology.task_queue(queue)) and client.slots(queue) == 1, 30)
        with contextlib.suppress(OSError):
            (full_disk / "rest").write_bytes(bytes(1 << 20))
        assert client.map([1], lambda x: print("x" * 100_000) or x, queue=queue) == [1]  # not even its log
        other = start("-m", "nbmr", "worker", *options)
        assert other.stderr.readline().startswith("Ready")
        job = client.submit(range(4), large_function(), queue=queue, partitions=4)
        try:
            assert job.result(40) == [3_000_000 + x for x in range(4)]
        finally:
            job.forget()
        assert "No space left" in str(job._log.attempts.deaths)  # it was there before it went elsewhere
        full.terminate()
        assert full.wait(10) == 0


def test_slots_do_not_wait_for_each_others_functions(client, server):
    """One blob is not all there yet; another is read meanwhile, and who wants the first waits for it."""
    broker = connect(server.info.url)
    signer = Signer(server.info.key)
    blobs = Blobs(broker, signer, lambda error: pytest.fail(str(error)))
    job = secrets.token_hex(6)
    streams = {name: topology.blob(job, name) for name in ("slow", "quick")}
    found = {}

    def append(name, offset):
        body = message.seal(
            signer, "blob", job=job, name=name, offset=offset, buffers=[bytes([offset]) * 100]
        )
        broker.append(streams[name], body).result(10)

    def read(thread, name):
        file = blobs.open(job, {"name": name, "size": 200, "digest": name}, lambda: False)
        found[thread] = os.pread(file, 1000, 0)
        os.close(file)

    try:
        broker.declare(*streams.values())
        append("slow", 0)
        append("quick", 0)
        append("quick", 100)
        threads = [threading.Thread(target=read, args=(n, "slow"), daemon=True) for n in (1, 2)]
        for thread in threads:
            thread.start()
        quick = threading.Thread(target=read, args=(3, "quick"), daemon=True)
        quick.start()
        quick.join(10)
        assert list(found) == [3]
        append("slow", 100)
        for thread in threads:
            thread.join(10)
        assert found == dict.fromkeys((1, 2, 3), bytes(100) + bytes([100]) * 100)
        assert len(blobs._kept) == 2
        assert not blobs._reading
    finally:
        for _, file in blobs._kept.values():
            file.close()
        broker.delete(*streams.values())
        broker.release()


# ---------------------------------------------------------------- not dead, but silent or strange


@pytest.mark.slow
def test_the_task_of_a_stopped_worker_is_given_to_another(client, queue, tmp_path, eventually):
    """RabbitMQ misses its heartbeats; when it goes on, it works on, and its late answer counts no more."""
    log, gate = tmp_path / "log", tmp_path / "gate"
    with client.workers(1, queue=queue) as first:
        (pid,) = first.pids
        job = client.submit([7], gated, log, gate, queue=queue)
        eventually(lambda: lines(log))
        os.kill(pid, signal.SIGSTOP)
        try:
            with client.workers(1, queue=queue):
                eventually(lambda: len(lines(log)) == 2, 60)
                gate.touch()
                assert job.result(20) == [7]
        finally:
            os.kill(pid, signal.SIGCONT)
        assert client.map([1], lambda _: os.getppid(), queue=queue)
        assert first.pids == [pid]
        assert (job.progress.done, job.progress.failed) == (1, 0)
        job.forget()


def test_neither_clock_nor_host_name_of_a_worker_matters(named, queue, start, tmp_path):
    """Two workers, years apart, that both call themselves by the same odd name."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, platform, socket, time\n"
        "now, shift = time.time, float(os.environ['CLOCK_SHIFT'])\n"
        "time.time = lambda: now() + shift\n"
        "socket.gethostname = platform.node = lambda: 'löcal host\\n<b>'\n"
    )
    options = ["--url", named.url, "--key-file", str(named.key_file), "--queue", queue]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    for shift in ("3e8", "-3e8"):
        worker = start("-m", "nbmr", "worker", *options, env={"CLOCK_SHIFT": shift, "PYTHONPATH": path})
        assert worker.stderr.readline().startswith("Ready")
    with nbmr.Client(named.url, named.key) as client:
        job = client.submit(
            range(30), lambda x: (x, time.sleep(0.05), time.time()), queue=queue, partitions=30
        )
        out = job.result(30)
        assert [x for x, _, _ in out] == list(range(30))
        clocks = [clock for _, _, clock in out]
        assert max(clocks) - min(clocks) > 5e8
        assert len(job.progress.workers) == 2
        job.forget()
        job = client.submit(range(4), lambda _: time.sleep(30), queue=queue, partitions=4)
        while job.progress.running < 2:
            time.sleep(0.01)
        job.cancel()
        assert client.map([1], lambda x: x, queue=queue) == [1]
