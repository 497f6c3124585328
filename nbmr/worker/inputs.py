"""What failed tasks were given: noted in their jobs' logs, so that a client can run them again.

An input is the task's own function and data, as they came. Where either is a blob, the input names it: blobs
live as long as their job.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from nbmr import message, topology
from nbmr.broker import Broker
from nbmr.message import Message
from nbmr.signing import Signer

#: Bytes of inputs that a worker notes for each job; what fails after that is told without its input.
LOGGED_BYTES = 256 << 20
#: Jobs for which a worker remembers how many bytes it has noted.
_REMEMBERED = 1_000
#: What an input says of its task.
_FIELDS = (
    "start",
    "count",
    "inline",
    "function_layout",
    "function_blob",
    "data_layout",
    "data_blob",
)
#: What it may say besides.
_MORE = ("layout", "results", "together", "apart")


class Inputs:
    """A worker's notes of what failed tasks were given.

    Parameters
    ----------
    broker, signer
        Where the logs are, and what signs.
    most
        Bytes to note for each job.
    """

    def __init__(self, broker: Broker, signer: Signer, most: int = LOGGED_BYTES) -> None:
        self._broker, self._signer, self._most = broker, signer, most
        self._logged: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def log(self, task: Message, *, urgent: bool = False) -> bool:
        """Append a task's input to its job's log; to be called before its result is appended.

        Parameters
        ----------
        task
            The task, as it was taken.
        urgent
            Whether it must not wait for its turn.

        Returns
        -------
        bool
            Whether it was; not if that would be too much for its job.
        """
        with self._lock:
            logged = self._logged.pop(task.job, 0)
            fits = task.readable and logged + len(task.payload) <= self._most
            self._logged[task.job] = logged + len(task.payload) * fits
            if len(self._logged) > _REMEMBERED:
                self._logged.popitem(last=False)
        if fits:
            fields = {name: task.fields[name] for name in _FIELDS}
            fields |= {name: task.fields[name] for name in _MORE if name in task.fields}
            body = message.seal_raw(
                self._signer, "input", [task.payload], job=task.job, task=task.task, **fields
            )
            self._broker.append(topology.job_log(task.job), body, urgent=urgent)
        return fits
