"""Which unit of its job a process is at, for functions of nbmr's own that have to know."""

from __future__ import annotations


class _Place:
    number: int | None = None


_place = _Place()


def enter(number: int | None) -> None:
    """Note which unit is begun: its number in the job; None outside of any."""
    _place.number = number


def number() -> int | None:
    """Return the number of the unit that is being worked on, or None where this is no worker."""
    return _place.number
