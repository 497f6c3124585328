"""Running something once in every process that runs tasks."""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil
import pytest

import nbmr
from nbmr import topology

pytestmark = pytest.mark.slow


def pids(client, queue):
    return {slot.pid for worker in client.workers_seen(queue) for slot in worker.slots}


def test_every_process_is_reached_and_once(client, queue, tmp_path):
    with client.workers(3, queue=queue):
        answers = client.everywhere(os.getpid, queue)
        assert set(answers.values()) == pids(client, queue)
        assert set(answers) == {worker.worker for worker in client.workers_seen(queue)}
        text = client.everywhere(f"open({str(tmp_path / 'ran')!r}, 'a').write('x'); 6 * 7", queue)
        assert list(text.values()) == ["42"] * 3
        assert (tmp_path / "ran").read_text() == "xxx"
        assert client.jobs().query("queue == @queue").empty


def test_later_tasks_find_what_was_imported_and_set(client, queue):
    with client.workers(2, queue=queue):
        source = "import json as theirs, os\nos.environ['NBMR_TEST'] = 'set'\ndef half(x): return x / 2"
        assert list(client.everywhere(source, queue).values()) == [None, None]
        fn = eval("lambda x: (theirs.dumps([half(x)]), __import__('os').environ['NBMR_TEST'])", {})
        assert client.map(range(20), fn, queue=queue, partitions=20, progress=False) == [
            (f"[{x / 2}]", "set") for x in range(20)
        ]


def test_slots_of_one_worker_are_each_reached(client, queue, start, eventually):
    worker = start("-m", "nbmr", "worker", "--queue", queue, "--slots", "3")
    eventually(lambda: client.slots(queue) == 3)
    answers = client.everywhere(os.getpid, queue)
    assert len(set(answers.values())) == 3
    assert [place.partition(" ")[2] for place in sorted(answers)] == ["slot 0", "slot 1", "slot 2"]
    worker.terminate()
    worker.communicate(timeout=30)


def test_failures_are_raised_after_all_have_answered(client, queue, tmp_path):
    def fn():
        (tmp_path / str(os.getpid())).touch()
        time.sleep(0.2)
        raise KeyError("mine")

    with client.workers(2, queue=queue):
        with pytest.raises(nbmr.TaskError, match="mine") as caught:
            client.everywhere(fn, queue)
        assert isinstance(caught.value.__cause__, KeyError)
        assert len(list(tmp_path.iterdir())) == 2
        assert caught.value.__notes__ == ["It failed in 2 of 2 places."]
        with pytest.raises(nbmr.TaskError, match="ZeroDivisionError"):
            client.everywhere("x = 0\n1 / x", queue)
        with pytest.raises(SyntaxError):
            client.everywhere("x =", queue)
        with pytest.raises(nbmr.ConfigError, match="source or a function"):
            client.everywhere(7, queue)


def test_what_each_printed(client, queue):
    with client.workers(2, queue=queue):
        answers = client.ask_everywhere("import os\nprint('here is', os.getpid())\nos.getpid()", queue)
        assert [answer.output for answer in answers] == [f"here is {answer.value}\n" for answer in answers]


def test_it_waits_for_a_slot_that_is_busy(client, queue, tmp_path, eventually):
    def wait(file):
        while not file.exists():
            time.sleep(0.02)

    with client.workers(1, queue=queue):
        busy = client.submit([tmp_path / "go"], wait, queue=queue)
        eventually(lambda: busy.progress.running)
        job, send, places = client.start_everywhere("1", queue)
        job.send(send)
        eventually(lambda: job.look() or "busy" in job.hint)
        assert not job.wait(1.0)
        (tmp_path / "go").touch()
        assert job.result() == ["1"]
        assert len(places) == 1
        busy.result()
        busy.forget()
        job.forget()


def test_a_process_that_dies_is_a_failure_and_is_not_tried_again(client, queue, tmp_path):
    def fn():
        with (tmp_path / "tries").open("a") as file:
            file.write("x")
        os._exit(7)

    with client.workers(1, queue=queue):
        with pytest.raises(nbmr.TaskLost, match="exit code 7"):
            client.everywhere(fn, queue)
        assert (tmp_path / "tries").read_text() == "x"
        assert client.map([1], lambda x: x, queue=queue, progress=False) == [1]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_goes_meanwhile_is_a_failure(client, queue, tmp_path, eventually, how):
    """Killed under its task, or drained while the task still waited behind another one."""

    def wait(file):
        file.with_suffix(".begun").touch()
        while not file.exists():
            time.sleep(0.02)

    with client.workers(1, queue=queue) as workers:
        (pid,) = workers.pids
        go = tmp_path / "go"
        busy = client.submit([go], wait, queue=queue)
        eventually(go.with_suffix(".begun").exists)
        job, send, _ = client.start_everywhere(os.getpid, queue)
        job.send(send)
        os.kill(pid, how)
        threading.Timer(1.0, go.touch).start()
        assert job.wait(60)
        if job.status == "failed":
            assert str(pid) in job.failures[0].summary
            assert job.failures[0].reason == "lost"
        else:
            assert how == signal.SIGTERM  # it was in the worker's hand already
        busy.result()
        busy.forget()
        job.forget()


def test_ctrl_c_ends_it_everywhere(client, queue, eventually):
    def fn():
        time.sleep(100)

    with client.workers(2, queue=queue):
        job, send, _ = client.start_everywhere(fn, queue)
        job.send(send)
        eventually(lambda: job.progress.running == 2)
        began = time.monotonic()
        job.cancel()
        assert client.map(range(4), lambda x: x, queue=queue, partitions=4, progress=False) == [0, 1, 2, 3]
        assert time.monotonic() - began < 30


def test_an_interrupted_cell_keeps_what_came_before(client, queue, eventually):
    """Unless the process takes too long to be interrupted, which is then replaced: so several times."""
    sleep = "import time\nprint('begun', flush=True)\ntime.sleep(100)"
    with client.workers(1, queue=queue):
        for _ in range(5):
            client.everywhere("kept = 1", queue)
            job, send, _ = client.start_everywhere(sleep, queue)
            job.send(send)
            eventually(lambda job=job: "begun" in job.output)
            job.cancel()
            (answer,) = client.ask_everywhere("kept", queue)
            if answer.value == "1":
                break
        assert answer.value == "1"


def test_a_private_nodes_workers_are_started(client, queue):
    answers = client.everywhere(os.getpid, queue)
    assert answers
    assert all(psutil.pid_exists(pid) for pid in answers.values())


def test_nobody_listens_on_a_named_broker(server, named, queue):
    with (
        nbmr.Client(named.url, named.key) as client,
        pytest.raises(nbmr.WorkerError, match=r"nbmr\.workers\(2, queue=.*nbmr worker"),
    ):
        client.everywhere("1", queue)


def test_own_queues_go_with_their_worker(client, queue, server, eventually):
    def own(id_):
        return [name for name in server.queues() if id_ in name]

    with client.workers(1, queue=queue):
        (worker,) = client.workers_seen(queue)
        names = [topology.own_queue(worker.id, 0).name, topology.inbox(worker.id, queue).name]
        assert sorted(own(worker.id)) == sorted(names)
    eventually(lambda: not own(worker.id))
