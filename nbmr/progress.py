"""Where progress is shown: a panel in a notebook, a bar in a terminal, only trouble elsewhere."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

from nbmr import html, widgets
from nbmr.errors import ConfigError
from nbmr.follower import Follower, View
from nbmr.panel import FAILURES
from nbmr.printed import Output, OutputLine
from nbmr.state import State, facts, flow, more, title

if TYPE_CHECKING:
    from nbmr.job import Job

#: Widest name of a job before a bar, in characters.
_NAME_WIDTH = 32


def follow(job: Job, show: bool | str = True) -> AbstractContextManager[None]:
    """Show a job's progress until the block ends, and then the state it has come to.

    Parameters
    ----------
    job
        The job.
    show
        True for a panel in a notebook, a bar in a terminal, and elsewhere a line only if something keeps the
        job from going on; ``"notebook"`` or ``"terminal"`` for one of these anyway; False for nothing.

    Raises
    ------
    ConfigError
        If `show` is none of these.

    Examples
    --------
    >>> with follow(job):  # doctest: +SKIP
    ...     job.result()
    """
    match _where(show):
        case "notebook":
            blocks = threading.current_thread() is threading.main_thread()
            panel = widgets.Panel(job.cancel, blocks=blocks)
            job.while_waiting = panel.fetch
            return _following(job, panel)
        case "terminal":
            return _following(job, Bar(sys.stderr))
        case "script":
            return _following(job, Notes(sys.stderr))
        case _:
            return nullcontext()


def awaiting(job: Job, show: bool | str = True) -> AbstractContextManager[None]:
    """Show the progress of a job that is awaited: as `follow`, but a notebook's panel stays to the job's end.

    Parameters
    ----------
    job, show
        As for `follow`.
    """
    if _where(show) == "notebook":
        widgets.show_awaited(job)
        return nullcontext()
    return follow(job, show)


def starting(show: bool | str = True) -> AbstractContextManager[Callable[[str], None]]:
    """Show one line at a time of what is waited for; it is gone when the block ends.

    Parameters
    ----------
    show
        As for `follow`.

    Returns
    -------
    context manager
        Gives a function that shows a line in place of the one before.

    Raises
    ------
    ConfigError
        If `show` is none of the known places.

    Examples
    --------
    >>> with starting() as say:  # doctest: +SKIP
    ...     say("Starting a private RabbitMQ node … 3 s")
    """
    match _where(show):
        case "notebook":
            return _line_in_notebook()
        case "terminal":
            return _line_in_terminal(sys.stderr)
        case _:
            return nullcontext(lambda _line: None)


def _where(show: bool | str) -> str:
    if isinstance(show, str):
        if show not in ("notebook", "terminal"):
            raise ConfigError(f'progress is {show!r}; give True, False, "notebook" or "terminal".')
        return show
    if show and widgets.in_notebook():
        return "notebook"
    if not show or sys.stderr is None or sys.stderr.closed:
        return ""
    return "terminal" if sys.stderr.isatty() else "script"


@contextmanager
def _following(job: Job, view: View) -> Iterator[None]:
    follower = Follower(job, view)
    follower.start()
    try:
        yield
    finally:
        follower.stop()


@contextmanager
def _line_in_notebook() -> Iterator[Callable[[str], None]]:
    output = widgets.Output()
    try:
        yield lambda line: output.put({"text/html": html.message(line), "text/plain": html.plain(line)})
    finally:
        output.clear()


@contextmanager
def _line_in_terminal(stream: TextIO) -> Iterator[Callable[[str], None]]:
    def write(line: str) -> None:
        stream.write(f"\r{html.plain(line)[: _width(stream)]}\x1b[K")
        stream.flush()

    try:
        yield write
    finally:
        write("")


def _width(stream: TextIO) -> int:
    """How long a line may be: one that wraps could not be taken back."""
    try:
        return (os.get_terminal_size(stream.fileno()).columns or 80) - 1
    except OSError:  # no terminal, but asked for
        return 79


class Notes:
    """For a script without a terminal: says what keeps the job from going on, once it has for a while.

    Parameters
    ----------
    stream
        Where to write.
    """

    #: Seconds that a hint has to last to be worth a line.
    PATIENCE = 5.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._hint, self._since = "", 0.0
        self._said = {""}

    def show(self, state: State) -> None:
        """Say nothing yet."""
        self.update(state)

    def update(self, state: State) -> None:
        """Say what lasts."""
        if state.hint != self._hint:
            self._hint, self._since = state.hint, state.seconds
        if self._hint not in self._said and state.seconds - self._since >= self.PATIENCE:
            self._said.add(self._hint)
            print(f"nbmr: {html.plain(self._hint)}", file=self._stream, flush=True)

    def finish(self, state: State) -> None:
        """Say nothing more."""


class Bar:
    """A job's state as tqdm's bar; hints, failures and what tasks write are lines above it.

    Parameters
    ----------
    stream
        The terminal to write to.
    """

    #: Most lines of output that are written at one update; the rest is counted.
    LINES = 20

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Any = None
        self._said = {""}
        self._failures = 0
        #: How many lines of output were dealt with.
        self._lines = 0

    def show(self, state: State) -> None:
        """Appear below the cursor."""
        self._bar = _tqdm()(
            file=self._stream,
            bar_format="{desc} |{bar}| {facts}",
            dynamic_ncols=True,
            delay=1,  # it knows no facts yet
        )
        self._bar.delay = 0
        self.update(state)

    def update(self, state: State) -> None:
        """Show a later state."""
        for said in (state.note, state.hint):
            if said not in self._said:
                self._said.add(said)
                self._write(html.plain(said))
        for failure in state.failures[self._failures :]:
            self._write(html.plain(title(failure)))
        self._failures = len(state.failures)
        self._write_output(state.output)
        self._bar.put(state)

    def finish(self, state: State) -> None:
        """Show the last state, and leave it there."""
        self.update(state)
        if said := flow(state):
            self._write(html.plain(said))
        if state.failed > self._failures >= FAILURES:
            self._write(f"and {more(state.failed - self._failures, 'failure')}")
        self._bar.close()

    def _write_output(self, output: Output) -> None:
        shown: tuple[OutputLine, ...] = ()
        for count in range(1, min(self.LINES, len(output.lines)) + 1):
            if output.before(output.lines[-count:]) < self._lines:
                break
            shown = output.lines[-count:]
        if output.total > self._lines and (left_out := output.before(shown) - self._lines) > 0:
            self._write(f"… {more(left_out, 'line')} of output")
        for line in shown:
            self._write(f"[{line.task}] {html.clean(line.text)}")
        self._lines = output.total

    def _write(self, line: str) -> None:
        self._bar.write(line, file=self._stream)


@cache
def _tqdm() -> type[Any]:
    from tqdm.std import tqdm  # noqa: PLC0415  # of use only in a terminal

    class Tqdm(tqdm):  # type: ignore[type-arg]  # it iterates over nothing
        """A bar with our own facts, so that they are the same as in a panel."""

        monitor_interval = 0  # no thread that wakes stalled bars: ours are updated anyway
        facts = ""

        @property
        def format_dict(self) -> Any:
            return {**super().format_dict, "facts": self.facts}

        def put(self, state: State) -> None:
            name = html.plain(state.name)
            self.desc = name if len(name) <= _NAME_WIDTH else name[: _NAME_WIDTH - 1] + "…"
            known = facts(state)
            said = ", ".join([state.status, *known] if state.status != "running" else known)
            if said != self.facts:
                self.facts, self.n, self.total = said, state.done + state.failed, state.total
                self.refresh()

    return Tqdm
