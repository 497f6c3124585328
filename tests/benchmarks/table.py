"""The table: medians over rounds, and how many times better nbmr is than each peer."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

#: The numbers of all rounds, by measure and peer.
Results = dict[str, dict[str, list[float]]]

NBMR = "nbmr"
#: What says something of the machine, not of the peer: measures with these words have no ratio.
OF_THE_MACHINE = ("bare", "before", "plain")


def table(results: Results, peers: Sequence[str]) -> str:
    """Lay out medians in Markdown, with the range where there are several rounds; below them, the ratios."""
    medians = [["", *peers]]
    for name, found in results.items():
        medians.append([name, *(cell(found.get(peer, [])) for peer in peers)])
    others = [peer for peer in peers if peer != NBMR and NBMR in peers]
    ratios = [["times better than", *others]]
    for name, found in results.items():
        cells = [ratio(name, found, peer) for peer in others]
        if any(cells):
            ratios.append([name, *cells])
    return "\n\n".join(markdown(rows) for rows in (medians, ratios) if len(rows) > 1)


def markdown(rows: list[list[str]]) -> str:
    """Lay out rows, of which the first is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
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
    more_is_better = name.endswith(("/s", "efficiency", "speed-up"))
    return f"{number(ours / theirs if more_is_better else theirs / ours)}x"
