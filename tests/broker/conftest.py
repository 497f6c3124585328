"""What the tests of several files share about strangers: who knows the broker's password, and not the key."""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from pika import frame, spec
from servers import Server

from nbmr import pools


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any) -> Iterator[None]:
    """Where a test fails whose RabbitMQ is its module's own, show what that knows."""
    report = yield
    server = getattr(item, "funcargs", {}).get("broker")
    if report.when == "call" and report.failed and isinstance(server, Server) and server.alive:
        try:
            report.sections.append(("RabbitMQ", f"{server.describe()}\n{server.log()}"))
        except AssertionError as exc:  # it is too ill to tell
            report.sections.append(("RabbitMQ", str(exc)))
    return report


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = str(file)

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.file),)


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[Path]:
    """A file that must not come into being."""
    file = tmp_path / "evil"
    yield file
    assert not file.exists()


@pytest.fixture
def touch(evil: Path) -> Touch:
    """An object that makes that file when it is unpickled."""
    return Touch(evil)


@pytest.fixture
def rejections() -> Callable[[Any, str], list[tuple[str, str]]]:
    """Give a function that tells what a client's workers of a queue have logged of rejected messages."""

    def rejections(client: Any, queue: str) -> list[tuple[str, str]]:
        text = ""
        for pool in pools.living(client.settings):
            if pool.state().get("queue") == queue:
                text += pool.file.with_suffix(".log").read_text()
        return re.findall(r"rejected (.*) \((\d+) so far\)", text)

    return rejections


class Pika:
    """A stranger with nothing but pika, and the broker's URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()

    def put(self, queue: Any, *bodies: bytes, headers: dict[str, Any] | None = None) -> None:
        """Publish straight to a queue or stream; each is confirmed."""
        properties = pika.BasicProperties(headers=headers, delivery_mode=2)
        for body in bodies:
            self.channel.basic_publish("", queue.name, body, properties, mandatory=True)

    def put_many(self, queue: Any, bodies: list[bytes]) -> None:
        """Publish without waiting for each to be confirmed, and ten times as fast as pika would."""
        channel = self.connection.channel()
        publish = spec.Basic.Publish(exchange="", routing_key=queue.name)
        method = frame.Method(channel.channel_number, publish).marshal()

        def piece(kind: int, data: bytes) -> bytes:
            return (
                struct.pack(">BHL", kind, channel.channel_number, len(data)) + data + bytes([spec.FRAME_END])
            )

        for start in range(0, len(bodies), 1000):
            frames = []
            for body in bodies[start : start + 1000]:
                header = struct.pack(">HHQH", spec.Basic.INDEX, 0, len(body), 0)
                frames += [method, piece(spec.FRAME_HEADER, header)]
                frames += [piece(spec.FRAME_BODY, body)] if body else []
            self.connection._impl._output_marshaled_frames([b"".join(frames)])
            self.connection.process_data_events()
        channel.close()  # RabbitMQ has them then

    def take(self, queue: Any, count: int, *, acknowledge: bool = False) -> list[bytes]:
        """Read so many messages from a queue, or from a stream's beginning."""
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        channel = connection.channel()
        channel.basic_qos(prefetch_count=100)
        stream = queue.arguments["x-queue-type"] == "stream"
        arguments = {"x-stream-offset": "first"} if stream else None
        bodies: list[bytes] = []
        for method, _, body in channel.consume(queue.name, arguments=arguments, inactivity_timeout=10):
            assert method, f"{len(bodies)} messages of {count} in {queue.name}"
            bodies.append(body)
            if acknowledge:
                channel.basic_ack(method.delivery_tag)
            if len(bodies) == count:
                break
        with contextlib.suppress(pika.exceptions.AMQPError):  # pika gives back the rest, which streams refuse
            connection.close()
        return bodies


@pytest.fixture
def outsider(server: Any) -> Iterator[Pika]:
    """A stranger to the private node's key."""
    outsider = Pika(server.info.url)
    yield outsider
    with contextlib.suppress(pika.exceptions.AMQPError):
        outsider.connection.close()
