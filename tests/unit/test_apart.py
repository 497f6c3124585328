"""Large buffers that come in many tasks are sent once, and what each task has for itself is not kept."""

from __future__ import annotations

import numpy as np
import pytest

from nbmr import codec
from nbmr.apart import Apart

LEAST = 2000


class Sent:
    """Notes what is sent apart."""

    def __init__(self):
        self.payloads = {}

    def __call__(self, name, buffers):
        assert name not in self.payloads
        self.payloads[name] = b"".join(buffers)
        return {"name": name, "size": len(self.payloads[name])}


@pytest.fixture
def sent():
    return Sent()


@pytest.fixture
def apart(sent):
    return Apart(LEAST, sent)


def back(sent, references, rest):
    """What a worker makes of it."""
    buffers = list(rest)
    for reference in references:
        buffers.insert(reference["place"], bytearray(sent.payloads[reference["name"]]))
    return codec.decode(buffers)


def test_the_same_content_is_sent_once(apart, sent):
    array = np.arange(1000.0)
    small = np.arange(200.0)
    for task in range(20):
        value = [small, array, task, array.copy(), np.full(LEAST, task, "u1")[: LEAST - 1]]
        references, rest = apart.split(codec.encode(value))
        assert [reference["place"] for reference in references] == [2, 3]
        assert len({reference["digest"] for reference in references}) == 1
        for ours, theirs in zip(back(sent, references, rest), value, strict=True):
            assert np.array_equal(ours, theirs)
    assert list(sent.payloads.values()) == [array.tobytes()]


def test_an_array_that_was_changed_is_another_one(apart, sent):
    array = np.zeros(1000)
    for task in range(3):
        array[:] = task
        references, rest = apart.split(codec.encode(array))
        assert (back(sent, references, rest) == task).all()
    assert len(sent.payloads) == 3


def test_what_each_task_has_for_itself_travels_with_it(apart, sent):
    shared = np.arange(1000.0)
    for task in range(50):
        references, rest = apart.split(codec.encode([np.full(1000, float(task)), shared]))
        assert (back(sent, references, rest)[0] == task).all()
    assert len(sent.payloads) <= 6
    late = np.full(1000, 49.0)  # but if it comes again …
    for value in (late, np.full(1000, 48.0), late, np.full(1000, 47.0)):
        references, rest = apart.split(codec.encode(value))
        assert len(references) == 1
        assert (back(sent, references, rest) == value).all()
    assert len(sent.payloads) <= 9


def test_the_stream_stays(apart, sent):
    buffers = codec.encode("x" * 5000)
    assert apart.split(buffers) == ([], buffers)
    assert not sent.payloads
    assert apart.split([]) == ([], [])
