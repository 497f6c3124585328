"""What `%nbmr` and `nbmr status` show: broker, workers, jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nbmr
from nbmr import api, node
from nbmr.status import JOBS, Status, look


def command_line(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "nbmr", "status", *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(nbmr.__file__).parents[1]), **environment},
        capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip


def test_broker_workers_and_jobs(client, eventually):
    eventually(lambda: len(client.workers_seen()) == 2)  # those of other tests are gone
    job = client.submit([1, 2], lambda x: x, name="<b>clean")
    job.result()
    status = look(client)
    text = repr(status).splitlines()
    assert text[0].startswith(f"broker: private node at 127.0.0.1:{node.status()['address'].split(':')[1]}")
    assert f"RabbitMQ {client._broker.version}, ready" in text[0]
    assert text[1] == "workers: 2 on 1 host"
    assert "  queue default: 2 workers" in text
    (line,) = [line for line in text if job.id in line]
    assert line.split()[:6] == [job.id, "<b>clean", "done", "2", "0", "2"]
    page = status._repr_html_()
    assert "&lt;b&gt;clean" in page
    assert "<b>clean" not in page
    assert job.id in page
    job.forget()
    assert job.id not in repr(look(client))


def test_a_named_broker_without_workers(named):
    with nbmr.Client(named.url, named.key) as client:
        status = look(client)
    assert status.broker.startswith(f"amqp://tester@127.0.0.1:{named.port}/named: RabbitMQ ")
    assert "workers: none listens. Start some: nbmr.workers(2)" in repr(status)
    assert "jobs: none" in repr(status)
    assert "secret" not in repr(status) + status._repr_html_()


def test_in_a_terminal(client, named):
    done = command_line()
    assert done.returncode == 0, done.stderr
    assert f"address: {node.status()['address']}" in done.stdout
    assert "queue default: 2 workers" in done.stdout
    done = command_line("--url", named.url, "--key-file", str(named.key_file))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("broker: amqp://tester@127.0.0.1")
    assert "secret" not in done.stdout


def test_nothing_is_started_to_be_told_about(home, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr(api, "_default", [])
    assert "no private node runs" in repr(api.status())
    assert node.status() is None
    done = command_line()
    assert done.returncode == 1
    assert "No private node runs" in done.stdout


@pytest.mark.parametrize("count", [0, 1, 3 * JOBS])
def test_jobs_that_are_too_many_are_counted(count):
    rows = tuple((f"id{n}", *[""] * 7) for n in range(count))[-JOBS:]
    text = repr(Status("b", (), rows, count))
    assert f"jobs: {count or 'none'}" in text
    assert (f"the latest {JOBS} of them" in text) == (count > JOBS)
    assert ("id  " in text) == (count > 0)
