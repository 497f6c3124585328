"""A job's state as HTML and as text: what is said, and that it is escaped."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from nbmr import panel
from nbmr.failures import Failure
from nbmr.printed import Output, OutputLine
from nbmr.state import State, WorkerRow, facts, text

EVIL = "<img src=x onerror=\"alert('1')\">&amp;"
RUNNING = State("clean", "running", done=24, total=40, seconds=2, seconds_left=1.4, rate=12, workers=2)


class Reader(HTMLParser):
    """Collects what a browser would make of the HTML: tags with their attributes, and text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data

    def cells(self) -> list[list[str]]:
        """The text of a table's cells, by row."""
        return [list(row) for row in self.rows]

    def bar(self) -> tuple[dict[str, str | None], list[str]]:
        """Attributes of the progress bar, and the widths of its segments."""
        at = next(i for i, (_, attrs) in enumerate(self.tags) if attrs.get("role") == "progressbar")
        styles = [attrs.get("style") or "" for _, attrs in self.tags[at + 1 :]]
        styles = [style for style in styles if "height:6px" in style]
        parts = [part for style in styles for part in style.split(";") if part.startswith("width:")]
        return self.tags[at][1], [part.removeprefix("width:") for part in parts]


FAILURE = Failure(
    "error", 7, EVIL + "summary", EVIL + "traceback\n  second line", (EVIL + "row", "z"), EVIL + "host", 42,
    3, EVIL + "output\n",
)  # fmt: skip


def test_everything_that_users_name_is_escaped():
    crew = (WorkerRow(EVIL + "worker", "host", EVIL + "state", 1, 0, (3,), 1.0, 1_000_000, 12.0),)
    output = Output((OutputLine(3, EVIL + "on", EVIL + "line"),), 1)
    state = replace(
        RUNNING, name=EVIL, hint=EVIL + "hint", failed=1, failures=(FAILURE,), crew=crew, output=output
    )
    reader = Reader(panel.static(state))
    structure = {"div", "b", "span", "details", "summary", "pre"}
    assert {tag for tag, _ in reader.tags} == structure | {"table", "thead", "tbody", "tr", "th", "td"}
    names = {"style", "role", "title", "open"}
    assert all(set(attrs) <= names or "aria-label" in attrs for _, attrs in reader.tags)
    assert reader.bar()[0]["aria-label"] == EVIL
    for what in ("hint", "worker", "state", "line", "summary", "traceback", "host", "output", "row"):
        assert EVIL + what in reader.text
    assert EVIL + "on" in [attrs.get("title") for _, attrs in reader.tags]
    assert reader.text.count(EVIL) == 10


def test_text_has_no_control_sequences_and_no_lines_of_its_own():
    failure = Failure("error", 7, "x\x00" + "y" * 10_000)
    output = Output((OutputLine(3, "w", "\x1b[31mred\x07"),), 1)
    state = replace(
        RUNNING, name="a\x1b[2J\nb", hint="wait\r\nhere", failed=1, failures=(failure,), output=output
    )
    first, hint, failure, line = text(state).split("\n")
    assert first.startswith("a?[2J b: running, 24 of 40")
    assert hint == "  wait here"
    assert failure.startswith("  Number 7: x?yyy")
    assert len(failure) < 500
    assert line == "  [3] red?"


def test_a_failure_is_folded_and_says_where():
    reader = Reader(
        panel.failure(replace(FAILURE, summary="ValueError: bad", host="node1", rows=("70", "79")))
    )
    assert [tag for tag, _ in reader.tags] == ["details", "summary", "pre"]
    assert "open" not in reader.tags[0][1]
    title = "Partition 7 (rows 70 to 79): ValueError: bad, on node1 (pid 42) after 3 attempts"
    assert reader.text == title + EVIL + "traceback\n  second line\n\nlast output:\n" + EVIL + "output"


def test_a_failure_without_a_traceback_has_nothing_to_unfold():
    reader = Reader(panel.failure(Failure("lost", 7, "it was killed")))
    assert [tag for tag, _ in reader.tags] == ["div"]
    assert reader.text == "Number 7: it was killed"


def test_many_failures_are_counted():
    failures = tuple(Failure("error", number, "bad") for number in range(20))
    state = replace(RUNNING, failed=1_234, failures=failures)
    reader = Reader(panel.static(state))
    assert reader.text.endswith("Number 19: badand 1,214 more failures")
    assert text(state).split("\n")[-2:] == ["  Number 4: bad", "  and 1,229 more failures"]


def test_the_workers_have_a_row_each():
    crew = (
        WorkerRow("node1:1", "node1", "running", 1_200, 0, (7, 8, 9, 10), 3.21, 220_000_000, 99.6),
        WorkerRow("node2:2", "node2", "idle", 3),
    )
    reader = Reader(panel.workers(crew))
    assert reader.cells() == [
        ["Worker", "State", "Done", "Task", "Memory", "CPU"],
        ["node1:1", "running", "1,200", "7, 8, 9, … for 3.2 s", "220 MB", "100 %"],
        ["node2:2", "idle", "3", "", "", ""],
    ]
    at_the_end = (WorkerRow("node1:1", "node1", "", 3, 1),)
    assert Reader(panel.workers(at_the_end)).cells() == [["Worker", "Done", "Failed"], ["node1:1", "3", "1"]]
    assert Reader(panel.workers(crew * 11)).text.endswith("and 2 more workers")


def test_the_last_lines_are_shown_and_the_others_counted():
    lines = (
        OutputLine(1, "w", "… 500 lines left out", 500),
        *(OutputLine(2, "w", f"line {i}") for i in range(300)),
    )
    output = Output(lines, 1_000)
    live = Reader(panel.output(output, 200))
    assert live.tags[0][1]["role"] == "log"
    assert live.text.startswith("… 800 more lines before these    2 │ line 100\n")
    assert live.text.endswith("line 299")
    assert output.before(lines) == 200
    assert Reader(panel.output(output, 50, foldable=True)).text.startswith(
        "Output of the tasks: 1,000 lines… 950"
    )
    assert text(replace(RUNNING, output=output)).split("\n")[1] == "  … 980 more lines of output"


def test_what_has_nothing_to_say_takes_no_room():
    assert panel.workers(()) == panel.output(Output(), 10) == panel.further(RUNNING) == ""
    assert panel.static(RUNNING).count("<div") == panel.head(RUNNING).count("<div") + 1


def test_facts_while_running():
    assert facts(RUNNING) == ["24 of 40", "12/s", "1.4 s left", "2 workers"]
    assert Reader(panel.static(RUNNING)).text == "clean running24 of 40 · 12/s · 1.4 s left · 2 workers"


def test_facts_at_the_end():
    state = replace(
        RUNNING,
        status="failed",
        done=39,
        failed=1,
        seconds=3.2,
        workers=1,
        failures=(Failure("error", 7, "Boom"),),
    )
    assert text(state) == "clean: failed, 39 of 40, 1 failed, in 3.2 s, 12/s, 1 worker\n  Number 7: Boom"


def test_nothing_is_said_that_is_not_known():
    assert facts(State("clean", "pending")) == ["0 done"]
    assert facts(State("clean", "pending", total=40)) == ["0 of 40"]
    assert facts(State("clean", "running", done=12_000, rate=2_000)) == ["12,000 done", "2,000/s"]


@pytest.mark.parametrize(
    ("state", "now", "widths"),
    [
        (RUNNING, "60", ["60.0%"]),
        (replace(RUNNING, running=2, failed=4), "70", ["60.0%", "10.0%", "5.0%"]),
        (replace(RUNNING, running=30), "60", ["60.0%", "40.0%"]),
        (replace(RUNNING, failed=4), "70", ["60.0%", "10.0%"]),
        (replace(RUNNING, done=0), "0", []),
        (replace(RUNNING, done=0, total=0), "0", []),
        (State("nothing", "done", total=0), "100", ["100.0%"]),
        (replace(RUNNING, done=50), "100", ["100.0%"]),
        (replace(RUNNING, total=None), None, ["100%"]),
        (replace(RUNNING, total=None, done=0, failed=2, status="failed"), "100", ["100.0%"]),
    ],
)
def test_the_bar(state, now, widths):
    attrs, segments = Reader(panel.static(state)).bar()
    assert attrs.get("aria-valuenow") == now
    assert [float(width[:-1]) for width in segments] == [float(width[:-1]) for width in widths]


def test_what_is_left_behind():
    assert text(RUNNING.left()) == "clean: still running, 24 of 40, 12/s, 2 workers"
    done = replace(RUNNING, status="done")
    assert done.left() == done


@pytest.mark.parametrize("status", ["running", "done", "failed", "cancelled"])
def test_each_colour_is_the_themes_with_one_to_fall_back_on(status):
    markup = panel.static(replace(RUNNING, status=status, failed=1, failures=(Failure("error", 7, "Boom"),)))
    for _, attrs in Reader(markup).tags:
        declared = [part.split(":")[0] for part in (attrs.get("style") or "").split(";")]
        for colour in ("color", "background"):
            assert declared.count(colour) in (0, 2)
    assert markup.count("var(--jp-") > 5
