"""How numbers and foreign text are written."""

from __future__ import annotations

import pytest

from nbmr import html

EVIL = "<img src=x onerror=\"alert('1')\">&amp;"


def test_a_message_is_escaped():
    assert html.message(EVIL).endswith(
        ">&lt;img src=x onerror=&quot;alert(&#x27;1&#x27;)&quot;&gt;&amp;amp;</div>"
    )


@pytest.mark.parametrize(
    ("line", "written"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("10%\r50%\r", "50%"),
        ("a\tb", "a   b"),
        ("\x00\x07\x9b\u202e\u2028", "?????"),
        ("x" * 3_000, "x" * 1_999 + "…"),
    ],
)
def test_a_line_of_output(line, written):
    assert html.clean(line) == written


def test_a_block_keeps_its_lines_and_its_end():
    assert html.block("a\n  <b>\n") == "a\n  &lt;b&gt;\n"
    assert html.block("0123456789", longest=4) == "…6789"


@pytest.mark.parametrize(
    ("count", "written"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (999_499, "999 kB"),
        (999_501, "1.0 MB"),
        (5e15, "5,000 TB"),
    ],
)
def test_size(count, written):
    assert html.size(count) == written


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
