"""How things are: the broker, the workers, and the jobs; what ``%nbmr`` and ``nbmr status`` show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nbmr import crew, crew_view, html, node
from nbmr.broker import passwords
from nbmr.crew import Member
from nbmr.session import Session

#: How many jobs are shown, the latest ones.
JOBS = 20
_COLUMNS = ("id", "name", "state", "done", "failed", "total", "queue", "note")
#: Where there is no broker: none is named, and no private node runs.
NO_BROKER = "none. No broker is named, and no private node runs; the first call starts one"
_NOBODY = "none listens. Start some: nbmr.workers(2) in a cell, or `nbmr worker` in a terminal"


@dataclass(frozen=True)
class Status:
    """The state of a broker, its workers and its jobs, at one moment; shows itself as text and as HTML."""

    broker: str
    members: tuple[Member, ...] = ()
    #: Rows of `nbmr.jobs`, as text.
    jobs: tuple[tuple[str, ...], ...] = field(default=())
    #: How many jobs there are, those that aren't shown included.
    count: int = 0

    def __repr__(self) -> str:
        lines = [f"broker: {html.plain(self.broker)}"]
        if self.members:
            lines += [f"workers: {self._counted()}"]
            lines += [f"  {line}" for line in crew_view.text(self.members).splitlines()]
        else:
            lines.append(f"workers: {_NOBODY}")
        lines.append(f"jobs: {self._job_count()}")
        cells = [_COLUMNS, *self.jobs] if self.jobs else []
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines += [f"  {'  '.join(map(str.ljust, row, widths)).rstrip()}" for row in cells]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        parts = [_titled("Broker", self.broker), _titled("Workers", self._counted() or _NOBODY)]
        if self.members:
            parts.append(crew_view.panel(self.members))
        parts.append(_titled("Jobs", self._job_count()))
        if self.jobs:
            parts.append(_table(self.jobs))
        return f'<div style="{html.BOX};max-width:none">{"".join(parts)}</div>'

    def _repr_pretty_(self, printer: Any, cycle: object) -> None:
        del cycle
        printer.text(repr(self))

    def _counted(self) -> str:
        hosts = len({member.host for member in self.members})
        return f"{len(self.members):,} on {hosts:,} host{'s' if hosts > 1 else ''}" if self.members else ""

    def _job_count(self) -> str:
        shown = f", the latest {len(self.jobs):,} of them" if self.count > len(self.jobs) else ""
        return f"{self.count:,}{shown}" if self.count else "none"


def look(session: Session) -> Status:
    """Ask a broker, its workers, and its jobs' logs; waits a moment for the workers' answers.

    Raises
    ------
    BrokerError
        If RabbitMQ can't be asked.
    """
    members = tuple(crew.look(session))
    table = session.jobs()
    rows = [
        tuple("" if value != value or value is None else html.plain(value) for value in row)  # noqa: PLR0124 - NaN
        for row in table[list(_COLUMNS)].astype(object).tail(JOBS).itertuples(index=False)
    ]
    return Status(broker(session), members, tuple(rows), len(table))


def broker(session: Session) -> str:
    """Tell which broker a session uses, and how it is; without its password."""
    version, trouble = session.broker_version, session.broker_trouble
    how = f"RabbitMQ {version}, {trouble or 'ready'}"
    if not session.settings.node:
        return f"{passwords.without(session.settings.url)}: {how}"
    info: dict[str, Any] = node.status() or {}
    if not info:
        return f"private node, ended: {how}"
    return (
        f"private node at {info['address']}: {how}, up for {html.duration(info['uptime'])}, holds"
        f" {html.size(info['memory'])}"
    )


def _table(rows: tuple[tuple[str, ...], ...]) -> str:
    cell = "padding:0 1em 0 0;text-align:left;vertical-align:top;border:none;white-space:nowrap"
    head = "".join(f'<th style="{cell};opacity:0.7;font-weight:normal">{name}</th>' for name in _COLUMNS)
    lines = ["".join(f'<td style="{cell}">{html.escape(text)}</td>' for text in row) for row in rows]
    body = "".join(f'<tr style="background:none">{line}</tr>' for line in lines)
    style = f"{html.color(html.TEXT)};border-collapse:collapse;margin:0;font-size:12px"
    return (
        f'<div style="overflow-x:auto"><table style="{style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _titled(title: str, text: str) -> str:
    return f"<div><b>{title}:</b> {html.escape(text)}</div>"
