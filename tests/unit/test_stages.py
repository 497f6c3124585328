"""What views say of a job's stages, and of a key with very many rows."""

from __future__ import annotations

import html
import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nbmr import panel, unit
from nbmr.buckets import key_text, sort_rows, told
from nbmr.progress import Bar
from nbmr.stages import large_key, stages
from nbmr.state import State, text

SHUFFLED = {"mapped": 1_000, "rows": 500, "bytes": 25_000, "buckets": 8, "keys": {"'<US>'": 450}}


def test_stages_and_a_large_key_are_told_escaped():
    told = {"rows": 200, "bytes": 9_000, "groups": 3}
    state = State("counts", "running", stages=stages(SHUFFLED, told), note=large_key(SHUFFLED, told))
    assert [stage.name for stage in state.stages] == ["map", "shuffle", "reduce"]
    shown = panel.head(state)
    for said in (
        "map: 1,000 rows · shuffle: 500 rows, 25 kB, 8 buckets · reduce: 200 rows, 9.0 kB, 3 groups",
        "Key &#x27;&lt;US&gt;&#x27; has 90 % of the rows: one reduce task has them all.",
    ):
        assert said in shown
        assert html.unescape(said) in text(state)
    assert panel.static(state).count("one reduce task") == 1


@pytest.mark.parametrize(
    ("shuffled", "told", "names", "large"),
    [
        ({}, {}, [], False),
        ({}, {"mapped": 5, "rows": 5, "bytes": 9, "keys": {"1": 3}}, ["map", "shuffle"], True),
        ({}, {"mapped": 5, "rows": 6, "bytes": 9, "keys": {"1": 3}}, ["map", "shuffle"], False),
        ({}, {"mapped": 0, "rows": 0, "bytes": 0, "keys": {}}, ["map", "shuffle"], False),
        ({}, {"mapped": 5}, ["map"], False),
        (SHUFFLED, {}, ["map", "shuffle"], True),
        (SHUFFLED | {"keys": {"1": 125}}, {}, ["map", "shuffle"], False),
        (SHUFFLED | {"keys": {"1": 126}}, {}, ["map", "shuffle"], True),
        (SHUFFLED | {"buckets": 1}, {}, ["map", "shuffle"], False),
    ],
)
def test_which_stages_and_keys_are_told(shuffled, told, names, large):
    assert [stage.name for stage in stages(shuffled, told)] == names
    assert bool(large_key(shuffled, told)) is large


def test_a_bar_says_what_is_large_once():
    stream = io.StringIO()
    bar = Bar(stream)
    state = State("counts", "running", total=2, note="Key 'US' has 90 % of the rows: …")
    bar.show(state)
    bar.update(state)
    bar.finish(replace(state, status="done", stages=stages(SHUFFLED, {})))
    assert stream.getvalue().count("Key 'US' has 90 %") == 1
    assert "shuffle: 500 rows" in stream.getvalue()


def test_partitions_tell_which_keys_are_large():
    rng = np.random.default_rng(0)
    few = pd.DataFrame({"k": rng.choice(["US", "DE", "FR"], 1_000, p=[0.9, 0.05, 0.05])})
    assert list(told(sort_rows(few, few, 8), few)["keys"].items()) == [
        ("'US'", int((few["k"] == "US").sum()))
    ]
    many = pd.DataFrame({"k": np.arange(1_000)})
    assert told(sort_rows(many, many, 8), many)["keys"] == {}
    assert told(sort_rows(many[:0], many[:0], 8), many[:0]) == {"rows": 0, "bytes": 0, "keys": {}}


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("US", "'US'"),
        (np.int64(3), "3"),
        (("US", np.int64(3)), "('US', 3)"),
        (("US",), "'US'"),
        ("x" * 1_000, "'" + "x" * 58 + "…"),
    ],
)
def test_keys_are_shown_short(key, shown):
    assert key_text(key) == shown


def test_what_units_tell_is_added():
    unit.begin()
    assert unit.told() is None
    unit.tell({"rows": 1, "keys": {"a": 1}})
    unit.tell({"rows": 2, "keys": {"a": 2, "b": 1}})
    assert unit.told() == {"rows": 3, "keys": {"a": 3, "b": 1}}
    unit.begin()
    assert unit.told() is None
