"""Who works, as static HTML and as text: a table for each queue, and what is wrong with whom below it.

Everything is escaped; see `nbmr.html`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from nbmr import html
from nbmr.crew import Member
from nbmr.html import duration, escape, plain, size

#: How many workers of a queue have a row.
ROWS = 50
_FAINT = "opacity:0.7"
_CELL = "padding:0 1em 0 0;text-align:left;vertical-align:top;border:none;white-space:nowrap"
_STATES = {"ready": html.GREEN, "running": html.BLUE, "starting": html.GREY, "ending": html.GREY}
#: Fewer percent of a core than this aren't worth a figure: a worker that waits takes so much.
_HARDLY = 3.0


def panel(members: Sequence[Member], empty: str = "No workers.") -> str:
    """Write all workers as HTML, grouped by queue."""
    parts = [f'<div style="{_FAINT}">{escape(empty)}</div>'] if not members else []
    for queue, group in _by_queue(members):
        parts.append(f"<b>{escape(_title(queue, group))}</b>{table(group, versions=True)}")
    return f'<div style="{html.BOX};max-width:none">{"".join(parts)}</div>'


def table(members: Sequence[Member], *, versions: bool = False) -> str:
    """Write a table of some workers, and below it why those that have a problem are of no use."""
    if not members:
        return ""
    names = ["host", "pid", "state", "done", "job", "memory", "CPU"]
    names += ["Python", *_PACKAGES] if versions else []
    head = "".join(f'<th style="{_CELL};{_FAINT};font-weight:normal">{name}</th>' for name in names)
    body = "".join(_row(member, versions=versions) for member in members[:ROWS])
    rest = len(members) - ROWS
    return (
        f'<div style="overflow-x:auto"><table style="{html.color(html.TEXT)};border-collapse:collapse;'
        f'margin:0;font-size:12px"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        + (f'<div style="{_FAINT}">and {rest:,} more</div>' if rest > 0 else "")
        + "".join(
            f'<div style="{html.color(html.RED)};overflow-wrap:anywhere">{escape(line)}</div>'
            for line in problems(members)
        )
    )


def text(members: Sequence[Member], empty: str = "No workers.") -> str:
    """Write all workers as text, grouped by queue.

    Examples
    --------
    >>> print(text([Member("gpu", "lab", 7, "ready", memory=25_000_000, done=3)]))
    queue gpu: 1 worker
      host  pid  state  done  job  memory  CPU  Python  nbmr  pandas  numpy
      lab   7    ready  3          25 MB
    """
    lines = [empty] if not members else []
    for queue, group in _by_queue(members):
        lines.append(_title(queue, group))
        lines += [f"  {line}" for line in rows(group, versions=True)]
    return "\n".join(lines)


def rows(members: Sequence[Member], *, versions: bool = False) -> list[str]:
    """Write a table of some workers as lines, with their problems as the last ones."""
    if not members:
        return []
    cells = [["host", "pid", "state", "done", "job", "memory", "CPU"]]
    cells[0] += ["Python", *_PACKAGES] if versions else []
    cells += [[*_facts(member), *(_versions(member) if versions else [])] for member in members[:ROWS]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    lines += [f"and {len(members) - ROWS:,} more"] if len(members) > ROWS else []
    return [*lines, *map(plain, problems(members))]


def problems(members: Sequence[Member]) -> list[str]:
    """Tell which workers could not run this kernel's functions, and why; the same reason once."""
    found: dict[str, list[str]] = {}
    for member in members:
        if member.problem:
            found.setdefault(member.problem, []).append(member.worker)
    return [f"✗ {_few(workers)} can't run this kernel's functions: {why}" for why, workers in found.items()]


_PACKAGES = ("nbmr", "pandas", "numpy")


def _by_queue(members: Sequence[Member]) -> list[tuple[str, list[Member]]]:
    return [(queue, list(group)) for queue, group in groupby(members, lambda member: member.queue)]


def _title(queue: str, group: Sequence[Member]) -> str:
    slots = sum(len(member.slots) for member in group)
    said = f"queue {queue}: {len(group):,} worker{'s' if len(group) > 1 else ''}"
    hosts = len({member.host for member in group})
    said += f" on {hosts:,} hosts" if hosts > 1 else ""
    return said + (f", {slots:,} slots" if slots > len(group) else "")


def _row(member: Member, *, versions: bool) -> str:
    host, pid, state, *facts = _facts(member)
    wrong = member.problem != ""
    color = html.color(html.RED if wrong else _STATES[member.state])
    marked = f"✗ {state}" if wrong else state
    cells = [f'<td style="{_CELL}">{escape(host)}</td>', f'<td style="{_CELL}">{escape(pid)}</td>']
    cells.append(f'<td style="{_CELL};{color}">{escape(marked)}</td>')
    facts += _versions(member) if versions else []
    cells += [f'<td style="{_CELL}">{escape(fact)}</td>' for fact in facts]
    return f'<tr style="background:none">{"".join(cells)}</tr>'


def _facts(member: Member) -> list[str]:
    done = "" if member.done is None else f"{member.done:,}"
    if member.failed:
        done += f" ({member.failed:,} failed)"
    memory = "" if member.memory is None else size(member.memory)
    if member.memory_limit:
        memory += f", limit {size(member.memory_limit)}"
    cpu = "" if member.cpu is None else f"{member.cpu:.0f} %" if member.cpu >= _HARDLY else "0 %"
    return [plain(member.host), str(member.pid), member.state, done, _jobs(member), memory, cpu]


def _jobs(member: Member) -> str:
    """Name the jobs that a worker is at, with the tasks, and for how long."""
    running = [
        f"{plain(slot.name or slot.job)} #{slot.task} for {duration(slot.seconds)}"
        for slot in member.running[:3]
    ]
    more = len(member.running) - len(running)
    return ", ".join(running) + (f" and {more} more" if more > 0 else "")


def _versions(member: Member) -> list[str]:
    return [plain(member.versions.get(name, "")) for name in ("python", *_PACKAGES)]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")  # noqa: PLR2004
