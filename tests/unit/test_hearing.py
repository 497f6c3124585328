"""A log that isn't heard any more is read anew; one in which nothing is written is left alone."""

from __future__ import annotations

from concurrent.futures import Future
from itertools import pairwise

import pytest

from nbmr import hearing
from nbmr.errors import BrokerError
from nbmr.hearing import Hearing


class Reader:
    """A reader whose clock is ours: `check` is a second."""

    def __init__(self, monkeypatch):
        self.now, self.heard_at = 1000.0, 1000.0
        self.notes, self.renewed, self.moved, self.told = [], [], [], ""
        self.hearing = self.hearing_with(self.write)
        monkeypatch.setattr(hearing.time, "monotonic", lambda: self.now)

    def hearing_with(self, write):
        return Hearing(write, lambda: self.renewed.append(self.now), lambda: self.moved.append(self.now))

    def write(self):
        self.notes.append(Future())
        return self.notes[-1]

    def wait(self, seconds, heard=lambda: False):
        for _ in range(seconds):
            self.now += 1
            if heard():
                self.heard_at = self.now
            self.told = self.hearing.check(self.heard_at)
            for note in self.notes:
                if not note.done():
                    note.set_result(True)


@pytest.fixture
def reader(monkeypatch):
    return Reader(monkeypatch)


def test_where_words_come_nothing_is_written(reader):
    reader.wait(300, heard=lambda: reader.now % 15 == 0)
    assert reader.notes == reader.renewed == reader.moved == []


def test_in_a_silent_log_a_note_comes_back(reader):
    """It is heard as soon as it is stored; there is one about every 20 s."""
    heard = []

    def hear():
        new = reader.notes[len(heard) :]
        heard.extend(new)
        return bool(new)

    reader.wait(300, heard=hear)
    assert 10 <= len(reader.notes) <= 15
    assert reader.renewed == []


def test_a_deaf_reader_is_renewed_ever_less_often(reader):
    reader.wait(1000)
    (renewed,) = reader.renewed
    moments = [renewed, *reader.moved]  # another channel, and from then on another connection
    gaps = [b - a for a, b in pairwise(moments)]
    assert renewed - 1000 < 35
    assert gaps == sorted(gaps)
    assert hearing.LONGEST_SECONDS <= gaps[-1] < hearing.LONGEST_SECONDS + 5


def test_a_reader_that_hears_again_is_left_alone(reader):
    reader.wait(40)
    assert len(reader.renewed) == 1
    reader.heard_at = reader.now
    reader.wait(25)
    assert len(reader.renewed) == 1


def test_what_rabbitmq_does_not_store_is_told_and_has_an_end(reader):
    """And says nothing of who reads."""
    reader.hearing = reader.hearing_with(Future)
    reader.wait(20)
    assert reader.told == ""
    reader.wait(280)
    assert reader.told.endswith("does not store what is written into the log of this job; it is asked again.")
    with pytest.raises(BrokerError, match="start the job again"):
        reader.wait(40)
    assert reader.renewed == []


def test_what_is_stored_at_last_is_no_trouble(reader):
    note = Future()
    reader.hearing = reader.hearing_with(lambda: note)
    reader.wait(100)
    assert reader.told
    note.set_result(True)
    reader.wait(1, heard=lambda: True)
    assert reader.told == ""
