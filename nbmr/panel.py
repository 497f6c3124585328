"""A job's panel as static HTML, in parts: head, workers, failures, output.

Each part that has nothing to say is an empty text. Parts are strings, so that a view can tell whether one has
changed.
"""

from __future__ import annotations

from nbmr import html
from nbmr.failures import Failure
from nbmr.printed import Output
from nbmr.state import State, WorkerRow, facts, flow, more, title

#: How many workers and failures have a row.
WORKERS, FAILURES = 20, 20
#: How many lines of output are shown while the job runs, and at its end; and the longest line, in characters.
LIVE_LINES, LAST_LINES, _LINE_LENGTH = 200, 50, 500

_FILL = {"done": html.GREEN, "failed": html.GREY, "cancelled": html.GREY}
#: In the text of a panel; grey as half-transparent text is readable on light and on dark.
_STATUS = {"done": html.GREEN, "failed": html.RED}
_FAINT = "opacity:0.7"
_MONO = (
    "font-family:var(--jp-code-font-family, monospace);font-size:12px;line-height:1.45;margin:0;"
    "white-space:pre-wrap;overflow-wrap:anywhere"
)
_SCROLLS = "max-height:240px;overflow:auto;padding:4px 8px"


def static(state: State) -> str:
    """Write all of a state, for good: what a saved notebook has."""
    failures = [failure(one) for one in state.failures[:FAILURES]]
    parts = [
        head(state),
        workers(state.crew),
        *failures,
        further(state),
        output(state.output, LAST_LINES, foldable=True),
    ]
    return f'<div style="{html.BOX}">{"".join(parts)}</div>'


def head(state: State) -> str:
    """Write name and status, the bar, the facts, and the hint."""
    color = html.color(_STATUS.get(state.status, html.TEXT))
    return (
        '<div style="display:flex;justify-content:space-between;gap:1em">'
        f'<b style="overflow-wrap:anywhere">{html.escape(state.name)}</b> '
        f'<span style="{color}">{html.escape(state.status)}</span></div>'
        f"{_bar(state)}"
        f'<div style="{_FAINT}">{html.escape(" · ".join(facts(state)))}</div>'
        f"{_flow(state)}{_hint(state.note)}{_hint(state.hint)}"
    )


def workers(crew: tuple[WorkerRow, ...]) -> str:
    """Write a table with a row for each worker."""
    if not crew:
        return ""
    rows = [_cells(row) for row in crew[:WORKERS]]
    failed = any(row.failed for row in crew)
    names = [name for name in rows[0] if any(row[name] for row in rows) and (failed or name != "Failed")]
    header = "".join(f'<th style="{_cell(name, bold=True)}">{name}</th>' for name in names)
    body = "".join(
        '<tr style="background:transparent">'
        + "".join(f'<td style="{_cell(name)}">{html.escape(row[name])}</td>' for name in names)
        + "</tr>"
        for row in rows
    )
    rest = len(crew) - WORKERS
    return (
        '<table style="width:100%;border-collapse:collapse;margin:4px 0;font-size:12px;table-layout:auto">'
        f'<thead><tr style="background:transparent">{header}</tr></thead>'
        f"<tbody>{body}</tbody></table>{_rest(rest, 'worker')}"
    )


def failure(failure: Failure) -> str:
    """Write what failed; its traceback is folded."""
    line = html.escape(title(failure))
    style = f"{html.color(html.RED)};overflow-wrap:anywhere"
    told = [failure.traceback.rstrip()]
    if failure.output.strip():
        told.append(f"last output:\n{failure.output.rstrip()}")
    if not (body := "\n\n".join(part for part in told if part)):
        return f'<div style="{style}">{line}</div>'
    return (
        f'<details><summary style="{style};cursor:pointer">{line}</summary>'
        f'<pre style="{_MONO};{_SCROLLS};{html.background(html.SHADE)};{html.color(html.TEXT)}">'
        f"{html.block(body)}</pre></details>"
    )


def further(state: State) -> str:
    """Write how many failures have no row."""
    return _rest(state.failed - min(len(state.failures), FAILURES), "failure") if state.failures else ""


def output(output: Output, count: int, *, foldable: bool = False) -> str:
    """Write the last lines that the tasks wrote, each behind its task's number.

    Parameters
    ----------
    output
        All that is known.
    count
        How many lines to show.
    foldable
        Whether the reader can fold them away; otherwise their end stays in view.
    """
    if not output.lines:
        return ""
    shown = output.lines[-count:]
    before = output.before(shown)
    lines = [
        f'<span style="{_FAINT}" title="{html.escape(line.worker)}">{line.task:>5} │ </span>'
        f"{html.block(html.clean(line.text, _LINE_LENGTH))}"
        for line in shown
    ]
    note = f'<div style="{_FAINT}">… {more(before, "line")} before these</div>' if before else ""
    pre = f'<pre style="{_MONO};{html.color(html.TEXT)}">{chr(10).join(lines)}</pre>'
    body = f"<div>{note}{pre}</div>"
    total = output.total
    said = f"Output of the tasks: {total:,} line{'' if total == 1 else 's'}"
    shade = f"{_SCROLLS};{html.background(html.SHADE)}"
    if foldable:
        summary = f'<summary style="cursor:pointer">{said}</summary>'
        return f'<details open>{summary}<div style="{shade}">{body}</div></details>'
    # from its bottom to its top, so that the browser keeps it at its end
    return (
        f'<div role="log" aria-label="Output of the tasks" tabindex="0"'
        f' style="{shade};display:flex;flex-direction:column-reverse">{body}</div>'
    )


def interrupting_button() -> str:
    """Write a button that JupyterLab and Notebook 7 take as a click on their own stop button."""
    style = (
        f"padding:2px 12px;cursor:pointer;font-size:12px;border-radius:2px;border:1px solid {html.LINE[0]};"
        f"border-color:{html.LINE[1]};{html.background(html.SHADE)};{html.color(html.TEXT)}"
    )
    return (
        f'<button type="button" title="Ends the job: interrupts the kernel" style="{style}"'
        ' data-commandlinker-command="notebook:interrupt-kernel">Cancel</button>'
    )


def advice(text: str) -> str:
    """Write what stands in the button's place where it would not work."""
    return f'<div style="{_FAINT};font-size:12px;white-space:nowrap">{html.escape(text)}</div>'


def _cells(row: WorkerRow) -> dict[str, str]:
    return {
        "Worker": row.worker,
        "State": row.state,
        "Done": f"{row.done:,}",
        "Failed": f"{row.failed:,}",
        "Task": _current(row),
        "Memory": "" if row.memory is None else html.size(row.memory),
        "CPU": "" if row.cpu is None else f"{row.cpu:.0f} %",
    }


def _current(row: WorkerRow) -> str:
    if not row.current:
        return ""
    numbers = ", ".join(str(number) for number in row.current[:3]) + (", …" if row.current[3:] else "")
    return numbers if row.seconds is None else f"{numbers} for {html.duration(row.seconds)}"


def _cell(name: str, *, bold: bool = False) -> str:
    align = "left" if name in ("Worker", "State", "Task") else "right"
    weight = f"font-weight:600;{_FAINT};" if bold else ""
    return (
        f"{weight}padding:1px 8px;text-align:{align};white-space:nowrap;max-width:260px;overflow:hidden;"
        f"text-overflow:ellipsis;border:0;border-bottom:1px solid {html.LINE[0]};"
        f"border-bottom-color:{html.LINE[1]}"
    )


def _flow(state: State) -> str:
    said = flow(state)
    return f'<div style="{_FAINT}">{html.escape(said)}</div>' if said else ""


def _hint(hint: str) -> str:
    if not hint:
        return ""
    color, themes = html.ORANGE
    return (
        f'<div role="status" style="overflow-wrap:anywhere;margin:2px 0;padding-left:8px;'
        f'border-left:3px solid {color};border-left-color:{themes}">{html.escape(hint)}</div>'
    )


def _rest(count: int, what: str) -> str:
    return f'<div style="{_FAINT}">and {more(count, what)}</div>' if count > 0 else ""


def _bar(state: State) -> str:
    values = ""
    if state.total is None and not state.ended:
        segments = _segment(100, html.BLUE, "opacity:0.35;")  # how far is not known
    else:
        total = state.total or state.done + state.failed
        done = 100 * state.done / total if total else 100.0 * (state.status == "done")
        failed = 100 * state.failed / total if total else 0.0
        running = 0.0 if state.ended or not total else 100 * state.running / total
        segments = (
            _segment(done, _FILL.get(state.status, html.BLUE))
            + _segment(failed, html.RED)
            + _segment(min(running, 100 - done - failed), html.BLUE, "opacity:0.35;")
        )
        values = f' aria-valuemin="0" aria-valuemax="100" aria-valuenow="{min(done + failed, 100):.0f}"'
        values += f' aria-valuetext="{html.escape(", ".join(facts(state)[:3]))}"'
    return (
        f'<div role="progressbar" aria-label="{html.escape(state.name)}"{values}'
        ' style="display:flex;height:6px;margin:3px 0;border-radius:3px;overflow:hidden;'
        f'{html.background(html.LINE)}">{segments}</div>'
    )


def _segment(percent: float, color: tuple[str, str], style: str = "") -> str:
    if percent <= 0:
        return ""
    return f'<div style="{style}width:{min(percent, 100):.1f}%;height:6px;{html.background(color)}"></div>'
