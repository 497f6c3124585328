"""What a job's failed tasks were given, as the job's log tells it: to look at, and to run again here."""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
import queue
import threading
import weakref
from collections.abc import Iterable
from typing import Any

from nbmr import codec, compression, message, resultfile, shared, topology
from nbmr.blobfile import BlobGone, read
from nbmr.broker import Broker, Delivery, NotFound
from nbmr.errors import BrokerError, NbmrError, NotReplayable, ProtocolError
from nbmr.message import Message
from nbmr.resultfile import Layout, ResultGone
from nbmr.signing import Signer

#: Bytes of inputs that are kept of one job, first come; the others are read again when they are asked for.
KEPT_BYTES = 64 << 20
#: Seconds without a message after which an input is not to be found.
READ_SECONDS = 20.0


class Inputs:
    """The inputs of one job's failed tasks.

    Parameters
    ----------
    broker, signer
        Where the job is, and what verifies it.
    job
        Its id.
    """

    def __init__(self, broker: Broker, signer: Signer, job: str) -> None:
        self._broker, self._signer, self._job = broker, signer, job
        self._kept: dict[int, Message] = {}
        #: Where in the log the others are.
        self._places: dict[int, int] = {}
        self._bytes = 0
        #: Open files with blobs.
        self._files: dict[str, int] = {}
        #: Where the buffers are in those of other jobs' results.
        self._layouts: dict[str, Layout] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._files)

    def note(self, entry: Message, offset: int) -> None:
        """Keep an entry of the log, or where it is; called in the I/O thread.

        Parameters
        ----------
        entry
            The entry, which is genuine.
        offset
            Its place in the log.
        """
        if entry.task in self._kept or entry.task in self._places:
            return
        if self._bytes + len(entry.payload) > KEPT_BYTES:
            self._places[entry.task] = offset
            return
        self._bytes += len(entry.payload)
        self._kept[entry.task] = entry

    def of(self, task: int, unit: int, *, logged: bool) -> Given:
        """Return what a unit of a task was given; nothing is read before it is asked for.

        Parameters
        ----------
        task, unit
            Which.
        logged
            Whether the log has it.
        """
        return Given(self, task, unit, logged=logged)

    def load(self, tasks: Iterable[int]) -> None:
        """Read what these tasks' inputs still lack, while the job is there: all of the first, then so much.

        What can't be read is left out: whoever asks for it is told.
        """
        room = KEPT_BYTES
        with contextlib.suppress(NbmrError, OSError):
            for number, task in enumerate(tasks):
                if task not in self._kept:
                    if number:
                        continue
                    self._kept[task] = self._read_again(task)
                fields = self._kept[task].fields
                for reference in (fields["function_blob"], fields["data_blob"], *fields.get("apart", ())):
                    if reference and reference["name"] not in self._files:
                        room -= reference["size"] if number else 0
                        if room >= 0:
                            self._open(reference)
                for reference in fields.get("results", ()):
                    if room >= 0:
                        self.result(reference)
                        room -= os.fstat(self._files[_key(reference)]).st_size if number else 0

    def entry(self, task: int) -> Message:
        """Return a task's input.

        Raises
        ------
        NotReplayable
            If it can't be had.
        """
        kept = self._kept.get(task)
        return kept if kept is not None else self._read_again(task)

    def map(self, reference: dict[str, Any]) -> memoryview:
        """Map a blob into memory; what is written there is seen by nobody else.

        Raises
        ------
        NotReplayable
            If it can't be had.
        """
        return self._map(self._open(reference))

    @staticmethod
    def _map(file: int) -> memoryview:
        flags, rights = mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE
        return memoryview(mmap.mmap(file, 0, flags=flags, prot=rights))

    def result(self, reference: dict[str, Any]) -> list[Any]:
        """Decode those of another job's results that a task was given.

        Raises
        ------
        NotReplayable
            If they can't be had.
        """
        key = _key(reference)
        with self._lock:
            if key not in self._files:
                try:
                    file, self._layouts[key] = resultfile.read(self._broker, self._signer, reference)
                except ResultGone as exc:
                    raise NotReplayable(str(exc)) from None
                except BrokerError as exc:
                    raise NotReplayable(f"Its input can't be read: {exc}") from exc
                with file:
                    self._files[key] = os.dup(file.fileno())
            mapped = self._map(self._files[key])
        values: list[Any] = codec.decode(codec.slices(mapped, self._layouts[key]))
        return values[reference["first"] : reference["first"] + reference["count"]]

    def _open(self, reference: dict[str, Any]) -> int:
        name = reference["name"]
        with self._lock:
            if name not in self._files:
                try:
                    gone = functools.partial(shared.is_gone, reference)
                    with read(self._broker, self._signer, self._job, reference, cancelled=gone) as file:
                        self._files[name] = os.dup(file.fileno())
                except BlobGone:
                    raise self._forgotten() from None
                except BrokerError as exc:
                    raise NotReplayable(f"A large part of its input can't be read: {exc}") from exc
            return self._files[name]

    def _read_again(self, task: int) -> Message:
        """Find a task's input in the log."""
        arrived: queue.SimpleQueue[Delivery | BrokerError] = queue.SimpleQueue()
        try:
            consumer = self._broker.consume(
                topology.job_log(self._job),
                arrived.put,
                prefetch=topology.STREAM_PREFETCH,
                offset=self._places.get(task, "first"),
                on_lost=arrived.put,
            )
        except BrokerError as exc:
            raise NotReplayable(f"Its input can't be read: {exc}") from exc
        try:
            while True:
                item = arrived.get(timeout=READ_SECONDS)
                if isinstance(item, NotFound):
                    raise self._forgotten()
                if isinstance(item, BrokerError):
                    raise NotReplayable(f"Its input can't be read: {item}")
                with contextlib.suppress(ProtocolError):
                    entry = message.unseal(self._signer, item.body)
                    others = topology.share_log(entry.job, self._job)
                    if (entry.kind, entry.task) == ("input", task) and not others:
                        if not entry.readable:
                            raise NotReplayable(f"Its input can't be read: {compression.NEEDED}.")
                        return entry.expect("input", job=self._job)
                item.ack()
        except queue.Empty:
            raise NotReplayable(f"Its input was not found. {self._broker.trouble}".rstrip()) from None
        finally:
            consumer.close()

    def _forgotten(self) -> NotReplayable:
        return NotReplayable(
            f"Its input is gone with job {self._job}, which was forgotten or cancelled. nbmr.map keeps the"
            " inputs of its first failures; a job by nbmr.submit has them until forget()."
        )


class Given:
    """What one unit that failed was given; decoded anew each time, so that no call sees another's changes."""

    def __init__(self, inputs: Inputs, task: int, unit: int, *, logged: bool) -> None:
        self.task, self.logged = task, logged
        self._inputs, self._unit = inputs, unit

    def call(self) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Decode the function, and the arguments that it got behind its data.

        Raises
        ------
        NotReplayable
            If the input can't be had.
        """
        entry = self._entry()
        buffers = self._buffers(entry, "function", slice(entry.fields["inline"]))
        fn, args, kwargs = codec.decode(buffers)
        return fn, args, kwargs

    def unit(self) -> Any:
        """Decode the partition, or the item.

        Raises
        ------
        NotReplayable
            If the input can't be had.
        """
        entry = self._entry()
        if results := entry.fields.get("results"):
            values = [value for reference in results for value in self._inputs.result(reference)]
            return values if entry.fields.get("together") else values[self._unit]
        buffers = self._buffers(entry, "data", slice(entry.fields["inline"], None))
        for reference in entry.fields.get("apart", ()):
            buffers.insert(reference["place"], self._inputs.map(reference))
        return codec.decode(buffers)[self._unit]

    def _buffers(self, entry: Message, part: str, inline: slice) -> list[codec.Buffer]:
        """Return a part's buffers, which can be written to: from its blob, or from the entry itself."""
        if reference := entry.fields[f"{part}_blob"]:
            return codec.slices(self._inputs.map(reference), entry.fields[f"{part}_layout"])
        return [bytearray(buffer) for buffer in entry.buffers()[inline]]

    def _entry(self) -> Message:
        if not self.logged:
            raise NotReplayable(
                "Its input was not kept: there were too many failures before it. Replay one of those, or run"
                " the function on this part of your data."
            )
        return self._inputs.entry(self.task)


def _key(reference: dict[str, Any]) -> str:
    """Name a result among a job's files; no blob has such a name."""
    return f"{reference['job']} {reference['task']}"


def _close(files: dict[str, int]) -> None:
    for file in files.values():
        os.close(file)
