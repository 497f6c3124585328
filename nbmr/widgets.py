"""The live panel of a job in a notebook, and what keeps a view of a job up to date.

While the job runs, the cell's output is an ipywidgets view, which a thread of ours updates. At the end
that output is replaced, by its display id, with static HTML and text, and the widget is closed: so what is
saved shows the final state to readers without a kernel, and nothing is left in the kernel.
"""

from __future__ import annotations

import logging
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Any, Protocol

from nbmr import html

if TYPE_CHECKING:
    from nbmr.job import Job

#: Shortest time between two updates of a view, in seconds.
UPDATE_SECONDS = 0.1
#: Longest wait for an update that is under way when following ends, in seconds.
_LAST_UPDATE_SECONDS = 2.0

_log = logging.getLogger(__name__)


class View(Protocol):
    """Shows the state of a job somewhere."""

    def show(self, state: html.State) -> None:
        """Appear."""

    def update(self, state: html.State) -> None:
        """Show a later state; called from another thread."""

    def finish(self, state: html.State) -> None:
        """Show the last state, for good."""


def in_notebook() -> bool:
    """Tell whether this process is a Jupyter kernel; IPython isn't imported to find out."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython and hasattr(ipython, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None


def state(job: Job) -> html.State:
    """Return what views show of a job now."""
    status = job.status  # before the counts, so that an ended job's counts are the last ones
    progress = job.progress
    failures = job.failures if progress.failed else []
    first = f"First failure (number {failures[0].number}): {failures[0].summary}" if failures else ""
    return html.State(
        name=job.name or f"job {job.id}",
        status=str(status),
        done=progress.done,
        failed=progress.failed,
        total=progress.total,
        seconds=progress.seconds,
        seconds_left=progress.seconds_left,
        rate=progress.rate,
        workers=len(progress.workers),
        rejected=job.rejected,
        hint=job.hint,
        failure=first,
    )


def bundle(state: html.State) -> dict[str, Any]:
    """Return a state as static HTML and as text, by MIME type."""
    return {"text/html": html.panel(state), "text/plain": html.text(state)}


def mimebundle(job: Job) -> dict[str, Any]:
    """Return what a job is in a cell's output: its state now, as static HTML and as text."""
    return bundle(state(job))


def show(job: Job) -> None:
    """Show a running job as a live panel that follows it to its end, also after the cell's.

    Raises
    ------
    NotImplementedError
        If the job has ended or this is no notebook: then `mimebundle` is what to show. IPython understands
        this error so.
    """
    if state(job).ended or not in_notebook():
        raise NotImplementedError
    Follower(job, Panel(), to_the_end=True).start()


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
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"nbmr shows {job.id}", daemon=True)

    def start(self) -> None:
        """Show the view, in this thread, since that decides in which cell it is, and begin to update it."""
        self._view.show(state(self._job))
        self._thread.start()

    def stop(self) -> None:
        """End the thread and show the last state."""
        self._stopped.set()
        self._thread.join(_LAST_UPDATE_SECONDS)
        try:
            self._view.finish(state(self._job).left())
        except Exception:  # noqa: BLE001  # the job's own result or error is what matters
            self._complain()

    def _run(self) -> None:
        # Reading the job's counts ten times a second costs less than being woken by each of its messages
        try:
            while not self._stopped.wait(UPDATE_SECONDS):
                now = state(self._job)
                if now.ended and self._to_the_end:
                    self._view.finish(now)
                    return
                self._view.update(now)
        except Exception:  # noqa: BLE001  # whatever it is, the job goes on
            self._complain()

    def _complain(self) -> None:
        _log.warning("The display of job %s doesn't work; the job does.", self._job.id, exc_info=True)


class Panel:
    """A job's state in a cell's output: live, and static from its end on."""

    def __init__(self) -> None:
        self._output = Output()
        self._widget: Any = None
        self._shown = ""

    def show(self, state: html.State) -> None:
        """Appear in the output of the cell that runs."""
        self._shown = html.panel(state)
        self._widget = _html_widget(self._shown)
        view = self._widget._repr_mimebundle_() if self._widget else {}
        self._output.put({**view, **bundle(state)})

    def update(self, state: html.State) -> None:
        """Show a later state, if it looks different."""
        panel = html.panel(state)
        if panel == self._shown:
            return
        self._shown = panel
        if self._widget:
            self._widget.value = panel
        else:
            self._output.put(bundle(state))

    def finish(self, state: html.State) -> None:
        """Replace the widget by the last state as static HTML and text."""
        self._output.put(bundle(state))
        if self._widget:
            for widget in (self._widget, self._widget.layout, self._widget.style):
                widget.close()
            self._widget = None


class Output:
    """One place in a cell's output whose content can be replaced, from any thread and any later cell."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex
        self._there = False

    def put(self, data: dict[str, Any]) -> None:
        """Show data, by MIME type, in place of what is there."""
        from IPython.display import display, update_display  # noqa: PLC0415  # only there in a kernel

        if self._there:
            update_display(data, display_id=self._id, raw=True)  # type: ignore[no-untyped-call]
        else:
            self._there = True
            display(data, display_id=self._id, raw=True)  # type: ignore[no-untyped-call]

    def clear(self) -> None:
        """Show nothing any more."""
        if self._there:
            self.put({"text/plain": ""})


def _html_widget(value: str) -> Any:
    """Make a widget; None where widgets don't work, and the output itself has to be updated."""
    try:
        import ipywidgets  # noqa: PLC0415  # takes a while, and is of use only here

        widget = ipywidgets.HTML(value, layout={"width": "100%", "margin": "0"})
    except Exception:  # noqa: BLE001  # not installed, or of a version that doesn't fit
        _log.info("ipywidgets doesn't work here", exc_info=True)
        return None
    return widget if widget.comm is not None else None
