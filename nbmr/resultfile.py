"""What tasks gave, read from their job's log into files: data for a task of another job.

A result is found by its place in the log, so little is read besides; the first answer that counts is taken,
as everybody does who reads the log.
"""

from __future__ import annotations

import contextlib
import os
import queue
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from nbmr import compression, message, shared, topology
from nbmr.blobfile import BlobGone
from nbmr.broker import Broker, Delivery, NotFound
from nbmr.errors import BrokerError, ProtocolError
from nbmr.message import Message
from nbmr.signing import Signer

#: Messages to hold for each result while a log is read: what comes behind the last one is read in vain.
_PREFETCH = 2
#: Messages between two results up to which one subscription reads both: another one takes some milliseconds.
_NEAR = 16
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
    """Read one task's encoded values into a file without a name; see `read_all`."""
    return read_all(broker, signer, [reference], on_rejected, cancelled)[0]


def read_all(
    broker: Broker,
    signer: Signer,
    references: Sequence[dict[str, Any]],
    on_rejected: Callable[[ProtocolError], None] = lambda _error: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> list[tuple[BinaryIO, Layout]]:
    """Read some tasks' encoded values, each into a file without a name, which the caller closes.

    Parameters
    ----------
    broker, signer
        Where the log is, and what verifies it.
    references
        Which results of one job: ``job``, ``task``, and ``offset``, from where on to read. Each task once.
    on_rejected
        Called with the error for each message that isn't genuine.
    cancelled
        Asked now and then whether the results are still wanted.

    Returns
    -------
    list of (BinaryIO, list)
        For each result the file, and where in it the buffers are.

    Raises
    ------
    ResultGone
        If the job is gone.
    BlobGone
        If they aren't wanted any more.
    BrokerError
        If one doesn't arrive.
    """
    if not references:
        return []
    job = references[0]["job"]
    log = _Log(broker, signer, job, on_rejected, cancelled)
    with contextlib.ExitStack() as stack:
        readers = {
            reference["task"]: stack.enter_context(contextlib.closing(_Reader(job)))
            for reference in references
        }
        for begin, tasks in _neighbours(references):
            if not log.read(begin, {task: readers[task] for task in tasks}):
                break
        # a place may have changed where RabbitMQ was killed
        missing = {task: reader for task, reader in readers.items() if not reader.whole}
        if missing and not log.read("first", missing):
            raise BrokerError(f"the result of task {min(missing)} is not in the log of job {job}")
        return [readers[reference["task"]].take() for reference in references]


def _neighbours(references: Sequence[dict[str, Any]]) -> Iterator[tuple[int, list[int]]]:
    """Yield tasks whose results lie together in the log, with the place where these begin."""
    begin, before, tasks = 0, -1, list[int]()
    for offset, task in sorted((reference["offset"], reference["task"]) for reference in references):
        if tasks and offset - before > _NEAR:
            yield begin, tasks
            tasks = []
        begin = begin if tasks else offset
        tasks.append(task)
        before = offset
    yield begin, tasks


class _Log:
    """A job's log, from which results are read; parameters as for `read_all`."""

    def __init__(
        self,
        broker: Broker,
        signer: Signer,
        job: str,
        on_rejected: Callable[[ProtocolError], None],
        cancelled: Callable[[], bool],
    ) -> None:
        self._broker, self._signer, self._job = broker, signer, job
        self._on_rejected, self._cancelled = on_rejected, cancelled

    def read(self, offset: str | int, readers: dict[int, _Reader]) -> bool:
        """Read from a place on until results are whole, by their tasks; return whether they are."""
        arrived: queue.SimpleQueue[Delivery | BrokerError] = queue.SimpleQueue()
        stream = topology.job_log(self._job)
        prefetch = min(_PREFETCH * len(readers), topology.STREAM_PREFETCH)
        consumer = self._broker.consume(
            stream, arrived.put, prefetch=prefetch, offset=offset, on_lost=arrived.put
        )
        left, since = set(readers), time.monotonic()
        try:
            while left:
                try:
                    item = arrived.get(timeout=0.5)
                except queue.Empty:
                    if self._cancelled():
                        raise BlobGone("its job was cancelled") from None
                    if self._broker.trouble:
                        since = time.monotonic()
                    if time.monotonic() - since > _STALLED:
                        return False
                    continue
                if isinstance(item, NotFound):
                    raise ResultGone(_gone(self._job))
                if isinstance(item, BrokerError):
                    raise item
                since = time.monotonic()
                left -= self._take(item, readers)
                item.ack()
        finally:
            consumer.close()
        return True

    def _take(self, delivery: Delivery, readers: dict[int, _Reader]) -> set[int]:
        """Hand a message to the reader of its task; return the task if its result is whole now."""
        try:
            entry = message.unseal(self._signer, delivery.body)
            reader = readers.get(entry.task)
            if (
                topology.share_log(entry.job, self._job)
                or reader is None
                or reader.whole
                or entry.kind not in ("result", "chunk")
            ):
                return set()
            entry.expect("result", "chunk", job=self._job)
            if not entry.readable:
                raise BrokerError(f"a result of job {self._job} can't be read: {compression.NEEDED}")
        except ProtocolError as exc:
            self._on_rejected(exc)
            return set()
        return {entry.task} if reader.add(entry) else set()


class _Reader:
    """Puts one task's result together."""

    def __init__(self, job: str) -> None:
        self._job = job
        #: For each run of the task that sends chunks: what has come, and the bytes that came from each place.
        self._runs: dict[str, tuple[BinaryIO, dict[int, int]]] = {}
        self._found: tuple[BinaryIO, Layout] | None = None
        self._taken: BinaryIO | None = None

    @property
    def whole(self) -> bool:
        """Whether it is all there."""
        return self._found is not None

    def add(self, entry: Message) -> bool:
        """Take a message of the task; return whether the result is whole."""
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
        if "stored" in entry.fields:
            file = self._open_shared(entry.fields["stored"])
        else:
            file, sizes = self._run(entry.fields["run"])
            if "chunked" not in entry.fields:
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
                raise ResultGone(_gone(self._job)) from exc
            raise BrokerError(str(exc)) from exc

    def take(self) -> tuple[BinaryIO, Layout]:
        """Return the result; its file is no longer ours."""
        assert self._found is not None  # noqa: S101 - for the type checker
        self._taken = self._found[0]
        return self._found

    def close(self) -> None:
        """Close the files that nobody has taken, and those of runs that came to nothing."""
        files = [file for file, _ in self._runs.values()]
        if self._found:
            files.append(self._found[0])
        for file in files:
            if file is not self._taken:
                file.close()


def _gone(job: str) -> str:
    return f"The results of job {job}, which this task takes, are gone: it was forgotten or cancelled."
