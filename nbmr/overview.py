"""The table that ``nbmr.workers()`` gives: a DataFrame, which shows itself grouped by queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from nbmr import crew, crew_view
from nbmr.crew import Member


class Overview(pd.DataFrame):
    """All workers of a broker, one a row; what is made of it is an ordinary DataFrame.

    Parameters
    ----------
    members
        The workers.
    """

    _metadata = ["_members"]  # noqa: RUF012 - as pandas wants it

    def __init__(self, members: Sequence[Member]) -> None:
        rows = [crew.row(member) for member in members]
        super().__init__(rows, columns=list(crew.COLUMNS))  # type: ignore[call-arg] # the stubs know __new__
        self._members = tuple(members)

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def __repr__(self) -> str:
        return crew_view.text(self._members, _NONE)

    def _repr_html_(self) -> str:
        return crew_view.panel(self._members, _NONE)

    def __reduce__(self) -> Any:
        return pd.DataFrame(self).__reduce__()


_NONE = "No worker is there. Start some: nbmr.workers(2)."
