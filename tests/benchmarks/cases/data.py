"""The frames that the cases work on, and how an answer is compared with that of plain pandas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

COLUMNS = list("abcdefgh")


def floats(rows: int, columns: int = 8) -> pd.DataFrame:
    """Make a frame of float64 columns, each in one piece, as `pandas.concat` leaves it; no copy is made."""
    values = np.empty((columns, rows))
    np.random.default_rng(1).random(out=values)
    return pd.DataFrame(values.T, columns=COLUMNS[:columns], copy=False)


def mixed(rows: int) -> pd.DataFrame:
    """Make a frame of whole numbers, floats, strings (all different, and few), times and categories."""
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 1_000, rows)
    names = np.array([f"name {code}" for code in range(1_000)], object)
    return pd.DataFrame(
        {
            "whole": np.arange(rows),
            "float": rng.normal(size=rows),
            "text": [f"row {row}" for row in range(rows)],
            "name": names[codes],
            "time": pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(np.arange(rows), unit="s"),
            "category": pd.Categorical.from_codes(codes % 5, list("vwxyz")),
        }
    )


def keyed(rows: int, keys: int) -> pd.DataFrame:
    """Make a frame of two float64 columns and a key of whole numbers."""
    return floats(rows, 2).assign(key=np.random.default_rng(2).integers(0, keys, rows))


def check(got: pd.DataFrame, df: pd.DataFrame, fn: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Compare with what plain pandas gives, exactly, some rows at a time, since frames may be large."""
    assert len(got) == len(df)
    for start in range(0, len(df), 1_000_000):
        part = slice(start, start + 1_000_000)
        pd.testing.assert_frame_equal(got.iloc[part], fn(df.iloc[part]), check_exact=True)


def size(df: pd.DataFrame) -> int:
    """Bytes of a frame's values, texts included."""
    return int(df.memory_usage(index=False, deep=True).sum())
