"""What a task gave, read from its job's log into a file: data for a task of another job.

It is found by its place in the log, so little is read besides; the first answer that counts is taken, as
everybody does who reads the log.
"""

from __future__ import annotations

import contextlib
import os
import queue
import tempfile
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from nbmr import message, shared, topology
from nbmr.blobfile import BlobGone
from nbmr.broker import Broker, Delivery, NotFound
from nbmr.errors import BrokerError, ProtocolError
from nbmr.message import Message
from nbmr.signing import Signer

#: Messages to hold while a log is read: what comes behind the result is read in vain.
_PREFETCH = 2
#: Seconds without any message after which a result is looked for from the log's beginning, or given up.
_STALLED = 20.0

#: Places of the encoded values' buffers in the file.
Layout = list[tuple[int, int]]


class ResultGone(BrokerError):
    """The log was deleted: somebody has forgotten or cancelled the job."""


def read(
    broker: Broker,
    signer: Signer,
    reference: dict[str, Any],
    on_rejected: Callable[[ProtocolError], None] = lambda _error: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[BinaryIO, Layout]:
    """Read a task's encoded values into a file without a name; the caller closes it.

    Parameters
    ----------
    broker, signer
        Where the log is, and what verifies it.
    reference
        Which result: ``job``, ``task``, and ``offset``, from where on to read.
    on_rejected
        Called with the error for each message that isn't genuine.
    cancelled
        Asked now and then whether the result is still wanted.

    Returns
    -------
    BinaryIO, list
        The file, and where in it the buffers are.

    Raises
    ------
    ResultGone
        If the job is gone.
    BlobGone
        If it isn't wanted any more.
    BrokerError
        If it doesn't arrive.
    """
    for offset in (reference["offset"], "first"):  # a place may have changed where RabbitMQ was killed
        with contextlib.closing(_Reader(signer, reference, on_rejected)) as reader:
            if _read_from(broker, reference, offset, reader, cancelled):
                return reader.take()
    raise BrokerError(f"the result of task {reference['task']} is not in the log of job {reference['job']}")


def _read_from(
    broker: Broker,
    reference: dict[str, Any],
    offset: str | int,
    reader: _Reader,
    cancelled: Callable[[], bool],
) -> bool:
    """Read the log from a place on; return whether the result was there."""
    arrived: queue.SimpleQueue[Delivery | BrokerError] = queue.SimpleQueue()
    stream = topology.job_log(reference["job"])
    consumer = broker.consume(stream, arrived.put, prefetch=_PREFETCH, offset=offset, on_lost=arrived.put)
    since = time.monotonic()
    try:
        while True:
            try:
                item = arrived.get(timeout=0.5)
            except queue.Empty:
                if cancelled():
                    raise BlobGone("its job was cancelled") from None
                if broker.trouble:
                    since = time.monotonic()
                if time.monotonic() - since > _STALLED:
                    return False
                continue
            if isinstance(item, NotFound):
                raise ResultGone(_gone(reference["job"]))
            if isinstance(item, BrokerError):
                raise item
            since = time.monotonic()
            if reader.add(item):
                return True
            item.ack()
    finally:
        consumer.close()


class _Reader:
    """Puts one task's result together."""

    def __init__(
        self, signer: Signer, reference: dict[str, Any], on_rejected: Callable[[ProtocolError], None]
    ) -> None:
        self._signer, self._reference, self._on_rejected = signer, reference, on_rejected
        #: For each run of the task that sends chunks: what has come, and the bytes that came from each place.
        self._runs: dict[str, tuple[BinaryIO, dict[int, int]]] = {}
        self._found: tuple[BinaryIO, Layout] | None = None

    def add(self, delivery: Delivery) -> bool:
        """Take a message of the log; return whether the result is whole."""
        try:
            entry = message.unseal(self._signer, delivery.body)
            if entry.task != self._reference["task"] or entry.kind not in ("result", "chunk"):
                return False
            entry.expect("result", "chunk", job=self._reference["job"])
        except ProtocolError as exc:
            self._on_rejected(exc)
            return False
        if entry.kind == "chunk":
            file, sizes = self._run(entry.fields["run"])
            os.pwrite(file.fileno(), entry.payload, entry.fields["offset"])
            sizes[entry.fields["offset"]] = len(entry.payload)
            return False
        return self._finish(entry)

    def _run(self, run: str) -> tuple[BinaryIO, dict[int, int]]:
        if run not in self._runs:
            self._runs[run] = tempfile.TemporaryFile(prefix="nbmr-"), {}  # noqa: SIM115 - see `close`
        return self._runs[run]

    def _finish(self, entry: Message) -> bool:
        file, sizes = self._run(entry.fields["run"])
        if "stored" in entry.fields:
            file = self._open_shared(entry.fields["stored"])
        elif "chunked" not in entry.fields:
            os.pwrite(file.fileno(), entry.payload, 0)
        elif sum(sizes.values()) != entry.fields["chunked"]:
            return False  # its chunks are not all there; it will come again
        layout = entry.fields.get("layout", [])
        self._found = file, layout[:-1] if entry.fields.get("failures_encoded") else layout
        return True

    def _open_shared(self, stored: dict[str, Any]) -> BinaryIO:
        """Open a result that lies in shared memory."""
        try:
            return os.fdopen(shared.open_file(stored), "rb")
        except shared.SharedGone as exc:
            if shared.is_gone(stored):
                raise ResultGone(_gone(self._reference["job"])) from exc
            raise BrokerError(str(exc)) from exc

    def take(self) -> tuple[BinaryIO, Layout]:
        """Return the result; its file is no longer ours."""
        assert self._found is not None  # noqa: S101 - for the type checker
        return self._found

    def close(self) -> None:
        """Close the files of runs that came to nothing."""
        kept = self._found[0] if self._found else None
        for file, _ in self._runs.values():
            if file is not kept:
                file.close()


def _gone(job: str) -> str:
    return f"The results of job {job}, which this task takes, are gone: it was forgotten or cancelled."
