"""The cases: each measures one thing of one peer, and returns numbers by name.

A name ends with its unit. Of rates, efficiencies and speed-ups more is better, of all else less.
"""

from __future__ import annotations

from collections.abc import Callable

from peers import Peer

from cases.calls import executor, latency, tiny
from cases.frames import groups, mixed, rows, transfer
from cases.memory import client_memory, node_memory
from cases.processors import cpu, tail
from cases.setting import Numbers, Setting
from cases.starting import imports, start

CASES: dict[str, Callable[[Peer, Setting], Numbers]] = {
    case.__name__: case
    for case in (
        transfer, mixed, rows, groups, tiny, latency, executor, cpu, tail, start, imports, client_memory,
        node_memory,
    )
}  # fmt: skip
