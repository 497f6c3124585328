"""How a supervisor and its child talk: a header in JSON, then raw bytes, over a socket pair."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from nbmr.codec import Buffer

#: Open files that go with one byte; Linux takes 253 (SCM_MAX_FD).
FILES = 200
#: Most bytes of a payload that go in one piece with its header, so that who waits for them wakes up once.
_TOGETHER_BYTES = 64 << 10


def batched(files: Sequence[int]) -> Iterator[list[int]]:
    """Yield open files in groups of those that can go at once."""
    for start in range(0, len(files), FILES):
        yield list(files[start : start + FILES])


def send(
    sock: socket.socket, header: dict[str, Any], parts: Sequence[Buffer] = (), files: Sequence[int] = ()
) -> None:
    """Send a header, the parts of its payload, and open files.

    Raises
    ------
    OSError
        If the other side is gone.
    """
    header = header | {"size": sum(memoryview(part).nbytes for part in parts), "files": len(files)}
    text = json.dumps(header).encode()
    head = len(text).to_bytes(4, "big") + text
    if not files and header["size"] <= _TOGETHER_BYTES:
        sock.sendall(b"".join((head, *parts)))
        return
    sock.sendall(head)
    for group in batched(files):
        socket.send_fds(sock, [b"f"], group)
    for part in parts:
        sock.sendall(part)


def receive_header(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Wait for a header, and the open files that came with it.

    Raises
    ------
    EOFError
        If the other side is gone.
    """
    length = int.from_bytes(receive(sock, 4), "big")
    header: dict[str, Any] = json.loads(receive(sock, length))
    files: list[int] = []
    while len(files) < header["files"]:
        data, received, _, _ = socket.recv_fds(sock, 1, FILES)
        if not data or not received:
            raise EOFError("the other side is gone")
        files += received
    return header, files


def receive(sock: socket.socket, size: int) -> bytearray:
    """Receive exactly `size` bytes, into memory that may be written to.

    Raises
    ------
    EOFError
        If the other side is gone before that.
    """
    body = bytearray(size)
    _fill(sock, memoryview(body))
    return body


class Receiver:
    """Receives one payload after another into the same memory.

    Fresh memory costs more than what is copied into it: the kernel has to clear it first.
    """

    def __init__(self) -> None:
        self._memory = bytearray()

    def receive(self, sock: socket.socket, size: int) -> memoryview:
        """Receive exactly `size` bytes: good until the next call, or as long as there is a view of them.

        Raises
        ------
        EOFError
            If the other side is gone before that.
        """
        if size > len(self._memory) or self._in_use():
            self._memory = bytearray(size)
        view = memoryview(self._memory)[:size]
        _fill(sock, view)
        return view

    def forget(self) -> None:
        """Give the memory back."""
        self._memory = bytearray()

    def _in_use(self) -> bool:
        """Whether somebody still has a view of the memory: an array that a function kept, say."""
        try:
            self._memory.append(0)  # a bytearray can't change its size while there are views of it
        except BufferError:
            return True
        self._memory.pop()
        return False


def _fill(sock: socket.socket, view: memoryview) -> None:
    while view:
        try:
            count = sock.recv_into(view)
        except ConnectionResetError:
            count = 0
        if not count:
            raise EOFError("the other side is gone")
        view = view[count:]
