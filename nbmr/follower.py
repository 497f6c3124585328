"""What keeps a view of a job up to date."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Protocol

from nbmr.panel import FAILURES, LIVE_LINES
from nbmr.printed import Output
from nbmr.stages import large_key, stages
from nbmr.state import State, WorkerRow

if TYPE_CHECKING:
    from nbmr.failures import Failure
    from nbmr.job import Job

#: Shortest time between two updates of a view, and between two looks at the workers, in seconds.
UPDATE_SECONDS, CREW_SECONDS = 0.1, 1.0
#: Longest wait for an update that is under way when following ends, in seconds.
_LAST_UPDATE_SECONDS = 2.0

_log = logging.getLogger(__name__)


class View(Protocol):
    """Shows the state of a job somewhere."""

    def show(self, state: State) -> None:
        """Appear."""

    def update(self, state: State) -> None:
        """Show a later state; called from another thread."""

    def finish(self, state: State) -> None:
        """Show the last state, for good."""


class Observer:
    """Reads from a job what views show; costs little, however much the job does.

    Parameters
    ----------
    job
        Which job.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._failures: tuple[Failure, ...] = ()
        self._output = Output()
        self._crew: tuple[WorkerRow, ...] = ()
        self._crew_at = 0.0

    def state(self) -> State:
        """Return the job's state now."""
        job = self._job
        status = str(job.status)  # before the counts, so that an ended job's counts are the last ones
        progress = job.progress
        ended = status in ("done", "failed", "cancelled")
        if progress.failed > len(self._failures) < FAILURES:
            self._failures = tuple(job.failures[:FAILURES])
        self._output = job.printed.latest(LIVE_LINES, self._output)
        if ended or time.monotonic() - self._crew_at >= CREW_SECONDS:
            self._crew, self._crew_at = self._read_crew(ended=ended), time.monotonic()
        about, told = job.log.about.get("shuffled", {}), job.log.told
        return State(
            stages=stages(about, told),
            note=large_key(about, told),
            name=job.name or f"job {job.id}",
            status=status,
            done=progress.done,
            failed=progress.failed,
            running=progress.running,
            total=progress.total,
            seconds=progress.seconds,
            seconds_left=progress.seconds_left,
            rate=progress.rate,
            bytes_sent=progress.bytes_sent,
            bytes_received=progress.bytes_received,
            workers=len(progress.workers),
            rejected=job.rejected,
            hint=job.hint,
            failures=self._failures,
            crew=self._crew,
            output=self._output,
        )

    def _read_crew(self, *, ended: bool) -> tuple[WorkerRow, ...]:
        facts = {} if ended else {told.worker: told for told in self._job.roster()}
        now = time.time()
        rows = []
        for name, member in self._job.crew().items():
            told = facts.get(name)
            state = "" if ended else "running" if member.tasks else "idle"
            if told is not None and told.state != "here":
                state = told.state
            rows.append(
                WorkerRow(
                    worker=name,
                    host=member.host,
                    state=state,
                    done=member.done,
                    failed=member.failed,
                    current=() if ended else tuple(sorted(member.tasks)),
                    seconds=max(0.0, now - min(member.tasks.values()))
                    if member.tasks and not ended
                    else None,
                    memory=told.memory if told else None,
                    cpu=told.cpu if told else None,
                )
            )
        return tuple(rows)


class Follower:
    """Keeps a view of a job up to date, from a thread, at most ten times a second.

    Parameters
    ----------
    job, view
        Which job to show where.
    to_the_end
        Whether to finish the view by itself when the job ends; otherwise `stop` does.
    """

    def __init__(self, job: Job, view: View, *, to_the_end: bool = False) -> None:
        self._job, self._view, self._to_the_end = job, view, to_the_end
        self._observer = Observer(job)
        self._stopped = threading.Event()
        self._finishing = threading.Lock()
        self._finished = False
        self._thread = threading.Thread(target=self._run, name=f"nbmr shows {job.id}", daemon=True)

    def start(self) -> None:
        """Show the view, in this thread, since that decides in which cell it is, and begin to update it."""
        self._view.show(self._observer.state())
        self._job.followers.add(self)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and show the last state; no harm if that was done before."""
        self._stopped.set()
        self._thread.join(_LAST_UPDATE_SECONDS)
        self._finish()

    def _run(self) -> None:
        # Reading the job's counts ten times a second costs less than being woken by each of its messages
        try:
            while not self._stopped.wait(UPDATE_SECONDS):
                now = self._observer.state()
                if now.ended and self._to_the_end:
                    self._finish()
                    return
                self._view.update(now)
        except Exception:  # noqa: BLE001  # whatever it is, the job goes on
            self._complain()

    def _finish(self) -> None:
        with self._finishing:
            if self._finished:
                return
            self._finished = True
            try:
                self._view.finish(self._observer.state().left())
            except Exception:  # noqa: BLE001  # the job's own result or error is what matters
                self._complain()
            self._job.followers.discard(self)

    def _complain(self) -> None:
        _log.warning("The display of job %s doesn't work; the job does.", self._job.id, exc_info=True)
