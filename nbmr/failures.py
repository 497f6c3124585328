"""What failed: what is known of it, how it is shown, and how it is run again here."""

from __future__ import annotations

import traceback as tracebacks_of_python
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol, SupportsIndex, overload

from nbmr import html, tracebacks
from nbmr.errors import NbmrError, NotReplayable, TaskError, TaskLost, TaskTimeout, VersionMismatch

#: Rows of a table of failures, and characters of each traceback in it.
MOST_ROWS, MOST_TEXT = 30, 6_000
#: Widest summary in a table of text, in characters.
_WIDTH = 70
#: Lines of a traceback with one frame: its title, the frame's place and source, and a message of one line.
_LONE_FRAME = 4
_RED, _BOLD, _PLAIN = "\x1b[31m", "\x1b[1m", "\x1b[0m"
_HEADINGS = ("number", "rows", "what", "worker", "attempts")


class Input(Protocol):
    """What a unit that failed was given."""

    def call(self) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Decode the function, and the arguments that it got behind its data."""

    def unit(self) -> Any:
        """Decode the partition, or the item."""


@dataclass(frozen=True)
class Failure:
    """What is known of a partition (or item) that failed.

    Its fields travel in the job's log, so they are the same in every kernel that follows the job.

    Examples
    --------
    >>> failure = job.failures[0]  # doctest: +SKIP
    >>> failure.partition.describe()  # doctest: +SKIP
    >>> failure.replay()  # raises here what was raised there; then %debug  # doctest: +SKIP
    """

    #: ``"error"``, ``"timeout"``, ``"lost"`` or ``"versions"``.
    reason: str
    #: Partition number; for a list, the item's position.
    number: int
    #: One line: what happened.
    summary: str
    #: The remote traceback, the user's frames first; empty where there is none.
    traceback: str = ""
    #: First and last index label of the partition, as text; empty for items.
    rows: tuple[str, ...] = ()
    #: Host name of the worker.
    host: str = ""
    #: Process id of the child that ran the task.
    pid: int = 0
    #: How often the task was tried.
    attempts: int = 1
    #: The last lines that the task printed.
    output: str = ""
    #: The user's own line that failed, with those around it; empty where it isn't known.
    where: str = ""
    #: The original exception, where it could be unpickled; otherwise None.
    exception: BaseException | None = field(default=None, compare=False, repr=False)
    #: What it was given; `partition` and `replay` decode it.
    given: Input | None = field(default=None, compare=False, repr=False)

    @property
    def partition(self) -> Any:
        """The data that the function got: the partition of the frame, or the item; decoded anew each time.

        Raises
        ------
        NotReplayable
            If it can't be had: the job was forgotten, say.
        """
        __tracebackhide__ = True
        return self._input().unit()

    def replay(self, *, anyway: bool = False) -> Any:
        """Call the same function on the same data again, here, without a worker and without a time limit.

        What it prints, ``breakpoint()`` in it, and ``%debug`` behind it work as in any call.

        Parameters
        ----------
        anyway
            Run also what ended its process on the workers, by a crash or for its memory: it may end this
            kernel in the same way.

        Returns
        -------
        object
            What the function returns, if it works this time.

        Raises
        ------
        Exception
            What the function raises, as it is.
        NotReplayable
            If its input can't be had (the job was forgotten, say), or `anyway` has to be given.
        """
        __tracebackhide__ = True
        given = self._input()
        if self.reason == "lost" and not anyway:
            raise NotReplayable(
                f"Running number {self.number} ended its process on the workers ({self.summary}). Here it"
                " could end this kernel: replay(anyway=True) runs it all the same; .partition gives its data."
            )
        fn, args, kwargs = given.call()
        return fn(given.unit(), *args, **kwargs)

    def error(self) -> NbmrError:
        """Return the exception that stands for this failure."""
        if self.reason == "versions":
            return VersionMismatch(self.summary)
        kind = {"timeout": TaskTimeout, "lost": TaskLost}.get(self.reason, TaskError)
        return kind(self)

    def _input(self) -> Input:
        __tracebackhide__ = True
        if self.reason == "versions":
            raise NotReplayable("It was never begun, since the versions don't mix; nothing to replay.")
        if self.given is None:
            raise NotReplayable("Its input is not here: a copied or pickled failure leaves it behind.")
        return self.given

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"given": None}  # it belongs to a job of this process

    # ---------------------------------------------------------------- how it is shown

    def place(self) -> str:
        """Say in one line which partition it is, and where it was tried."""
        rows = f" (rows {' to '.join((self.rows[0], self.rows[-1]))})" if self.rows else ""
        tries = f" after {self.attempts} attempts" if self.attempts > 1 else ""
        return f"in partition {self.number}{rows}, on worker {self.host} (pid {self.pid}){tries}"

    def __str__(self) -> str:
        lines = [f"{self.summary}\n  {self.place()}"]
        if self.traceback:
            lines.append(self.traceback.rstrip())
        if self.output:
            lines.append("last output:\n" + self.output.rstrip())
        return "\n\n".join(lines)

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        printer.text(html.plain_lines(self))

    def render(self, error: BaseException) -> list[str]:
        """Write for a notebook what a person needs of an error first; it never raises.

        Parameters
        ----------
        error
            The error that stands for this failure, with its ``__traceback__``.

        Returns
        -------
        list of str
            Paragraphs, with ANSI colours; nbmr's own frames and those of libraries are not among them.
        """
        try:
            return self._paragraphs(error)
        except Exception:  # noqa: BLE001 - a view that fails must not hide the error
            return tracebacks_of_python.format_exception(error)

    def _paragraphs(self, error: BaseException) -> list[str]:
        title = f"{_RED}{type(error).__name__}{_PLAIN}: {_BOLD}{html.plain(self.summary)}{_PLAIN}"
        said = [f"{title}\n{html.plain_lines(self.place())}"]
        if self.where:
            said.append(_marked(self.where))
        if called := tracebacks.own_lines(error.__traceback__):
            said.append("called from\n" + "\n".join(map(_marked, called)))
        own, _, library = self.traceback.partition(tracebacks.LIBRARY)
        if self._says_more(own):
            said.append(f"{self._label()}\n{html.plain_lines(own.rstrip())}")
        if self.output:
            said.append("last output\n" + html.plain_lines(self.output.rstrip()))
        if library:
            count = len(library.strip().splitlines())
            said.append(f"({count} frames of libraries are left out; print(nbmr.last_failure()) shows all)")
        if self.given is not None and self.reason != "versions":
            anyway = "anyway=True" if self.reason == "lost" else ""
            said.append(f"To run it again here: nbmr.last_failure().replay({anyway}), and then %debug")
        return ["\n\n".join(said)]

    def _says_more(self, own: str) -> bool:
        """Whether a traceback says more than the failing line and the summary do."""
        lines = [line for line in own.strip().splitlines() if line.strip(" ~^")]
        frames = sum(line.startswith(("  File ", "  Cell ")) for line in lines)
        alone = frames == 1 and len(lines) == _LONE_FRAME
        return bool(lines) and not (self.where and alone)

    def _label(self) -> str:
        return "what became of its attempts" if self.reason == "lost" else "on the worker"


class Failures(list[Failure]):
    """Failures, shown as a table: in a notebook with each traceback folded under what happened."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> Failure: ...
    @overload
    def __getitem__(self, index: slice) -> Failures: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Failure | Failures:
        found = super().__getitem__(index)
        return Failures(found) if isinstance(found, list) else found

    def __repr__(self) -> str:
        if not self:
            return "no failures"
        cells = [_HEADINGS, *(_cells(failure) for failure in self[:MOST_ROWS])]
        cells = [(number, rows, _cut(what), worker, tries) for number, rows, what, worker, tries in cells]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
        return "\n".join([*lines, *self._more()])

    def _repr_html_(self) -> str:
        if not self:
            return html.message("no failures")
        return html.table(_HEADINGS, map(_html_cells, self[:MOST_ROWS]), self._more())

    def _more(self) -> Iterable[str]:
        if len(self) > MOST_ROWS:
            yield f"… and {len(self) - MOST_ROWS:,} more"


def last_failure(error: BaseException | None) -> Failure:
    """Return the failure that an error tells of, or an error that it comes from.

    Raises
    ------
    NotReplayable
        If none of them does.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, TaskError):
            return error.failure
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    raise NotReplayable("The last error that was shown here is not that of a task; job.failures has a job's.")


def _cells(failure: Failure) -> tuple[str, ...]:
    rows = " to ".join(dict.fromkeys((failure.rows[0], failure.rows[-1]))) if failure.rows else ""
    worker = f"{failure.host} (pid {failure.pid})"
    return tuple(map(html.plain, (failure.number, rows, failure.summary, worker, failure.attempts)))


def _html_cells(failure: Failure) -> list[str]:
    number, rows, what, worker, tries = map(html.escape, _cells(failure))
    details = failure.traceback.rstrip()
    if failure.output:
        details += f"\n\nlast output:\n{failure.output.rstrip()}"
    if details:
        more = "\n…" if len(details) > MOST_TEXT else ""
        what = html.folded(failure.summary, details[:MOST_TEXT].lstrip() + more)
    return [number, rows, what, worker, tries]


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def _marked(lines: str) -> str:
    """Make lines fit for a notebook's traceback, with the one that failed in red."""
    return "\n".join(
        f"{_RED}{line}{_PLAIN}" if line.startswith("---->") else line
        for line in html.plain_lines(lines).split("\n")
    )
