"""Every error that nbmr raises, in one tree.

::

    NbmrError
    ├── ConfigError (ValueError)            a setting or an argument is wrong or missing
    │   └── GatherError (TypeError)         results can't be concatenated, as was asked for
    ├── PickleError (TypeError)             an object can't travel; says which, and where it is
    ├── BrokerError
    │   ├── BrokerUnreachable (ConnectionError)     nothing answers there
    │   ├── AccessRefused                   wrong user, password or virtual host
    │   ├── WrongKey                        the broker is used with another signing key
    │   └── NodeError                       the private RabbitMQ node can't be started or used
    │       └── RabbitMQNotFound            RabbitMQ is not installed
    ├── WorkerError                         local workers can't be started, or none is there
    ├── ProtocolError                       a message is forged, damaged or not for us
    ├── JobNotFound (KeyError)              no such job on this broker
    ├── JobCancelled                        somebody cancelled the job
    ├── JobIncomplete                       the job's kernel died before all of it was sent
    ├── JobTimeout (TimeoutError)           ``result(timeout=…)`` waited long enough
    ├── VersionMismatch                     the two sides' packages don't mix
    └── TaskError                           the function raised in a task
        ├── TaskTimeout (TimeoutError)      a task ran longer than its ``timeout``
        └── TaskLost                        a task's worker died under it, too often
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class NbmrError(Exception):
    """The root of every error that nbmr raises."""


class ConfigError(NbmrError, ValueError):
    """A setting or an argument is wrong or missing; the message says which and what to do."""


class GatherError(ConfigError, TypeError):
    """The results can't be concatenated, as was asked for; the message names the first that doesn't fit."""


class PickleError(NbmrError, TypeError):
    """An object can't be sent to a worker; the message names it and the variable that holds it."""


class BrokerError(NbmrError):
    """Something is wrong between this process and RabbitMQ."""


class BrokerUnreachable(BrokerError, ConnectionError):
    """No RabbitMQ answers at the given address."""


class AccessRefused(BrokerError):
    """RabbitMQ refuses the user, the password or the virtual host; the message says which."""


class WrongKey(BrokerError):
    """The broker is in use with another signing key."""


class NodeError(BrokerError):
    """The private RabbitMQ node could not be started or used."""


class RabbitMQNotFound(NodeError):
    """RabbitMQ is not installed on this machine."""


class WorkerError(NbmrError):
    """Local workers could not be started, or there is none where one is needed."""


class ProtocolError(NbmrError):
    """A message is forged, damaged, of another version, or not meant for its receiver."""


class JobNotFound(NbmrError, KeyError):
    """No job of that id or name is on this broker."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else ""


class JobCancelled(NbmrError):
    """The job was cancelled before it was done."""


class JobIncomplete(NbmrError):
    """The kernel that sent the job died before all of it was sent; ``partial()`` gives what there is."""


class JobTimeout(NbmrError, TimeoutError):
    """The job was not done within the time that the caller wanted to wait; it goes on."""


class VersionMismatch(NbmrError):
    """Client and worker have versions of Python or of a package that don't mix."""


@dataclass(frozen=True)
class Failure:
    """What is known of a task (or item) that failed.

    Its fields travel in the job's log, so they are the same in every kernel that follows the job.
    """

    #: ``"error"``, ``"timeout"``, ``"lost"`` or ``"versions"``.
    reason: str
    #: Partition number; for a list, the item's position.
    partition: int
    #: One line: what happened.
    summary: str
    #: The remote traceback, the user's frames first; empty where there is none.
    traceback: str = ""
    #: First and last index label of the partition, as text; empty for items.
    rows: tuple[str, ...] = ()
    #: Host name of the worker.
    host: str = ""
    #: Process id of the child that ran the task.
    pid: int = 0
    #: How often the task was tried.
    attempts: int = 1
    #: The last lines that the task printed.
    output: str = ""
    #: The original exception, where it could be unpickled; otherwise None.
    exception: BaseException | None = field(default=None, compare=False, repr=False)

    def error(self) -> NbmrError:
        """Return the exception that stands for this failure."""
        if self.reason == "versions":
            return VersionMismatch(self.summary)
        kind = {"timeout": TaskTimeout, "lost": TaskLost}.get(self.reason, TaskError)
        return kind(self)


class TaskError(NbmrError):
    """The function raised on a worker.

    Attributes
    ----------
    failure
        A `Failure`: partition, rows, host, pid, attempts, traceback, output, and the original
        exception, which is also this error's ``__cause__`` where it could be unpickled.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        f = self.failure
        rows = f" (rows {f.rows[0]} to {f.rows[-1]})" if f.rows else ""
        tries = f" after {f.attempts} attempts" if f.attempts > 1 else ""
        lines = [f"{f.summary}\n  in partition {f.partition}{rows}, on worker {f.host} (pid {f.pid}){tries}"]
        if f.traceback:
            lines.append(f.traceback.rstrip())
        if f.output:
            lines.append("last output:\n" + f.output.rstrip())
        return "\n\n".join(lines)

    @property
    def partition(self) -> int:
        """Number of the partition, or position of the item, that failed."""
        return self.failure.partition

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.failure,)


class TaskTimeout(TaskError, TimeoutError):
    """A task ran longer than the ``timeout`` of its job, or than RabbitMQ waits for it, and was ended."""


class TaskLost(TaskError):
    """A task's worker died under it, as often as the broker allows."""
