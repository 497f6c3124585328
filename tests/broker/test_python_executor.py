"""Python's own tests of executors (from 3.12 on; Debian has them in libpython3.13-testsuite), with nbmr's.

Left out is what is about threads or processes of this machine. Adapted is what starts a Python and makes an
executor there by the name of one of the standard library's.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
import unittest

import pytest

import nbmr

if not os.environ.get("CI") or sys.version_info < (3, 13):  # the second pass has them
    pytest.importorskip("test.test_concurrent_futures", reason="Python's own tests are not installed")

from test.test_concurrent_futures import (
    executor,
    test_as_completed,
    test_init,
    test_shutdown,
    test_wait,
    util,
)

SCRIPT = """
import atexit, nbmr, time
from pathlib import Path
executor = nbmr.Executor(max_workers=5)
"""


class Executor(nbmr.Executor):
    """Of the workers of this session."""

    client: nbmr.Client

    def __init__(self, **options):
        super().__init__(client=self.client, **options)

    @property
    def _broken(self):
        return self._job.broken


@pytest.fixture(scope="module", autouse=True)
def _of_this_session(client):
    Executor.client = client
    yield
    del Executor.client


class Event:
    """What calls wait for, wherever they are made."""

    def __init__(self, file):
        self.file = file

    def set(self):
        self.file.touch()

    def wait(self):
        while not self.file.exists():
            time.sleep(0.01)


class NbmrMixin(util.ExecutorMixin):
    """Has Python's tests use nbmr's executor."""

    executor_type = Executor

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def create_event(self):
        return Event(self.folder / secrets.token_hex(8))


class Shutdown(test_shutdown.ExecutorShutdownTest):
    """What is said of an executor's end."""

    @pytest.fixture(autouse=True)
    def _processes(self, start, tmp_path):
        self.start, self.file = start, tmp_path / "apple"

    def run_to_its_end(self, code):
        process = self.start("-c", SCRIPT + code)
        out, errors = process.communicate(timeout=60)
        return process.returncode, out, errors

    def test_interpreter_shutdown(self):
        code = f"executor.submit(lambda: time.sleep(1) or Path({str(self.file)!r}).touch())"
        assert self.run_to_its_end(code) == (0, "", "")
        assert self.file.exists()

    def test_submit_after_interpreter_shutdown(self):
        code = """
@atexit.register
def run_last():
    try:
        executor.submit(id, None)
    except RuntimeError:
        print("runtime-error")
        raise
"""
        _, out, errors = self.run_to_its_end(code)
        assert out == "runtime-error\n"
        assert "RuntimeError: cannot schedule new futures" in errors

    def test_hang_gh83386(self):
        code = f"executor.submit(lambda: time.sleep(1) or Path({str(self.file)!r}).touch())\n"
        assert self.run_to_its_end(code + "executor.shutdown(wait=False)") == (0, "", "")
        assert self.file.exists()


for tests in (
    executor.ExecutorTest,
    test_as_completed.AsCompletedTests,
    test_init.FailingInitializerMixin,
    test_init.InitializerMixin,
    test_wait.WaitTests,
    Shutdown,
):
    util.create_executor_tests(globals(), tests, (unittest.TestCase,), (NbmrMixin,))
