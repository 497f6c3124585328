"""Whatever comes from the broker: what is no message of ours is refused, and nothing else happens."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import tracemalloc
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbmr import codec, message, schema, topology
from nbmr.errors import ProtocolError
from nbmr.joblog import JobLog
from nbmr.signing import Signer

KEY = Signer("k" * 64)
LOG_KINDS = ("opened", "started", "output", "result", "chunk", "died", "sealed", "input")
RESULT = {"worker": "w", "host": "h", "pid": 1, "run": "r", "start": 0, "count": 1}
GENUINE = [
    b"".join(message.seal(KEY, "opened", job="j", units=3, on_error="keep")),
    b"".join(message.seal(KEY, "result", job="j", task=1, buffers=codec.encode([b"x" * 300]), **RESULT)),
    b"".join(message.seal(KEY, "chunk", job="j", task=2, buffers=[b"ab"], run="r", offset=0, total=2)),
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
numbers = st.sampled_from([-(2**70), -1, 0, 1, 2, 3, 64, 2**24, 2**24 + 1, 2**53, 2**70])
places = st.lists(st.lists(numbers | st.integers(0, 9), min_size=2, max_size=2), max_size=3)
#: Values that are nearly right, so that what uses a field is reached.
failures = st.fixed_dictionaries(
    {"reason": st.just("lost"), "summary": st.just("s"), "attempts": numbers, "unit": numbers}
)
words = st.sampled_from(["", "r", "j", "raise", "keep", None, True, 0.5])
nearly = numbers | places | words | failures | failures.map(lambda failure: [failure]) | json_values


class Touch:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (self.file,)


def fields_of(kind):
    required, optional = schema.KINDS[kind]
    return st.fixed_dictionaries(
        {}, optional=dict.fromkeys((*required, *optional), nearly) | {"else": json_values}
    )


def read(log, body):
    log.read(SimpleNamespace(body=body, offset=0))
    repr(log.progress())
    log.failures()


def mutated(data, body):
    """A genuine message with some bytes changed, cut out or put in."""
    changed = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(changed)))
        cut = data.draw(st.integers(0, 40))
        changed[place : place + cut] = data.draw(st.binary(max_size=40))
    return bytes(changed)


@given(st.binary(max_size=2000))
def test_noise(noise):
    log = JobLog("j", KEY)
    with pytest.raises(ProtocolError):
        message.unseal(KEY, noise)
    read(log, noise)
    assert log.rejected == 1


@given(st.data())
def test_genuine_messages_that_were_changed(data):
    body = mutated(data, data.draw(st.sampled_from(GENUINE)))
    log = JobLog("j", KEY)
    read(log, body)
    assert log.rejected == (body not in GENUINE)


@given(st.binary(max_size=200))
def test_noise_that_is_signed(noise):
    """No stranger can make it; another version of nbmr may."""
    with contextlib.suppress(ProtocolError):
        message.unseal(KEY, noise + KEY.sign([noise]))
    tail = noise + len(noise).to_bytes(4, "big") + message.MAGIC
    with contextlib.suppress(ProtocolError):
        message.unseal(KEY, tail + KEY.sign([tail]))


@given(header=json_values | st.dictionaries(st.sampled_from(["kind", "job", "task", "layout"]), nearly))
def test_headers_that_are_signed_and_make_no_sense(header):
    text = json.dumps(header).encode()
    text += len(text).to_bytes(4, "big") + message.MAGIC
    with contextlib.suppress(ProtocolError):
        message.unseal(KEY, text + KEY.sign([text])).buffers()


@given(places | json_values, st.binary(max_size=100))
def test_layouts_that_lie(layout, payload):
    opened = message.Message("result", fields={"layout": layout}, payload=memoryview(payload))
    try:
        buffers = opened.buffers()
    except ProtocolError:
        return
    assert [len(buffer) for buffer in buffers] == [length for _, length in layout]
    assert sum(map(len, buffers)) <= len(payload)


@given(st.data(), st.sampled_from(sorted(schema.KINDS)))
def test_fields_of_any_kind_that_make_no_sense(data, kind):
    fields = data.draw(fields_of(kind))
    opened = message.unseal(KEY, b"".join(message.seal_raw(KEY, kind, job="j", **fields)))
    try:
        opened.expect(kind)
    except ProtocolError:
        return
    required, optional = schema.KINDS[kind]
    assert fields.keys() >= required.keys()
    for name, check in (required | optional).items():
        assert name not in fields or check(fields[name])


@settings(max_examples=300)
@given(st.data())
def test_a_log_whose_genuine_entries_make_no_sense(data):
    """Reading never raises, and what was made of it can be shown."""
    log = JobLog("j", KEY)
    for _ in range(data.draw(st.integers(1, 5))):
        kind = data.draw(st.sampled_from(LOG_KINDS))
        fields = data.draw(fields_of(kind))
        if kind == "result":
            fields = RESULT | fields
        payload = data.draw(st.sampled_from([b"", b"[]", b"{", b"[7]", b'[{"unit": 0}]']))
        task = data.draw(st.integers(-1, 3))
        read(log, b"".join(message.seal_raw(KEY, kind, [payload], job="j", task=task, **fields)))
    assert log.done >= 0
    assert log.failed >= 0


# ---------------------------------------------------------------- lies about length


@pytest.mark.parametrize(
    ("offset", "total", "chunked"),
    [
        (0, 1 << 50, 1 << 50),
        (0, 1 << 50, 3),
        (0, 0, 100),
        (1 << 50, 3, 3),
        (3, 6, 6),
        (-3, 3, 3),
        (0, -1, 3),
        (0, 2**80, 2**80),
        ("0", 3, "3"),
        (0.0, 3, 3.0),
        (None, None, None),
    ],
)
def test_a_chunk_that_lies_takes_no_memory(offset, total, chunked):
    log = JobLog("j", KEY)
    tracemalloc.start()
    try:
        body = message.seal(
            KEY, "chunk", job="j", task=0, buffers=[b"abc"], run="r", offset=offset, total=total
        )
        read(log, b"".join(body))
        layout = [[0, 1 << 50]]
        read(
            log,
            b"".join(
                message.seal_raw(KEY, "result", job="j", task=0, chunked=chunked, layout=layout, **RESULT)
            ),
        )
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert not log.done
    assert log.rejected


def test_chunks_that_overlap_come_twice_or_are_missing():
    def chunk(offset, data):
        body = message.seal_raw(KEY, "chunk", [data], job="j", task=0, run="r", offset=offset, total=9)
        read(log, b"".join(body))

    values = codec.encode(["abc"])
    data, layout = b"".join(codec.pieces(values)), codec.layout(values)
    half = len(data) // 2
    log = JobLog("j", KEY)
    chunk(half, data[half:])  # out of turn
    chunk(0, data[:half])
    chunk(0, data[:half])  # twice
    chunk(1, b"overlaps")
    chunk(half + 1, b"leaves a gap")
    result = message.seal_raw(KEY, "result", job="j", task=0, chunked=len(data), layout=layout, **RESULT)
    read(log, b"".join(result))
    assert log.rejected == 1  # some are missing
    for offset, part in ((0, data[:half]), (half, data[half:])):
        chunk(offset, part)
    read(log, b"".join(result))
    assert log.done == 1
    assert log.outcomes[0].values() == ["abc"]
    chunk(0, data)  # replayed after its result: not kept
    assert not log._chunks


# ---------------------------------------------------------------- replays


def test_genuine_entries_that_are_replayed_change_nothing():
    log = JobLog("j", KEY)
    seen = []
    died = {"attempt": 1, "cause": "SIGKILL", "host": "h", "pid": 1}
    entries = [
        message.seal(KEY, "opened", job="j", units=None, on_error="keep"),
        message.seal(KEY, "started", job="j", task=0, worker="w", attempt=1, host="h", pid=1),
        message.seal(KEY, "died", job="j", task=0, **died),
        message.seal(KEY, "result", job="j", task=0, buffers=codec.encode(["a"]), **RESULT),
        message.seal(KEY, "result", job="j", task=1, start=1, count=1, worker="w", host="h", pid=1, run="",
                     all_failed={"reason": "lost", "summary": "s", "attempts": 3}),
        message.seal(KEY, "sealed", job="j", tasks=3, units=3),
    ]  # fmt: skip
    for number, entry in enumerate(entries):
        read(log, b"".join(entry))
        before = (
            log.done,
            log.failed,
            log.total,
            log.status,
            dict(log.attempts.running),
            dict(log.attempts.deaths),
        )
        for old in (*entries[: number + 1], *entries[number::-1]):
            read(log, b"".join(old))
        seen.append((log.done, log.failed, log.total) == before[:3] and log.attempts.deaths == before[5])
    assert all(seen)
    assert (log.done, log.failed, log.total, log.ended, log.rejected) == (1, 1, 3, False, 0)
    read(log, b"".join(message.seal(KEY, "result", job="j", task=2, buffers=codec.encode(["c"]), **RESULT)))
    assert log.ended
    read(log, b"".join(entries[1]))
    assert log.status == "failed"  # as it ended


def test_a_genuine_result_counts_for_its_own_job_and_task_only(tmp_path):
    """Its routing is under its signature: changed, it is no longer genuine."""
    file = tmp_path / "evil"
    body = b"".join(
        message.seal(KEY, "result", job="j", task=0, buffers=codec.encode([Touch(str(file))]), **RESULT)
    )
    other = JobLog("k", KEY)
    read(other, body)
    assert (other.rejected, other.done) == (1, 0)
    log = JobLog("j", KEY)
    for old, new in ((b'"task":0', b'"task":1'), (b'"job":"j"', b'"job":"k"'), (b'"result"', b'"chunk"')):
        assert body.count(old) == 1
        read(log, body.replace(old, new))
    assert (log.rejected, log.done) == (3, 0)
    assert not file.exists()
    read(log, body)  # and reading alone decodes nothing
    assert log.done == 1
    assert not file.exists()


def test_a_bare_pickle_is_never_loaded(tmp_path):
    file = tmp_path / "evil"
    log = JobLog("j", KEY)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        read(log, pickle.dumps(Touch(str(file)), protocol))
    assert log.rejected == pickle.HIGHEST_PROTOCOL + 1
    assert not file.exists()


def test_every_kind_that_is_sent_has_its_fields_checked():
    documented = {word.strip("`") for word in topology.__doc__.partition("Kinds of messages.")[2].split()}
    assert schema.KINDS.keys() <= {word.rstrip("`,.;:") for word in documented}
