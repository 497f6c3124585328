"""``nbmr doctor``: is all there that nbmr needs, and does it fit together? Makes the checks, and reports."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from nbmr import checks
from nbmr.checks import Line, Patient
from nbmr.errors import NbmrError

#: Seconds that a check may take, and how many it has besides to say itself that something takes too long.
CHECK_SECONDS, _SPARE_SECONDS = 20.0, 5.0

Check = Callable[[Patient], Iterator[Line]]
#: What is looked at, in this order.
_CHECKS: tuple[tuple[str, Check], ...] = (
    ("nbmr", checks.check_versions),
    ("RabbitMQ", checks.check_installed),
    ("private node", checks.check_node),
    ("start", checks.check_start),
    ("disk", checks.check_disk),
    ("memory", checks.check_memory),
    ("key", checks.check_key),
    ("connection", checks.check_connection),
    ("key", checks.check_fits),
    ("alarms", checks.check_alarms),
    ("workers", checks.check_workers),
    ("clock", checks.check_clock),
    ("memory limits", checks.check_limits),
)


class Report(tuple[Line, ...]):
    """The lines of all checks; shows itself as they are."""

    __slots__ = ()

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not any(line.status == "problem" for line in self)

    def __repr__(self) -> str:
        return "\n".join([*map(str, self), summary(self)])

    def _repr_pretty_(self, printer: object, cycle: object) -> None:
        del cycle
        printer.text(repr(self))  # type: ignore[attr-defined]  # IPython's


def summary(lines: Iterable[Line]) -> str:
    """Return a last line."""
    count = sum(line.status == "problem" for line in lines)
    problems = "1 problem" if count == 1 else f"{count} problems"
    return f"{problems}: see the lines with !!" if count else "No problem was found."


def examine(
    url: str | None = None,
    key: str | None = None,
    key_file: str | os.PathLike[str] | None = None,
    *,
    start: bool = True,
) -> Iterator[Line]:
    """Make all checks, one after the other.

    Parameters
    ----------
    url, key, key_file
        As for `nbmr.Client`: by default, what the environment names, or else the private node.
    start
        Whether to try if RabbitMQ can start, where no broker is named and no node runs: takes some seconds.

    Yields
    ------
    Line
        What was found.
    """
    patient = Patient(url or os.environ.get("NBMR_URL") or "", key, key_file)
    try:
        for subject, check in _CHECKS:
            trial = check is checks.check_start
            if start or not trial:
                yield from _within(subject, check, patient, checks.START_SECONDS if trial else CHECK_SECONDS)
    finally:
        if patient.broker:
            patient.broker.release()


def _within(subject: str, check: Check, patient: Patient, seconds: float) -> Iterator[Line]:
    """Make a check; give it up when it takes too long."""
    found: queue.SimpleQueue[Line | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            for line in check(patient):
                found.put(line)
        except NbmrError as exc:
            found.put(checks.problem(subject, str(exc)))
        except Exception as exc:  # noqa: BLE001 - the other checks are made all the same
            found.put(checks.unknown(subject, f"this check failed: {type(exc).__name__}: {exc}"))
        finally:
            found.put(None)

    threading.Thread(target=run, name=f"nbmr checks {subject}", daemon=True).start()
    until = time.monotonic() + seconds + _SPARE_SECONDS
    while True:
        try:
            line = found.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            yield checks.unknown(subject, f"no answer within {seconds:g} s; something hangs.")
            return
        if line is None:
            return
        yield line
