"""Workers from a cell: in another environment."""

from __future__ import annotations

import os
import signal
import sys

import pytest

import nbmr


@pytest.fixture(scope="module")
def other(virtual_environment, tmp_path_factory):
    """A virtual environment that has nbmr."""
    return virtual_environment(tmp_path_factory.mktemp("other") / "venv")


def surroundings(_):
    import nbmr

    return sys.prefix, nbmr.__file__, os.environ.get("COLOUR"), os.environ.get("OLD"), os.getcwd()  # noqa: PTH109


def test_workers_in_another_environment(client, queue, other, tmp_path, monkeypatch, eventually):
    monkeypatch.setenv("OLD", "1")
    folder = tmp_path.resolve()
    with client.workers(1, queue, python=other, env={"COLOUR": "red", "OLD": None}, cwd=folder) as workers:

        def found():
            ((prefix, file, *rest),) = client.map([1], surroundings, queue=queue)
            assert prefix == str(other)
            assert file.startswith(str(other))
            assert rest == ["red", None, str(folder)]

        found()
        # those that replace others, or come later, run as these do
        (pid,) = workers.pids
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(workers) == 1 and workers.pids != [pid])
        found()
        workers.scale(2)
        first = workers.pids[0]
        os.kill(first, signal.SIGSTOP)  # so that the new one has to do it
        try:
            found()
        finally:
            os.kill(first, signal.SIGCONT)


def test_what_cannot_run_is_told_before_anything_is_started(client, queue, virtual_environment, tmp_path):
    bare = virtual_environment(tmp_path / "bare", with_nbmr=False)
    with pytest.raises(nbmr.ConfigError, match="nbmr can't be imported there"):
        client.workers(1, queue, python=bare)
    with pytest.raises(nbmr.ConfigError, match="no such folder"):
        client.workers(1, queue, cwd=tmp_path / "missing")
    with pytest.raises(nbmr.ConfigError, match="NBMR_KEY"):
        client.workers(1, queue, env={"NBMR_KEY": "x"})
    with pytest.raises(nbmr.ConfigError, match="how many"):
        client.workers(python=sys.executable)
    assert queue not in set(client.workers().queue)
