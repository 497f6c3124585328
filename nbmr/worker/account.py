"""What a job's log is told of one task: what it prints, what comes of it, and what became of it."""

from __future__ import annotations

import contextlib
import secrets
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from nbmr import message, schema, topology
from nbmr.broker import Body
from nbmr.errors import BrokerError
from nbmr.message import Message
from nbmr.worker.guard import Guard

if TYPE_CHECKING:
    from nbmr.worker.worker import Worker


class Account:
    """Tells of one task that a worker has taken.

    Parameters
    ----------
    worker
        Whose it is.
    guard
        Has the process that runs it.
    task
        The task.
    attempt
        How often it was tried, this time included.
    """

    def __init__(self, worker: Worker, guard: Guard, task: Message, attempt: int) -> None:
        self._worker, self._guard, self._task, self._attempt = worker, guard, task, attempt
        #: Who does it; its run changes with each process that tries.
        self.who: dict[str, Any] = worker.identity | {"pid": guard.pid, "run": ""}
        #: Whether nothing of it has failed, as its answer says.
        self.clean = False
        #: How many entries of a run told what it printed, and whether the last one is in its log.
        self._told = 0
        self._telling: Future[bool] | None = None

    def begin(self) -> str:
        """Note that a process begins with it; return how its results are told from those of other runs."""
        self.who |= {"pid": self._guard.pid, "run": secrets.token_hex(8)}
        self._told, self._telling = 0, None
        return f"result{self._task.task}-{self.who['run']}"

    def log(self, kind: str, **fields: Any) -> None:
        """Note something in the job's log; not worth waiting for."""
        self._worker.log(self._task, kind, **fields, **self.who)

    def begun(self) -> None:
        """Note that a process is at it."""
        self.log("started", attempt=self._attempt)

    def died(self, cause: object, *, attempt: int | None = None, **fields: Any) -> None:
        """Note that an attempt has come to nothing."""
        attempt = self._attempt if attempt is None else attempt
        self.log("died", attempt=attempt, cause=str(cause), output=self._guard.last_output, **fields)

    def failed(self, reason: str, summary: str, attempt: int | None = None) -> Body:
        """Make an answer that says why all of a task's units have failed."""
        attempts = self._attempt if attempt is None else attempt
        why = {"reason": reason, "summary": summary, "attempts": attempts, "output": self._guard.last_output}
        begun = {"input": self._worker.inputs.log(self._task)} if reason != "versions" else {}
        return self.sealed(all_failed=why, **begun)

    def too_long(self, why: str, expired: object) -> Body:
        """Make an answer that says which limit the task ran into.

        Parameters
        ----------
        why
            ``"timeout"``, or ``"expired"``.
        expired
            What RabbitMQ said in the latter case.
        """
        if why == "expired":
            return self.failed("timeout", f"ran longer than {expired}")
        limit = f"ran longer than its timeout of {self._task.fields['timeout']:g} s"
        return self.failed("timeout", limit, self._attempt + self._task.fields["retries"])

    def sealed(self, **failures: Any) -> Body:
        """Make an answer that holds nothing but failures."""
        task = self._task
        return message.seal_raw(
            self._worker.signer,
            "result",
            job=task.job,
            task=task.task,
            start=task.fields["start"],
            count=task.fields["count"],
            **failures,
            rows=task.fields["rows"],
            **self.who,
        )

    def tell_output(self, text: str, dropped: int, *, last: bool = False) -> bool:
        """Note in its job's log what a task printed; return False if that isn't possible now.

        Unless it is the last of it, that must neither wait nor pile up.
        """
        worker, task = self._worker, self._task
        if not last and (worker.broker.trouble or (self._telling is not None and not self._telling.done())):
            return False
        if text or dropped:
            said = {"number": self._told, "text": text, "dropped": dropped}
            body = message.seal_raw(worker.signer, "output", job=task.job, task=task.task, **self.who | said)
            with contextlib.suppress(BrokerError):
                self._telling = worker.broker.append(topology.job_log(task.job), body, urgent=True)
            self._told += 1
        return True

    def receive(self, reply: dict[str, Any], lost: dict[int, dict[str, Any]]) -> Body:
        """Take the child's encoded result and seal it; a large one goes ahead in chunks."""
        guard, worker, task, who = self._guard, self._worker, self._task, self.who
        fields: dict[str, Any] = who | {
            "start": task.fields["start"],
            "count": reply.get("count", 0),
            "layout": reply.get("layout", []),
            "failures": list(lost.values()),
            "failures_encoded": reply.get("failures_encoded", False),
            "output": "",
            "attempt": self._attempt,
            "seconds": reply.get("seconds", 0.0),
        }
        if "stored" in reply:
            fields["stored"] = reply["stored"]
        if schema.told(said := reply.get("told")):
            fields["told"] = said
        size = reply["size"]
        if size <= topology.MESSAGE_BYTES:
            body = guard.receive(size)
        else:
            log, stored = topology.job_log(task.job), []
            for offset in range(0, size, topology.CHUNK_BYTES):
                if not worker.wanted(task):
                    guard.stop_sending()
                chunk = guard.receive(min(topology.CHUNK_BYTES, size - offset))
                sealed = message.seal_raw(
                    worker.signer, "chunk", [chunk], job=task.job, task=task.task,
                    compressor=worker.compressor(task), run=who["run"], offset=offset, total=size,
                )  # fmt: skip
                stored.append(worker.broker.append(log, sealed))
            for chunk_stored in stored:  # the result counts only with all of them
                chunk_stored.result()
            body = memoryview(b"")
            fields["chunked"] = size
        guard.read_output()
        text, dropped = guard.end_output()
        if text or dropped:  # no message of its own: what a short task prints costs no more
            fields |= {"printed": text, "dropped": dropped}
        self.clean = not (fields["failures"] or fields["failures_encoded"])
        if not self.clean:
            given = worker.inputs.log(task)
            fields |= {"rows": task.fields["rows"], "output": guard.last_output, "input": given}
        return message.seal_raw(
            worker.signer, "result", [body], job=task.job, task=task.task,
            compressor=worker.compressor(task), **fields,
        )  # fmt: skip
