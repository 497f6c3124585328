"""Workers are asked for tasks that they have begun, and not often while they are at them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nbmr import stall


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(stall, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_of_a_long_task_the_workers_are_asked_now_and_then(clock):
    log = SimpleNamespace(
        job="j", about={"queue": "q"}, done=0, failed=0, bytes_received=0, astray=[], begun=[3]
    )
    slot = SimpleNamespace(job="j", task=3)
    asked = []

    def roster():
        asked.append(clock.now - 1000)
        return [SimpleNamespace(queue="q", slots=[slot]), SimpleNamespace(queue="other", slots=[])]

    watch = stall.Stall(log, None, None, roster)
    for _ in range(3600):
        assert watch.check(0, 1) == ""
        clock.now += 1
    assert asked == [20, 60, 140, 300, 620, 1260, 1900, 2540, 3180]
    log.done = 1  # something is answered: then as at first
    assert watch.check(0, 1) == ""
    slot.task = -1
    before = clock.now
    while not (said := watch.check(0, 1)):
        clock.now += 1
    assert "1 task is neither queued nor running" in said
    assert clock.now - before < 40
    clock.now += 1
    assert watch.check(0, 2) == ""  # a slot has not told anything: it may be at it
    assert watch.check(5, 1) == ""  # it may be queued
