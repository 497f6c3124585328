"""The private node: a real RabbitMQ, started, killed, left alone and stopped."""

import dataclasses
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pika
import psutil
import pytest
from notes import connections_of

from nbmr import node
from nbmr.errors import ConfigError, NodeError, RabbitMQNotFound
from nbmr.node import configuration, connection_file, install
from nbmr.node.folder import check_disk
from nbmr.node.presence import nobody
from nbmr.node.probe import probe
from nbmr.node.processes import gone

ROOT = Path(__file__).parents[2]
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory, rabbitmq):
    """Folders of our own, so that no other node is touched; at the end nothing is left."""
    home = tmp_path_factory.mktemp("home ü")  # a path that a shell would split
    with pytest.MonkeyPatch.context() as patch:
        use(patch, home)
        yield home
        node.stop()
        assert not left_over(home)


@pytest.fixture
def info():
    """The living node of this module, started if need be."""
    return node.ensure()


@pytest.fixture
def other_home(tmp_path, monkeypatch):
    """Folders for a node of this test's own."""
    use(monkeypatch, tmp_path)
    yield tmp_path
    node.stop()
    eventually(lambda: not left_over(tmp_path))


def use(patch, home):
    for name in ("NBMR_NODE_IDLE", "NBMR_RABBITMQ_SERVER"):
        patch.delenv(name, raising=False)
    patch.setenv("JUPYTER_RUNTIME_DIR", str(home / "runtime"))
    patch.setenv("XDG_STATE_HOME", str(home / "state"))


def left_over(home):
    """Processes and data folders that a node left."""
    processes = [p.info for p in psutil.process_iter(["pid", "cmdline", "cwd"]) if str(home) in str(p.info)]
    return processes + list((home / "state" / "nbmr").glob("*node-*")) + list(home.glob("runtime/*.json"))


def family(info):
    """Every process of a node: the keeper, epmd, the server, and what these started."""
    top = psutil.Process(info.keeper_pid)
    return [top, *top.children(recursive=True)]


def all_gone(processes, timeout=1.0):
    """Whether these end in time; zombies have ended, and wait for process 1 to notice."""
    return gone(processes, timeout)


def eventually(condition, timeout=30.0):
    until = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)
    return result


def python(code, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, **options
    )


def kill_keeper(info):
    os.kill(info.keeper_pid, signal.SIGKILL)
    eventually(lambda: not node.living(info.keeper_pid))


def channel(info):
    return pika.BlockingConnection(pika.URLParameters(info.url)).channel()


def test_it_starts_and_takes_messages_at_once(info):
    ch = channel(info)
    ch.confirm_delivery()
    ch.queue_declare("now", durable=True, arguments={"x-queue-type": "quorum"})
    ch.basic_publish("", "now", b"x" * 8_000_000)
    assert ch.basic_get("now", auto_ack=True)[2] == b"x" * 8_000_000
    ch.connection.close()
    assert len(bytes.fromhex(info.key)) == 32
    assert info.rabbitmq_version[0].isdigit()


def test_a_second_use_finds_the_same_node_quickly(info):
    began = time.monotonic()
    assert node.ensure() == info
    assert time.monotonic() - began < 0.5


def test_everything_listens_on_loopback_only(info):
    listening = [
        (p.name(), c.laddr) for p in family(info) for c in connections_of(p) if c.status == psutil.CONN_LISTEN
    ]
    names = {name for name, _ in listening}
    assert any("beam" in name for name in names)
    assert any("epmd" in name for name in names)
    assert {address.ip for _, address in listening} <= LOOPBACK
    assert len({address.port for _, address in listening}) == 3  # AMQP, distribution, epmd


def test_secrets_stay_secret(info):
    password = pika.URLParameters(info.url).credentials.password
    for process in family(info):
        assert password not in str(process.cmdline())
        assert password not in str(process.environ())
    assert password not in repr(info)
    assert info.key not in repr(info)
    file = connection_file.path()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(info.data_dir).stat().st_mode) == 0o700
    with pytest.raises(pika.exceptions.ProbableAuthenticationError):
        pika.BlockingConnection(pika.URLParameters(info.url.replace(password, "guess")))


def test_an_exposed_connection_file_is_refused(info):
    file = connection_file.path()
    file.chmod(0o640)
    try:
        with pytest.raises(ConfigError, match="chmod 600"):
            node.ensure()
    finally:
        file.chmod(0o600)


def test_status_describes_it(info):
    status = node.status()
    assert status["answers"]
    assert status["node_pid"] == info.node_pid
    assert status["memory"] > 50e6
    assert not status["clients"]
    with node.hold(info.data_dir, "clients"), node.hold(info.data_dir, "jobs"):
        assert node.status()["clients"]
        assert node.status()["busy"]
    assert not node.status()["clients"]
    assert pika.URLParameters(info.url).credentials.password not in str(status)


def test_a_killed_server_comes_back_with_its_messages(info):
    ch = channel(info)
    ch.confirm_delivery()
    ch.queue_declare("kept", durable=True, arguments={"x-queue-type": "quorum"})
    for i in range(100):
        ch.basic_publish("", "kept", str(i).encode())
    # RabbitMQ saves its list of quorum queues every half second only: one declared just before is lost.
    lists = list(Path(info.data_dir).glob("data/*/quorum/*/names.dets"))
    eventually(lambda: any(b"kept" in file.read_bytes() for file in lists))
    ch.connection.close()
    os.killpg(info.node_pid, signal.SIGKILL)
    again = node.ensure()  # waits until the keeper has restarted it
    assert again.url == info.url
    assert again.keeper_pid == info.keeper_pid
    eventually(lambda: node.ensure().node_pid != info.node_pid)
    ch = channel(again)
    ch.confirm_delivery()
    got = [eventually(lambda: ch.basic_get("kept", auto_ack=True)[2]) for _ in range(100)]
    assert got == [str(i).encode() for i in range(100)]
    ch.connection.close()


@pytest.mark.slow
def test_a_killed_keeper_is_replaced_and_its_server_kept(other_home, monkeypatch):
    monkeypatch.setenv("NBMR_NODE_IDLE", "1")
    info = node.ensure()
    ch = channel(info)
    ch.confirm_delivery()
    ch.queue_declare("kept", durable=True, arguments={"x-queue-type": "quorum"})
    ch.basic_publish("", "kept", b"a job")
    with node.hold(info.data_dir, "clients"):
        before = family(info)[1:]
        [epmd] = [p for p in before if "epmd" in p.name()]
        kill_keeper(info)
        assert node.status() is None
        said = []
        new = node.ensure(said.append)
        assert "Taking over" in said[0]
        assert new.keeper_pid != info.keeper_pid
        assert (
            dataclasses.replace(new, keeper_pid=info.keeper_pid, keeper_started=info.keeper_started) == info
        )
        assert [p for p in before if not p.is_running()] == []
        assert node.ensure() == new
        assert ch.basic_get("kept", auto_ack=True)[2] == b"a job"  # on a connection from before
        ch.connection.close()
        os.killpg(new.node_pid, signal.SIGKILL)  # the new keeper brings back what it did not start
        again = eventually(lambda: node.ensure().node_pid != info.node_pid and node.ensure())
        assert (again.url, again.key, again.keeper_pid) == (info.url, info.key, new.keeper_pid)
        channel(again).connection.close()
        os.kill(epmd.pid, signal.SIGKILL)
        eventually(lambda: [p for p in family(new) if "epmd" in p.name()])
        with pytest.raises(psutil.TimeoutExpired):  # it sees the client that came before it
            psutil.Process(new.keeper_pid).wait(2.5)
    eventually(lambda: not left_over(other_home))  # nobody uses it


def test_a_killed_keeper_and_its_hung_server_are_replaced(info):
    before = family(info)
    os.killpg(info.node_pid, signal.SIGSTOP)  # as good as dead, and no keeper may bring it back meanwhile
    kill_keeper(info)
    new = node.ensure()
    assert new.keeper_pid != info.keeper_pid
    assert new.node_pid != info.node_pid
    assert probe(new.port)
    assert all_gone(before)
    assert (new.data_dir, new.url, new.key) == (info.data_dir, info.url, info.key)  # with all its jobs


def test_stop_ends_everything_and_the_workers(info):
    code = "from signal import *; import time; signal(SIGTERM, {}); print(1, flush=True); time.sleep(99)"
    pools = [python(code.format(on_term), start_new_session=True) for on_term in ("SIG_DFL", "SIG_IGN")]
    for pool in pools:
        assert pool.stdout.readline() == "1\n"
        record = {"pid": pool.pid, "started": node.start_time(pool.pid)}
        (Path(info.data_dir) / "pools" / f"{pool.pid}.json").write_text(json.dumps(record))
    before = family(info)
    assert node.stop()
    for pool, number in zip(pools, (signal.SIGTERM, signal.SIGKILL), strict=True):
        assert pool.wait(1) == -number
        pool.stdout.close()
    assert all_gone(before)
    assert not Path(info.data_dir).exists()
    assert not connection_file.path().exists()
    assert node.status() is None
    assert not node.stop()
    with pytest.raises(NodeError, match="has ended"):
        node.hold(info.data_dir, "clients")


def test_two_kernels_at_once_get_one_node():
    node.stop()
    code = "from nbmr import node; i = node.ensure(print); print(i.keeper_pid, i.node_pid, i.data_dir)"
    kernels = [python(code), python(code)]
    said = [kernel.communicate(timeout=60)[0] for kernel in kernels]
    assert [kernel.returncode for kernel in kernels] == [0, 0]
    assert said[0].splitlines()[-1] == said[1].splitlines()[-1]
    assert any("Starting a private RabbitMQ node" in text for text in said)
    assert any("another kernel is starting" in text for text in said)


def test_an_interrupted_start_leaves_nothing_broken(other_home):
    code = "from nbmr import node; node.ensure(lambda line: print(line, flush=True))"
    kernel = python(code, stderr=subprocess.DEVNULL)
    assert "Starting" in kernel.stdout.readline()
    kernel.send_signal(signal.SIGINT)
    kernel.communicate(timeout=10)
    assert kernel.returncode != 0
    assert probe(node.ensure().port)
    assert len(list((other_home / "state" / "nbmr").glob("node-*"))) == 1


def test_a_start_can_be_stopped(other_home):
    code = "from nbmr import node; node.ensure(lambda line: print(line, flush=True))"
    kernel = python(code, stderr=subprocess.PIPE)
    eventually(lambda: list(other_home.glob("state/nbmr/node-*/process-server.json")))
    began = time.monotonic()
    assert node.stop()
    assert time.monotonic() - began < 3
    assert "NodeError" in kernel.communicate(timeout=10)[1]
    assert not left_over(other_home)


def test_a_hung_keeper_is_no_obstacle(other_home, monkeypatch):
    monkeypatch.setattr("nbmr.node.node.KEEPER_GRACE", 0.5)
    info = node.ensure()
    before = family(info)
    os.kill(info.keeper_pid, signal.SIGSTOP)
    assert node.stop()
    assert all_gone(before)


def test_a_stale_file_and_a_dead_node_are_no_obstacle(other_home, monkeypatch):
    monkeypatch.setenv("NBMR_NODE_IDLE", "1")  # also shows that it ends by itself
    gone = subprocess.Popen(["true"])
    gone.wait()
    stale = connection_file.ConnectionInfo(
        url="amqp://nbmr:x@127.0.0.1:9/%2F", key="00", keeper_pid=gone.pid, keeper_started=1.0,
        node_pid=gone.pid, data_dir=str(other_home / "precious"), rabbitmq_version="3", started=1.0,
    )  # fmt: skip
    connection_file.write(stale)
    (other_home / "precious").mkdir()
    (other_home / "state" / "nbmr" / "node-dead").mkdir(parents=True)
    user = python(
        "import time; from nbmr import node; i = node.ensure(); p = node.hold(i.data_dir, 'clients')\n"
        "print(i.keeper_pid, flush=True); time.sleep(99)"
    )
    kept = psutil.Process(int(user.stdout.readline()))
    assert (other_home / "precious").exists()  # it isn't a node's
    assert [p.name for p in (other_home / "state" / "nbmr").iterdir() if p.name == "node-dead"] == []
    with pytest.raises(psutil.TimeoutExpired):  # a client is there
        kept.wait(2.5)
    user.kill()  # a client needs no time to say that it goes
    user.communicate()
    kept.wait(5)
    assert not left_over(other_home)


def test_a_file_that_cannot_be_understood_is_no_file(other_home):
    for text in ("", "{", "[]", '{"url": "amqp://"}', '{"key": 3}'):
        connection_file.path().parent.mkdir(exist_ok=True)
        connection_file.path().write_text(text)
        connection_file.path().chmod(0o600)
        assert connection_file.read() is None
    connection_file.remove()


def test_a_presence_ends_with_its_process_not_with_its_forks(tmp_path):
    lock = tmp_path / "jobs.lock"
    lock.touch()
    with node.hold(tmp_path, "jobs") as presence:
        presence.hold()
        assert not nobody(lock)
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            os.close(theirs)
            os.read(ours, 1)  # lives on
            os._exit(0)
        os.close(ours)
        assert not nobody(lock)
        presence.release()
        assert nobody(lock)  # although the child lives
        os.close(theirs)
        os.waitpid(child, 0)
        assert not nobody(presence.hold()._file)
    assert nobody(lock)


def test_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "SERVERS", ())
    monkeypatch.setattr(install, "PROGRAMS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RabbitMQNotFound, match="NBMR_URL"):
        node.find_server()
    (tmp_path / "apt-get").touch(0o755)
    with pytest.raises(RabbitMQNotFound, match="sudo apt-get install rabbitmq-server"):
        node.find_server()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(RabbitMQNotFound, match="brew install rabbitmq"):
        node.find_server()


def test_the_reason_of_a_failed_start_reaches_the_caller(other_home, monkeypatch):
    monkeypatch.setenv("NBMR_RABBITMQ_SERVER", str(other_home / "missing"))
    with pytest.raises(RabbitMQNotFound, match="missing"):
        node.ensure()
    server = other_home / "server"
    server.write_text("#!/bin/sh\necho 'BOOT FAILED\n====\ncannot allocate 42 GB'; exit 1\n")
    server.chmod(0o755)
    monkeypatch.setenv("NBMR_RABBITMQ_SERVER", str(server))
    with pytest.raises(NodeError, match="cannot allocate 42 GB"):
        node.ensure()
    eventually(lambda: not left_over(other_home))
    monkeypatch.setenv("NBMR_NODE_IDLE", "soon")
    with pytest.raises(ConfigError, match="NBMR_NODE_IDLE"):
        node.ensure()


def test_a_taken_port_is_tried_elsewhere(other_home, monkeypatch):
    """The first ports that are drawn are in use; the keeper runs in a process where that is arranged."""
    code = """
import socket
from nbmr.node import configuration, keeper
taken = socket.create_server(("127.0.0.1", 0))
draw, draws = configuration.free_ports, []
def free_ports(n):
    draws.append(n)
    return [taken.getsockname()[1], *draw(n)[1:]] if len(draws) == 1 else draw(n)
configuration.free_ports = free_ports
keeper.main(["--idle=0.1"])
"""
    process = python(code)
    said = process.communicate(timeout=60)[0]
    assert "trying other ports" in said
    assert "answers on port" in said
    assert process.returncode == 0


@pytest.mark.parametrize("told", ["32768\t60999\n", "1024 65535", "not a number", None])
def test_ports_that_no_outgoing_connection_is_given(tmp_path, monkeypatch, told):
    file = tmp_path / "range"
    if told is not None:
        file.write_text(told)
    monkeypatch.setattr(configuration, "_OUTGOING", file)
    ports = configuration.free_ports(20)
    assert len(set(ports)) == 20
    if told == "32768\t60999\n":
        assert all(20_000 <= port < 32_768 for port in ports)


def test_too_little_disk_space(tmp_path):
    with pytest.raises(NodeError, match=r"Too little free disk space.*NBMR_URL"):
        check_disk(tmp_path / "state", needed=2**62)


def test_an_ordinary_user_can_start_it(request):
    """As root, another user runs the keeper; otherwise every test here shows it already."""
    if os.getuid() != 0:
        assert probe(node.ensure().port)
        return
    user = pwd.getpwnam("nobody")
    home = Path(tempfile.mkdtemp(prefix="nbmr-"))  # pytest's own folders are closed to other users
    request.addfinalizer(lambda: shutil.rmtree(home))
    os.chown(home, user.pw_uid, user.pw_gid)
    # What Python would load later is loaded as root: it may lie where the user can't read it.
    process = python(
        f"import encodings.idna, os; from nbmr.node import keeper; os.setgroups([])\n"
        f"os.setgid({user.pw_gid}); os.setuid({user.pw_uid}); os.environ['HOME'] = {str(home)!r}\n"
        f"keeper.main(['--idle=60', '--connection-file={home}/node.json', '--state-dir={home}/state'])"
    )
    eventually(lambda: (home / "node.json").exists() or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    assert (home / "node.json").stat().st_uid == user.pw_uid
    before = psutil.Process(process.pid).children(recursive=True)
    assert {p.uids().real for p in before} == {user.pw_uid}
    began = time.monotonic()
    process.terminate()
    assert process.wait(5) == 0
    process.stdout.close()
    assert time.monotonic() - began < 2
    assert all_gone(before)
    assert not left_over(home)
