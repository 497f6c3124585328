"""Frames: there and back, by rows, and by groups."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd
from peers import Peer

from cases import data
from cases.setting import Numbers, Setting, best, by_turns


def transfer(peer: Peer, setting: Setting) -> Numbers:
    return there_and_back(
        "transfer", data.floats(setting.times(2_000_000, 16)), peer, setting, lambda part: part * 2
    )


def mixed(peer: Peer, setting: Setting) -> Numbers:
    df = data.mixed(setting.times(1_000_000, 16))
    return there_and_back(
        "mixed", df, peer, setting, lambda part: part.assign(product=part["whole"] * part["float"])
    )


def there_and_back(
    name: str, df: pd.DataFrame, peer: Peer, setting: Setting, fn: Callable[[pd.DataFrame], pd.DataFrame]
) -> Numbers:
    """Measure how long 16 partitions take to the workers and back, and how many bytes a second these are."""
    peer.frame(df, fn, 16)
    got, seconds = best(lambda: peer.frame(df, fn, 16), setting.best_of)
    data.check(got, df, fn)
    megabytes = (data.size(df) + data.size(got)) / 1e6
    return {f"{name}, s": seconds, f"{name}, MB/s": megabytes / seconds}


def rows(peer: Peer, setting: Setting) -> Numbers:
    df = data.floats(setting.times(100_000, 16), 4)
    fn = lambda row: math.hypot(row["a"], row["b"]) if row["c"] > 0.5 else row["a"] * row["d"]  # noqa: E731
    peer.rows(df, fn)
    answers, seconds = by_turns(
        {"plain": lambda: df.apply(fn, axis=1), "peer": lambda: peer.rows(df, fn)}, setting.best_of
    )
    pd.testing.assert_series_equal(answers["peer"], answers["plain"], check_exact=True)
    return speed_up("row apply", seconds)


def groups(peer: Peer, setting: Setting) -> Numbers:
    keys = setting.times(1_000, 16)
    df = data.keyed(1_000 * keys, keys)

    def describe(group: pd.DataFrame) -> pd.Series:
        a, b = group["a"], group["b"]
        return pd.Series({"rows": len(group), "mean": a.mean(), "deviation": b.std(), "top": b.max()})

    peer.groups(df, "key", describe)
    plain = lambda: df.groupby("key").apply(describe)  # noqa: E731
    answers, seconds = by_turns(
        {"plain": plain, "peer": lambda: peer.groups(df, "key", describe)}, setting.best_of
    )
    # not exactly: sums may have another order
    pd.testing.assert_frame_equal(answers["peer"], answers["plain"], rtol=1e-9)
    return speed_up("group apply", seconds)


def speed_up(name: str, seconds: dict[str, float]) -> Numbers:
    """Put a peer's seconds beside those of plain pandas."""
    return {
        f"{name}, s": seconds["peer"],
        f"{name} by plain pandas, s": seconds["plain"],
        f"{name}, speed-up": seconds["plain"] / seconds["peer"],
    }
