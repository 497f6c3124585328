"""nbmr doctor: what it says where all is well, and where something is not."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

import nbmr
from nbmr import api, checks, examination, node, topology
from nbmr.broker import connect
from nbmr.checks import Patient
from nbmr.examination import examine
from nbmr.roster import WorkerFacts
from nbmr.versions import local_versions


@pytest.fixture
def nowhere(home, tmp_path, monkeypatch):
    """Folders in which no node runs."""
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def lines(found, subject):
    return [(line.status, line.text) for line in found if line.subject == subject]


def told(found, subject):
    (line,) = lines(found, subject)
    return line


def command_line(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "nbmr", "doctor", *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(nbmr.__file__).parents[1]), **environment},
        capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip


def test_all_is_well_with_the_private_node(client):
    done = command_line()
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    *found, last = done.stdout.splitlines()
    assert last == "No problem was found."
    assert all(line.startswith("ok  ") for line in found)
    subjects = [line[4:].partition(":")[0] for line in found]
    assert subjects == [
        "nbmr", "RabbitMQ", "private node", "start", "disk", "memory", "key", "connection", "alarms",
        "workers", "versions", "clock", "memory limits",
    ]  # fmt: skip
    assert f"RabbitMQ {client._broker.version} at 127.0.0.1" in done.stdout
    assert client.settings.key not in done.stdout
    assert re.search("amqp://[^@]*:([^@]*)@", client.settings.url)[1] not in done.stdout


def test_the_same_in_a_cell(client, monkeypatch):
    monkeypatch.setattr(api, "_default", [])
    report = nbmr.doctor()
    assert report.ok
    assert repr(report).endswith("No problem was found.")
    assert api._default == []


def test_it_tries_whether_rabbitmq_starts_and_leaves_nothing(rabbitmq, nowhere, eventually):
    before = {process.pid for process in psutil.process_iter()}
    found = list(examine())
    status, text = told(found, "start")
    assert status == "ok"
    assert "can start here" in text
    assert told(found, "private node") == ("ok", "none runs; the first call starts one")
    assert told(found, "connection")[0] == "unknown"
    assert node.status() is None
    assert list((nowhere / "state" / "nbmr").iterdir()) == []
    # what the server has started ends by itself
    eventually(
        lambda: not [p for p in psutil.process_iter() if p.pid not in before and str(nowhere) in _about(p)]
    )
    assert not lines(examine(start=False), "start")


def _about(process):
    with contextlib.suppress(psutil.Error):
        return " ".join([*process.cmdline(), *process.environ().values()])
    return ""


def test_a_rabbitmq_that_cannot_start(nowhere, monkeypatch, tmp_path):
    broken = tmp_path / "rabbitmq_server-3.11.2" / "sbin" / "rabbitmq-server"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\necho BOOT FAILED\necho no such locale\nexit 1\n")
    broken.chmod(0o755)
    done = command_line(NBMR_RABBITMQ_SERVER=str(broken))
    assert done.returncode == 1
    assert f"ok  RabbitMQ: 3.11.2 at {broken}" in done.stdout
    assert re.search("!!  start: .*no such locale.*NBMR_URL", done.stdout)
    assert "1 problem" in done.stdout


def test_no_rabbitmq(nowhere, monkeypatch):
    monkeypatch.setenv("NBMR_RABBITMQ_SERVER", "/nowhere/rabbitmq-server")
    found = list(examine())
    assert told(found, "RabbitMQ")[0] == "problem"
    assert lines(found, "start") == []  # told once
    found = list(examine("amqp://127.0.0.1:1", "k" * 64))
    assert told(found, "RabbitMQ") == ("ok", "not installed here, nor needed: a broker is named")


def test_a_rabbitmq_that_is_too_old(nowhere, monkeypatch, tmp_path):
    script = tmp_path / "rabbitmq_server-3.9.13" / "sbin" / "rabbitmq-server"
    script.parent.mkdir(parents=True)
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("NBMR_RABBITMQ_SERVER", str(script))
    status, text = told(examine(start=False), "RabbitMQ")
    assert status == "problem"
    assert "3.9.13" in text


def test_a_named_broker(named, queue):
    with nbmr.Client(named.url, named.key) as client, client.workers(1, queue, memory_limit="1GB"):
        found = list(examine(named.url, key_file=named.key_file))
    assert {line.status for line in found} == {"ok"}
    assert "tester@127.0.0.1" in told(found, "connection")[1]
    assert str(named.key_file) in lines(found, "key")[0][1]
    assert lines(found, "key")[1] == ("ok", "it is the one that this broker is used with")
    assert any(f"1 on queue {queue}" in text for _, text in lines(found, "workers"))
    assert "secret" not in str(found)
    assert named.key not in str(found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("127.0.0.1", "no-such-host.invalid"), "no host called"),
        (("secret", "wrong"), "refuses user 'tester' or the password"),
        (("/named", "/other"), "no virtual host 'other'"),
        (("amqp://", "amqps://"), "doesn't speak TLS"),
        (("amqp://", "http://"), "has to be amqp:// or amqps://"),
    ],
)
def test_what_is_wrong_with_a_connection(named, change, said):
    found = list(examine(named.url.replace(*change), named.key))
    status, text = told(found, "connection")
    assert status == "problem"
    assert said in text
    assert lines(found, "alarms") == []


def test_what_is_wrong_with_a_key(named, tmp_path):
    with nbmr.Client(named.url, named.key):
        pass  # so that the broker has a key
    found = list(examine(named.url, "f" * 64))
    assert lines(found, "key")[1][0] == "problem"
    assert "another one" in lines(found, "key")[1][1]
    assert lines(found, "workers") == []  # they would count its question as forged
    file = tmp_path / "key"
    file.write_text(named.key)
    file.chmod(0o644)
    found = list(examine(named.url, key_file=file))
    (status, text), *_ = lines(found, "key")
    assert (status, f"chmod 600 {file}" in text) == ("problem", True)
    assert told(found, "connection")[0] == "ok"  # that can be looked at without


def test_it_claims_no_broker_for_its_key(server):
    server.eval('rabbit_vhost:add(<<"fresh">>, <<"tests">>).')
    server.eval(
        "rabbit_auth_backend_internal:set_permissions"
        '(<<"tester">>, <<"fresh">>, <<".*">>, <<".*">>, <<".*">>, <<"tests">>).'
    )
    url = f"amqp://tester:secret@127.0.0.1:{server.info.port}/fresh"
    try:
        found = list(examine(url, "f" * 64))
        assert "none yet" in lines(found, "key")[1][1]
        broker = connect(url)
        assert not broker.exists(topology.key_stream())
        broker.release()
    finally:
        server.eval('rabbit_vhost:delete(<<"fresh">>, <<"tests">>).')


def test_an_alarm(server, client):
    alarm = "{resource_limit, disk, node()}"
    server.eval(f"rabbit_alarm:set_alarm({{{alarm}, []}}).")
    try:
        status, text = told(examine(), "alarms")
        assert status == "problem"
        assert "takes no messages" in text
    finally:
        server.eval(f"rabbit_alarm:clear_alarm({alarm}).")
    assert told(examine(), "alarms")[0] == "ok"


def test_a_clock_that_is_wrong(client, queue, start, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import time\nreal = time.time\ntime.time = lambda: real() + 3600\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(nbmr.__file__).parents[1])])
    worker = start("-m", "nbmr", "worker", "--queue", queue, env={"PYTHONPATH": path})
    assert "Ready" in worker.stderr.readline()
    status, text = told(examine(), "clock")
    assert status == "problem"
    assert re.search(r"is 1 h 00 min ahead of this one: set both by NTP|59 min 5\d s ahead", text)
    worker.terminate()
    worker.communicate(timeout=60)


def test_workers_of_another_version_and_with_too_much_memory():
    ours = local_versions()
    huge = checks.machine.memory_total()
    host = checks.platform.node()
    patient = Patient("", None, None)
    patient.heard = [
        WorkerFacts("a:1", host, 1, "default", "x", memory_limit=huge, versions=ours),
        WorkerFacts("a:2", host, 2, "default", "y", memory_limit=huge, versions=ours),
    ]
    (line,) = checks.check_limits(patient)
    assert line.status == "problem"
    assert "smaller memory_limit" in line.text
    patient.heard = [WorkerFacts("a:1", "elsewhere", 1, "default", "x", memory_limit=3 * huge)]
    assert list(checks.check_limits(patient)) == []


def test_a_check_that_hangs_or_fails_is_told(monkeypatch):
    ended = threading.Event()

    def hang(_patient):
        ended.wait()
        yield checks.ok("name", "late")

    def fail(_patient):
        yield checks.ok("disk", "first")
        raise ZeroDivisionError

    monkeypatch.setattr(examination, "CHECK_SECONDS", 0.3)
    monkeypatch.setattr(examination, "_SPARE_SECONDS", 0.1)
    monkeypatch.setattr(examination, "_CHECKS", (("name", hang), ("disk", fail)))
    began = time.monotonic()
    found = list(examine())
    assert time.monotonic() - began < 30
    ended.set()
    assert [str(line) for line in found] == [
        "??  name: no answer within 0.3 s; something hangs.",
        "ok  disk: first",
        "??  disk: this check failed: ZeroDivisionError:",
    ]


def test_a_limit_of_a_container(tmp_path):
    assert checks.machine.memory_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    assert checks.machine.memory_limit(tmp_path) is None
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert checks.machine.memory_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000000000\n")
    assert checks.machine.memory_limit(tmp_path) == 10**9


def test_little_memory_and_little_disk(monkeypatch, nowhere):
    patient = Patient("", None, None)
    monkeypatch.setattr(checks.machine, "memory_limit", lambda: 10**9)
    (line,) = checks.check_memory(patient)
    assert line.status == "problem"
    assert "1.0 GB" in line.text
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: checks.shutil._ntuple_diskusage(10, 5, 5))
    (line,) = checks.check_disk(patient)
    assert line.status == "problem"
    assert "free some" in line.text
