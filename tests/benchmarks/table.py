"""The table: medians over rounds, and how many times better nbmr is than each peer."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

#: The numbers of all rounds, by measure and peer.
Results = dict[str, dict[str, list[float]]]

NBMR = "nbmr"
#: What says something of the machine, not of the peer: measures with these words have no ratio.
OF_THE_MACHINE = ("bare", "before")


def table(results: Results, peers: Sequence[str]) -> str:
    """Lay out medians and ratios, in Markdown; a cell with several rounds also shows its range."""
    others = [peer for peer in peers if peer != NBMR and NBMR in peers]
    header = ["", *peers, *(f"vs {peer}" for peer in others)]
    rows = [header]
    for name, found in results.items():
        cells = [cell(found.get(peer, [])) for peer in peers]
        rows.append([name, *cells, *(ratio(name, found, peer) for peer in others)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def cell(values: list[float]) -> str:
    if not values:
        return ""
    median = number(statistics.median(values))
    return median if len(values) == 1 else f"{median} ({number(min(values))}-{number(max(values))})"


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def ratio(name: str, found: dict[str, list[float]], peer: str) -> str:
    """Return how many times better nbmr is, from the medians; empty where that means nothing."""
    if not found.get(NBMR) or not found.get(peer) or any(word in name for word in OF_THE_MACHINE):
        return ""
    ours, theirs = statistics.median(found[NBMR]), statistics.median(found[peer])
    if min(ours, theirs) <= 0:
        return ""
    more_is_better = name.endswith(("/s", "efficiency"))
    return f"{(ours / theirs if more_is_better else theirs / ours):.2f}x"
