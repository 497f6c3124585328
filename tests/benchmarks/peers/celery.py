"""Celery on the same RabbitMQ node as nbmr; see `celery_app`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from peers.peer import PATIENCE, WORKERS, Fn, Peer


class Celery(Peer):
    """A worker with two processes, started by its own command; cloudpickle around functions."""

    imports = "import celery"

    def start(self) -> str:
        celery = [sys.executable, "-m", "celery", "--app", "celery_app"]
        alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        self.worker = subprocess.Popen([*celery, "worker", "--concurrency", str(WORKERS), *alone])
        self.connect("")
        return ""

    def connect(self, address: str) -> None:  # noqa: ARG002 - nbmr's connection file tells
        import celery_app
        import cloudpickle

        self.app, self.call, self.dumps = celery_app.app, celery_app.call, cloudpickle.dumps

    def stop(self) -> None:
        with self.app.connection_for_write() as connection:
            connection.default_channel.queue_delete(self.app.conf.task_default_queue)
        self.worker.terminate()
        try:
            self.worker.wait(10)
        except subprocess.TimeoutExpired:
            self.worker.kill()
            self.worker.wait()

    def items(self, items: Sequence[Any], fn: Fn) -> list[Any]:
        function = self.dumps(fn)
        return [answer.get(PATIENCE) for answer in [self.call.delay(function, item) for item in items]]
