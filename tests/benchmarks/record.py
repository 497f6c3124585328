"""The record of a run: every number of every round, and what could not be measured, and why."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from table import Results


@dataclass
class Record:
    """What `run` writes as JSON."""

    about: str
    options: dict[str, Any]
    results: Results = field(default_factory=dict)
    #: Why a peer is left out, by peer: it is not installed.
    missing: dict[str, str] = field(default_factory=dict)
    #: Why a peer is left out, by peer: its workers did not start, and had not in this run.
    not_started: dict[str, str] = field(default_factory=dict)
    #: Every trial that failed.
    errors: list[dict[str, Any]] = field(default_factory=list)
    _measured: set[str] = field(default_factory=set)

    def add(self, number: int, case: str, peer: str, found: dict[str, Any]) -> None:
        """Take in what a trial gave."""
        reason = found.get("not started")
        if error := reason or found.get("error"):
            self.errors.append({"round": number, "case": case, "peer": peer, "error": error})
            if reason and peer not in self._measured:
                self.not_started[peer] = reason
            return
        for name, value in found.items():
            self.results.setdefault(name, {}).setdefault(peer, []).append(value)
            self._measured.add(peer)

    def write(self, file: Path) -> None:
        """Write all as JSON."""
        shown = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        file.write_text(json.dumps({**shown.pop("options"), **shown}, indent=1))
