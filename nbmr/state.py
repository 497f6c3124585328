"""What a view shows of a job, at one moment, and how it is said in text."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from nbmr import html
from nbmr.failures import Failure
from nbmr.printed import Output
from nbmr.stages import Stage
from nbmr.stages import text as stage_text

_ENDED = ("done", "failed", "cancelled")
#: How many failures, and lines of output, the text of a job has.
_FAILURES, _LINES = 5, 20


@dataclass(frozen=True)
class WorkerRow:
    """A worker that takes part in a job."""

    #: Its name: host and process id.
    worker: str
    host: str
    #: ``"running"``, ``"idle"``, or what else is the matter with it.
    state: str
    #: Tasks of this job that it has done, and that failed.
    done: int = 0
    failed: int = 0
    #: Numbers of the tasks that it runs now.
    current: tuple[int, ...] = ()
    #: How long the first of these has run.
    seconds: float | None = None
    #: Bytes that it holds, and percent of one core that it takes; None where that isn't known.
    memory: int | None = None
    cpu: float | None = None


@dataclass(frozen=True)
class State:
    """What a view shows of a job, at one moment. Counts are of units, as in `nbmr.joblog.Progress`."""

    name: str
    #: ``pending``, ``running``, ``done``, ``failed`` or ``cancelled``.
    status: str
    done: int = 0
    failed: int = 0
    #: How many are with a worker now.
    running: int = 0
    #: None while it isn't known.
    total: int | None = None
    seconds: float = 0.0
    #: None while nothing can be said.
    seconds_left: float | None = None
    #: Units a second.
    rate: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    #: How many workers have taken part.
    workers: int = 0
    #: Messages in the job's log that were not genuine, or made no sense.
    rejected: int = 0
    #: What keeps the job from going on; empty if nothing does.
    hint: str = ""
    #: Map, shuffle and reduce, as far as it has these.
    stages: tuple[Stage, ...] = ()
    #: What there is to know about its data; empty for nothing.
    note: str = ""
    #: The first failures, as they happened; `failed` says how many there are.
    failures: tuple[Failure, ...] = ()
    crew: tuple[WorkerRow, ...] = ()
    output: Output = field(default_factory=Output)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status in _ENDED

    def left(self) -> State:
        """Return the state as it is to be kept by who follows the job no longer."""
        if self.ended:
            return self
        return replace(self, status=f"still {self.status}", running=0, seconds_left=None)


def facts(state: State) -> list[str]:
    """Return what there is to say about how far a job is, most important first."""
    said = [f"{state.done:,}" + (" done" if state.total is None else f" of {state.total:,}")]
    if state.failed:
        said.append(f"{state.failed:,} failed")
    if state.running and not state.ended:
        said.append(f"{state.running:,} running")
    if state.ended:
        said.append(f"in {html.duration(state.seconds)}")
    said.append(html.rate(state.rate))
    if not state.ended and state.seconds_left is not None:
        said.append(f"{html.duration(state.seconds_left)} left")
    if state.workers:
        said.append("1 worker" if state.workers == 1 else f"{state.workers:,} workers")
    if state.bytes_sent:
        said.append(f"{html.size(state.bytes_sent)} sent")
    if state.bytes_received:
        said.append(f"{html.size(state.bytes_received)} received")
    if state.rejected:
        said.append(f"{state.rejected:,} message{'s' if state.rejected > 1 else ''} rejected")
    return [fact for fact in said if fact]


def flow(state: State) -> str:
    """Say how many rows and bytes went through each stage; empty where there are no stages."""
    return " · ".join(stage_text(stage) for stage in state.stages)


def title(failure: Failure) -> str:
    """Say in one line what failed, and where.

    Examples
    --------
    >>> title(Failure("error", 7, "ValueError: bad", rows=("70", "79"), host="node1", pid=42, attempts=3))
    'Partition 7 (rows 70 to 79): ValueError: bad, on node1 (pid 42) after 3 attempts'
    """
    number = f"Number {failure.number}"
    if failure.rows:
        number = f"Partition {failure.number} (rows {failure.rows[0]} to {failure.rows[-1]})"
    where = f", on {failure.host} (pid {failure.pid})" if failure.host else ""
    tries = f" after {failure.attempts} attempts" if failure.attempts > 1 else ""
    return f"{number}: {html.plain(failure.summary)}{where}{tries}"


def more(count: int, what: str) -> str:
    """Say how many are left out.

    Examples
    --------
    >>> more(1, "failure"), more(1_200, "line")
    ('1 more failure', '1,200 more lines')
    """
    return f"{count:,} more {what}{'' if count == 1 else 's'}"


def text(state: State) -> str:
    """Write a state as text: one line, and more for the hint, the first failures, and the last output.

    Examples
    --------
    >>> text(State("clean", "done", done=4, total=4, seconds=2.0, rate=2.0, workers=1))
    'clean: done, 4 of 4, in 2.0 s, 2.0/s, 1 worker'
    """
    lines = [f"{html.plain(state.name)}: {', '.join([state.status, *facts(state)])}"]
    lines += [f"  {html.plain(said)}" for said in (flow(state), state.note, state.hint) if said]
    shown = state.failures[:_FAILURES]
    lines += [f"  {html.plain(title(failure))}" for failure in shown]
    if state.failed > len(shown) > 0:
        lines.append(f"  and {more(state.failed - len(shown), 'failure')}")
    written = state.output.lines[-_LINES:]
    if before := state.output.before(written):
        lines.append(f"  … {more(before, 'line')} of output")
    lines += [f"  [{line.task}] {html.clean(line.text)}" for line in written]
    return "\n".join(lines)
