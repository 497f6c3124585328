"""The live panel of a job in a notebook.

While the job runs, the cell's output is an ipywidgets view, which a thread of ours updates. At the end
that output is replaced, by its display id, with static HTML and text: so what is saved shows the final state
to readers without a kernel. JupyterLab knows display ids only until its page is loaded again; then the widget
is what is seen. So the last few panels' widgets are kept, with the final state in them.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nbmr import kernel, panel
from nbmr.follower import Follower, Observer
from nbmr.html import BOX
from nbmr.state import State, text

if TYPE_CHECKING:
    from nbmr.job import Job

#: How many ended panels keep their widget.
KEPT = 8
#: Seconds before something else stands in the place of a button that does not work yet.
_HESITATION = 1.5

_log = logging.getLogger(__name__)
_ended: deque[Any] = deque()
_ending = threading.Lock()


def in_notebook() -> bool:
    """Tell whether this process is a Jupyter kernel."""
    return kernel.running() is not None


def bundle(state: State) -> dict[str, Any]:
    """Return a state as static HTML and as text, by MIME type."""
    return {"text/html": panel.static(state), "text/plain": text(state)}


def mimebundle(job: Job) -> dict[str, Any]:
    """Return what a job is in a cell's output: its state now, as static HTML and as text."""
    return bundle(Observer(job).state())


def show(job: Job) -> None:
    """Show a running job as a live panel that follows it to its end, also after the cell's.

    Raises
    ------
    NotImplementedError
        If the job has ended or this is no notebook: then `mimebundle` is what to show. IPython understands
        this error so.
    """
    if Observer(job).state().ended or not in_notebook():
        raise NotImplementedError
    view = Panel(job.cancel)
    job.while_waiting = view.fetch
    Follower(job, view, to_the_end=True).start()


def show_awaited(job: Job) -> None:
    """Show a job that a cell of a notebook waits for as a live panel, unless it is shown already."""
    if in_notebook() and not job.followers:
        with contextlib.suppress(NotImplementedError):
            show(job)


class Panel:
    """A job's state in a cell's output: live, and static from its end on.

    It is made of several widgets, each for one part, since a part that is written anew loses what was
    unfolded in it and how far it was scrolled. At most one part is written anew at each update.

    Parameters
    ----------
    cancel
        What the Cancel button does; None for no button.
    blocks
        Whether the kernel's main thread waits for the job, so that to interrupt the kernel ends the job.
    """

    def __init__(self, cancel: Callable[[], None] | None = None, *, blocks: bool = False) -> None:
        self._output = Output()
        self._root: Any = None
        self._fallback = ""
        self._cancel = Cancel(cancel, blocks=blocks) if cancel else None
        self._parts: dict[str, Any] = {}
        self._shown: dict[str, Any] = {}
        self._failures: list[Any] = []
        self._turn = ["head", "workers", "failures", "output"]

    def show(self, state: State) -> None:
        """Appear in the output of the cell that runs."""
        self._root = self._make(state)
        view = self._root._repr_mimebundle_() if self._root else {}
        static = bundle(state)
        self._fallback = static["text/html"]
        self._output.put({**view, **static})

    def update(self, state: State) -> None:
        """Show a later state, as far as it looks different."""
        if not self._root:
            static = bundle(state)
            if static["text/html"] != self._fallback:
                self._fallback = static["text/html"]
                self._output.put(static)
            return
        if self._cancel and self._cancel.changed():
            self._arrange()
            return
        for part in list(self._turn):
            if getattr(self, f"_put_{part}")(state):
                self._turn.remove(part)
                self._turn.append(part)  # the others have their turn first
                return

    def fetch(self) -> None:
        """Let clicks be noticed; for the thread that waits for the job to call about once a second."""
        if self._cancel:
            self._cancel.fetch()

    def finish(self, state: State) -> None:
        """Replace the widget by the last state as static HTML and text."""
        self._output.put(bundle(state))
        if not self._root:
            return
        last = _html(panel.static(state))
        children = self._root.children
        self._root.children = (last,)
        for child in children:
            _close(child)
        if self._cancel:
            self._cancel.close()
        with _ending:
            _ended.append(self._root)
            over = [_ended.popleft() for _ in range(len(_ended) - KEPT)]
        for root in over:
            _close(root)
        self._root = None

    def _make(self, state: State) -> Any:
        """Make the widgets that there are at first; None where widgets don't work."""
        try:
            from ipywidgets import HBox, VBox  # noqa: PLC0415 # takes a while, and is of use only here

            self._shown["head"] = panel.head(state)
            self._parts["head"] = _html(_box(self._shown["head"]), "1 1 auto")
            # grid_gap is the space between what is in a flex box, too
            layout = {"width": "100%", "overflow": "hidden", "grid_gap": "12px"}
            self._top = HBox([self._parts["head"]], layout=layout)
            root = VBox([self._top], layout={"width": "100%", "max_width": "720px", "overflow": "hidden"})
        except Exception:  # noqa: BLE001  # not installed, or of a version that doesn't fit
            _log.info("ipywidgets doesn't work here", exc_info=True)
            return None
        return root if root.comm is not None else None

    def _arrange(self) -> None:
        """Put the parts that there are in their order."""
        self._top.children = (
            self._parts["head"],
            *([self._cancel.widget] if self._cancel and self._cancel.widget else []),
        )
        below = [self._parts[name] for name in ("workers",) if name in self._parts]
        below += self._failures
        below += [self._parts[name] for name in ("further", "output") if name in self._parts]
        self._root.children = (self._top, *below)

    def _put_head(self, state: State) -> bool:
        return self._put("head", panel.head(state))

    def _put_workers(self, state: State) -> bool:
        if state.crew is self._shown.get("crew"):
            return False
        self._shown["crew"] = state.crew
        return self._put("workers", panel.workers(state.crew))

    def _put_failures(self, state: State) -> bool:
        new = state.failures[len(self._failures) : panel.FAILURES]
        further = panel.further(state) if len(self._failures) + len(new) >= panel.FAILURES else ""
        if new:
            self._failures += [_html(_box(panel.failure(failure))) for failure in new]
            self._arrange()
        return self._put("further", further) or bool(new)

    def _put_output(self, state: State) -> bool:
        if state.output.version == self._shown.get("version"):
            return False
        self._shown["version"] = state.output.version
        return self._put("output", panel.output(state.output, panel.LIVE_LINES))

    def _put(self, part: str, markup: str) -> bool:
        """Write a part anew if it looks different; return whether it did."""
        if markup == self._shown.get(part, ""):
            return False
        self._shown[part] = markup
        if part in self._parts:
            self._parts[part].value = _box(markup)
        else:
            self._parts[part] = _html(_box(markup))
            self._arrange()
        return True


class Cancel:
    """What stands at the place of the Cancel button: a button that works now, or else what to do instead.

    Parameters
    ----------
    cancel
        What the button does.
    blocks
        Whether to interrupt the kernel would do the same.
    """

    def __init__(self, cancel: Callable[[], None], *, blocks: bool) -> None:
        self._do = cancel
        self._clicks = kernel.Clicks()
        self._instead = self._find_instead(blocks=blocks)
        self._since = time.monotonic()
        self._kind = ""
        self._made: dict[str, Any] = {}
        self._clicked = False

    @property
    def widget(self) -> Any:
        """What is to be shown now; None for nothing."""
        return self._made.get(self._kind)

    def changed(self) -> bool:
        """Find out what works now; return whether that is something else than before."""
        if self._kind == "button" and not self._clicked and self._clicks.waits(self.widget):
            self._on_click(self.widget)
        kind = "button" if self._clicks.arrive() else "instead"
        if kind == self._kind or (not self._kind and kind == "instead" and self._early):
            return False
        self._kind = kind
        if kind not in self._made:
            self._made[kind] = self._button() if kind == "button" else _html(_box(self._instead), "0 0 auto")
        return True

    def fetch(self) -> None:
        """Let clicks be noticed that have come meanwhile."""
        self._clicks.fetch()

    def close(self) -> None:
        """Let the widgets go."""
        for widget in self._made.values():
            _close(widget)

    @property
    def _early(self) -> bool:
        return time.monotonic() - self._since < _HESITATION

    @staticmethod
    def _find_instead(*, blocks: bool) -> str:
        if not blocks:
            return panel.advice("kernel busy: interrupt it, then cancel")
        if kernel.takes_commands():
            return panel.interrupting_button()
        return panel.advice("interrupt the kernel to stop")

    def _button(self) -> Any:
        from ipywidgets import Button  # noqa: PLC0415 # takes a while

        layout = {"width": "auto", "height": "26px", "flex": "0 0 auto", "margin": "2px"}
        button = Button(description="Cancel", tooltip="Ends the job", layout=layout)
        kernel.to_subshell(button)
        button.on_click(self._on_click)
        return button

    def _on_click(self, button: Any) -> None:
        if self._clicked:
            return
        self._clicked = True
        button.disabled, button.description = True, "Cancelling"
        self._do()


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


def _box(markup: str) -> str:
    return f'<div style="{BOX}">{markup}</div>'


def _html(markup: str, flex: str = "0 0 auto") -> Any:
    from ipywidgets import HTML  # noqa: PLC0415 # takes a while

    return HTML(markup, layout={"margin": "0", "flex": flex, "min_width": "0"})


def _close(widget: Any) -> None:
    """Let a widget go, with all that belongs to it."""
    for child in getattr(widget, "children", ()):
        _close(child)
    for part in (widget.layout, getattr(widget, "style", None), widget):
        if part is not None:
            part.close()
