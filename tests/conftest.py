"""What all tests share: folders of their own, a private RabbitMQ node, and a look at what is left at the end.

Nothing touches the node of the person who runs the tests: Jupyter's runtime folder, the state folder and the
folder for temporary files are those of this session, for this process and for all that it starts.
"""

from __future__ import annotations

import ast
import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pika
import psutil
import pytest

import nbmr
from nbmr import config, node, pools, shared, topology
from nbmr.errors import RabbitMQNotFound
from nbmr.node.logs import logged

ROOT = Path(__file__).parents[1]
SHARED_MEMORY = Path("/dev/shm")
#: Bytes that the node takes in one message: less than RabbitMQ 4 does, and what nbmr promises to stay under.
MESSAGE_LIMIT = topology.MESSAGE_BYTES + (64 << 10)


#: The folders in the order in which their tests begin.
FOLDERS = ("browser", "broker", "notebooks", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take minutes: so no process is at one of them when all others are done."""
    items.sort(key=lambda item: FOLDERS.index(item.path.parent.name))


# ---------------------------------------------------------------- folders, and what is left at the end


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders of our own; at the end, no process, no file and no shared memory of ours is left."""
    tmp_path_factory.getbasetemp()  # stays where pytest keeps it
    home = Path(tempfile.mkdtemp(prefix="nbmr-tests-"))
    home.chmod(0o711)  # one test starts a node as another user, who needs the folder for temporary files
    temporary = home / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    before = set(_names(SHARED_MEMORY))
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("NBMR_"):
                patch.delenv(name)
        patch.setenv("JUPYTER_RUNTIME_DIR", str(home / "runtime"))
        patch.setenv("XDG_STATE_HOME", str(home / "state"))
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr(tempfile, "tempdir", str(temporary))
        yield home
        nbmr.shutdown()
        left = _wait_until_empty(lambda: _left(home, before))
    shutil.rmtree(home, ignore_errors=True)
    assert not left, "the tests left this behind:\n" + "\n".join(left)


def _left(home: Path, before: set[str]) -> list[str]:
    """Tell what is left of us: processes, shared memory, files."""
    left = [f"process {line}" for line in _processes(home)]
    left += [f"shared memory {name}" for name in _unused_memory() if name not in before]
    left += [f"file {home / 'tmp' / name}" for name in _names(home / "tmp")]
    for file in (home / "runtime").rglob("*"):
        if file.is_file() and file.suffix != ".lock":
            left.append(f"file {file}")
    left += [f"folder {folder}" for folder in (home / "state" / "nbmr").glob("*node-*")]
    return left


def _processes(home: Path) -> Iterator[str]:
    """Every living process whose arguments, environment, folder or open files are ours."""
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            files = [file.path for file in process.open_files()]
            about = [*process.cmdline(), *process.environ().values(), process.cwd(), *files]
            if any(str(home) in text for text in about):
                yield f"{process.pid} {' '.join(process.cmdline())[:200]}"


def _unused_memory() -> set[str]:
    """Shared memory that no living process has open or mapped: tests beside these may use some.

    A node's folder there is used as long as somebody has a file in its data folder open.
    """
    used = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            for file in process.open_files():
                used |= {file.path, str(shared.node_folder(Path(file.path).parent))}
            used |= {region.path for region in process.memory_maps()}
    return {name for name in _names(SHARED_MEMORY) if str(SHARED_MEMORY / name) not in used}


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _wait_until_empty(look: Callable[[], list[str]], seconds: float = 10.0) -> list[str]:
    until = time.monotonic() + seconds
    while (found := look()) and time.monotonic() < until:
        time.sleep(0.1)
    return found


# ---------------------------------------------------------------- RabbitMQ


@dataclass(frozen=True)
class Server:
    """The private node's RabbitMQ, as its administrator sees it."""

    info: Any
    #: Lines of its log that a test has caused on purpose.
    expected: list[str] = field(default_factory=list)

    def eval(self, expression: str) -> str:
        """Evaluate an Erlang expression in the server; takes a second."""
        done = subprocess.run(
            [node.find_server().parent / "rabbitmqctl", "eval", expression],
            env=psutil.Process(self.info.node_pid).environ(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def queues(self) -> list[str]:
        """Name every queue and stream, of all virtual hosts."""
        text = self.eval(
            'io:format("~p", [[binary_to_list(element(4, amqqueue:get_name(Q)))'
            " || Q <- rabbit_amqqueue:list()]])."
        )
        return list(ast.literal_eval(text.removesuffix("ok").strip()))

    def deprecated(self) -> list[str]:
        """Lines of its log about the use of what a later RabbitMQ will refuse; it has them from 3.13 on."""
        lines = logged(Path(self.info.data_dir, "log")).splitlines()
        return [line for line in lines if "Deprecated features: `" in line and line not in self.expected]

    def bytes_sent(self) -> int:
        """How many bytes RabbitMQ has sent on the connections that are open now."""
        return int(
            self.eval(
                "lists:sum([proplists:get_value(send_oct, C) || C <-"
                " rabbit_networking:connection_info_all([send_oct])])."
            )
        )


@pytest.fixture(scope="session")
def rabbitmq() -> None:
    """RabbitMQ is installed; or else tests that need it are skipped, and fail where CI is set."""
    try:
        node.find_server()
    except RabbitMQNotFound as exc:
        if os.environ.get("CI"):
            pytest.fail(str(exc))
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def server(home: Path, rabbitmq: None) -> Iterator[Server]:
    """The private node of this session; at the end, nothing of any job is left on it."""
    server = Server(node.ensure())
    with node.hold(server.info.data_dir, "clients"):
        server.eval(
            f"application:set_env(rabbit, max_message_size, {MESSAGE_LIMIT}),"
            f" persistent_term:put(max_message_size, {MESSAGE_LIMIT}),"
            ' rabbit_vhost:add(<<"named">>, <<"tests">>),'
            ' rabbit_auth_backend_internal:add_user(<<"tester">>, <<"secret">>, <<"tests">>),'
            ' rabbit_auth_backend_internal:set_permissions(<<"tester">>, <<"named">>,'
            ' <<".*">>, <<".*">>, <<".*">>, <<"tests">>).'
        )
        yield server
        left = _wait_until_empty(lambda: [name for name in server.queues() if name.startswith("nbmr.job.")])
        deprecated = server.deprecated()
    assert not left, f"jobs left these on the broker: {left}"
    assert not deprecated, "RabbitMQ warned of us:\n" + "\n".join(deprecated)


@dataclass(frozen=True)
class Named:
    """A broker that is named: a virtual host of the node, with a user of its own."""

    url: str
    key: str
    key_file: Path
    port: int


@pytest.fixture(scope="session")
def named(server: Server, home: Path) -> Named:
    """A broker that is no private node, as far as clients and workers can see."""
    key = secrets.token_hex(32)
    file = home / "key"
    file.write_text(key + "\n")
    file.chmod(0o600)
    port = server.info.port
    return Named(f"amqp://tester:secret@127.0.0.1:{port}/named", key, file, port)


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[nbmr.Client]:
    """A client of the private node, with two workers on the default queue."""
    with nbmr.Client() as client, client.workers(2):
        yield client


@pytest.fixture
def queue(server: Server) -> Iterator[str]:
    """The name of a queue for this test alone; it is deleted from both brokers at the end."""
    name = f"test-{secrets.token_hex(4)}"
    yield name
    for pool in pools.living(config.Settings("", "", server.info.data_dir)):
        if pool.state().get("queue") == name:
            pool.stop(now=True)
    for url in (server.info.url, f"amqp://tester:secret@127.0.0.1:{server.info.port}/named"):
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
            channel = connection.channel()
            for queue in (topology.task_queue(name), topology.dead_queue(name)):
                channel.queue_delete(queue.name)


# ---------------------------------------------------------------- helpers


@pytest.fixture
def in_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no payload of this process' jobs lie in shared memory, as with a broker on another host."""
    monkeypatch.setattr("nbmr.shared.make_folder", lambda _data_dir, _job: "")


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Give a function that waits until a condition holds, and returns what it gave."""

    def eventually(condition: Callable[[], Any], seconds: float = 45.0) -> Any:
        until = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < until, "it did not happen in time"
            time.sleep(0.02)
        return result

    return eventually


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Give a function that starts Python with these arguments; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        environment = {**os.environ, "PYTHONPATH": path, **options.pop("env", {})}
        process = subprocess.Popen([sys.executable, *arguments], env=environment, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        with process:  # closes its pipes, and waits
            pass


@pytest.fixture(scope="session")
def virtual_environment() -> Callable[..., Path]:
    """Give a function that makes a virtual environment with our packages, and with nbmr or without it."""

    def virtual_environment(folder: Path, *, with_nbmr: bool = True) -> Path:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        (packages,) = folder.glob("lib/python*/site-packages")
        if with_nbmr:
            (packages / "nbmr").symlink_to(ROOT / "nbmr")
            ours = [path for path in sys.path if path.endswith("site-packages")]
            (packages / "others.pth").write_text("\n".join(ours) + "\n")
        return folder

    return virtual_environment
