"""Whether the kernel that sends a job lives; the rest needs RabbitMQ, and stands in tests/broker."""

from __future__ import annotations

import os
import time

import pytest

from nbmr.joblog import JobLog
from nbmr.listing import SILENCE_SECONDS, abandoned
from nbmr.registry import Entry, registration
from nbmr.signing import Signer


@pytest.fixture
def log():
    return JobLog("j", Signer("k" * 64))


def elsewhere(submitted):
    return Entry("j", "name", "default", submitted, 60.0, "another-host", os.getpid(), 0.0)


def test_on_this_host_the_process_tells(log):
    entry = registration("j", "name", "default", 60.0)
    assert not abandoned(entry, log)
    entry.started -= 1000  # its id was recycled
    assert abandoned(entry, log)


def test_on_another_host_its_silence_tells_and_not_that_of_the_workers(log):
    now = time.time()
    assert not abandoned(elsewhere(now), log)
    long_ago = elsewhere(now - 2 * SILENCE_SECONDS)
    log.heard_at = now
    assert abandoned(long_ago, log)
    log.sender_heard_at = now - SILENCE_SECONDS / 2
    assert not abandoned(long_ago, log)
