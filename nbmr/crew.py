"""Who works: what the workers of every host tell of themselves, and those of this machine that don't yet."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from typing import Any

import psutil

from nbmr import pools
from nbmr.broker import passwords
from nbmr.errors import BrokerError
from nbmr.pools import Pool
from nbmr.roster import SlotFacts, WorkerFacts
from nbmr.session import Session


@dataclass(frozen=True)
class Member:
    """A worker, as it is shown. What isn't known of it is None."""

    queue: str
    host: str
    #: Process id of its supervisor.
    pid: int
    #: ``"starting"``, ``"ready"``, ``"running"``, or ``"ending"`` while it finishes its last tasks.
    state: str
    #: Bytes that its processes hold, and how many a task's process may hold.
    memory: int | None = None
    memory_limit: int | None = None
    #: Percent of one core.
    cpu: float | None = None
    #: How many tasks it has done, and how many of these gave a failure.
    done: int | None = None
    failed: int | None = None
    #: Its Python and packages.
    versions: dict[str, str] = field(default_factory=dict)
    #: Why it could not run this kernel's functions; empty if it can, as far as is known.
    problem: str = ""
    slots: tuple[SlotFacts, ...] = ()

    @property
    def worker(self) -> str:
        """What it is called in jobs' logs."""
        return f"{self.host}:{self.pid}"

    @property
    def running(self) -> tuple[SlotFacts, ...]:
        """The slots that run a task."""
        return tuple(slot for slot in self.slots if slot.state == "running")


def look(session: Session) -> list[Member]:
    """Ask all workers of a broker, and wait a moment for their answers.

    Raises
    ------
    BrokerError
        If RabbitMQ refuses to let them be asked.
    """
    heard = session.workers_seen()
    living = pools.living(session.settings)
    # those that are ready answer, only perhaps not as soon, on a machine that is busy
    late = {member.queue for member in _silent(session, living, heard) if member.state == "ready"}
    for queue in sorted(late):
        heard = [facts for facts in heard if facts.queue != queue] + session.workers_seen(queue)
    return _merge(heard, _silent(session, living, heard))


def of_pool(session: Session, pool: Pool) -> list[Member]:
    """Return the workers of one pool, without waiting for any: what they have told last."""
    host, pids = platform.node(), pool.state().get("workers", ())
    try:
        heard = [facts for facts in session.roster.facts() if facts.host == host and facts.pid in pids]
    except BrokerError:  # the client was closed, or may not ask: what this machine knows has to do
        heard = []
    return _merge(heard, _silent(session, [pool], heard))


def _merge(heard: list[WorkerFacts], silent: list[Member]) -> list[Member]:
    found = [*map(_told, heard), *silent]
    return sorted(found, key=lambda member: (member.queue, member.host, member.pid))


def _told(facts: WorkerFacts) -> Member:
    running = any(slot.state == "running" for slot in facts.slots)
    state = "ending" if facts.state == "ending" else "running" if running else "ready"
    return Member(
        facts.queue, facts.host, facts.pid, state, facts.memory, facts.memory_limit, facts.cpu, facts.done,
        facts.failed, facts.versions, facts.mismatch, facts.slots,
    )  # fmt: skip


def _silent(session: Session, living: list[Pool], heard: list[WorkerFacts]) -> list[Member]:
    """Return the workers of this machine's pools that have told nothing, as far as their pools know them."""
    host, url = platform.node(), passwords.without(session.settings.url)
    told = {facts.pid for facts in heard if facts.host == host}
    members = []
    for pool in living:
        state = pool.state()
        if state.get("broker", url) != url:  # pools of all named brokers lie in one folder
            continue
        for pid in state.get("workers", ()):
            if pid not in told and (memory := _memory(pid)) is not None:
                ready = "ready" if pid in state["ready"] else "starting"
                members.append(Member(state["queue"], host, pid, ready, memory, state.get("memory_limit")))
    return members


def _memory(pid: int) -> int | None:
    """Return how many bytes a worker and its children hold; None if it is gone."""
    try:
        this = psutil.Process(pid)
        return sum(process.memory_info().rss for process in (this, *this.children(recursive=True)))
    except psutil.Error:
        return None


def row(member: Member) -> dict[str, Any]:
    """Return a worker as a row of the table that `nbmr.workers` gives."""
    megabytes = None if member.memory is None else round(member.memory / 1e6, 1)
    limit = None if member.memory_limit is None else round(member.memory_limit / 1e6, 1)
    return {
        "queue": member.queue,
        "host": member.host,
        "pid": member.pid,
        "worker": member.worker,
        "state": member.state,
        "slots": len(member.slots) or None,
        "done": member.done,
        "failed": member.failed,
        "memory_mb": megabytes,
        "memory_limit_mb": limit,
        "cpu": member.cpu,
        **{name: member.versions.get(name, "") for name in ("python", "nbmr", "pandas", "numpy")},
        "job": ", ".join(dict.fromkeys(slot.name or slot.job for slot in member.running)),
        "problem": member.problem,
    }


#: The columns of that table.
COLUMNS = tuple(row(Member("", "", 0, "")))
