"""One message as it crosses the broker: sealed, and opened only if it is genuine.

Layout of a body::

    payload | header (JSON) | header's length (4 bytes) | b"nbmr1" | signature (32 bytes)

The signature covers everything before it. The header carries the time and the routing (kind, job, task), so
a genuine message that is moved elsewhere is found out by `Message.expect`. The header stands behind the
payload so that the payload's buffers keep their alignment.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nbmr import codec, compression, schema
from nbmr.compression import Compressor
from nbmr.errors import ProtocolError
from nbmr.signing import SIGNATURE_BYTES, Signer

MAGIC = b"nbmr1"
#: Most bytes of a piece: what fits one frame of 128 KiB, the largest that RabbitMQ takes by default.
PIECE_BYTES = (128 << 10) - 8
_FEWEST_BYTES = 4 + len(MAGIC) + SIGNATURE_BYTES


@dataclass(frozen=True)
class Message:
    """A genuine message."""

    #: What it is: ``"task"``, ``"result"``, ``"chunk"``, …; see `nbmr.topology`.
    kind: str
    #: Job id; empty for messages that belong to none.
    job: str = ""
    #: Task number within the job; -1 for messages that belong to none.
    task: int = -1
    #: When it was sealed, in seconds since 1970, by its sender's clock.
    time: float = 0.0
    #: Everything else the header says.
    fields: dict[str, Any] = field(default_factory=dict)
    #: The payload's bytes.
    payload: memoryview = field(default=memoryview(b""), repr=False)
    #: Whether the payload could be read; not if it is compressed, and there is no zstandard here.
    readable: bool = True

    def expect(self, *kinds: str, job: str | None = None, queue: str | None = None) -> Message:
        """Return the message if it belongs where it came from, and says what its kind must.

        Raises
        ------
        ProtocolError
            If its kind, job or queue are not those of the place it was read from, or a field is missing or
            isn't what it must be.
        """
        if self.kind not in kinds:
            raise ProtocolError(f"a message of kind {self.kind[:20]!r} where {' or '.join(kinds)} belongs")
        if job is not None and self.job != job:
            raise ProtocolError(f"a message of job {self.job[:20]!r} in the log of job {job!r}")
        if queue is not None and self.fields.get("queue") != queue:
            raise ProtocolError(f"a task for another queue in queue {queue!r}")
        schema.check(self.kind, self.fields)
        return self

    def buffers(self) -> list[codec.Buffer]:
        """Return the payload's buffers, as `nbmr.codec.encode` gave them, uncopied."""
        try:
            return codec.slices(self.payload, self.fields.get("layout", []))
        except (ValueError, TypeError) as exc:
            raise ProtocolError(f"a message whose payload isn't laid out as it says: {exc}") from exc


def seal(
    signer: Signer,
    kind: str,
    *,
    job: str = "",
    task: int = -1,
    buffers: Sequence[codec.Buffer] = (),
    compressor: Compressor | None = None,
    **fields: Any,
) -> list[bytes]:
    """Make the body of a message, signed: a copy of its buffers, in pieces of at most `PIECE_BYTES`."""
    if buffers:
        fields["layout"] = codec.layout(buffers)
    pieces = codec.pieces(buffers)
    return seal_raw(signer, kind, pieces, job=job, task=task, compressor=compressor, **fields)


def seal_raw(
    signer: Signer,
    kind: str,
    parts: Sequence[codec.Buffer] = (),
    *,
    job: str = "",
    task: int = -1,
    compressor: Compressor | None = None,
    **fields: Any,
) -> list[bytes]:
    """Like `seal`, for a payload that is laid out already."""
    if compressor is not None and (packed := compressor.pack(parts)) is not None:
        fields["zstd"], parts = sum(memoryview(part).nbytes for part in parts), [packed]
    signing = signer.start()
    pieces: list[bytes] = []
    for group in codec.cut((*parts, _tail(kind, job, task, fields)), PIECE_BYTES):
        piece = b"".join(group)
        signing.update(piece)  # right after it was copied, while it is in the processor's cache
        pieces.append(piece)
    signature = signer.finish(signing)
    if len(pieces[-1]) + len(signature) <= PIECE_BYTES:
        pieces[-1] += signature
    else:
        pieces.append(signature)
    return pieces


def _tail(kind: str, job: str, task: int, fields: dict[str, Any]) -> bytes:
    header = fields | {"kind": kind, "job": job, "task": task, "time": round(1000 * time.time())}
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + len(text).to_bytes(4, "big") + MAGIC


def unseal(signer: Signer, body: bytes | bytearray | memoryview) -> Message:
    """Open a body that came from the broker; nothing in it is looked at before its signature is verified.

    Raises
    ------
    ProtocolError
        If it is not signed with our key, damaged, or of another version of the protocol.
    """
    view = memoryview(body)
    if len(view) < _FEWEST_BYTES:
        raise ProtocolError("a message too short to be signed")
    if not signer.verify([view[:-SIGNATURE_BYTES]], view[-SIGNATURE_BYTES:]):
        raise ProtocolError("a message that is not signed with this key")
    end = len(view) - SIGNATURE_BYTES - len(MAGIC)
    if view[end : end + len(MAGIC)] != MAGIC:
        raise ProtocolError("a message of another version of the protocol")
    length = int.from_bytes(view[end - 4 : end], "big")
    start = end - 4 - length
    if start < 0:
        raise ProtocolError("a message whose header is longer than itself")
    try:
        header = json.loads(bytes(view[start : end - 4]))
        kind, job, task = header.pop("kind"), header.pop("job"), header.pop("task")
        sealed, size = header.pop("time"), header.pop("zstd", None)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as exc:
        raise ProtocolError("a message whose header can't be read") from exc
    if not (
        isinstance(kind, str)
        and schema.whole(sealed)
        and (job == "" or schema.name(job))
        and (task == -1 or schema.whole(task))
        and (size is None or schema.whole(size))
    ):
        raise ProtocolError("a message whose header can't be read: it says not what it is")
    payload, readable = view[:start], True
    if size is not None:
        readable = compression.library() is not None
        payload = compression.unpack(payload, size) if readable else memoryview(b"")
    return Message(kind, job, task, sealed / 1000, header, payload, readable)
