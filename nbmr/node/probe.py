"""A look at a port: whether AMQP answers there."""

from __future__ import annotations

import re
import socket


def probe(port: int, timeout: float = 2.0) -> str | None:
    """Return RabbitMQ's version, where AMQP answers on this port of 127.0.0.1; otherwise None."""
    header = 7  # type, channel and size of a frame; a frame ends with one byte more
    try:
        with socket.create_connection(("127.0.0.1", port), timeout) as s:
            s.settimeout(timeout)
            s.sendall(b"AMQP\x00\x00\x09\x01")
            data = b""
            # A method frame (1) with class connection (10), method start (10), then the server's properties.
            while len(data) < header or len(data) < header + 1 + int.from_bytes(data[3:7], "big"):
                if not (chunk := s.recv(4096)):
                    return None
                data += chunk
    except OSError:
        return None
    if data[:1] != b"\x01" or data[7:11] != b"\x00\x0a\x00\x0a":
        return None
    version = re.search(rb"\x07versionS...(.)", data, re.DOTALL)
    return data[version.end() : version.end() + version[1][0]].decode() if version else "unknown"
