from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbmr import codec, message
from nbmr.errors import ProtocolError
from nbmr.message import MAGIC, seal, seal_raw, unseal
from nbmr.signing import Signer

OURS, THEIRS = Signer("0" * 64), Signer("1" * 64)


def body(signer=OURS, kind="task", **options):
    return b"".join(seal(signer, kind, **options))


def test_round_trip():
    buffers = codec.encode([np.arange(1000.0), "ü"])
    sealed = body(job="ab", task=3, buffers=buffers, queue="gpu", count=2)
    opened = unseal(OURS, sealed)
    assert (opened.kind, opened.job, opened.task) == ("task", "ab", 3)
    assert opened.fields["queue"] == "gpu"
    array, text = codec.decode(opened.buffers())
    assert array.tolist() == list(range(1000))
    assert text == "ü"


@given(
    kind=st.text(max_size=10),
    job=st.from_regex(r"[A-Za-z0-9_\-]{0,20}", fullmatch=True),
    task=st.integers(-1, 2**40),
    payload=st.binary(max_size=100),
    fields=st.dictionaries(
        st.text("abc", min_size=1), st.none() | st.text() | st.integers() | st.lists(st.booleans())
    ),
)
def test_everything_survives(kind, job, task, payload, fields):
    opened = unseal(OURS, b"".join(seal_raw(OURS, kind, [payload], job=job, task=task, **fields)))
    assert (opened.kind, opened.job, opened.task) == (kind, job, task)
    assert abs(opened.time - time.time()) < 60
    assert opened.fields == fields
    assert bytes(opened.payload) == payload


def test_the_payload_is_a_view():
    sealed = b"".join(seal_raw(OURS, "blob", [b"x" * 1000]))
    assert unseal(OURS, sealed).payload.obj is sealed


def test_what_is_sealed_no_longer_changes():
    """A user may go on with the data while it waits to be sent."""
    array = np.zeros(100_000)
    parts = seal(OURS, "task", buffers=codec.encode([array]))
    array[:] = 1
    (opened,) = codec.decode(unseal(OURS, b"".join(parts)).buffers())
    assert not opened.any()


def test_a_message_without_payload():
    opened = unseal(OURS, body(kind="cancel", job="ab"))
    assert bytes(opened.payload) == b""
    assert opened.buffers() == []
    assert opened.task == -1


@given(st.data())
def test_any_changed_byte_is_noticed(data):
    sealed = bytearray(body(job="ab", task=1, buffers=codec.encode(["text"])))
    place = data.draw(st.integers(0, len(sealed) - 1))
    sealed[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ProtocolError, match="not signed"):
        unseal(OURS, bytes(sealed))


@given(st.data())
def test_any_cut_is_noticed(data):
    sealed = body(job="ab", task=1, buffers=codec.encode(["text"]))
    start = data.draw(st.integers(0, len(sealed)))
    stop = data.draw(st.integers(start, len(sealed)))
    if (start, stop) != (0, len(sealed)):
        with pytest.raises(ProtocolError):
            unseal(OURS, sealed[start:stop])


@given(st.binary(max_size=300))
def test_noise_is_refused(noise):
    with pytest.raises(ProtocolError):
        unseal(OURS, noise)


def test_another_key_is_refused():
    with pytest.raises(ProtocolError, match="not signed with this key"):
        unseal(OURS, body(THEIRS))


def test_nothing_is_looked_at_before_the_signature(monkeypatch):
    sealed = body(THEIRS, job="ab")
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("the header was read"))
    monkeypatch.setattr(message.codec, "slices", lambda *_: pytest.fail("the payload was cut"))
    with pytest.raises(ProtocolError):
        unseal(OURS, sealed)


def signed(text):
    return text + OURS.sign([text])


def header(data):
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    return text + len(text).to_bytes(4, "big") + MAGIC


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (header({"kind": "a", "job": "", "task": 0})[:-1] + b"2", "another version"),
        ((99).to_bytes(4, "big") + MAGIC, "longer than itself"),
        (header(b"{"), "can't be read"),
        (header(b"\xff"), "can't be read"),
        (header([]), "can't be read"),
        (header({"job": "", "task": 0}), "can't be read"),
        (header({"kind": "a", "job": "", "task": "x"}), "can't be read"),
        (header({"kind": "a", "job": "", "task": True}), "can't be read"),
        (header({"kind": "a", "job": "", "task": float("inf")}), "can't be read"),
        (header({"kind": "a", "job": "", "task": 2**60}), "can't be read"),
        (header({"kind": ["a"], "job": "", "task": 0}), "can't be read"),
        (header({"kind": "a", "job": "x" * 200, "task": 0}), "can't be read"),
        (header({"kind": "a", "job": "a.blob.b", "task": 0}), "can't be read"),
        (header({"kind": "a", "job": "\ud800", "task": 0}), "can't be read"),
        (header(b"[" * 100_000), "can't be read"),
        (header(b"9" * 10_000), "can't be read"),
        (header(b""), "can't be read"),
    ],
)
def test_signed_nonsense_is_refused_as_such(text, said):
    with pytest.raises(ProtocolError, match=said):
        unseal(OURS, signed(text))


@pytest.mark.parametrize(
    "layout",
    [
        [[0, 10**9]], [[10**30, 1]], [[0, 2**64]], [[-5, 3]], [[-3, 2]], [[-3, -2]], [[2, -1]],
        [[1, 2], [0, 1]], [[0, 2], [1, 2]], [[0]], [[0, 1, 2]], [["0", 1]], [[0.0, 1]], [0, 1], 7, {"0": 1},
        [None], [[None, 1]],
    ],
)  # fmt: skip
def test_a_layout_that_does_not_fit_is_refused(layout):
    opened = unseal(OURS, b"".join(seal_raw(OURS, "result", [b"abc"], layout=layout)))
    with pytest.raises(ProtocolError):
        opened.buffers()


def test_a_genuine_message_in_the_wrong_place_is_refused():
    opened = unseal(OURS, body(job="ab", queue="gpu"))
    with pytest.raises(ProtocolError, match="'task' with no 'start': of another version"):
        opened.expect("result", "task", job="ab", queue="gpu")
    cancel = unseal(OURS, body(kind="cancel", job="ab"))
    assert cancel.expect("task", "cancel", job="ab") is cancel
    with pytest.raises(ProtocolError, match="kind 'task' where result belongs"):
        opened.expect("result")
    with pytest.raises(ProtocolError, match="job 'ab' in the log of job 'cd'"):
        opened.expect("task", job="cd")
    with pytest.raises(ProtocolError, match="another queue in queue 'default'"):
        opened.expect("task", queue="default")


def test_fields_cannot_take_the_place_of_the_routing():
    with pytest.raises(TypeError):
        seal(OURS, "task", **dict.fromkeys(["kind"], "result"))
    opened = unseal(OURS, body(job="ab", Kind="result"))
    assert opened.kind == "task"
