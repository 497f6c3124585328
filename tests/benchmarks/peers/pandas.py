"""Plain pandas, in this process."""

from __future__ import annotations

from typing import Any

from peers.peer import Fn, Peer


class Pandas(Peer):
    """One call of the function for a whole frame, and no other process."""

    skips = frozenset({"latency", "executor", "node_memory"})
    imports = "import pandas"

    def start(self) -> str:
        return ""

    def connect(self, address: str) -> None:
        pass

    def items(self, items: list[Any], fn: Fn) -> list[Any]:
        return [fn(item) for item in items]

    def batched(self, items: list[Any], fn: Fn) -> list[Any]:
        return self.items(items, fn)

    def frame(self, df: Any, fn: Fn, partitions: int | None) -> Any:  # noqa: ARG002 - none
        return fn(df)

    def groups(self, df: Any, by: str, fn: Fn) -> Any:
        return df.groupby(by).apply(fn)

    def prove(self) -> None:
        pass
