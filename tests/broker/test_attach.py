"""Jobs outlive their kernel: listed and attached to from another one, forgotten, and deleted in time."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from jupyter_client.manager import KernelManager
from notes import lines

import nbmr
from nbmr import cli, registry, topology
from nbmr.broker import connect
from nbmr.registry import Registry
from nbmr.signing import Signer
from nbmr.worker.janitor import Janitor

pytestmark = pytest.mark.slow

FN = """
import os, time, pandas as pd, nbmr

def fn(part, note):
    with open(note, "a") as file:
        file.write(f"{part.index[0]}\\n")
    time.sleep(0.2)
    until = time.monotonic() + 30  # no test is to keep the workers for ever
    while part.index[0] >= 600 and not os.path.exists(f"{note}.gate") and time.monotonic() < until:
        time.sleep(0.01)
    return part * 2
"""


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Give a function that starts a Jupyter kernel and runs code in it; all are killed at the end."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))
    managers = []

    class Kernel:
        def __init__(self):
            self.manager = KernelManager()
            managers.append(self.manager)
            self.manager.start_kernel()
            self.client = self.manager.blocking_client()
            self.client.start_channels()
            self.client.wait_for_ready(timeout=60)

        def run(self, code, timeout=60):
            """Run a cell; return what it printed."""
            printed = []

            def hook(message):
                if message["msg_type"] == "stream":
                    printed.append(message["content"]["text"])

            reply = self.client.execute_interactive(code, timeout=timeout, output_hook=hook)
            assert reply["content"]["status"] == "ok", reply["content"]
            return "".join(printed).strip()

        def kill(self):
            os.kill(self.manager.provisioner.pid, signal.SIGKILL)
            self.client.stop_channels()

    yield Kernel
    for manager in managers:
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def test_a_killed_kernels_job_is_listed_and_gathered_in_a_new_one(client, kernel, tmp_path, eventually):
    note = tmp_path / "note"
    first, second = kernel(), kernel()
    first.run(f"{FN}\njob = nbmr.submit(pd.DataFrame({{'a': range(1200)}}), fn, {str(note)!r},"
              " partitions=12, name='doubled')")  # fmt: skip
    ident = first.run("job.finish_sending(); print(job.id)")
    eventually(lambda: len(lines(note)) >= 4)
    first.kill()
    row = second.run(
        "import nbmr; jobs = nbmr.jobs(); job = jobs[jobs['id'] == " + repr(ident) + "].iloc[0]\n"
        "print(job['name'], job['state'], job['done'], job['total'])"
    ).split()
    assert row[:2] == ["doubled", "running"]
    assert 2 <= int(row[2]) < 12
    assert row[3] == "12"
    Path(f"{note}.gate").touch()  # until then it can't be over
    shape = second.run(
        f"out = nbmr.attach({ident!r}).result()\n"
        "import pandas as pd; pd.testing.assert_frame_equal(out, pd.DataFrame({'a': range(1200)}) * 2)\n"
        "print(out.shape)"
    )
    assert shape == "(1200, 1)"
    assert sorted(map(int, lines(note))) == list(range(0, 1200, 100))  # each partition once
    by_name = second.run("job = nbmr.attach('doubled'); print(job.status, len(job.result())); job.forget()")
    assert by_name == "done 1200"
    assert ident not in set(client.jobs()["id"])


def test_two_kernels_follow_one_job(client, kernel, queue):
    job = client.submit(range(10), lambda x: (time.sleep(0.2), x)[1], partitions=10, queue=queue)
    others = [kernel(), kernel()]
    with client.workers(1, queue=queue):
        for other in others:
            other.client.execute(f"import nbmr; print(nbmr.attach({job.id!r}).result())")
        assert job.result() == list(range(10))
        for other in others:
            assert other.run(f"print(nbmr.attach({job.id!r}).result())") == str(list(range(10)))
    job.forget()


def test_a_job_that_was_still_being_sent_says_so(client, start, eventually):
    process = start(
        "-c",
        "import itertools, time, nbmr\n"
        "def slowly():\n"
        "    for i in itertools.count():\n"
        "        yield i\n"
        "        time.sleep(0.1)\n"
        "client = nbmr.Client()\n"
        "job = client.submit(slowly(), lambda x: x * 2, name='endless')\n"
        "while job.progress.done < 3: time.sleep(0.01)\n"
        "print(job.id, flush=True)\n"
        "time.sleep(60)",
    )
    ident = process.stdout.readline().strip()
    process.kill()
    process.wait()
    job = client.attach(ident)
    with pytest.raises(nbmr.JobIncomplete, match=r"still being sent when its kernel died .*partial\(\)"):
        job.result(30)
    partial = job.partial()
    assert len(partial) >= 3
    assert partial == [2 * i for i in range(len(partial))]
    row = client.jobs().set_index("id").loc[ident]
    assert row["state"] == "failed"
    assert "died" in row["note"]
    assert pd.isna(row["total"])
    job.forget()


def test_a_process_that_ends_sends_the_rest_first(client, start):
    process = start(
        "-c",
        "import nbmr, numpy as np, pandas as pd\n"
        "df = pd.DataFrame({'a': np.arange(4e6)})\n"
        "print(nbmr.Client().submit(df, lambda part: part.a.sum(), partitions=16).id)",
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    job = client.attach(out.strip())
    assert job.result(60).sum() == np.arange(4e6).sum()
    job.forget()


def test_cancelled_from_another_kernel(client, server, queue, tmp_path, eventually):
    note = tmp_path / "note"

    def fn(x):
        with note.open("a") as file:
            file.write(f"{x}\n")
        time.sleep(60)

    with client.workers(1, queue=queue):
        job = client.submit(range(5), fn, partitions=5, queue=queue)
        eventually(lambda: lines(note))
        with nbmr.Client() as other:
            other.attach(job.id).cancel()
        with pytest.raises(nbmr.JobCancelled):
            job.result(10)
        began = time.monotonic()
        assert client.map([1], lambda x: x, queue=queue, progress=False) == [1]
        assert time.monotonic() - began < 10  # and not 60
    assert len(lines(note)) == 1


@pytest.mark.usefixtures("in_messages")
def test_forgetting_deletes_a_job_with_its_blobs_from_anywhere(client, server):
    big = np.arange(100_000)
    job = client.submit([1, 2], lambda x: x + big[-1], name="with-a-blob")
    assert job.result() == [100_000, 100_001]
    assert [name for name in server.queues() if job.id in name and "blob" in name]
    with nbmr.Client() as other:
        other.attach("with-a-blob").forget()
    assert not [name for name in server.queues() if job.id in name]
    with pytest.raises(nbmr.JobNotFound):
        client.attach(job.id)


def test_unknown_and_ambiguous_names(client):
    jobs = [client.submit([1], str, name="twins") for _ in range(2)]
    with pytest.raises(nbmr.ConfigError, match=rf"Several jobs .*{jobs[0].id}.*{jobs[1].id}"):
        client.attach("twins")
    with pytest.raises(nbmr.JobNotFound, match="Did you mean 'twins'"):
        client.attach("twin")
    for job in jobs:
        job.result()
        job.forget()
    with pytest.raises(nbmr.JobNotFound):
        client.attach("twins")


def test_the_list_of_jobs(named, queue):
    def fail_at_two(x):
        if x == 2:
            raise ValueError("it is two")
        return x

    frame = pd.DataFrame({"a": [1, 2]})
    with nbmr.Client(named.url, named.key) as client, client.workers(1, queue=queue):
        some = client.submit(range(4), fail_at_two, partitions=4, on_error="keep", name="some", queue=queue)
        some.wait(30)
        nobody = client.submit(frame, len, partitions=2, queue=f"{queue}-nobody", name="nobody")
        table = client.jobs().set_index("name")
        assert list(table.loc["some"][["state", "done", "failed", "total"]]) == ["failed", 3, 1, 4]
        assert "it is two" in table.loc["some"]["note"]
        assert list(table.loc["nobody"][["state", "done", "failed", "total"]]) == ["pending", 0, 0, 2]
        assert table.loc["nobody"]["queue"] == f"{queue}-nobody"
        assert table["submitted"].is_monotonic_increasing
        out = CliRunner().invoke(cli.main, ["jobs", "--url", named.url, "--key-file", str(named.key_file)])
        assert out.exit_code == 0, out.output
        assert nobody.id in out.output
        for job in (some, nobody):
            job.forget()
        assert not {"some", "nobody"} & set(client.jobs()["name"])


def test_results_that_came_in_chunks_are_counted(client):
    job = client.submit([9_000_000, 1], lambda n: b"x" * n, partitions=2)
    job.wait(30)
    row = client.jobs().set_index("id").loc[job.id]
    assert (row["state"], row["done"], row["failed"]) == ("done", 2, 0)
    assert [len(value) for value in job.result()] == [9_000_000, 1]
    job.forget()


def test_a_log_without_a_word_does_not_hold_up_the_list(server, client):
    """A kernel died just when it had made it."""
    signer, broker = Signer(client.settings.key), connect(server.info.url)
    entry = registry.registration("e" * 12, "wordless", "default", 60.0)
    registry.register(broker, signer, entry).result(10)
    broker.declare(topology.job_log(entry.job))
    began = time.monotonic()
    row = client.jobs().set_index("id").loc[entry.job]
    assert time.monotonic() - began < 15  # and not 30
    assert (row["state"], row["done"]) == ("pending", 0)
    client.attach(entry.job).forget()
    broker.release()


def test_a_registry_that_is_deleted_is_told_and_made_again(named, queue, eventually):
    """Its worker's janitor begins anew, too: what is registered then has its time to live."""
    signer, broker = Signer(named.key), connect(named.url)
    with nbmr.Client(named.url, named.key) as client, client.workers(1, queue=queue):
        with Registry(broker, signer) as known:
            known.catch_up()
            broker.delete(topology.jobs_stream())
            eventually(lambda: known.lost)
            with pytest.raises(nbmr.BrokerError, match="no queue"):
                known.catch_up()
        job = client.submit([1], str, queue=queue)
        assert job.result(30) == ["1"]
        registry.register(broker, signer, registry.registration(job.id, "again", queue, 0.5)).result(10)
        eventually(lambda: not broker.exists(topology.job_log(job.id)), 60)
        job.forget()
    broker.release()


def test_no_node_is_started_to_be_asked_for_its_jobs(monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    out = CliRunner().invoke(cli.main, ["jobs"])
    assert out.exit_code == 1
    assert "No private node runs" in out.output
    assert not (tmp_path / "runtime").exists()


# ---------------------------------------------------------------- time to live


def left(server, ident):
    return [name for name in server.queues() if ident in name]


def test_what_nobody_forgets_goes_after_its_time_to_live(server, client, monkeypatch, start, eventually):
    monkeypatch.setenv("NBMR_JOB_TTL", "1.5")
    big = np.arange(100_000)
    with nbmr.Client() as brief:
        finished = brief.submit([1], lambda x: x + big[0])
        assert finished.result() == [1]
        assert list(Path(finished.shared).iterdir())  # the function
        process = start(
            "-c",
            "import time, nbmr\n"
            "def endless():\n"
            "    while True:\n"
            "        yield 1\n"
            "        time.sleep(0.1)\n"
            "job = nbmr.Client().submit(endless(), str); print(job.id, flush=True); time.sleep(60)",
        )
        abandoned = process.stdout.readline().strip()
        process.kill()
        eventually(lambda: not left(server, finished.id) + left(server, abandoned), 60)
        eventually(lambda: not Path(finished.shared).exists())
        ids = set(brief.jobs()["id"])
    assert not ids & {finished.id, abandoned}


def test_what_could_not_be_deleted_at_once_is_deleted_by_a_worker(server, client, eventually):
    job = client.submit([1], str)
    assert job.result() == ["1"]
    signer, broker = Signer(client.settings.key), connect(server.info.url)
    registry.append(broker, signer, "unwanted", job=job.id).result(10)
    eventually(lambda: not left(server, job.id), 30)
    broker.release()
    assert job.id not in set(client.jobs()["id"])


def test_a_job_that_somebody_waits_for_is_kept(named, queue, monkeypatch):
    monkeypatch.setenv("NBMR_JOB_TTL", "1.5")
    with nbmr.Client(named.url, named.key) as brief, brief.workers(1, queue=queue):  # one with a janitor
        job = brief.submit([1], str, queue=f"{queue}-nobody")
        with pytest.raises(nbmr.JobTimeout):
            job.result(6)
        assert job.status == "pending"
        assert job.id in set(brief.jobs()["id"])
        job.forget()


def test_a_registration_is_renewed_before_it_is_trimmed(server, client, monkeypatch, eventually):
    monkeypatch.setattr("nbmr.worker.janitor._FRESH", 5)
    job = client.submit([1], str)
    job.result()
    signer, broker = Signer(client.settings.key), connect(server.info.url)
    janitor = Janitor(broker, signer)
    janitor.start()
    try:
        with Registry(broker, signer) as known:
            before = known.catch_up().entries()[job.id]
            for _ in range(6):
                known.catch_up()  # each leaves a mark
            eventually(lambda: known.entries()[job.id].offset > before.offset)
            after = known.entries()[job.id]
    finally:
        janitor.stop()
        janitor.join(20)
        broker.release()
    assert (after.submitted, after.blobs, after.started) == (before.submitted, before.blobs, before.started)
    job.forget()


def test_forged_registrations_are_counted_and_ignored(server, client):
    signer, broker = Signer(client.settings.key), connect(server.info.url)
    stranger = Signer("x" * 64)
    registry.register(broker, stranger, registry.registration("0" * 12, "forged", "default", 1.0)).result(10)
    broker.append(topology.jobs_stream(), [b"no message"]).result(10)
    with Registry(broker, signer) as known:
        assert "0" * 12 not in known.catch_up().entries()
        assert known.rejected >= 2
    broker.release()


def test_one_line_for_each_time_to_live_that_makes_no_sense(monkeypatch, server):
    for text in ("0", "-1", "soon", "inf"):
        monkeypatch.setenv("NBMR_JOB_TTL", text)
        with pytest.raises(nbmr.ConfigError, match="NBMR_JOB_TTL"):
            nbmr.Client()
