"""Sends a job: its log's first entry, its tasks, and what is too large to ride in one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

from nbmr import codec, message, registry, shared, topology, versions
from nbmr.apart import Apart
from nbmr.broker import Body, Broker
from nbmr.compression import Compressor
from nbmr.errors import BrokerError, BrokerUnreachable
from nbmr.joblog import JobLog
from nbmr.signing import Signer
from nbmr.tasks import Call, Source, Task

#: Tasks of an iterable that may be on their way at once, for each slot; and the fewest.
_AHEAD_PER_SLOT, _AHEAD = 8, 64
#: Confirmations to collect before looking at them.
_SETTLE_EVERY = 256
#: Seconds that RabbitMQ has to answer before the sender looks whether there is any hope.
ANSWER_SECONDS = 3.0
#: Seconds between two notes that a job is still being sent.
TELL_SECONDS = 5.0


@dataclass
class Sender:
    """Sends one job.

    Parameters
    ----------
    broker, signer
        Where to, and what signs.
    log
        The job's log as it is read; the sender stops when the job has ended.
    source, call
        The data and the function.
    options
        ``queue``, ``retries``, ``timeout`` in seconds or None, ``on_error``.
    slots
        How many tasks can run at once, as far as is known.
    """

    broker: Broker
    signer: Signer = field(repr=False)
    log: JobLog
    source: Source
    call: Call
    options: dict[str, Any]
    slots: int
    #: Called about once a second while the sender waits; raises if that is in vain.
    look: Callable[[], None]
    #: What was made on the broker for this job, besides its log.
    blobs: list[topology.Queue] = field(default_factory=list)
    #: The folder of its payloads in shared memory; empty if they travel in messages.
    shared: str = ""
    #: What compresses its payloads, if anything does.
    compressor: Compressor | None = None
    _sent: int = 0
    #: What tasks say of the function.
    _function_fields: dict[str, Any] = field(default_factory=dict, repr=False)
    #: First unit and number of units of each task that can be cut again.
    _cuts: list[tuple[int, int]] = field(default_factory=list, repr=False)
    #: Whether a task found no queue.
    _astray: bool = False
    #: The buffers that tasks share, if they may.
    _apart: Apart | None = None

    def open(self) -> None:
        """Write the log's first entry."""
        about = self.options | self.source.about | {"units": self.source.units} | self.source.gathering
        body = message.seal(self.signer, "opened", job=self.log.job, **about)
        self.broker.append(topology.job_log(self.log.job), body)

    def run(self) -> None:
        """Send every task, then seal the job; stop early if the job has ended.

        Raises
        ------
        PickleError
            If a partition can't travel.
        BrokerError
            If RabbitMQ doesn't take it.
        Exception
            What the user's iterable raises.
        """
        with self._telling():
            self._wait_for_queues()
            if self.log.ended:  # so there is nothing to make on the broker
                return
            units, waiting = self._send_tasks()
            if self.log.ended:
                return
            body = message.seal(
                self.signer,
                "sealed",
                job=self.log.job,
                tasks=self._sent,
                units=units,
                **self.source.gathering,
            )
            waiting.append(self.broker.append(topology.job_log(self.log.job), body))  # by the same channel
            self._settle(waiting)

    def _wait_for_queues(self) -> None:
        """Send nothing before it would survive RabbitMQ's being killed."""
        queue = self.options["queue"]
        queues = topology.task_queue(queue), topology.dead_queue(queue)
        while not self.log.ended:
            try:
                self.broker.settle(
                    *queues, topology.control_stream(), topology.jobs_stream(), timeout=ANSWER_SECONDS
                )
            except BrokerUnreachable:
                self.look()
            else:
                return

    def _send_tasks(self) -> tuple[int, list[Future[bool]]]:
        """Send every task; return how many units they have, and what is still to be confirmed."""
        self._function_fields = self._function()
        if self.source.shares_from is not None:
            self._apart = Apart(self.source.shares_from, self._lay)
        waiting: list[Future[bool]] = []
        units = 0
        for task in self.source.tasks(self.log.seconds_per_unit):
            if self.log.ended:
                break
            if task is None:
                self.look()
                continue
            units += task.count
            waiting.append(self._send(self._sent, task))
            time.sleep(0)  # lets the I/O thread send it, while the next one is cut
            self._sent += 1
            if not self.source.lazy:
                self._cuts.append((task.start, task.count))
            if len(waiting) >= _SETTLE_EVERY:
                self._settle(waiting)
            if self.source.lazy:
                self._wait_for_room(self._sent)
        return units, waiting

    def send_again(self, numbers: list[int]) -> None:
        """Send some of the tasks once more; those of an iterable can't be."""
        self._settle(
            [
                self._send(number, self.source.again(number, *self._cuts[number]), "-again")
                for number in numbers
                if not self.log.ended
            ]
        )

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Note in the log, every few seconds, that this kernel still sends, whatever its iterable does."""
        over = threading.Event()

        def tell() -> None:
            while not over.wait(TELL_SECONDS) and not self.log.ended:
                body = message.seal(self.signer, "sending", job=self.log.job)
                with contextlib.suppress(BrokerError):  # closed: then the sender itself says so
                    self.broker.append(topology.job_log(self.log.job), body, urgent=True)

        thread = threading.Thread(target=tell, name=f"nbmr tells of {self.log.job}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()

    def _settle(self, waiting: list[Future[bool]]) -> None:
        while waiting and not self.log.ended:
            for future in waiting:
                if future.done():
                    future.result()
            if self._astray:
                queue = topology.task_queue(self.options["queue"]).name
                raise BrokerError(f"The queue {queue!r} was deleted from RabbitMQ meanwhile. Run it again.")
            waiting[:] = [future for future in waiting if not future.done()]
            if waiting and not wait(waiting[:1], timeout=1.0).done:
                self.look()

    def _wait_for_room(self, sent: int) -> None:
        """Read an iterable only so far ahead of the workers."""
        ahead = max(_AHEAD, _AHEAD_PER_SLOT * self.slots)
        while sent - len(self.log.outcomes) >= ahead and not self.log.ended:
            with self.log.changed:
                changed = self.log.changed.wait(1.0)
            if not changed:
                self.look()

    def _function(self) -> dict[str, Any]:
        """Put a large function into a blob; return what tasks say of the function."""
        function: dict[str, Any] = {
            "function": self.call.digest,
            "function_layout": codec.layout(self.call.buffers),
            "function_blob": None,
        }
        if self.call.size > topology.INLINE_BYTES:
            function["function_blob"] = self._lay("fn", self.call.buffers) | {"digest": self.call.digest}
        return function

    def _lay(self, name: str, buffers: Sequence[codec.Buffer]) -> dict[str, Any]:
        """Put a payload where tasks can refer to it; return what they say of it."""
        return self._share(name, buffers) or self._blob(name, buffers)

    def _share(self, name: str, buffers: Sequence[codec.Buffer]) -> dict[str, Any] | None:
        """Put a large payload into shared memory, where that is possible."""
        lies = shared.write(self.shared, name, codec.pieces(buffers))
        self.log.bytes_sent += lies["size"] if lies else 0
        return lies

    def _blob(self, name: str, buffers: Sequence[codec.Buffer]) -> dict[str, Any]:
        """Write a blob, in chunks, and wait until it is safe."""
        stream = topology.blob(self.log.job, name)
        self.blobs.append(stream)
        self._settle([registry.append(self.broker, self.signer, "made", job=self.log.job, name=name)])
        self.broker.declare(stream)
        waiting, offset = [], 0
        for chunk in codec.cut(codec.pieces(buffers), topology.CHUNK_BYTES):
            if self.log.ended:
                break
            body = message.seal_raw(
                self.signer, "blob", chunk, job=self.log.job, compressor=self.compressor, name=name,
                offset=offset,
            )  # fmt: skip
            waiting.append(self.broker.append(stream, body))
            self.log.bytes_sent += sum(map(len, body))
            offset += sum(map(len, chunk))
        self._settle(waiting)
        return {"name": name, "size": offset}

    def _send(self, number: int, task: Task, suffix: str = "") -> Future[bool]:
        buffers = [] if task.results else codec.encode(task.units, what="the data")
        function = self._function_fields
        apart, buffers = self._apart.split(buffers) if self._apart and buffers else ([], buffers)
        inline: list[codec.Buffer] = [] if function["function_blob"] else list(self.call.buffers)
        fields: dict[str, Any] = {"inline": len(inline), "data_blob": None, "data_layout": []}
        if self.source.begun_after is not None:
            fields["begun_after"] = self.source.begun_after
        lies = self._share(f"data{number}{suffix}", buffers)
        size = sum(memoryview(buffer).nbytes for buffer in buffers)
        if lies is None and size > topology.MESSAGE_BYTES - topology.INLINE_BYTES:
            lies = self._blob(f"data{number}{suffix}", buffers)
        if lies:
            fields["data_layout"] = codec.layout(buffers)
            fields["data_blob"] = lies
            buffers = []
        body = message.seal(
            self.signer,
            "task",
            job=self.log.job,
            task=number,
            buffers=[*inline, *buffers],
            compressor=self.compressor,
            start=task.start,
            count=task.count,
            rows=task.rows,
            queue=self.options["queue"],
            name=self.options["name"],
            timeout=self.options["timeout"],
            retries=self.options["retries"],
            stop_at_error=self.options["on_error"] == "raise",
            versions=versions.local_versions(),
            to=self.options.get("to"),
            results=task.results,
            together=task.together,
            apart=apart,
            shared=self.shared,
            **function,
            **fields,
        )
        self.log.bytes_sent += sum(map(len, body))
        return self.publish(number, body)

    def publish(self, number: int, body: Body) -> Future[bool]:  # noqa: ARG002 - for who sends elsewhere
        """Send one task to its queue."""
        sent = self.broker.publish(topology.TASKS_EXCHANGE, self.options["queue"], body)
        sent.add_done_callback(self._check_routed)
        return sent

    def _check_routed(self, sent: Future[bool]) -> None:
        if not sent.exception() and not sent.result():
            self._astray = True
