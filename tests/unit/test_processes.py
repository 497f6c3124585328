"""Telling a process from one that got its id later."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from nbmr.node import identity, living, start_time


@pytest.fixture
def sleeper():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_a_process_is_known_by_its_id_and_its_start(sleeper, eventually):
    known = identity(sleeper.pid)
    assert living(**known).pid == sleeper.pid
    assert living(sleeper.pid, known["started"] + 5) is None
    assert living(sleeper.pid).pid == sleeper.pid
    sleeper.kill()
    eventually(lambda: living(**known) is None)  # a zombie is gone
    sleeper.wait()
    assert living(**known) is None
    with pytest.raises((OSError, psutil.Error)):
        start_time(sleeper.pid)


def test_starts_are_in_order(sleeper):
    assert 0 <= start_time(sleeper.pid) - start_time(os.getpid()) < 86400


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the clock is all there is")
def test_the_clock_may_be_set(sleeper, monkeypatch):
    """As psutil sees it then: a process's start moves with the time of the machine's start."""
    known = identity(sleeper.pid)
    linux = psutil._pslinux
    monkeypatch.setattr(linux, "boot_time", lambda boot=linux.boot_time: boot() + 3600)
    monkeypatch.setattr(linux, "BOOT_TIME", linux.boot_time(), raising=False)
    assert living(**known) is not None
