"""Every name, argument and size on the broker stands here, and nowhere else.

============================  ==========================================================================
``nbmr.tasks``                topic exchange; routing key is the queue's name
``nbmr.tasks.<queue>``        quorum queue of tasks
``nbmr.dead``                 topic exchange for tasks that were given back too often
``nbmr.dead.<queue>``         quorum queue; whichever worker gets one notes it in its job's log as lost
``nbmr.job.<id>``             stream: the log of the job, and of ``<id>-2``, ``<id>-3``, … behind it
``nbmr.job.<id>.blob.<name>`` stream: a payload too large to ride in a task
``nbmr.jobs``                 stream: the registry of jobs
``nbmr.control``              stream: cancel; a worker that comes late, or back, reads what it missed
``nbmr.key``                  stream: by its messages a wrong key is noticed
``nbmr.events``               topic exchange: viewers ask (``ask``, ``ask.<queue>``), workers tell
                              (``worker.<queue>``); nothing is kept of it
``nbmr.worker.<id>.<slot>``   a slot's own queue, for tasks that nobody else is to take; exclusive
``nbmr.inbox.<id>``           a worker's own queue, bound to what viewers ask; exclusive, goes with it
``nbmr.viewer.<id>``          a viewer's own queue, bound to what workers tell; exclusive, goes with it
============================  ==========================================================================

Kinds of messages. In a task queue: ``task`` (with its data, or with where in another job's log they are). In
a job's log: ``opened`` (what the job is), ``sending`` (its kernel is at it), ``started``, ``output`` (what a
task prints; a result has what came last), ``result``, ``chunk`` (part of a result that is too large for one
message), ``died`` (a child died under a task), ``input`` (what a failed task was given, ahead of the
``result`` that tells of it), ``sealed`` (all tasks are sent), ``kept`` (somebody waits for it). In a blob:
``blob``. In the registry: ``job``, ``made`` (a blob of a job), ``unwanted`` (to be deleted), ``forgotten``
(it is deleted), ``mark`` (whoever wrote it has read the registry when it sees it). In control: ``cancel`` (a
job, or one task of it). In key: ``key``. In events: ``ask`` (somebody looks at the workers), ``worker`` (what
a worker tells of itself for as long as somebody does).

Where all are on one host, the data of a ``task`` and the values of a ``result`` may lie in shared memory; the
message names them: see `nbmr.shared`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from nbmr.errors import ConfigError

TASKS_EXCHANGE = "nbmr.tasks"
DEAD_EXCHANGE = "nbmr.dead"
EVENTS_EXCHANGE = "nbmr.events"
CONTROL_STREAM = "nbmr.control"
JOBS_STREAM = "nbmr.jobs"
KEY_STREAM = "nbmr.key"
#: No queue has this name: what is sent there is returned.
NOWHERE = "nbmr.nowhere"

#: Most bytes of payload in one message. RabbitMQ 4 refuses messages over 16 MiB by default.
MESSAGE_BYTES = 8 << 20
#: Bytes of payload in each message of what is larger: small enough to pipeline well.
CHUNK_BYTES = 4 << 20
#: Functions up to this many bytes ride in every task; larger ones become a blob.
INLINE_BYTES = 64 << 10
#: Deliveries that a worker may hold per slot: one that runs, and none that waits behind it.
PREFETCH = 1
#: Unacknowledged messages while reading a stream: enough to keep small ones flowing.
STREAM_PREFETCH = 32
#: A task is given back to the queue at most this often: it is tried once more than that.
DELIVERY_LIMIT = 2
#: Milliseconds that RabbitMQ waits for a task's acknowledgement, which comes after its result: 24 days, about
#: the most that fits 32 bits. Read from the queue by RabbitMQ 3.12 and newer; what is older ignores it.
CONSUMER_TIMEOUT = 24 * 86_400_000
#: How often a task is tried before it is lost.
ATTEMPTS = DELIVERY_LIMIT + 1

#: Exclusive queues are of this type, whatever a virtual host's default is.
_CLASSIC = {"x-queue-type": "classic"}
_QUEUE_NAME = re.compile(r"[A-Za-z0-9_\-]+(\.[A-Za-z0-9_\-]+)*")
_LONGEST_QUEUE_NAME = 200


@dataclass(frozen=True)
class Queue:
    """A queue or stream as it is declared."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    #: Exchange and routing key that it is bound to, if any.
    exchange: str = ""
    key: str = ""
    #: Whether it outlives the job or worker that made it.
    shared: bool = False
    #: Whether it belongs to the connection that consumes from it, and goes with that; it is declared, and
    #: bound, by its consumer, whenever that subscribes.
    exclusive: bool = False
    #: Routing keys that it is bound to besides.
    more_keys: tuple[str, ...] = ()

    @property
    def is_stream(self) -> bool:
        """Whether it is a stream, which is read from an offset."""
        return self.arguments.get("x-queue-type") == "stream"


def check_queue(name: object) -> str:
    """Return the name of a queue of tasks, if it is one.

    Raises
    ------
    ConfigError
        If it isn't a text of letters, digits, ``-``, ``_`` and single dots, of at most 200 characters.
    """
    if not isinstance(name, str) or len(name) > _LONGEST_QUEUE_NAME or not _QUEUE_NAME.fullmatch(name):
        raise ConfigError(
            f"queue={name!r} is not a queue's name: use letters, digits, '-', '_' and single dots,"
            f" at most {_LONGEST_QUEUE_NAME} characters, such as 'default' or 'gpu'."
        )
    return name


def task_queue(queue: str) -> Queue:
    """Return the quorum queue that holds a queue's tasks."""
    arguments = {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-consumer-timeout": CONSUMER_TIMEOUT,
        "x-dead-letter-exchange": DEAD_EXCHANGE,
        "x-dead-letter-routing-key": queue,
    }
    return Queue(f"nbmr.tasks.{queue}", arguments, TASKS_EXCHANGE, queue, shared=True)


def dead_queue(queue: str) -> Queue:
    """Return the quorum queue for a queue's tasks that were given back too often."""
    return Queue(f"nbmr.dead.{queue}", {"x-queue-type": "quorum"}, DEAD_EXCHANGE, queue, shared=True)


def job_log(job: str) -> Queue:
    """Return the stream that is a job's log, and that of those before and after it; see `next_job`."""
    return Queue(f"nbmr.job.{_stem(job)}", {"x-queue-type": "stream"})


def next_job(job: str) -> str:
    """Return the id of a job that is logged in the same stream as another one, behind it."""
    stem, _, number = job.partition("-")
    return f"{stem}-{int(number or 1) + 1}"


def share_log(job: str, other: str) -> bool:
    """Whether two jobs are different ones that are logged in the same stream."""
    return job != other and _stem(job) == _stem(other)


def _stem(job: str) -> str:
    return job.partition("-")[0]


def blob(job: str, name: str) -> Queue:
    """Return the stream that holds one large payload of a job."""
    return Queue(f"nbmr.job.{job}.blob.{name}", {"x-queue-type": "stream"})


def control_stream() -> Queue:
    """Return the stream of cancellations: a day of them, at most 20 MB."""
    return _bounded_stream(CONTROL_STREAM, 20_000_000, {"x-max-age": "1D"})


def jobs_stream() -> Queue:
    """Return the registry of jobs: some 10,000 of them, and live ones are registered again before they go."""
    return _bounded_stream(JOBS_STREAM, 8_000_000)


def key_stream() -> Queue:
    """Return the stream whose messages tell which key this broker is used with."""
    return _bounded_stream(KEY_STREAM, 1_000_000, {"x-stream-max-segment-size-bytes": 500_000})


def own_queue(worker: str, slot: int) -> Queue:
    """Return the queue of tasks that is a slot's own; RabbitMQ's default exchange leads there."""
    return Queue(f"nbmr.worker.{worker}.{slot}", _CLASSIC, exclusive=True)


def inbox(worker: str, queue: str) -> Queue:
    """Return the queue by which a worker that takes a queue's tasks learns that somebody looks."""
    keys = (ask_key(queue),)
    return Queue(f"nbmr.inbox.{worker}", _CLASSIC, EVENTS_EXCHANGE, ask_key(), exclusive=True, more_keys=keys)


def viewer(viewer: str) -> Queue:
    """Return the queue by which a viewer learns of the workers."""
    return Queue(f"nbmr.viewer.{viewer}", _CLASSIC, EVENTS_EXCHANGE, "worker.#", exclusive=True)


def ask_key(queue: str | None = None) -> str:
    """Return the routing key by which to ask the workers of a queue, or all."""
    return "ask" if queue is None else f"ask.{queue}"


def tell_key(queue: str) -> str:
    """Return the routing key by which a worker tells of itself."""
    return f"worker.{queue}"


def _bounded_stream(name: str, size: int, more: dict[str, Any] | None = None) -> Queue:
    """Return a stream that everybody uses, and that loses its oldest segments above so many bytes."""
    arguments = {
        "x-queue-type": "stream",
        "x-max-length-bytes": size,
        "x-stream-max-segment-size-bytes": 1_000_000,
    }
    return Queue(name, arguments | (more or {}), shared=True)
