"""The live panel of workers that were started from a cell: how they are, and what scales and stops them.

It has two places in the cell's output. The upper one is static HTML and text, which a thread of ours rewrites
when something has changed: so what is saved shows the last state, to readers without a kernel too. The lower
one has the controls, and is empty where they don't work, or are of no use any more.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from nbmr import crew, crew_view, html, kernel
from nbmr.crew import Member
from nbmr.pools import Pool
from nbmr.session import Session
from nbmr.widgets import Output

#: Shortest time between two updates of a panel, in seconds.
UPDATE_SECONDS = 1.0
#: In how many places of a notebook one panel is kept up to date.
_PLACES = 3
#: Most workers that can be asked for by a click.
_MOST = 10_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """What is shown of some workers, at one moment."""

    queue: str
    members: tuple[Member, ...] = ()
    #: How many are wanted.
    count: int = 0
    #: What they run in, where that was chosen, and how much memory a task may hold.
    about: tuple[str, ...] = ()
    #: What is being done.
    note: str = ""
    #: What went wrong, and the last lines of the log.
    error: str = ""
    ended: bool = False

    @property
    def title(self) -> str:
        """One line: how many, and where."""
        if self.ended:
            return f"Workers of queue {self.queue}: {'failed' if self.error else 'stopped'}"
        count = f"{self.count:,} worker{'' if self.count == 1 else 's'}"
        states = [member.state for member in self.members]
        said = [f"{states.count(state)} {state}" for state in ("running", "ready", "starting", "ending")]
        told = ", ".join(part for part in said if not part.startswith("0 "))
        return f"{count} on this machine, queue {self.queue}" + (f": {told}" if told else "")

    def text(self) -> str:
        """Write it as text."""
        lines = [html.plain(self.title)]
        lines += [f"  {html.plain(line)}" for line in self.about if not self.ended]
        lines += [f"  {line}" for line in crew_view.rows(self.members)]
        lines += [f"  {html.clean(line)}" for line in [self.note, *self.error.splitlines()] if line]
        return "\n".join(lines)

    def html(self) -> str:
        """Write it as static HTML."""
        parts = [f'<div><b style="overflow-wrap:anywhere">{html.escape(self.title)}</b></div>']
        if self.about and not self.ended:
            parts.append(f'<div style="opacity:0.7">{html.escape(" · ".join(self.about))}</div>')
        parts.append(crew_view.table(self.members))
        if self.note:
            parts.append(f'<div role="status" style="opacity:0.7">{html.escape(self.note)}</div>')
        if self.error:
            parts.append(
                f'<pre role="alert" style="{html.color(html.RED)};margin:2px 0;white-space:pre-wrap;'
                f'overflow-wrap:anywhere;font-size:12px;background:none">{html.block(self.error)}</pre>'
            )
        return f'<div style="{html.BOX};max-width:none">{"".join(parts)}</div>'

    def bundle(self) -> dict[str, Any]:
        """Return it by MIME type."""
        return {"text/html": self.html(), "text/plain": self.text()}


def view(session: Session, pool: Pool, queue: str) -> View:
    """Look at a pool's workers, without waiting for any."""
    state = pool.state()
    if not state:
        return View(queue, ended=True)
    if state["failed"]:
        return View(queue, error=f"{state['failed']}\n{pool.log()}".strip(), ended=True)
    members = tuple(crew.of_pool(session, pool))
    return View(queue, members, state["count"], about(state))


def about(state: dict[str, Any]) -> tuple[str, ...]:
    """Tell what workers run in, where it isn't what this process runs in; no variable's value is told."""
    said = []
    if state.get("chosen_python"):
        said.append(f"Python: {state['python']}")
    if state.get("variables"):
        said.append(f"variables: {', '.join(state['variables'])}")
    if state.get("chosen_cwd"):
        said.append(f"folder: {state['cwd']}")
    if state.get("memory_limit"):
        said.append(f"memory: at most {html.size(state['memory_limit'])} a task")
    return tuple(said)


class WorkersPanel:
    """Keeps a view of some workers up to date, and does what is clicked.

    Parameters
    ----------
    look
        Gives the view.
    scale, stop
        What the controls do; ``stop(now)`` is called a second time, with True, by a click on "Stop now".
        They run in threads of their own, so that no cell waits for them.
    """

    def __init__(
        self, look: Callable[[], View], scale: Callable[[int], Any], stop: Callable[[bool], Any]
    ) -> None:
        self._look, self._scale, self._stop = look, scale, stop
        self._places: list[tuple[Output, Output]] = []
        self._controls: Controls | None = None
        self._shown: dict[str, Any] = {}
        self._note = self._error = ""
        self._lock = threading.RLock()
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None
        self._leaving = False

    def show(self) -> None:
        """Appear in the output of the cell that runs, and stay up to date until the workers have ended."""
        with self._lock:
            now = self._now()
            places = Output(), Output()
            self._shown = now.bundle()
            places[0].put(self._shown)
            if now.ended:
                return
            self._controls = self._controls or Controls.make(now.count, self._on_scale, self._on_stop)
            if self._controls:
                places[1].put(self._controls.bundle())
            self._places.append(places)
            for _, controls in self._places[:-_PLACES]:
                controls.clear()
            del self._places[:-_PLACES]
            if self._thread is None:
                atexit.register(self._leave)
                self._thread = threading.Thread(target=self._run, name="nbmr shows workers", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        try:
            while not self._leaving:
                self._changed.clear()
                with self._lock:
                    if not self._update():
                        return
                self._changed.wait(UPDATE_SECONDS)
        except Exception:  # noqa: BLE001 - the workers work, whatever there is to show of them
            if not self._leaving:
                _log.warning("The display of workers doesn't work; they do.", exc_info=True)
        finally:
            self._thread = None
            atexit.unregister(self._leave)

    def _update(self) -> bool:
        """Show how it is now; return whether there will be more to show."""
        now = self._now()
        if (bundle := now.bundle()) != self._shown:
            self._shown = bundle
            for output, _ in self._places:
                output.put(bundle)
        if now.ended:
            for _, controls in self._places:
                controls.clear()
            if self._controls:
                self._controls.close()
            self._controls = None
            self._places.clear()
        elif self._controls:
            self._controls.update(now.count)
        return not now.ended

    def _now(self) -> View:
        now = self._look()
        note = "" if now.ended else self._note
        return replace(now, note=note, error="\n".join(filter(None, [now.error, self._error])))

    def _leave(self) -> None:
        """Say nothing more: the kernel ends."""
        self._leaving = True
        self._changed.set()

    def _on_scale(self, count: int) -> None:
        self._do(f"scaling to {count} …", lambda: self._scale(count))

    def _on_stop(self, now: bool) -> None:
        note = "stopping at once …" if now else "stopping: running tasks are finished …"
        self._do(note, lambda: self._stop(now))

    def _do(self, note: str, action: Callable[[], Any]) -> None:
        """Do what was clicked, without waiting for it."""

        def run() -> None:
            try:
                action()
            except Exception as exc:  # noqa: BLE001 - it is shown
                self._error = f"{type(exc).__name__}: {exc}"
            finally:
                if self._note == note:
                    self._note = ""
                if self._controls:
                    self._controls.ready()
                self._changed.set()

        self._note, self._error = note, ""
        self._changed.set()
        threading.Thread(target=run, name=f"nbmr: {note}", daemon=True).start()


class Controls:
    """A field for how many workers are wanted, and the buttons "Scale" and "Stop".

    Parameters
    ----------
    widgets
        The module `ipywidgets`.
    count
        How many there are.
    scale, stop
        Called by a click; must be quick.
    """

    def __init__(
        self, widgets: Any, count: int, scale: Callable[[int], None], stop: Callable[[bool], None]
    ) -> None:
        self._count, self._scale, self._stop = count, scale, stop
        width = {"width": "auto"}
        self._field = widgets.BoundedIntText(
            count, min=0, max=_MOST, description="Workers:", layout={"width": "160px"}
        )
        self._scaling = widgets.Button(
            description="Scale",
            tooltip="Have so many workers; those that go finish their tasks",
            layout=width,
        )
        self._stopping = widgets.Button(
            description="Stop", tooltip="End these workers; their tasks are finished first", layout=width
        )
        self._box = widgets.HBox([self._field, self._scaling, self._stopping])
        self._scaling.on_click(self._on_scale)
        self._stopping.on_click(self._on_stop)
        self._listen()

    @classmethod
    def make(cls, count: int, scale: Callable[[int], None], stop: Callable[[bool], None]) -> Controls | None:
        """Make them; None where widgets don't work."""
        try:
            import ipywidgets  # noqa: PLC0415 - takes a while, and is of use only here

            made = cls(ipywidgets, count, scale, stop)
        except Exception:  # noqa: BLE001 - not installed, or of a version that doesn't fit
            _log.info("ipywidgets doesn't work here", exc_info=True)
            return None
        return made if made._box.comm is not None else None

    def bundle(self) -> dict[str, Any]:
        """Return what shows them, by MIME type; nothing where there are no widgets."""
        shown: dict[str, Any] = self._box._repr_mimebundle_()
        return {**shown, "text/plain": ""}

    def update(self, count: int) -> None:
        """Take note of how many workers there are; what somebody has typed stays."""
        if count != self._count:
            if self._field.value == self._count:
                self._field.value = count
            self._count = count
            self._listen()

    def ready(self) -> None:
        """Let them be used again."""
        self._scaling.disabled = False
        self._listen()

    def close(self) -> None:
        """Let the widgets go."""
        for widget in (self._field, self._scaling, self._stopping, self._box):
            for part in (widget.layout, getattr(widget, "style", None), widget):
                if part is not None:
                    part.close()

    def _listen(self) -> None:
        """See to it that clicks arrive while another cell runs, where that can be had."""
        for widget in (self._field, self._scaling, self._stopping):
            kernel.to_subshell(widget)

    def _on_scale(self, _button: Any) -> None:
        self._scaling.disabled = True
        self._scale(self._field.value)
        self._listen()

    def _on_stop(self, _button: Any) -> None:
        now = self._stopping.description != "Stop"
        self._stopping.description = "Stop now"
        self._stopping.tooltip = "End them at once; their tasks go back to the queue"
        self._scaling.disabled = True
        self._stop(now)
        self._listen()
