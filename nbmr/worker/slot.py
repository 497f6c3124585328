"""One slot of a worker: takes a task, has it run in a child process, and answers for it.

A delivery is acknowledged only after its answer is safe in the job's log, so whatever dies in between, the
task is delivered again.
"""

from __future__ import annotations

import functools
import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nbmr import shared, topology, versions
from nbmr.blobfile import BlobGone
from nbmr.broker import Body, Consumer, Delivery, DeliveryExpired
from nbmr.errors import BrokerError, ProtocolError
from nbmr.message import Message
from nbmr.resultfile import ResultGone
from nbmr.worker.account import Account
from nbmr.worker.guard import Died, Guard, Stopped
from nbmr.worker.payloads import Unfit, open_task
from nbmr.written import Target

if TYPE_CHECKING:
    from nbmr.worker.worker import Worker

#: Seconds that the last results of an ending worker may take to be stored.
LAST_ANSWER_SECONDS = 30.0
#: Seconds that RabbitMQ may take to serve a new worker's subscriptions before it counts as ready anyway.
SUBSCRIBE_SECONDS = 10.0
#: Seconds that a task may take without its job being told that it was begun, unless it says otherwise.
BEGUN_SECONDS = 0.1
#: Seconds before a task that this worker can't run goes back: time for another worker to be free.
UNFIT_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Running:
    """The task that a slot is at."""

    job: str
    name: str
    task: int
    attempt: int
    #: Since when, by the monotonic clock.
    since: float


class Slot(threading.Thread):
    """A thread that owns one guarded child process and one subscription to the queue of tasks."""

    def __init__(self, worker: Worker, number: int) -> None:
        super().__init__(name=f"slot {number}", daemon=True)
        self._worker = worker
        self._guard = Guard(worker.memory_limit)
        self._inbox: queue.SimpleQueue[Delivery | DeliveryExpired | None] = queue.SimpleQueue()
        #: Set while there is no subscription: RabbitMQ ended it, and took the delivery back.
        self._expired: DeliveryExpired | None = None
        self._consumer: Consumer | None = None
        #: The subscription to the queue that is this slot's own.
        self._own: Consumer | None = None
        self._number = number
        self._job = ""
        self._running: _Running | None = None
        #: Since when it has had no delivery, by the monotonic clock; None while it is at one.
        self._idle_since: float | None = time.monotonic()
        #: How many tasks were done, and how many gave a failure.
        self.done = self.failed = 0
        #: Results that are sent and not confirmed yet.
        self._unsettled = 0
        self._all_settled = threading.Condition()
        self.ready = threading.Event()

    # ---------------------------------------------------------------- for other threads

    def cancel(self, job: str) -> None:
        """End the running task if it belongs to that job."""
        if self._job == job:
            self._guard.wake()

    def drain(self) -> None:
        """Take no more tasks, finish the running one, and end."""
        for consumer in (self._consumer, self._own):
            if consumer:
                consumer.cancel()
        self._put(None)

    def kill(self) -> None:
        """End at once; the running task is given back."""
        self._guard.kill()
        with self._all_settled:
            self._all_settled.notify_all()

    def idle_seconds(self) -> float:
        """Return for how long it has had nothing to do; results that are not stored yet are something."""
        since = self._idle_since
        return 0.0 if since is None or self._unsettled else time.monotonic() - since

    def renew(self) -> None:
        """Subscribe to the queue anew: from this subscription nothing comes, although tasks wait."""
        if self._consumer is not None:
            self._consumer.renew()

    def facts(self) -> dict[str, Any]:
        """Return what it is doing, as a message of kind ``worker`` tells it."""
        running, pid = self._running, self._guard.pid
        if running is None:
            return {
                "state": "idle", "job": "", "name": "", "task": -1, "attempt": 0, "seconds": 0.0, "pid": pid,
            }  # fmt: skip
        return {
            "state": "running",
            "job": running.job,
            "name": running.name,
            "task": running.task,
            "attempt": running.attempt,
            "seconds": round(time.monotonic() - running.since, 3),
            "pid": pid,
        }

    def _put(self, item: Delivery | DeliveryExpired | None) -> None:
        self._inbox.put(item)
        self._guard.wake()

    # ---------------------------------------------------------------- in its own thread

    def run(self) -> None:
        """Take tasks until drained."""
        try:
            self._guard.start()
            self._subscribe()
            self._own = self._worker.broker.consume(
                topology.own_queue(self._worker.id, self._number),
                self._put,
                prefetch=topology.PREFETCH,
                on_lost=lambda error: _log.warning("slot %d lost its own queue: %s", self._number, error),
            )
            for consumer in (self._consumer, self._own):
                if consumer:  # who counts a new worker's slots is to find them all
                    consumer.subscribed.wait(SUBSCRIBE_SECONDS)
            self.ready.set()
            while (item := self._next()) is not None:
                if isinstance(item, DeliveryExpired):
                    self._subscribe()
                else:
                    self._take(item)
        except (EOFError, OSError) as exc:
            self._worker.fail(f"A task's process can't be started: {exc or type(exc).__name__}")
        except Exception as exc:  # noqa: BLE001 - the pool starts another worker, and tells if that is no use
            _log.exception("this worker ends")
            self._worker.fail(f"{type(exc).__name__}: {exc}")
        finally:
            with self._all_settled:
                self._all_settled.wait_for(
                    lambda: not self._unsettled or self._guard.ended, LAST_ANSWER_SECONDS
                )
            for consumer in (self._consumer, self._own):
                if consumer:
                    consumer.close()
            self._guard.close()

    def _subscribe(self) -> None:
        self._expired = None
        self._consumer = self._worker.broker.consume(
            topology.task_queue(self._worker.queue),
            self._put,
            prefetch=topology.PREFETCH,
            on_lost=self._on_lost,
        )

    def _on_lost(self, error: BrokerError) -> None:
        """Note that RabbitMQ has ended the subscription; in the I/O thread."""
        if isinstance(error, DeliveryExpired):
            self._expired = error
            self._put(error)
        else:
            self._worker.lose(error)

    def _next(self) -> Delivery | DeliveryExpired | None:
        """Wait for a delivery, with a child that is ready for it; None to end."""
        try:
            while self._inbox.empty():
                self._guard.idle()
            item = self._inbox.get()
            if isinstance(item, Delivery):
                self._guard.start()
        except Died:  # with a delivery, perhaps, which goes back with its channel
            return None
        return item

    def _take(self, delivery: Delivery) -> None:
        self._idle_since = None
        try:
            self._deal_with(delivery)
        finally:
            self._idle_since = time.monotonic()

    def _deal_with(self, delivery: Delivery) -> None:
        worker = self._worker
        try:
            task = worker.task(delivery)
        except ProtocolError as exc:
            worker.rejects.drop(delivery, exc)
            return
        if delivery.consumer is self._own:
            # Nobody else could have it, and a classic queue can't be told to wait for its end: so it is
            # settled now, and without its channel it won't be again.
            delivery.ack()
            delivery = replace(delivery, channel=None)
        self._job = task.job
        try:
            with worker.at_work():
                if not worker.wanted(task):
                    delivery.ack()
                    return
                self._answer(task, delivery)
        except BrokerError:
            _log.exception("task %s of job %s is given back", task.task, task.job)
            delivery.give_back()
        finally:
            self._job, self._running = "", None

    def _answer(self, task: Message, delivery: Delivery) -> None:
        worker = self._worker
        attempt = delivery.returned + 1
        name = task.fields.get("name", "")
        self._running = _Running(task.job, name, task.task, attempt, time.monotonic())
        account = Account(worker, self._guard, task, attempt)
        self._guard.forget_output()
        problem = versions.mismatch(task.fields["versions"], versions.local_versions())
        if problem:
            body = account.failed("versions", problem)
        else:
            try:
                body = self._run(task, account)
            except Stopped as stop:
                if stop.args[0] == "cancelled":
                    delivery.ack()
                    return
                body = account.too_long(stop.args[0], self._expired)
            except (Died, Unfit) as trouble:
                # nobody counts how often a task is given back to our own queue, and its process was meant
                again = attempt < topology.ATTEMPTS and delivery.consumer is not self._own
                if again or self._guard.ended:
                    account.died(trouble)
                    if isinstance(trouble, Unfit):
                        time.sleep(UNFIT_SECONDS)
                    delivery.give_back()
                    return
                body = account.failed("lost", _story(attempt, trouble))
            except BlobGone:
                delivery.ack()
                return
        self._count(account)
        settle = delivery.ack
        if self._expired:  # then it is back in its queue, and whoever gets it next would run it again
            settle = functools.partial(worker.forget_everywhere, task)
        with self._all_settled:
            self._unsettled += 1
        try:
            confirmed = worker.broker.append(topology.job_log(task.job), body)
        except BrokerError:
            self._settled(lambda: None)
            raise
        # what failed may be run again, in the kernel
        used = task.fields["data_blob"] if account.clean else None
        confirmed.add_done_callback(lambda future: self._confirmed(future, task.job, delivery, settle, used))

    def _count(self, account: Account) -> None:
        """Count a task that is answered for; before its answer can be seen by anybody."""
        if account.clean:
            self.done += 1
        else:
            self.failed += 1

    def _confirmed(
        self,
        future: Any,
        job: str,
        delivery: Delivery,
        settle: Callable[[], None],
        used: dict[str, Any] | None,
    ) -> None:
        if future.exception():
            _log.warning("a result of job %s was not stored: %s", job, future.exception())
            self._settled(delivery.give_back)
            return
        if not future.result():
            self._worker.forget(job)  # its log is gone: somebody cancelled it or gave it up
        shared.remove_file(used)
        self._settled(settle)

    def _settled(self, settle: Callable[[], None]) -> None:
        """Answer for a delivery whose result was waiting for its confirmation."""
        settle()
        with self._all_settled:
            self._unsettled -= 1
            if self._idle_since is not None:
                self._idle_since = time.monotonic()
            self._all_settled.notify_all()

    def _run(self, task: Message, account: Account) -> Body:
        """Have a task run, again if it timed out and may be retried; return the sealed answer.

        If the child dies under one of several items, it is that item's failure, not that of its neighbours:
        the others run again here, without it if need be. A task with one unit goes back to the queue.
        """
        retries, deaths = task.fields["retries"], Counter[int]()
        lost: dict[int, dict[str, Any]] = {}
        while True:
            try:
                return self._run_once(task, account, lost)
            except Stopped as stop:
                if stop.args[0] != "timeout" or not retries:
                    raise
                retries -= 1
            except Died as death:
                if task.fields["count"] == 1 or self._guard.ended:
                    raise
                deaths[death.unit] += 1
                times, output = deaths[death.unit], self._guard.last_output
                if times < topology.ATTEMPTS:
                    account.died(death, attempt=times, unit=death.unit)
                    continue
                why = {"reason": "lost", "summary": _story(times, death), "attempts": times, "output": output}
                lost[death.unit] = why | {"unit": death.unit}
                if task.fields["stop_at_error"]:
                    given = self._worker.inputs.log(task)
                    return account.sealed(failures=list(lost.values()), input=given)

    def _run_once(self, task: Message, account: Account, lost: dict[int, dict[str, Any]]) -> Body:
        run = account.begin()
        fields = task.fields
        files: list[int] = []
        try:
            header = open_task(self._worker, task, files) | {"skip": sorted(lost), "run": run}
            reply = self._guard.run(
                header,
                [task.payload],
                files,
                fields["timeout"],
                lambda: self._why_stop(task),
                account.tell_output,
                account.begun,
                fields.get("begun_after", BEGUN_SECONDS),
            )
            return account.receive(reply, lost)
        except ResultGone as gone:
            return account.failed("error", str(gone))
        except (Stopped, Died):
            account.tell_output(*self._guard.end_output(), last=True)
            if to := fields.get("to"):  # its process may have had no time to remove what it had half written
                units = range(fields["start"], fields["start"] + fields["count"])
                Target(**to).sweep_parts(task.job, units)
            raise
        finally:
            for file in files:
                os.close(file)

    def _why_stop(self, task: Message) -> str:
        if not self._worker.wanted(task):
            return "cancelled"
        return "expired" if self._expired else ""


def _story(times: int, last: Died | Unfit) -> str:
    """Tell why a task is lost."""
    if isinstance(last, Died):
        if times == 1:
            return f"its worker process died of {last}"
        return f"its worker process died {times} times, at last of {last}"
    return f"{times} attempts could not begin, at last because {last}"
