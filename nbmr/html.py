"""What a person sees of a job's progress, as HTML and as text: counts, rates, durations, the bar.

Everything is static and escaped: user data (names, messages, hints) never becomes markup or a terminal's
control sequence. Colours are Jupyter's theme variables; each stands after a plain one, which remains where
variables are stripped, as in a notebook that isn't trusted. Where styles are stripped too, the text still
says all of it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass, replace

_ENDED = ("done", "failed", "cancelled")
#: The longest summary or hint that is shown, in characters.
_LONGEST = 400

_BLUE = ("#1976d2", "var(--jp-brand-color1, #1976d2)")
_GREEN = ("#388e3c", "var(--jp-success-color1, #388e3c)")
_RED = ("#d32f2f", "var(--jp-error-color1, #d32f2f)")
_GREY = ("#9e9e9e", "var(--jp-ui-font-color3, #9e9e9e)")
_FILL = {"done": _GREEN, "failed": _GREY, "cancelled": _GREY}
#: In the text of a panel; grey as half-transparent text is readable on light and on dark.
_STATUS = {"done": _GREEN, "failed": _RED}


@dataclass(frozen=True)
class State:
    """What a view shows of a job, at one moment. Counts are of units, as in `nbmr.joblog.Progress`."""

    name: str
    #: ``pending``, ``running``, ``done``, ``failed`` or ``cancelled``.
    status: str
    done: int = 0
    failed: int = 0
    #: None while it isn't known.
    total: int | None = None
    seconds: float = 0.0
    #: None while nothing can be said.
    seconds_left: float | None = None
    #: Units a second.
    rate: float = 0.0
    #: How many workers have taken part.
    workers: int = 0
    #: Messages in the job's log that were not genuine, or made no sense.
    rejected: int = 0
    #: What keeps the job from going on; empty if nothing does.
    hint: str = ""
    #: One line on what failed first; empty if nothing did.
    failure: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.status in _ENDED

    def left(self) -> State:
        """Return the state as it is to be kept by who follows the job no longer."""
        return self if self.ended else replace(self, status=f"still {self.status}", seconds_left=None)


def escape(text: object) -> str:
    """Make text fit for HTML, in elements and in attributes."""
    return html.escape(plain(text))


def plain(text: object) -> str:
    r"""Make one line of any text: without control characters, and not too long.

    Examples
    --------
    >>> plain("two\nlines\x1b[31m")
    'two lines?[31m'
    """
    line = " ".join(str(text)[: 4 * _LONGEST].split())
    line = "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def plain_lines(text: object) -> str:
    r"""Make lines of any text: without control characters, but for line ends; tabs become blanks.

    Examples
    --------
    >>> plain_lines("two\nlines\x1b[31m")
    'two\nlines?[31m'
    """
    lines = str(text).expandtabs().splitlines()
    return "\n".join("".join(char if char.isprintable() else "?" for char in line) for line in lines)


def duration(seconds: float) -> str:
    """Write a duration as a person would, in seconds, minutes, hours or days.

    Examples
    --------
    >>> [duration(s) for s in (0.042, 3.21, 42.4, 200, 7500, 100_000)]
    ['0.04 s', '3.2 s', '42 s', '3 min 20 s', '2 h 05 min', '1 d 3 h']
    """
    if seconds < 0.995:  # noqa: PLR2004 - from here on it would be rounded to 1.00
        return f"{max(seconds, 0):.2f} s"
    if seconds < 9.95:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, whole = divmod(whole, 60)
    if not minutes:
        return f"{whole} s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {whole:02d} s"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes:02d} min"


def rate(per_second: float) -> str:
    """Write a rate: units a second, or the time that each takes if it is more than a second.

    Examples
    --------
    >>> [rate(r) for r in (12_345.6, 42.4, 3.21, 0.25, 0)]
    ['12,346/s', '42/s', '3.2/s', '4.0 s each', '']
    """
    if per_second <= 0:
        return ""
    if per_second < 1:
        return f"{duration(1 / per_second)} each"
    return f"{per_second:.1f}/s" if per_second < 9.95 else f"{per_second:,.0f}/s"  # noqa: PLR2004


def facts(state: State) -> list[str]:
    """Return what there is to say about how far a job is, most important first."""
    said = [f"{state.done:,}" + (" done" if state.total is None else f" of {state.total:,}")]
    if state.failed:
        said.append(f"{state.failed:,} failed")
    if state.ended:
        said.append(f"in {duration(state.seconds)}")
    said.append(rate(state.rate))
    if not state.ended and state.seconds_left is not None:
        said.append(f"{duration(state.seconds_left)} left")
    if state.workers:
        said.append("1 worker" if state.workers == 1 else f"{state.workers:,} workers")
    if state.rejected:
        said.append(f"{state.rejected:,} message{'s' if state.rejected > 1 else ''} rejected")
    return [fact for fact in said if fact]


def text(state: State) -> str:
    """Write a state as text: one line, and one more each for the hint and the first failure.

    Examples
    --------
    >>> text(State("clean", "done", done=4, total=4, seconds=2.0, rate=2.0, workers=1))
    'clean: done, 4 of 4, in 2.0 s, 2.0/s, 1 worker'
    """
    lines = [f"{plain(state.name)}: {', '.join([state.status, *facts(state)])}"]
    lines += [f"  {plain(note)}" for note in (state.hint, state.failure) if note]
    return "\n".join(lines)


def panel(state: State) -> str:
    """Write a state as static HTML: name and status, the bar, the facts, the hint and the first failure."""
    notes = [
        f'<div style="{_color(color)};overflow-wrap:anywhere">{escape(note)}</div>'
        for note, color in ((state.hint, None), (state.failure, _RED))
        if note
    ]
    status = f'<span style="{_color(_STATUS.get(state.status))}">{escape(state.status)}</span>'
    return (
        f'<div style="{_BOX}">'
        f'<div style="display:flex;justify-content:space-between;gap:1em">'
        f'<b style="overflow-wrap:anywhere">{escape(state.name)}</b> {status}</div>'
        f"{_bar(state)}"
        f'<div style="opacity:0.75">{escape(" · ".join(facts(state)))}</div>'
        f"{''.join(notes)}</div>"
    )


def folded(summary: object, text: object) -> str:
    """Write lines of text as static HTML, folded under one line that says what they are."""
    lines = html.escape(plain_lines(text))
    return (
        f'<details><summary style="cursor:pointer">{escape(summary)}</summary>'
        f'<pre style="margin:4px 0;max-height:24em;overflow:auto;white-space:pre-wrap;text-align:left;'
        f'{_color(None)};background:transparent">{lines}</pre></details>'
    )


def table(headings: Iterable[str], rows: Iterable[Iterable[str]], notes: Iterable[str] = ()) -> str:
    """Write a table as static HTML; its cells are HTML already, headings and notes are text."""
    cell = "text-align:left;vertical-align:top;padding:2px 10px 2px 0;overflow-wrap:anywhere"
    head = "".join(f'<th style="{cell}">{escape(heading)}</th>' for heading in headings)
    body = "".join(
        "<tr>" + "".join(f'<td style="{cell}">{content}</td>' for content in row) + "</tr>" for row in rows
    )
    more = "".join(f'<div style="opacity:0.75">{escape(note)}</div>' for note in notes)
    return (
        f'<div style="{_TEXT}"><table style="border-collapse:collapse">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}</div>"
    )


def message(line: str) -> str:
    """Write one line as static HTML, in the style of a panel."""
    return f'<div style="{_BOX};opacity:0.75">{escape(line)}</div>'


_TEXT = (
    "padding:2px 0;font-size:13px;line-height:1.55;"
    "font-family:var(--jp-ui-font-family, system-ui, sans-serif);"
    "font-variant-numeric:tabular-nums;color:inherit;color:var(--jp-ui-font-color1, inherit)"
)
_BOX = "max-width:640px;" + _TEXT


def _color(color: tuple[str, str] | None) -> str:
    if color is None:
        return "color:inherit;color:var(--jp-ui-font-color1, inherit)"
    return f"color:{color[0]};color:{color[1]}"


def _bar(state: State) -> str:
    values = ""
    if state.total is None and not state.ended:
        segments = _segment(100, _BLUE, "opacity:0.35;")  # how far is not known
    else:
        total = state.total or state.done + state.failed
        done = 100 * state.done / total if total else 100.0 * (state.status == "done")
        failed = 100 * state.failed / total if total else 0.0
        segments = _segment(done, _FILL.get(state.status, _BLUE)) + _segment(failed, _RED)
        values = f' aria-valuemin="0" aria-valuemax="100" aria-valuenow="{min(done + failed, 100):.0f}"'
    return (
        f'<div role="progressbar" aria-label="{escape(state.name)}"{values}'
        ' style="display:flex;height:6px;margin:3px 0;border-radius:3px;overflow:hidden;'
        'background:#e0e0e0;background:var(--jp-border-color2, rgba(128, 128, 128, 0.3))">'
        f"{segments}</div>"
    )


def _segment(percent: float, color: tuple[str, str], style: str = "") -> str:
    if percent <= 0:
        return ""
    return (
        f'<div style="{style}width:{min(percent, 100):.1f}%;height:6px;'
        f'background:{color[0]};background:{color[1]}"></div>'
    )
