"""One slot of a worker: takes a task, has it run in a child process, and answers for it.

A delivery is acknowledged only after its answer is safe in the job's log, so whatever dies in between, the
task is delivered again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import secrets
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbmr import message, topology, versions
from nbmr.broker import Body, Consumer, Delivery
from nbmr.errors import BrokerError, ProtocolError
from nbmr.message import Message
from nbmr.worker import pipe
from nbmr.worker.blobs import BlobGone
from nbmr.worker.process import Child

if TYPE_CHECKING:
    from nbmr.worker.worker import Worker

#: Seconds that an interrupted task has to end by itself, before its process is killed.
GRACE_SECONDS = 0.5
#: Seconds that the last results of an ending worker may take to be stored.
LAST_ANSWER_SECONDS = 30.0
#: Seconds between two looks at a running child's memory.
MEMORY_SECONDS = 0.2

#: What a child is told of a task.
_FOR_CHILD = (
    "inline",
    "function",
    "function_layout",
    "function_blob",
    "data_layout",
    "retries",
    "count",
    "stop_at_error",
)

_log = logging.getLogger(__name__)


class _ChildDied(Exception):
    """The child died under its task; says of what, and at which of the task's units."""

    def __init__(self, cause: str, unit: int = 0) -> None:
        super().__init__(cause)
        self.unit = unit


class _Stopped(Exception):
    """The task was ended on purpose; the argument says why: ``"cancelled"`` or ``"timeout"``."""


class Slot(threading.Thread):
    """A thread that owns one child process and one subscription to the queue of tasks."""

    def __init__(self, worker: Worker, number: int) -> None:
        super().__init__(name=f"slot {number}", daemon=True)
        self._worker = worker
        self._child: Child | None = None
        self._inbox: queue.SimpleQueue[Delivery | None] = queue.SimpleQueue()
        self._consumer: Consumer | None = None
        self._job = ""
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._receiver = pipe.Receiver()
        #: Results that are sent and not confirmed yet.
        self._unsettled = 0
        self._all_settled = threading.Condition()
        self.ready = threading.Event()

    # ---------------------------------------------------------------- for other threads

    def cancel(self, job: str) -> None:
        """End the running task if it belongs to that job."""
        if self._job == job:
            self._waker.send(b"c")

    def drain(self) -> None:
        """Take no more tasks, finish the running one, and end."""
        if self._consumer:
            self._consumer.cancel()
        self._inbox.put(None)

    def kill(self) -> None:
        """End the child at once."""
        if self._child:
            self._child.kill()

    # ---------------------------------------------------------------- in its own thread

    def run(self) -> None:
        """Take tasks until drained."""
        try:
            self._child = Child()
            self._consumer = self._worker.broker.consume(
                topology.task_queue(self._worker.queue), self._inbox.put, prefetch=topology.PREFETCH
            )
            self.ready.set()
            while (delivery := self._inbox.get()) is not None:
                self._take(delivery)
        except (EOFError, OSError) as exc:
            self._worker.fail(f"A task's process can't be started: {exc or type(exc).__name__}")
        except Exception as exc:  # noqa: BLE001 - the pool starts another worker, and tells if that is no use
            _log.exception("this worker ends")
            self._worker.fail(f"{type(exc).__name__}: {exc}")
        finally:
            with self._all_settled:
                self._all_settled.wait_for(lambda: not self._unsettled, LAST_ANSWER_SECONDS)
            if self._consumer:
                self._consumer.close()
            if self._child:
                self._child.close()

    def _take(self, delivery: Delivery) -> None:
        worker = self._worker
        try:
            task = worker.task(delivery)
        except ProtocolError as exc:
            worker.rejects.drop(delivery, exc)
            return
        self._job = task.job
        self._drain_wakes()
        try:
            with worker.at_work():
                if not worker.wanted(task.job):
                    delivery.ack()
                    return
                self._answer(task, delivery)
        except BrokerError:
            _log.exception("task %s of job %s is given back", task.task, task.job)
            delivery.give_back()
        finally:
            self._job = ""

    def _answer(self, task: Message, delivery: Delivery) -> None:
        worker = self._worker
        attempt = delivery.returned + 1
        who = worker.identity | {"pid": self._child.pid if self._child else 0, "run": ""}
        problem = versions.mismatch(task.fields["versions"], versions.local_versions())
        if problem:
            body = self._failed(task, who, "versions", problem, attempt)
        else:
            worker.log(task, "started", attempt=attempt, **who)
            try:
                body = self._run(task, who, attempt)
            except _Stopped as stop:
                if stop.args[0] == "cancelled":
                    delivery.ack()
                    return
                limit = f"ran longer than its timeout of {task.fields['timeout']:g} s"
                body = self._failed(task, who, "timeout", limit, attempt + task.fields["retries"])
            except _ChildDied as death:
                cause = str(death)
                if attempt < topology.ATTEMPTS:
                    worker.log(task, "died", attempt=attempt, cause=cause, output=self._output, **who)
                    delivery.give_back()
                    return
                summary = f"its worker process died {attempt} times, at last of {cause}"
                body = self._failed(task, who, "lost", summary, attempt)
            except BlobGone:
                delivery.ack()
                return
        with self._all_settled:
            self._unsettled += 1
        try:
            confirmed = worker.broker.append(topology.job_log(task.job), body)
        except BrokerError:
            self._settled(lambda: None)
            raise
        confirmed.add_done_callback(lambda future: self._confirmed(future, task.job, delivery))

    def _confirmed(self, future: Any, job: str, delivery: Delivery) -> None:
        if future.exception():
            _log.warning("a result of job %s was not stored: %s", job, future.exception())
            self._settled(delivery.give_back)
            return
        if not future.result():
            self._worker.forget(job)  # its log is gone: somebody cancelled it or gave it up
        self._settled(delivery.ack)

    def _settled(self, settle: Callable[[], None]) -> None:
        """Answer for a delivery whose result was waiting for its confirmation."""
        settle()
        with self._all_settled:
            self._unsettled -= 1
            self._all_settled.notify_all()

    def _failed(self, task: Message, who: dict[str, Any], reason: str, summary: str, attempt: int) -> Body:
        """Make an answer that says why all of a task's units have failed."""
        why = {"reason": reason, "summary": summary, "attempts": attempt, "output": self._output}
        return self._sealed(task, who, all_failed=why)

    def _sealed(self, task: Message, who: dict[str, Any], **failures: Any) -> Body:
        """Make an answer that holds nothing but failures."""
        return message.seal_raw(
            self._worker.signer,
            "result",
            job=task.job,
            task=task.task,
            start=task.fields["start"],
            count=task.fields["count"],
            **failures,
            rows=task.fields["rows"],
            **who,
        )

    @property
    def _output(self) -> str:
        return self._child.last_output if self._child else ""

    def _run(self, task: Message, who: dict[str, Any], attempt: int) -> Body:
        """Have a task run, again if it timed out and may be retried; return the sealed answer.

        If the child dies under one of several items, it is that item's failure, not that of its neighbours:
        the others run again here, without it if need be. A task with one unit goes back to the queue.
        """
        retries, deaths = task.fields["retries"], Counter[int]()
        lost: dict[int, dict[str, Any]] = {}
        while True:
            try:
                return self._run_once(task, who, attempt, lost)
            except _Stopped as stop:
                if stop.args[0] == "cancelled" or not retries:
                    raise
                retries -= 1
            except _ChildDied as death:
                if task.fields["count"] == 1:
                    raise
                deaths[death.unit] += 1
                times = deaths[death.unit]
                if times < topology.ATTEMPTS:
                    self._worker.log(
                        task, "died", attempt=times, cause=str(death), output=self._output, **who
                    )
                    self._worker.log(task, "started", attempt=attempt, **who)
                    continue
                summary = f"its worker process died {times} times, at last of {death}"
                why = {"reason": "lost", "summary": summary, "attempts": times, "output": self._output}
                lost[death.unit] = why | {"unit": death.unit}
                if task.fields["stop_at_error"]:
                    return self._sealed(task, who, failures=list(lost.values()))

    def _run_once(
        self, task: Message, who: dict[str, Any], attempt: int, lost: dict[int, dict[str, Any]]
    ) -> Body:
        if self._child is None:
            self._child = Child()
        who |= {"pid": self._child.pid, "run": secrets.token_hex(8)}
        fields = task.fields
        files: list[int] = []
        try:
            self._open_blobs(task, files)
            header = {name: fields[name] for name in _FOR_CHILD} | {
                "layout": fields.get("layout", []),
                "skip": sorted(lost),
            }
            self._child.send(header, [task.payload], files)
            reply = self._wait(task)
            return self._receive(task, reply, who, attempt, lost)
        except BrokerError:
            raise
        except (EOFError, OSError) as exc:
            raise self._bury() from exc
        finally:
            for file in files:
                os.close(file)

    def _open_blobs(self, task: Message, files: list[int]) -> None:
        """Add the files of the task's large payloads, function first, to those that are open."""
        for name in ("function_blob", "data_blob"):
            if reference := task.fields[name]:
                try:
                    files.append(
                        self._worker.blobs.open(
                            task.job, reference, lambda: not self._worker.wanted(task.job, look=True)
                        )
                    )
                except OSError as exc:
                    raise BrokerError(f"a large payload can't be kept on this worker: {exc}") from exc

    def _wait(self, task: Message) -> dict[str, Any]:
        """Wait for the child's answer, with an eye on everything that may end the task before."""
        child = self._child
        assert child is not None  # noqa: S101 - for the type checker
        timeout, limit = task.fields["timeout"], self._worker.memory_limit
        deadline = time.monotonic() + timeout if timeout else None
        with selectors.DefaultSelector() as selector:
            for file in (child.sock, child.output, self._wake):
                selector.register(file, selectors.EVENT_READ)
            while True:
                patience = None if deadline is None else max(0.0, deadline - time.monotonic())
                if limit:
                    patience = min(MEMORY_SECONDS, MEMORY_SECONDS if patience is None else patience)
                ready = {key.fileobj for key, _ in selector.select(patience)}
                if child.output in ready and not child.read_output():
                    selector.unregister(child.output)
                if child.sock in ready:
                    reply, _ = pipe.receive_header(child.sock)
                    return reply
                if self._wake in ready:
                    self._drain_wakes()
                    if not self._worker.wanted(task.job):
                        self._stop_task("cancelled")
                if deadline is not None and time.monotonic() >= deadline:
                    self._stop_task("timeout")
                if limit and child.memory() > limit:
                    child.kill()
                    raise self._bury(f"its memory limit of {limit / 1e6:.0f} MB")

    def _stop_task(self, why: str) -> None:
        """Interrupt the task; if it doesn't end by itself, kill its process."""
        child = self._child
        assert child is not None  # noqa: S101 - for the type checker
        child.interrupt()
        child.sock.settimeout(GRACE_SECONDS)
        try:
            reply, _ = pipe.receive_header(child.sock)
            child.sock.settimeout(None)
            pipe.receive(child.sock, reply["size"])  # it was done just before; too late
            child.read_output()
        except (OSError, EOFError):
            child.kill()
            self._bury("it did not stop")
        raise _Stopped(why)

    def _bury(self, cause: str = "") -> _ChildDied:
        """Replace the child at once; return the event that tells of what it died."""
        child, self._child = self._child, None
        if child is None:
            return _ChildDied(cause or "it could not be started")
        cause = cause or child.cause_of_death()
        child.close()
        self._child = Child()
        self._child.adopt_output(child)
        return _ChildDied(cause, child.unit())

    def _receive(
        self,
        task: Message,
        reply: dict[str, Any],
        who: dict[str, Any],
        attempt: int,
        lost: dict[int, dict[str, Any]],
    ) -> Body:
        """Take the child's encoded result and seal it; a large one goes ahead in chunks."""
        child, worker = self._child, self._worker
        assert child is not None  # noqa: S101 - for the type checker
        fields: dict[str, Any] = who | {
            "start": task.fields["start"],
            "count": reply.get("count", 0),
            "layout": reply.get("layout", []),
            "failures": list(lost.values()),
            "failures_encoded": reply.get("failures_encoded", False),
            "output": "",
            "attempt": attempt,
            "seconds": reply.get("seconds", 0.0),
        }
        if reply["op"] == "interrupted":  # by somebody else's signal
            raise self._bury_alive()
        size = reply["size"]
        if size <= topology.MESSAGE_BYTES:
            body = self._receiver.receive(child.sock, size)
        else:
            log, stored = topology.job_log(task.job), []
            for offset in range(0, size, topology.CHUNK_BYTES):
                chunk = self._receiver.receive(child.sock, min(topology.CHUNK_BYTES, size - offset))
                sealed = message.seal_raw(
                    worker.signer, "chunk", [chunk], job=task.job, task=task.task, run=who["run"],
                    offset=offset, total=size,
                )  # fmt: skip
                stored.append(worker.broker.append(log, sealed))
            for chunk_stored in stored:  # the result counts only with all of them
                chunk_stored.result()
            body = memoryview(b"")
            fields["chunked"] = size
        child.read_output()
        if fields["failures"] or fields["failures_encoded"]:
            fields |= {"rows": task.fields["rows"], "output": child.last_output}
        return message.seal_raw(worker.signer, "result", [body], job=task.job, task=task.task, **fields)

    def _bury_alive(self) -> _ChildDied:
        if self._child:
            self._child.kill()
        return self._bury("a SIGINT from outside")

    def _drain_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake.recv(64):
                pass
