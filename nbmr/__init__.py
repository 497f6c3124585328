"""Map-reduce for notebooks: pandas partitions and functions to workers, through RabbitMQ.

>>> import nbmr
>>> out = nbmr.map(df, fn)  # doctest: +SKIP

The names below load when first used, so that ``import nbmr`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nbmr import joblib_hook
from nbmr.version import __version__ as __version__

if TYPE_CHECKING:
    from nbmr.api import (
        attach,
        connect,
        doctor,
        everywhere,
        groupby,
        jobs,
        join_command,
        last_failure,
        map,  # noqa: A004 - the verb is named map
        map_reduce,
        reduce,
        shutdown,
        submit,
        workers,
    )
    from nbmr.client import Client
    from nbmr.cluster import Workers
    from nbmr.errors import (
        AccessRefused,
        BrokerError,
        BrokerUnreachable,
        ConfigError,
        GatherError,
        JobCancelled,
        JobIncomplete,
        JobNotFound,
        JobTimeout,
        NbmrError,
        NodeError,
        NothingToReduce,
        NotReplayable,
        PickleError,
        RabbitMQNotFound,
        TaskError,
        TaskLost,
        TaskTimeout,
        VersionMismatch,
        WorkerError,
        WrongKey,
    )
    from nbmr.executor import Executor
    from nbmr.failures import Failure
    from nbmr.filelist import files
    from nbmr.job import Job
    from nbmr.pandas_engine import Engine, engine

_HOMES = {
    "nbmr.api": (
        "attach",
        "connect",
        "doctor",
        "everywhere",
        "groupby",
        "jobs",
        "join_command",
        "last_failure",
        "map",
        "map_reduce",
        "reduce",
        "shutdown",
        "submit",
        "workers",
    ),
    "nbmr.client": ("Client",),
    "nbmr.cluster": ("Workers",),
    "nbmr.executor": ("Executor",),
    "nbmr.failures": ("Failure",),
    "nbmr.filelist": ("files",),
    "nbmr.job": ("Job",),
    "nbmr.pandas_engine": ("Engine", "engine"),
    "nbmr.errors": (
        "AccessRefused",
        "BrokerError",
        "BrokerUnreachable",
        "ConfigError",
        "GatherError",
        "JobCancelled",
        "JobIncomplete",
        "JobNotFound",
        "JobTimeout",
        "NbmrError",
        "NodeError",
        "NotReplayable",
        "NothingToReduce",
        "PickleError",
        "RabbitMQNotFound",
        "TaskError",
        "TaskLost",
        "TaskTimeout",
        "VersionMismatch",
        "WorkerError",
        "WrongKey",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # written out for readers and type checkers
    "AccessRefused",
    "BrokerError",
    "BrokerUnreachable",
    "Client",
    "ConfigError",
    "Engine",
    "Executor",
    "Failure",
    "GatherError",
    "Job",
    "JobCancelled",
    "JobIncomplete",
    "JobNotFound",
    "JobTimeout",
    "NbmrError",
    "NodeError",
    "NotReplayable",
    "NothingToReduce",
    "PickleError",
    "RabbitMQNotFound",
    "TaskError",
    "TaskLost",
    "TaskTimeout",
    "VersionMismatch",
    "WorkerError",
    "Workers",
    "WrongKey",
    "attach",
    "connect",
    "doctor",
    "engine",
    "everywhere",
    "files",
    "groupby",
    "jobs",
    "join_command",
    "last_failure",
    "map",
    "map_reduce",
    "reduce",
    "shutdown",
    "submit",
    "workers",
]


def load_ipython_extension(shell: Any) -> None:
    """Add the magics ``%nbmr`` and ``%%nbmr``; ``%load_ext nbmr`` calls this."""
    from nbmr import magics  # noqa: PLC0415 - IPython is loaded then

    magics.load_ipython_extension(shell)


def __getattr__(name: str) -> Any:
    if name == "__pandas_udf__":  # pandas' interface for engines: ``engine=nbmr``
        return __getattr__("engine")()
    if name not in _HOME:
        raise AttributeError(f"module 'nbmr' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _joblib_backend(**options: Any) -> Any:
    """Make joblib's backend ``"nbmr"``; joblib calls this when it is asked for one."""
    from nbmr.joblib_backend import NbmrBackend  # noqa: PLC0415 - joblib is loaded then

    return NbmrBackend(**options)


joblib_hook.install(_joblib_backend)
