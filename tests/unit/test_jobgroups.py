"""`groupby` over a job's results gives what pandas gives over their concatenation. Tasks run here."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from here import NAMES, copied, outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal, assert_series_equal

from nbmr import grouptasks, unit
from nbmr.errors import ConfigError
from nbmr.grouptasks import Grouped
from nbmr.jobgroups import JobGroupBy, Jobwork, grouped


class Workers:
    """Runs here, on copies, what workers do with a job's results; and notes in which ways."""

    def __init__(self, parts, count=3):
        self.parts, self.count, self.ways = parts, count, []

    def map(self, fn, _name):
        self.ways.append(type(fn).__name__)
        return self._all(fn, self.parts)

    def shuffle(self, how, work, _name, *, every):
        self.ways.append(type(work).__name__)
        mapped = self._all(grouptasks.ToBuckets(how, self.count, every=every), self.parts)
        return [
            table
            for part in self._all(grouptasks.OfBucket(how, self.count, work), [mapped] * self.count)
            for table in part
        ]

    def together(self, how, verb, args, kwargs, _name):
        self.ways.append("Together")
        return self._all(grouptasks.Together(how, verb, args, kwargs), [self.parts])[0]

    def _all(self, fn, items):
        found = []
        for number, item in enumerate(items):
            unit.enter(number)
            try:
                found.append(copied(copied(fn)(copied(item))))
            finally:
                unit.enter(None)
        return found


def over(parts, by, count=3, **options):
    workers = Workers(parts, count)
    return JobGroupBy(Jobwork(Grouped(by, options), workers)), workers


def same(parts, by, verb, count=3, **options):
    """Compare; return in which ways it was done."""
    whole = pd.concat(parts)
    want = outcome(lambda: verb(whole.groupby(by, **options)))
    groups, workers = over(parts, by, count, **options)
    got = outcome(lambda: verb(groups))
    if isinstance(want, Exception):
        assert isinstance(got, Exception), f"pandas raises {want!r}"
        assert type(got) is type(want), f"{got!r}, and not {want!r}"
    elif isinstance(want, pd.DataFrame):
        assert_frame_equal(got, want, rtol=1e-12)
    else:
        if isinstance(got, Exception):
            raise got
        assert_series_equal(got, want, rtol=1e-12)
    return workers.ways


def frame(rows, seed=0):
    rng = np.random.default_rng(seed)
    text = np.array(["aa", "b", "c", None], dtype=object)
    return pd.DataFrame(
        {
            "k": pd.array(rng.choice(text, rows), dtype="str"),
            "c": pd.Categorical.from_codes(rng.integers(0, 3, rows), list("zyxw")),
            "n": rng.integers(0, 9, rows),
            "f": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(1e6, 1, rows)),
            "x": rng.normal(size=rows),
            "i": rng.integers(-(2**53), 2**53, rows),
            "t": pd.Timestamp("2024", tz="Europe/Berlin")
            + pd.to_timedelta(rng.integers(0, 2**20, rows), "s"),
            "s": pd.array(rng.choice(text, rows), dtype="str"),
            "b": rng.random(rows) < 0.5,
            "q": pd.array(rng.integers(0, 5, rows), dtype="Int64"),
        }
    )


PARTS = {
    "like": [frame(30, 1), frame(20, 2), frame(1, 3), frame(25, 4)],
    "one": [frame(40, 5)],
    "with one that is empty": [frame(20, 6), frame(0, 7), frame(10, 8)],
    "of other types": [frame(20, 9), frame(9, 10).astype({"n": float, "i": float, "c": str, "q": "int64"})],
    "of other columns": [frame(20, 11), frame(9, 12).drop(columns=["x", "b"]).assign(more=1)],
    "indexed": [frame(20, 13).set_axis(range(5, 25)), frame(9, 14).set_axis(list("abcdefabc"))],
    "all empty": [frame(0, 15), frame(0, 16)],
}
BYS = {
    "n": ("n", {}),
    "k": (["k"], {"dropna": False}),
    "k unsorted": ("k", {"sort": False}),
    "c": ("c", {"observed": True}),
    "c all": ("c", {"observed": False}),
    "n and k": (["n", "k"], {"as_index": False}),
    "c and k": (["c", "k"], {"observed": False, "dropna": False}),
    "f": ("f", {"group_keys": False}),
    "t": ("t", {"group_keys": False, "dropna": False}),
    "nowhere": ("nowhere", {}),
}
VERBS = {
    **{name: lambda g, name=name: getattr(g, name)() for name in NAMES},
    "numbers": lambda g: g.sum(numeric_only=True),
    "variance": lambda g: g[["x", "i"]].var(ddof=0),
    "column": lambda g: g["x"].mean(),
    "column's size": lambda g: g["x"].size(),
    "min_count": lambda g: g["x"].sum(min_count=3),
    "quantiles": lambda g: g["x"].quantile([0.1, 0.9]),
    "list": lambda g: g["x"].agg(["sum", "std", "size"]),
    "dict": lambda g: g.agg({"x": ["sum", "median"], "i": "max"}),
    "named": lambda g: g.agg(rows=("x", "size"), most=("i", "max")),
    "functions": lambda g: g.agg({"x": lambda x: x.max() - x.min(), "i": [len, np.ptp]}),
    "functions that pandas knows": lambda g: g.agg({"x": lambda x: x.iloc[0], "i": [len, max]}),
    "a function": lambda g: g["x"].agg(lambda x: x.iloc[0]),
    "a function of all": lambda g: g[["x", "i"]].agg(lambda x: x.iloc[-1]),
    "mixed": lambda g: g.agg(top=("x", lambda x: x.nlargest(2).min()), mean=("x", "mean")),
    "apply a scalar": lambda g: g.apply(len),
    "apply a series": lambda g: g[["x", "i"]].apply(lambda rows: rows.max()),
    "apply rows": lambda g: g[["x", "s"]].apply(lambda rows: rows.nlargest(2, "x")),
    "apply first": lambda g: g[["x", "s"]].apply(lambda rows: rows.head(1)),
    "apply in place": lambda g: g[["x", "i"]].apply(lambda rows: rows - rows.min()),
    "apply to a column": lambda g: g["x"].apply(lambda x: x - x.min()),
    "apply a name": lambda g: g.apply(lambda rows: str(rows.name)),
    "apply a list": lambda g: g["i"].apply(list),
    "apply nothing": lambda g: g.apply(lambda _rows: None),
    "apply by name": lambda g: g["x"].apply("sum"),
    "transform": lambda g: g["x"].transform(lambda x: x - x.mean()),
    "transform all": lambda g: g[["x", "i"]].transform(lambda x: x.rank()),
    "transform by name": lambda g: g["i"].transform("cumsum"),
    "transform text": lambda g: g["s"].transform("first"),
    "transform to a sum": lambda g: g[["x", "i"]].transform("sum"),
    "transform no name": lambda g: g["x"].transform("ngroup"),
    "filter": lambda g: g.filter(lambda rows: len(rows) > 3),
    "filter a column": lambda g: g["x"].filter(lambda x: x.max() > 1),
    "filter and fill": lambda g: g[["i", "s"]].filter(lambda rows: rows["i"].max() > 0, dropna=False),
    "filter nonsense": lambda g: g.filter(lambda _rows: "yes"),
    "no such column": lambda g: g["nowhere"].sum(),
}


@pytest.mark.parametrize("verb", VERBS)
def test_the_same_as_pandas(verb):
    """Each verb with some of the data and keys, in turn: all together take minutes."""
    place = list(VERBS).index(verb)
    for number in range(4):
        parts = list(PARTS.values())[(place + 2 * number) % len(PARTS)]
        keys, options = list(BYS.values())[(3 * place + number) % len(BYS)]
        same(parts, keys, VERBS[verb], **options)


@pytest.mark.parametrize(
    ("verb", "ways"),
    [
        ("count", ["Parts"]),
        ("named", ["Parts"]),
        ("size", ["Parts"]),
        ("column", ["Parts"]),
        ("nunique", ["Wholes"]),
        ("dict", ["Wholes"]),
        ("functions", ["Called"]),
        ("mixed", ["Together"]),
        ("quantiles", ["Together"]),
        ("apply rows", ["Applied"]),
        ("transform", ["Transformed"]),
        ("transform all", ["Transformed"]),
        ("transform no name", ["Together"]),
        ("filter", ["Filtered"]),
    ],
)
def test_how_it_is_done(verb, ways):
    """Small tables, or whole groups; and all by one worker only where that is the only way."""
    parts = [part.drop(columns=["k"]) for part in PARTS["like"]]
    assert same(parts, "n", VERBS[verb]) == ways


def test_columns_whose_types_differ_are_still_added_up_in_parts():
    parts = [frame(20, 1)[["n", "x", "i"]], frame(20, 2)[["n", "x", "i"]].astype({"i": float})]
    assert same(parts, "n", lambda g: g.sum()) == ["Parts", "Parts"]


@pytest.mark.parametrize("count", [1, 7, 24])
def test_any_number_of_buckets(count):
    for verb in ("apply rows", "filter", "transform", "functions", "median"):
        same(PARTS["like"], ["n", "c"], VERBS[verb], count, observed=True)


def test_keys_of_other_kinds_are_for_one_worker():
    parts = PARTS["like"]
    for by in (lambda label: label % 3, pd.Grouper(key="t", freq="D"), {0: "a", 1: "b"}):
        assert same(parts, by, lambda g: g["x"].sum()) == ["Together"]
        assert same(parts, by, lambda g: g["x"].apply(len)) == ["Together"]
    indexed = [part.set_index("n") for part in parts]
    assert same(indexed, None, lambda g: g["x"].sum(), level=0) == ["Together"]


def test_what_is_not_a_frame():
    groups, _ = over([frame(3), 5], "n")
    for verb in ("mean", "apply a scalar", "quantiles"):
        with pytest.raises(TypeError, match="int"):
            VERBS[verb](groups)
    groups, _ = over([None, None], "n")
    with pytest.raises(ConfigError, match="nothing to group"):
        groups.mean()
    indexed, _ = over([frame(3).set_index("n")], "n")
    with pytest.raises(ValueError, match="reset_index"):
        indexed.mean()


def test_what_is_left_out():
    """A job's function may give nothing for a partition."""
    parts = PARTS["like"][:2]
    for verb in ("column", "functions", "apply rows", "transform", "quantiles"):
        groups, _ = over([None, parts[0], None, parts[1]], "n")
        want, got = VERBS[verb](pd.concat(parts).groupby("n")), VERBS[verb](groups)
        (assert_frame_equal if want.ndim > 1 else assert_series_equal)(got, want, rtol=1e-12)


def test_what_makes_no_sense_over_a_job():
    from nbmr.filelist import Files
    from nbmr.reading import Read

    files = Files(["/nowhere.csv"], Read(None, {}))
    for by in (pd.Series([1, 2]), np.array([1, 2]), ["a", pd.Index([1, 2])]):
        with pytest.raises(ConfigError, match="Add a column"):
            grouped(files, by, {}, lambda: None)
    with pytest.raises(ConfigError, match="did you mean sort"):
        grouped(files, "k", {"sorte": False}, lambda: None)
    groups = grouped(files, "k", {}, lambda: None)
    for call in (len, list, lambda g: g.ngroups):
        with pytest.raises(ConfigError, match="with the workers"):
            call(groups)
    with pytest.raises(AttributeError, match=r"Write|write"):
        groups.column  # noqa: B018
    with pytest.raises(AttributeError, match="has no cumcount"):
        groups.cumcount()
    with pytest.raises(ConfigError, match="callable"):
        groups.apply(3)
    with pytest.raises(IndexError, match="already selected"):
        groups["a"]["b"]
    assert repr(groups) == "<JobGroupBy by 'k'>"
    assert bool(groups)


VALUES = (
    st.integers(-3, 3) | st.floats(width=16, allow_nan=True) | st.none() | st.sampled_from(["a", "b", ""])
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    keys=st.lists(st.lists(VALUES, max_size=6), min_size=1, max_size=4),
    dropna=st.booleans(),
    sort=st.booleans(),
    count=st.integers(1, 4),
    verb=st.sampled_from(["sum", "median", "apply a scalar", "transform", "filter a column", "a function"]),
)
def test_any_keys(keys, dropna, sort, count, verb):
    parts = [pd.DataFrame({"k": pd.Series(key, dtype=object), "x": np.arange(len(key)) / 7}) for key in keys]
    same(
        parts,
        "k",
        lambda g: VERBS[verb](g["x"] if verb in ("sum", "median") else g),
        count,
        dropna=dropna,
        sort=sort,
    )
