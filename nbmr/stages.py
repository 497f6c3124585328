"""What is said of a job's stages (map, shuffle, reduce): rows and bytes, and which key has very many rows.

Map tasks tell it in their job's log, and a reduce job's log has it from its beginning on. So every kernel
that follows the job says the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nbmr import html


@dataclass(frozen=True)
class Stage:
    """One stage, and what is known of it."""

    #: ``"map"``, ``"shuffle"`` or ``"reduce"``.
    name: str
    rows: int = 0
    bytes: int = 0
    #: Buckets of the shuffle, or groups that were reduced; 0 where that isn't known.
    buckets: int = 0
    groups: int = 0


def stages(shuffled: dict[str, Any], told: dict[str, Any]) -> tuple[Stage, ...]:
    """Return the stages that there are, in their order.

    Parameters
    ----------
    shuffled
        What was known when the job began: what the map tasks before it told.
    told
        What its own tasks have told so far.

    Examples
    --------
    >>> [stage.name for stage in stages({}, {"mapped": 10, "rows": 10, "bytes": 80, "keys": {}})]
    ['map', 'shuffle']
    """
    found = []
    moved = shuffled or told
    if "mapped" in moved:
        found.append(Stage("map", moved["mapped"], groups=0 if "rows" in moved else moved.get("groups", 0)))
    if "rows" in moved:
        found.append(Stage("shuffle", moved["rows"], moved.get("bytes", 0), moved.get("buckets", 0)))
    if shuffled and told:
        reduced = told.get("rows", 0), told.get("bytes", 0)
        found.append(Stage("reduce", *reduced, groups=told.get("groups", 0)))
    return tuple(found)


def large_key(shuffled: dict[str, Any], told: dict[str, Any]) -> str:
    """Say which key has more than half of the rows, or than twice a bucket's fair share; empty for none.

    Examples
    --------
    >>> large_key({"rows": 100, "buckets": 8, "keys": {"'US'": 90}}, {})
    "Key 'US' has 90 % of the rows: one reduce task has them all."
    """
    moved = shuffled or told
    keys, rows = moved.get("keys") or {}, moved.get("rows", 0)
    if not keys or not rows:
        return ""
    key, count = max(keys.items(), key=lambda pair: pair[1])
    buckets = moved.get("buckets", 0)
    if buckets == 1 or count <= rows * (min(0.5, 2 / buckets) if buckets else 0.5):
        return ""
    return f"Key {html.plain(key)} has {100 * count / rows:.0f} % of the rows: one reduce task has them all."


def text(stage: Stage) -> str:
    """Write what is known of a stage.

    Examples
    --------
    >>> text(Stage("shuffle", 1_000_000, 25_000_000, buckets=8))
    'shuffle: 1,000,000 rows, 25 MB, 8 buckets'
    """
    said = [f"{stage.rows:,} row{'' if stage.rows == 1 else 's'}"]
    if stage.bytes:
        said.append(html.size(stage.bytes))
    if stage.buckets:
        said.append(f"{stage.buckets:,} bucket{'' if stage.buckets == 1 else 's'}")
    if stage.groups:
        said.append(f"{stage.groups:,} group{'' if stage.groups == 1 else 's'}")
    return f"{stage.name}: {', '.join(said)}"
