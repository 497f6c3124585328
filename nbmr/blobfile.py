"""A large payload, read from its stream into a file.

A file without a name is gone with its last user, however that ends; who maps it shares its pages.
"""

from __future__ import annotations

import os
import queue
import tempfile
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from nbmr import compression, message, shared, topology
from nbmr.broker import Broker, Delivery, NotFound
from nbmr.errors import BrokerError, ProtocolError
from nbmr.signing import Signer

#: Seconds without any chunk after which a blob is given up.
_STALLED = 60.0


class BlobGone(BrokerError):
    """The blob was deleted: its job is over."""


def read(
    broker: Broker,
    signer: Signer,
    job: str,
    reference: dict[str, Any],
    on_rejected: Callable[[ProtocolError], None] = lambda _error: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> BinaryIO:
    """Read a blob into a file without a name; the caller closes it.

    Parameters
    ----------
    broker, signer
        Where it is, and what verifies it.
    job
        The job whose blob it is.
    reference
        What the task says of it: ``name``, and ``size`` in bytes; and more if it lies in shared memory.
    on_rejected
        Called with the error for each message that isn't genuine.
    cancelled
        Asked now and then whether the blob is still wanted.

    Raises
    ------
    BlobGone
        If it was deleted, or isn't wanted any more.
    BrokerError
        If it doesn't arrive, or isn't in shared memory any more.
    """
    if "file" in reference:
        try:
            return os.fdopen(shared.open_file(reference), "rb")
        except shared.SharedGone as exc:
            if cancelled():
                raise BlobGone(f"job {job} was cancelled") from exc
            raise BrokerError(str(exc)) from exc
    size = reference["size"]
    chunks: queue.SimpleQueue[Delivery | BrokerError] = queue.SimpleQueue()
    file = tempfile.TemporaryFile(prefix="nbmr-")  # noqa: SIM115 - it lives as long as the blob is kept
    consumer = broker.consume(
        topology.blob(job, reference["name"]), chunks.put, prefetch=4, offset="first", on_lost=chunks.put
    )
    try:
        os.truncate(file.fileno(), size)
        missing, since = {0: size} if size else {}, time.monotonic()
        while missing:
            item = _next(chunks, job, since, cancelled)
            if item is None:
                if broker.trouble:
                    since = time.monotonic()
                continue
            since = time.monotonic()
            _write(file, signer, job, reference, item, missing, on_rejected)
            item.ack()
    except BaseException:
        file.close()
        raise
    finally:
        consumer.close()
    return file


def _write(
    file: BinaryIO,
    signer: Signer,
    job: str,
    reference: dict[str, Any],
    item: Delivery,
    missing: dict[int, int],
    on_rejected: Callable[[ProtocolError], None],
) -> None:
    try:
        chunk = message.unseal(signer, item.body).expect("blob", job=job)
    except ProtocolError as exc:
        on_rejected(exc)
        return
    if not chunk.readable:
        raise BrokerError(f"a blob of job {job} can't be read: {compression.NEEDED}")
    if chunk.fields["name"] != reference["name"]:
        on_rejected(ProtocolError("a chunk of another blob"))
        return
    offset = chunk.fields["offset"]
    if missing.get(offset, -1) < len(chunk.payload):
        return  # sent twice, after a reconnect; or not of this length
    os.pwrite(file.fileno(), chunk.payload, offset)
    rest = missing.pop(offset) - len(chunk.payload)
    if rest:
        missing[offset + len(chunk.payload)] = rest


def _next(
    chunks: queue.SimpleQueue[Delivery | BrokerError], job: str, since: float, cancelled: Callable[[], bool]
) -> Delivery | None:
    """Wait a little for a chunk; None if none came."""
    try:
        item = chunks.get(timeout=0.5)
    except queue.Empty:
        if cancelled():
            raise BlobGone(f"job {job} was cancelled") from None
        if time.monotonic() - since > _STALLED:
            raise BrokerError(f"a blob of job {job} did not arrive whole") from None
        return None
    if isinstance(item, NotFound):
        raise BlobGone(str(item))
    if isinstance(item, BrokerError):
        raise item
    return item
