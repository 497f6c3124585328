"""Every error that nbmr raises, in one tree.

::

    NbmrError
    ├── ConfigError (ValueError)            a setting or an argument is wrong or missing
    │   ├── GatherError (TypeError)         results can't be concatenated, as was asked for
    │   └── NothingToReduce (TypeError)     `nbmr.reduce` of empty data, and no initial value
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
    ├── NotReplayable (LookupError)         what failed can't be run again here; says why
    └── TaskError                           the function raised in a task
        ├── TaskTimeout (TimeoutError)      a task ran longer than its ``timeout``
        └── TaskLost                        a task's worker died under it, too often
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbmr.failures import Failure


class NbmrError(Exception):
    """The root of every error that nbmr raises."""


class ConfigError(NbmrError, ValueError):
    """A setting or an argument is wrong or missing; the message says which and what to do."""


class GatherError(ConfigError, TypeError):
    """The results can't be concatenated, as was asked for; the message names the first that doesn't fit."""


class NothingToReduce(ConfigError, TypeError):
    """`nbmr.reduce` got empty data and no initial value; a TypeError, as of `functools.reduce`."""


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


class NotReplayable(NbmrError, LookupError):
    """What failed can't be run again here, or its input can't be had; the message says why."""


class TaskError(NbmrError):
    """The function raised on a worker.

    Attributes
    ----------
    failure
        A `Failure`: number, rows, host, pid, attempts, traceback, output, and the original exception,
        which is also this error's ``__cause__`` where it could be unpickled. Its ``partition`` is the data
        that the function got, and its ``replay()`` runs the function on it here.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        return str(self.failure)

    @property
    def partition(self) -> int:
        """Number of the partition, or position of the item, that failed."""
        return self.failure.number

    @property
    def number(self) -> int:
        """The same as `partition`, under the name that it has in `Failure`."""
        return self.failure.number

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows of this error, in place of a traceback through nbmr."""
        return self.failure.render(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.failure,)


class TaskTimeout(TaskError, TimeoutError):
    """A task ran longer than the ``timeout`` of its job, or than RabbitMQ waits for it, and was ended."""


class TaskLost(TaskError):
    """A task's worker died under it, as often as the broker allows."""
