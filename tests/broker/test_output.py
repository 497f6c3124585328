"""What tasks print, log and warn of arrives in the job that caused it, while they run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
import warnings

import pytest

import nbmr
from nbmr import topology

pytestmark = pytest.mark.slow


def says(x):
    print("printed", x)
    logging.getLogger("theirs").warning("logged %s", x)
    warnings.warn(f"warned {x}", stacklevel=1)
    sys.stderr.write(f"written {x}\n")
    subprocess.run(["echo", "echoed", str(x)], check=True)
    print("last", x)
    return x


def wait_for(file):
    print("waiting", flush=True)
    print("for", end=" ", flush=True)
    while not file.exists():
        time.sleep(0.02)
    print("that")


def crash(_):
    print("about to crash", flush=True)
    os._exit(3)


def test_everything_is_there_in_order(client, queue):
    with client.workers(1, queue=queue):
        job = client.submit([1, 2], says, queue=queue, partitions=2)
        assert job.result() == [1, 2]
        lines = [line for line in job.output.splitlines() if "warnings.warn" not in line]
        for x in (1, 2):
            ours = [line for line in lines if str(x) in line.partition("UserWarning")[2] + line[-1:]]
            assert [line.split()[-2] for line in ours] == [
                "printed", "logged", "warned", "written", "echoed", "last",
            ]  # fmt: skip
        assert {line.task for line in job.printed.lines()} == {0, 1}
        assert {line.worker for line in job.printed.lines()} == set(job.progress.workers)
        other = client.attach(job.id)
        other.result()
        assert other.output == job.output
        job.forget()


def test_lines_come_while_the_task_runs(client, queue, tmp_path, eventually):
    with client.workers(1, queue=queue):
        job = client.submit([tmp_path / "go"], wait_for, queue=queue)
        eventually(lambda: job.output == "waiting\nfor \n")  # the half line, too
        assert job.status == "running"
        version = job.printed.version
        (tmp_path / "go").touch()
        job.result()
        assert job.output == "waiting\nfor \nthat\n"
        assert job.printed.version > version
        job.forget()


def test_a_job_has_its_own_output_alone(client, queue):
    with client.workers(1, queue=queue):
        first, second = (client.submit([x], lambda x: print("of", x), queue=queue) for x in "ab")
        first.result()
        second.result()
        assert (first.output, second.output) == ("of a\n", "of b\n")
        first.forget()
        second.forget()


def test_tasks_that_print_nothing_send_nothing_more(client, queue, outsider):
    """Started and result for each, and for those that print a little, too."""
    with client.workers(1, queue=queue):
        for fn in (lambda x: x, print):
            job = client.submit(range(20), fn, queue=queue, partitions=20)
            job.result()
            entries = outsider.channel.queue_declare(topology.job_log(job.id).name, passive=True)
            assert entries.method.message_count <= 2 + 2 * 20 + 1  # opened, sealed; and one that is slow
            assert len(job.output.splitlines()) == (20 if fn is print else 0)
            job.forget()


@pytest.mark.slow
def test_a_million_lines(client, queue, outsider):
    """Neither the log nor its reader has to bear them; the last ones are there."""

    def fn(count):
        began = time.monotonic()
        for number in range(count):
            print("line", number)
        return time.monotonic() - began

    with client.workers(1, queue=queue):
        job = client.submit([1_000_000], fn, queue=queue)
        (seconds,) = job.result(timeout=100)
        lines = job.printed.lines()
        entries = outsider.channel.queue_declare(topology.job_log(job.id).name, passive=True)
        assert entries.method.message_count < 20 + 10 * seconds
        assert lines[-1].text == "line 999999"
        shown = [line for line in lines if not line.dropped]
        assert len(shown) <= 1000
        assert job.printed.dropped >= 1_000_000 - 200 * (seconds + 3)
        assert "lines left out" in job.output
        job.forget()


def test_last_words_of_a_task_that_is_lost(client, queue):
    with client.workers(1, queue=queue):
        job = client.submit([0], crash, queue=queue)
        with pytest.raises(nbmr.TaskLost):
            job.result()
        assert job.output == "about to crash\n" * topology.ATTEMPTS
        assert job.failures[0].output == "about to crash"
        job.forget()


def test_a_timeout_keeps_what_was_printed(client, queue, tmp_path):
    with client.workers(1, queue=queue):
        job = client.submit([tmp_path / "never"], wait_for, queue=queue, timeout=2.0)
        with pytest.raises(nbmr.TaskTimeout):
            job.result()
        assert job.output.startswith("waiting\n")
        job.forget()


def test_a_cancel_is_heard_by_a_task_that_never_stops_printing(client, queue, eventually):
    def fn(_):
        while True:
            os.write(1, b"again and again\n" * 1000)

    with client.workers(1, queue=queue):
        job = client.submit([0], fn, queue=queue)
        eventually(lambda: "again and again" in job.output)
        job.cancel()
        assert client.map([1], lambda x: x, queue=queue, progress=False) == [1]


def test_bytes_and_crew(client, queue):
    with client.workers(1, queue=queue):
        job = client.submit([b"x" * 100_000, b"y" * 100_000], lambda data: data, queue=queue, partitions=2)
        job.result()
        assert 200_000 < job.progress.bytes_sent < 300_000
        assert 200_000 <= job.progress.bytes_received < 300_000
        (member,) = job._log.crew().values()
        assert (member.done, member.failed, member.tasks) == (2, 0, {})
        other = client.attach(job.id)
        other.result()
        assert other.progress.bytes_sent == 0
        job.forget()
