"""Which unit of its job a process is at, and what it tells of its task; for functions of nbmr's own."""

from __future__ import annotations

from typing import Any


class _Place:
    number: int | None = None
    told: dict[str, Any] | None = None


_place = _Place()


def enter(number: int | None) -> None:
    """Note which unit is begun: its number in the job; None outside of any."""
    _place.number = number


def number() -> int | None:
    """Return the number of the unit that is being worked on, or None where this is no worker."""
    return _place.number


def begin() -> None:
    """Begin a task, of which nothing was told yet."""
    _place.told = None


def tell(told: dict[str, Any]) -> None:
    """Tell the task's job something of this unit.

    Parameters
    ----------
    told
        Counts by name, and dicts of counts by text, which are added to what was told before; see
        `nbmr.schema`.
    """
    known = _place.told = _place.told or {}
    add(known, told)


def add(known: dict[str, Any], told: dict[str, Any]) -> None:
    """Add counts, and dicts of counts, to those that are known."""
    for name, value in told.items():
        if isinstance(value, dict):
            counts = known.setdefault(name, {})
            for text, count in value.items():
                counts[text] = counts.get(text, 0) + count
        else:
            known[name] = known.get(name, 0) + value


def told() -> dict[str, Any] | None:
    """Return what was told of the task; None if nothing was."""
    return _place.told
