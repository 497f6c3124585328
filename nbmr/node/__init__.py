"""The private RabbitMQ node of this user: find it, start it, ask after it, stop it.

A node is owned by its keeper, a process of its own (`nbmr.node.keeper`), so that it outlives the kernel that
started it. What is known of it lies in its data folder (`nbmr.node.folder`). How to reach it stands in the
connection file (`nbmr.node.connection_file`).
"""

from nbmr.node.configuration import DISK_LIMIT, memory_watermark
from nbmr.node.folder import DISK_NEEDED
from nbmr.node.install import find_program, find_server, server_version
from nbmr.node.node import abandoned, ensure, last_failure, revive, status, stop
from nbmr.node.presence import Presence, hold
from nbmr.node.processes import identity, living, start_time
from nbmr.node.trial import try_start

__all__ = [
    "DISK_LIMIT",
    "DISK_NEEDED",
    "Presence",
    "abandoned",
    "ensure",
    "find_program",
    "find_server",
    "hold",
    "identity",
    "last_failure",
    "living",
    "memory_watermark",
    "revive",
    "server_version",
    "start_time",
    "status",
    "stop",
    "try_start",
]
