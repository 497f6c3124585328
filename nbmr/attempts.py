"""Attempts at a job's tasks, as its log tells: which run, what became of others, and who made them."""

from __future__ import annotations

from typing import Any

from nbmr.standing import Member


class Attempts:
    """What is known of the attempts at the tasks of one job."""

    def __init__(self) -> None:
        #: What was told when each running task was started: attempt, worker, host, pid.
        self.running: dict[int, dict[str, Any]] = {}
        #: For each task the stories of attempts that came to nothing, with the unit each is about, or None.
        self.deaths: dict[int, list[tuple[int | None, str]]] = {}
        #: By worker: its host, and how many tasks it has done, and how many failed.
        self._crew: dict[str, tuple[str, int, int]] = {}

    @property
    def workers(self) -> frozenset[str]:
        """Names of the workers that have made any."""
        return frozenset(self._crew)

    def crew(self) -> dict[str, Member]:
        """Return what each worker did so far and is at now, by its name, in the order in which they came."""
        tasks: dict[str, dict[int, float]] = {name: {} for name in self._crew}
        for task, started in self.running.items():
            tasks[started["worker"]][task] = started["since"]
        return {name: Member(*known, tasks[name]) for name, known in self._crew.items()}

    def start(self, task: int, fields: dict[str, Any], since: float, *, answered: bool) -> None:
        """Note that a worker has begun with a task, which may be answered for already."""
        self._crew.setdefault(fields["worker"], (fields["host"], 0, 0))
        if answered:
            return
        before = self.running.get(task, fields)["attempt"]
        if before < fields["attempt"]:
            self.fall_silent(task)
        if before <= fields["attempt"]:  # else: an old entry, sent again
            self.running[task] = fields | {"since": since}

    def die(self, task: int, fields: dict[str, Any], cause: str) -> None:
        """Note of what an attempt has died."""
        if "unit" not in fields:  # or else it is still at the others
            self.running.pop(task, None)
        self._note_death(task, fields, cause)

    def fall_silent(self, task: int) -> dict[str, Any]:
        """Note what became of an attempt that is over without a word; return what was told at its start."""
        silent = self.running.pop(task, {})
        if silent:
            cause = f"worker {silent['worker']} was killed, or lost its connection to RabbitMQ"
            self._note_death(task, silent, cause)
        return silent

    def answer(self, fields: dict[str, Any], *, clean: bool) -> None:
        """Note that a worker has answered for a task; `clean` if nothing of it has failed."""
        host, done, failed = self._crew.get(fields["worker"], (fields["host"], 0, 0))
        self._crew[fields["worker"]] = host, done + clean, failed + (not clean)

    def stories(self, task: int, unit: int) -> list[str]:
        """Return what is told of the attempts at a unit of a task that came to nothing."""
        return [story for about, story in self.deaths.get(task, []) if about in (None, unit)]

    def _note_death(self, task: int, fields: dict[str, Any], cause: str) -> None:
        story = f"attempt {fields['attempt']}: {cause}, on {fields['host']} (pid {fields['pid']})"
        stories = self.deaths.setdefault(task, [])
        if (fields.get("unit"), story) not in stories:  # else: sent twice
            stories.append((fields.get("unit"), story))
