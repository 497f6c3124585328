"""Progress as HTML and text: escaping, and how numbers are written."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from nbmr import html
from nbmr.html import State

EVIL = "<img src=x onerror=\"alert('1')\">&amp;"
RUNNING = State("clean", "running", done=24, total=40, seconds=2, seconds_left=1.4, rate=12, workers=2)


class Reader(HTMLParser):
    """Collects what a browser would make of the HTML: tags with their attributes, and text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(markup)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def bar(self) -> tuple[dict[str, str | None], list[str]]:
        """Attributes of the progress bar, and the widths of its segments."""
        at = next(i for i, (_, attrs) in enumerate(self.tags) if attrs.get("role") == "progressbar")
        styles = [attrs["style"] or "" for _, attrs in self.tags[at + 1 :]]
        parts = [part for style in styles for part in style.split(";") if part.startswith("width:")]
        return self.tags[at][1], [part.removeprefix("width:") for part in parts]


def test_everything_that_users_name_is_escaped():
    reader = Reader(html.panel(replace(RUNNING, name=EVIL, hint=EVIL + "hint", failure=EVIL + "failure")))
    assert {tag for tag, _ in reader.tags} == {"div", "b", "span"}
    assert all(set(attrs) <= {"style", "role"} or "aria-label" in attrs for _, attrs in reader.tags)
    assert reader.text.count(EVIL) == 3
    assert EVIL + "hint" in reader.text
    assert EVIL + "failure" in reader.text
    assert reader.bar()[0]["aria-label"] == EVIL


def test_a_message_is_escaped():
    reader = Reader(html.message(EVIL))
    assert [tag for tag, _ in reader.tags] == ["div"]
    assert reader.text == EVIL


def test_text_has_no_control_sequences_and_no_lines_of_its_own():
    state = replace(RUNNING, name="a\x1b[2J\nb", hint="wait\r\nhere", failure="x\x00" + "y" * 10_000)
    first, hint, failure = html.text(state).split("\n")
    assert first.startswith("a?[2J b: running, 24 of 40")
    assert hint == "  wait here"
    assert failure.startswith("  x?yyy")
    assert failure.endswith("y…")
    assert len(failure) < 500


def test_facts_while_running():
    assert html.facts(RUNNING) == ["24 of 40", "12/s", "1.4 s left", "2 workers"]
    assert Reader(html.panel(RUNNING)).text == "clean running24 of 40 · 12/s · 1.4 s left · 2 workers"


def test_facts_at_the_end():
    state = replace(RUNNING, status="failed", done=39, failed=1, seconds=3.2, workers=1, failure="Boom: 7")
    assert html.text(state) == "clean: failed, 39 of 40, 1 failed, in 3.2 s, 12/s, 1 worker\n  Boom: 7"


def test_nothing_is_said_that_is_not_known():
    assert html.facts(State("clean", "pending")) == ["0 done"]
    assert html.facts(State("clean", "pending", total=40)) == ["0 of 40"]
    assert html.facts(State("clean", "running", done=12_000, rate=2_000)) == ["12,000 done", "2,000/s"]


@pytest.mark.parametrize(
    ("state", "now", "widths"),
    [
        (RUNNING, "60", ["60.0%"]),
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
    attrs, segments = Reader(html.panel(state)).bar()
    assert attrs.get("aria-valuenow") == now
    assert [float(width[:-1]) for width in segments] == [float(width[:-1]) for width in widths]


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0.00 s"),
        (-1, "0.00 s"),
        (0.994, "0.99 s"),
        (0.996, "1.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3_599, "59 min 59 s"),
        (3_600, "1 h 00 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_duration(seconds, written):
    assert html.duration(seconds) == written


@pytest.mark.parametrize(
    ("per_second", "written"),
    [(0, ""), (0.02, "50 s each"), (1, "1.0/s"), (9.94, "9.9/s"), (9.96, "10/s"), (54_321.9, "54,322/s")],
)
def test_rate(per_second, written):
    assert html.rate(per_second) == written


def test_what_is_left_behind():
    assert html.text(RUNNING.left()) == "clean: still running, 24 of 40, 12/s, 2 workers"
    done = replace(RUNNING, status="done")
    assert done.left() == done


@pytest.mark.parametrize("status", ["running", "done", "failed", "cancelled"])
def test_each_colour_is_the_themes_with_one_to_fall_back_on(status):
    panel = html.panel(replace(RUNNING, status=status, failed=1, failure="Boom"))
    for _, attrs in Reader(panel).tags:
        declared = [part.split(":")[0] for part in (attrs.get("style") or "").split(";")]
        for colour in ("color", "background"):
            assert declared.count(colour) in (0, 2)
    assert panel.count("var(--jp-") > 5
