"""What `import nbmr` loads, and what it offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import nbmr

ROOT = Path(nbmr.__file__).parents[1]
HEAVY = {
    "pandas",
    "numpy",
    "pika",
    "ipywidgets",
    "IPython",
    "cloudpickle",
    "psutil",
    "tqdm",
    "click",
    "polars",
    "pyarrow",
}
NAMES = [
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


def loaded_by(code):
    """The top-level modules that a fresh Python has loaded after this code."""
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    return {name.partition(".")[0] for name in out.split()}


def test_the_names_are_these():
    """A name that comes or goes is a decision: change this list with it, and the changelog."""
    assert nbmr.__all__ == NAMES
    assert set(NAMES) <= set(dir(nbmr))


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_documented(name):
    value = getattr(nbmr, name)
    assert value.__doc__
    assert value.__module__.startswith("nbmr.")


def test_no_other_name_is_there():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        nbmr.nothing  # noqa: B018
    assert nbmr.__version__


def test_import_nbmr_loads_nothing_heavy():
    assert not HEAVY & loaded_by("import nbmr")
    assert not HEAVY & loaded_by("import nbmr; dir(nbmr); nbmr.__version__")
    assert not HEAVY & loaded_by("from nbmr import TaskError, ConfigError")


def test_import_nbmr_takes_less_than_a_tenth_of_a_second():
    """Above bare Python; the best of several, since machines are busy."""

    def seconds(code):
        script = f"import sys, time; sys.path.insert(0, {str(ROOT)!r}); t = time.perf_counter(); {code}"
        script += "; print(time.perf_counter() - t)"
        runs = [
            float(subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout)
            for _ in range(5)
        ]
        return min(runs)

    assert seconds("import nbmr") < 0.1


def test_a_client_of_lists_loads_no_pandas():
    assert not {"pandas", "IPython", "ipywidgets"} & loaded_by("import nbmr; nbmr.Client; nbmr.map")


@pytest.mark.parametrize(
    "code",
    [
        "import nbmr.worker.__main__",
        "import nbmr.worker.pool",
        "from nbmr.worker.worker import Options, Worker",
        "from nbmr.worker.process import Child, fork_server",
        "import nbmr.node.keeper",
    ],
)
def test_supervisors_load_neither_pandas_nor_ipython(code):
    assert not {"pandas", "numpy", "IPython", "ipywidgets", "cloudpickle"} & loaded_by(code)


def test_the_pool_and_the_keeper_are_light():
    """They run for as long as the node: RabbitMQ's client has no place in them."""
    assert "pika" not in loaded_by("import nbmr.worker.pool")
    assert "pika" not in loaded_by("import nbmr.node.keeper")
