"""Ray: remote functions on a local node of two processors, frames by its object store."""

from __future__ import annotations

import functools
import os
import secrets
from typing import Any

from peers.peer import WORKERS, Fn, Peer


class Ray(Peer):
    """Nothing is reported home, shown or logged. It has no executor: a call is a task."""

    imports = "import ray"

    def start(self) -> str:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # or else it puts one into the home folder
        import ray

        self._join(num_cpus=WORKERS, include_dashboard=False)
        return str(ray.get_runtime_context().gcs_address)

    def connect(self, address: str) -> None:
        self._join(address=address)

    def _join(self, **options: Any) -> None:
        import ray

        ray.init(log_to_driver=False, logging_level="ERROR", **options)
        self.ray, self.remote = ray, functools.lru_cache(8)(ray.remote)  # each is sent once

    def close(self) -> None:
        self.ray.shutdown()

    def items(self, items: list[Any], fn: Fn) -> list[Any]:
        sent = [self.ray.put(item) for item in items] if hasattr(items[0], "iloc") else items
        function = self.remote(fn)
        return list(self.ray.get([function.remote(item) for item in sent]))
