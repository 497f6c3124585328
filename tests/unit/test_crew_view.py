"""Who works, as HTML and as text."""

from __future__ import annotations

import re

from nbmr import crew_view
from nbmr.crew import COLUMNS, Member, row
from nbmr.roster import SlotFacts

VERSIONS = {"python": "3.11.7", "nbmr": "0.1.0", "pandas": "3.0.1", "numpy": "2.1.0"}
BUSY = Member(
    "default", "<lab>", 7, "running", 25_000_000, 2_000_000_000, 99.6, 1234, 2, VERSIONS,
    slots=(SlotFacts("running", "4f2a", "<clean>\x1b[31m", 12, 1, 3.2, 71), SlotFacts("idle")),
)  # fmt: skip
STARTING = Member("default", "lab", 9, "starting", 5_000_000)
WRONG = Member("gpu", "far", 5, "ready", problem="Python 3.9 <b> and 3.11 don't mix", versions=VERSIONS)


def test_text():
    lines = crew_view.text([BUSY, STARTING, WRONG]).splitlines()
    cells = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert cells == [
        ["queue default: 2 workers on 2 hosts"],
        ["host", "pid", "state", "done", "job", "memory", "CPU", "Python", "nbmr", "pandas", "numpy"],
        ["<lab>", "7", "running", "1,234 (2 failed)", "<clean>?[31m #12 for 3.2 s", "25 MB, limit 2.0 GB",
         "100 %", *VERSIONS.values()],
        ["lab", "9", "starting", "5.0 MB"],
        ["queue gpu: 1 worker"],
        ["host", "pid", "state", "done", "job", "memory", "CPU", "Python", "nbmr", "pandas", "numpy"],
        ["far", "5", "ready", *VERSIONS.values()],
        ["✗ far:5 can't run this kernel's functions: Python 3.9 <b> and 3.11 don't mix"],
    ]  # fmt: skip
    assert lines[1].index("memory") == lines[2].index("25 MB") == lines[3].index("5.0 MB")
    assert crew_view.text([], "Nobody.") == "Nobody."


def test_html_says_the_same_and_is_escaped():
    panel = crew_view.panel([BUSY, STARTING, WRONG])
    for said in (
        "queue default: 2 workers on 2 hosts", "&lt;lab&gt;", "&lt;clean&gt;?[31m #12 for 3.2 s",
        "1,234 (2 failed)", "✗ ready", "Python 3.9 &lt;b&gt; and 3.11 don&#x27;t mix", "var(--jp-",
    ):  # fmt: skip
        assert said in panel
    assert "<lab>" not in panel
    assert "<clean>" not in panel
    assert panel.count("<table") == 2
    assert "Nobody &lt;" in crew_view.panel([], "Nobody <")


def test_one_problem_of_many_workers_is_told_once():
    many = [Member("gpu", "far", pid, "ready", problem="old") for pid in range(5)]
    assert crew_view.problems(many) == [
        "✗ far:0, far:1, far:2 and 2 more can't run this kernel's functions: old"
    ]


def test_a_thousand_workers_are_no_thousand_rows():
    many = [Member("gpu", "far", pid, "ready") for pid in range(1000)]
    assert crew_view.panel(many).count("<tr") == crew_view.ROWS + 1
    assert "and 950 more" in crew_view.panel(many)
    assert "and 950 more" in crew_view.text(many)
    assert "1,000 workers" in crew_view.text(many)


def test_a_row_of_the_table():
    assert tuple(row(BUSY)) == COLUMNS
    assert row(BUSY)["job"] == "<clean>\x1b[31m"
    assert row(BUSY)["slots"] == 2
    assert row(STARTING)["slots"] is row(STARTING)["done"] is row(STARTING)["cpu"] is None
