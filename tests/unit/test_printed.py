"""What is sent of what a task prints: whole lines, in order, no more than a reader can take."""

from __future__ import annotations

import os

import pytest

from nbmr.worker import output
from nbmr.worker.output import Output


class Clock:
    """Time that passes when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


class Printed:
    """An output, the pipe that it reads, and what it told."""

    def __init__(self, clock):
        self.clock, self.output, self.told, self.takes = clock, Output(), [], True
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.output.begin(self.tell)

    def tell(self, text, dropped):
        if self.takes:
            self.told.append((text, dropped))
        return self.takes

    def print(self, text):
        os.write(self.writing, text.encode())
        assert self.output.read(self.reading)

    def after(self, seconds):
        self.clock.now += seconds
        self.output.send()
        return self.told[-1] if self.told else None


@pytest.fixture
def printed(monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(output, "time", clock)
    printed = Printed(clock)
    yield printed
    os.close(printed.writing)
    assert not printed.output.read(printed.reading)
    os.close(printed.reading)


def test_lines_are_sent_in_batches(printed, capsys):
    printed.print("one\ntwo\n")
    assert printed.output.due() == pytest.approx(0.2)
    assert printed.after(0.1) is None
    printed.print("\nthree\n")
    assert printed.after(0.11) == ("one\ntwo\n\nthree\n", 0)
    assert printed.output.due() is None
    assert capsys.readouterr().err == "one\ntwo\n\nthree\n"  # the worker's own log
    assert printed.output.last == "one\ntwo\n\nthree"


def test_a_line_without_an_end_is_sent_after_a_while_and_its_rest_later(printed):
    printed.print("is it")
    assert printed.after(0.3) is None
    assert printed.after(0.21) == ("is it\n", 0)
    printed.print(" done?\nyes\n")
    assert printed.after(0.21) == (" done?\nyes\n", 0)
    printed.print("half")
    printed.after(1)
    printed.print("\n")
    assert printed.output.due() is None
    assert [text for text, _ in printed.told] == ["is it\n", " done?\nyes\n", "half\n"]


def test_what_is_left_at_the_end(printed):
    printed.print("one\nand a half")
    assert printed.output.end() == ("one\nand a half\n", 0)
    assert printed.output.end() == ("", 0)
    printed.print("nobody's\n")
    assert printed.output.due() is None
    printed.output.forget()
    printed.output.begin(printed.tell)
    assert printed.output.end() == ("", 0)
    assert not printed.told


def test_a_progress_bar_is_shown_as_a_terminal_leaves_it(printed):
    printed.print("10%\r20%\r30%\r\nnext\r\n")
    assert printed.after(0.3) == ("30%\nnext\n", 0)


def test_many_lines_are_sent_at_their_limit_the_latest_first(printed):
    lines = [f"line {n}" for n in range(3000)]
    sent = dropped = 0
    for start in range(0, 3000, 100):  # three seconds of a thousand lines a second
        printed.print("".join(f"{line}\n" for line in lines[start : start + 100]))
        text, missing = printed.after(0.1) or ("", 0)
    text, missing = printed.output.end()
    printed.told += [(text, missing)] if text else []
    for text, missing in printed.told:
        sent, dropped = sent + text.count("\n"), dropped + missing
    assert sent + dropped == 3000
    assert output.RATE_LINES * 3 <= sent <= output.RATE_LINES * 4 + 1
    assert printed.told[0][0].endswith(f"{lines[199]}\n")
    assert printed.told[-1][0].splitlines()[-1] == lines[-1]
    order = [line for text, _ in printed.told for line in text.splitlines()]
    assert order == sorted(order, key=lines.index)


def test_bytes_are_limited_too_and_long_lines_are_cut(printed):
    for _ in range(20):
        printed.print("x" * 5000 + "\n")
    text, dropped = printed.after(0.3)
    assert 20_000 < len(text) <= output.RATE_BYTES
    assert set(map(len, text.splitlines())) == {output.OUTPUT_CHARACTERS}
    assert dropped == 20 - text.count("\n")
    printed.print("y" * 60_000)
    assert printed.after(2) == ("y" * output.OUTPUT_CHARACTERS + "\n", 0)


def test_what_can_not_be_sent_now_waits_and_does_not_pile_up(printed):
    printed.takes = False
    printed.print("first\n")
    assert printed.after(0.3) is None
    for _ in range(10):
        printed.print("more\n" * 100)
        printed.after(1)
    printed.takes = True
    text, dropped = printed.after(1)
    assert text == "more\n" * output.RATE_LINES
    assert dropped == 1001 - output.RATE_LINES


def test_what_is_no_text_is_shown_anyway(printed):
    os.write(printed.writing, b"\xff\xfe\x00\n")
    printed.output.read(printed.reading)
    assert printed.after(1) == ("\ufffd\ufffd\x00\n", 0)


def test_a_task_that_never_stops_printing_does_not_keep_its_reader(printed):
    """Reading ends though the pipe is full again each time that it was emptied."""
    reads = []

    def read(file, size):
        reads.append(size)
        assert len(reads) < 1000
        return b"again and again\n" * 4096

    real, output.os.read = output.os.read, read
    try:
        assert printed.output.read(printed.reading)
    finally:
        output.os.read = real
    assert reads
