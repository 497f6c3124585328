"""Workers from a cell: in another environment, on another machine, and what is told of them."""

from __future__ import annotations

import os
import pickle
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

import nbmr
from nbmr import api, pools

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def other(virtual_environment, tmp_path_factory):
    """A virtual environment that has nbmr."""
    return virtual_environment(tmp_path_factory.mktemp("other") / "venv")


def surroundings(_):
    import nbmr

    return sys.prefix, nbmr.__file__, os.environ.get("COLOUR"), os.environ.get("OLD"), os.getcwd()  # noqa: PTH109


def test_workers_in_another_environment(client, queue, other, tmp_path, monkeypatch, eventually):
    monkeypatch.setenv("OLD", "1")
    folder = tmp_path.resolve()
    with client.workers(1, queue, python=other, env={"COLOUR": "red", "OLD": None}, cwd=folder) as workers:

        def found():
            ((prefix, file, *rest),) = client.map([1], surroundings, queue=queue)
            assert prefix == str(other)
            assert file.startswith(str(other))
            assert rest == ["red", None, str(folder)]

        found()
        # those that replace others, or come later, run as these do
        (pid,) = workers.pids
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(workers) == 1 and workers.pids != [pid])
        found()
        workers.scale(2)
        first = workers.pids[0]
        os.kill(first, signal.SIGSTOP)  # so that the new one has to do it
        try:
            found()
        finally:
            os.kill(first, signal.SIGCONT)


def test_what_cannot_run_is_told_before_anything_is_started(client, queue, virtual_environment, tmp_path):
    bare = virtual_environment(tmp_path / "bare", with_nbmr=False)
    with pytest.raises(nbmr.ConfigError, match="nbmr can't be imported there"):
        client.workers(1, queue, python=bare)
    with pytest.raises(nbmr.ConfigError, match="no such folder"):
        client.workers(1, queue, cwd=tmp_path / "missing")
    with pytest.raises(nbmr.ConfigError, match="NBMR_KEY"):
        client.workers(1, queue, env={"NBMR_KEY": "x"})
    with pytest.raises(nbmr.ConfigError, match="how many"):
        client.workers(python=sys.executable)
    assert queue not in set(client.workers().queue)


# ---------------------------------------------------------------- who works


def of_queue(table, queue):
    (row,) = table[table.queue == queue].to_dict("records")
    return row


def test_all_workers_are_listed_with_what_they_do(client, queue, tmp_path, eventually):
    go = tmp_path / "go"

    def wait(_):
        while not go.exists():
            time.sleep(0.02)

    with client.workers(1, queue, memory_limit="1GB") as workers:
        table = client.workers()
        assert isinstance(table, pd.DataFrame)
        row = of_queue(table, queue)
        assert (row["pid"], row["host"], row["state"]) == (workers.pids[0], platform.node(), "ready")
        assert (row["slots"], row["done"], row["failed"], row["memory_limit_mb"]) == (1, 0, 0, 1000)
        assert row["memory_mb"] > 10
        assert row["python"] == platform.python_version()
        assert (row["nbmr"], row["pandas"], row["numpy"]) == (
            nbmr.__version__,
            pd.__version__,
            np.__version__,
        )
        assert (row["problem"], row["job"]) == ("", "")
        job = client.submit([1], wait, queue=queue, name="<b>nap</b>")
        eventually(lambda: of_queue(client.workers(), queue)["state"] == "running")
        table = client.workers()
        assert of_queue(table, queue)["job"] == "<b>nap</b>"
        assert "&lt;b&gt;nap&lt;/b&gt; #0 for" in table._repr_html_()
        assert "<b>nap" not in table._repr_html_()
        assert "<b>nap</b> #0 for" in repr(table)
        go.touch()
        job.result()
        eventually(lambda: of_queue(client.workers(), queue)["done"] == 1)
        job.forget()
    assert queue not in set(client.workers().queue)


def test_a_table_is_a_frame_like_others(client):
    table = client.workers()
    assert type(table[table.pid > 0]) is pd.DataFrame
    assert type(pickle.loads(pickle.dumps(table))) is pd.DataFrame
    assert type(table.copy()) is pd.DataFrame
    assert "queue default: 2 workers" in repr(table)


def test_workers_of_another_version_are_marked(client, queue, other, tmp_path, start, virtual_environment):
    old = virtual_environment(tmp_path / "old")
    (installed,) = old.glob("lib/python*/site-packages/nbmr")
    source = installed.resolve()
    installed.unlink()
    shutil.copytree(source, installed)
    text = (installed / "version.py").read_text()
    (installed / "version.py").write_text(text.replace(nbmr.__version__, "7.8.9"))
    command = [old / "bin" / "python", "-m", "nbmr", "worker", "--queue", queue]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    worker = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        assert "Ready" in worker.stderr.readline()
        table = client.workers()
        row = of_queue(table, queue)
        assert row["nbmr"] == "7.8.9"
        assert "7.8.9 on the worker don't mix" in row["problem"]
        assert f"✗ {row['worker']} can't run this kernel's functions: nbmr" in repr(table)
        assert "can&#x27;t run this kernel&#x27;s functions" in table._repr_html_()
    finally:
        worker.terminate()
        worker.communicate(timeout=60)


def test_workers_that_are_starting_are_listed_too(client, queue):
    pool, process = pools.start(client.settings, 1, queue)
    try:
        states = []
        while "ready" not in states:
            pool.check(pool.state())
            states += [row["state"] for row in client.workers().to_dict("records") if row["queue"] == queue]
        assert set(states) <= {"starting", "ready"}
    finally:
        pool.stop(now=True)
    process.wait(30)


def test_workers_of_another_broker_are_not_listed(named, client, queue):
    with nbmr.Client(named.url, named.key) as theirs, theirs.workers(1, queue):
        assert queue in set(theirs.workers().queue)
        assert queue not in set(client.workers().queue)


# ---------------------------------------------------------------- the line for another machine


@pytest.fixture
def default_client(monkeypatch):
    """Nobody has asked for a default client yet."""
    monkeypatch.setattr(api, "_default", [])


def test_the_line_for_another_machine_starts_a_worker_there(named, queue, start, tmp_path):
    with nbmr.Client(named.url, key_file=named.key_file) as client:
        line = client.join_command(queue, slots=2)
        assert "secret" not in line
        assert named.key not in line
        assert str(named.key_file) in line
        # another terminal, which has nothing of ours but the key file
        words = [sys.executable, "-m", *shlex.split(line)]
        launcher = "import pty, sys; pty.spawn(sys.argv[1:])"
        worker = start("-c", launcher, *words, stdin=subprocess.PIPE, cwd=tmp_path)

        def read_until(text):
            seen = ""
            while text not in seen:
                seen += (char := worker.stdout.read(1))
                assert char, seen
            return seen

        read_until("Password of tester@127.0.0.1:")
        read_until(": ")  # what is typed earlier is thrown away
        worker.stdin.write("secret\n")
        worker.stdin.flush()
        assert "secret" not in read_until("Ready: 2 slots")
        assert client.map([1, 2], lambda x: x + 1, queue=queue) == [2, 3]
        worker.stdin.write("\x03")  # Ctrl-C
        worker.stdin.flush()
        assert worker.wait(60) == 0
        worker.communicate()


def test_the_line_with_the_password_needs_no_terminal(named, queue, start):
    with nbmr.Client(named.url, key_file=named.key_file) as client:
        line = client.join_command(queue, with_password=True)
        url, *words = shlex.split(line)
        worker = start("-m", *words, env=dict([url.split("=", 1)]), stdin=subprocess.DEVNULL)
        assert client.map([1, 2], lambda x: x + 1, queue=queue) == [2, 3]
        worker.terminate()
        assert worker.wait(60) == 0


def test_without_a_terminal_the_password_has_to_be_given(named, start):
    url = named.url.replace(":secret", "")
    worker = start("-m", "nbmr", "worker", "--url", url, stdin=subprocess.DEVNULL)
    _, said = worker.communicate(timeout=60)
    assert worker.returncode == 2
    assert "Set NBMR_URL" in " ".join(said.split())


def test_no_node_is_started_to_say_that_it_cannot_be_reached(default_client, monkeypatch):
    monkeypatch.setattr("nbmr.node.ensure", None)
    with pytest.raises(nbmr.ConfigError, match=r"127\.0\.0\.1 alone"):
        nbmr.join_command()
    monkeypatch.setenv("NBMR_URL", "amqp://me:s3cr3t@no-such-broker.invalid")
    monkeypatch.setenv("NBMR_KEY", "k" * 64)
    assert nbmr.join_command() == "nbmr worker --url amqp://me@no-such-broker.invalid --key-file nbmr.key"


def test_the_private_node_says_what_to_do(client):
    with pytest.raises(nbmr.ConfigError, match="nbmr worker --slots 2"):
        client.join_command(slots=2)
