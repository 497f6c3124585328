"""Very many answers of a job become fewer map tasks, in their order."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from nbmr.chaining import MOST_MAP_TASKS, JobSource, MergedSource


def cut(answers, order, kind=MergedSource, *, at_once=1, size=100, **options):
    """Cut answers, ``(count, failures)`` each, that arrive in some order; return all tasks."""
    starts, start = [], 0
    for count, _ in answers:
        starts.append(start)
        start += count
    job = SimpleNamespace(
        id="j", status="running", forgotten=False, log=SimpleNamespace(about={}, total=start)
    )
    source = kind(job, **options)
    tasks, arrived = [], []
    for number in order:
        count, failures = answers[number]
        outcome = SimpleNamespace(
            start=starts[number], count=count, failures=failures, offset=number, size=size
        )
        arrived.append((number, outcome))
        if len(arrived) == at_once:
            tasks += source._cut(arrived)
            arrived = []
    tasks += source._cut(arrived)
    return [*tasks, *source._rest()], starts


def units(tasks, starts):
    """List the units of tasks, by where their results are; each task numbers its own without a gap."""
    found = []
    for task in tasks:
        there = [
            starts[reference["task"]] + unit
            for reference in task.results
            for unit in range(reference["first"], reference["first"] + reference["count"])
        ]
        assert there == list(range(task.start, task.start + task.count))
        found += there
    return found


@pytest.mark.parametrize("answers", [1, 79, 400, 3_000])
@pytest.mark.parametrize("shuffled", [False, True])
def test_neighbours_make_one_task(answers, shuffled):
    order = list(range(answers))
    if shuffled:
        random.Random(0).shuffle(order)
    tasks, starts = cut([(1 + number % 3, {}) for number in range(answers)], order)
    assert units(tasks, starts) == list(range(sum(1 + number % 3 for number in range(answers))))
    assert len(tasks) <= min(answers, MOST_MAP_TASKS)
    assert len(tasks) == answers or answers > 80
    assert max(len(task.results) for task in tasks) <= max(1, answers / 40)


def test_what_failed_is_left_out_and_parts_neighbours():
    failures = {100: {0: {}}, 201: {2: {}}, 300: {1: {}}, 301: {0: {}, 1: {}, 2: {}}}
    tasks, starts = cut([(3, failures.get(number, {})) for number in range(400)], range(400))
    gone = {300, 605, 901, 903, 904, 905}
    assert units(tasks, starts) == [unit for unit in range(1_200) if unit not in gone]
    assert len(tasks) < 250


@pytest.mark.parametrize("at_once", [1, 7, 100, 3_000])
@pytest.mark.parametrize("answers", [1, 79, 3_000])
def test_answers_that_came_at_once_make_fewer_tasks(answers, at_once):
    failures = {number: {0: {}} for number in range(50, answers, 97)}
    tasks, starts = cut(
        [(1 + number % 3, failures.get(number, {})) for number in range(answers)],
        range(answers), JobSource, at_once=at_once,
    )  # fmt: skip
    failed = {starts[number] for number in failures}
    assert sorted(units(tasks, starts)) == sorted(set(range(starts[-1] + 1 + (answers - 1) % 3)) - failed)
    sizes = [len(task.results) for task in tasks]
    assert max(sizes) <= max(1, -(-min(at_once, answers) // 16))
    if at_once > answers > 1:  # all at once: large tasks first, single ones at the end
        assert sizes[-1] == 1
        assert len(sizes) < max(80, answers / 8)


def test_large_answers_and_those_with_a_limit_are_a_task_each():
    answers = [(1, {})] * 300
    assert len(cut(answers, range(300), JobSource, at_once=300, size=1 << 20)[0]) == 300
    assert len(cut(answers, range(300), JobSource, at_once=300, singly=True)[0]) == 300
    assert len(cut(answers, range(300), JobSource, at_once=300)[0]) < 100
