"""Payloads are compressed where that saves time, and read again; what lies about its size is refused."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard

from nbmr import codec, compression
from nbmr.broker.address import is_here
from nbmr.compression import NEEDED, Compressor
from nbmr.errors import ConfigError, ProtocolError
from nbmr.joblog import JobLog
from nbmr.message import seal, seal_raw, unseal
from nbmr.signing import Signer

KEY = Signer("0" * 64)
TEXT = b"the same words again and again, number 17; " * 20_000
NOISE = random.Random(0).randbytes(len(TEXT))


def compressor(rate: float | None = None, *, always: bool = False, **more: Any) -> Compressor:
    return Compressor(always=always, rate=lambda: rate, **more)


@pytest.fixture
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "library", lambda: None)


def test_a_message_is_smaller_and_the_same():
    buffers = codec.encode([TEXT, "ü", list(range(50_000))])
    with_it = b"".join(seal(KEY, "task", job="j", task=1, buffers=buffers, compressor=compressor()))
    without = b"".join(seal(KEY, "task", job="j", task=1, buffers=buffers))
    assert len(with_it) < len(without) / 4
    opened, plain = unseal(KEY, with_it), unseal(KEY, without)
    assert opened.readable
    assert opened.fields == plain.fields
    assert opened.payload == plain.payload
    assert codec.decode(opened.buffers()) == [TEXT, "ü", list(range(50_000))]


def test_it_is_signed():
    body = bytearray(b"".join(seal_raw(KEY, "blob", [TEXT], compressor=compressor(), name="n", offset=0)))
    body[100] ^= 1
    with pytest.raises(ProtocolError, match="not signed"):
        unseal(KEY, body)


@pytest.mark.parametrize("always", [True, False])
def test_what_does_not_become_smaller_travels_as_it_is(always):
    assert compressor(1e3, always=always).pack([NOISE]) is None
    assert compressor(1e3, always=always).pack([]) is None
    assert compressor(1e3, always=always).pack([TEXT[:1000]]) is None  # there is nothing to save
    assert compressor(1e3, always=always).pack([TEXT[:20_000], memoryview(TEXT)[20_000:]]) is not None


def test_it_is_the_networks_rate_that_decides():
    assert compressor(None).pack([TEXT]) is not None  # 1 Gbit/s, as long as nothing was measured
    assert compressor(1e6).pack([TEXT]) is not None
    assert compressor(1e13).pack([TEXT]) is None
    assert compressor(1e13, always=True).pack([TEXT]) is not None


def test_whether_others_can_read_it_is_asked_once_and_only_where_it_matters():
    asked: list[bool] = []

    def readable() -> bool:
        asked.append(True)
        return False

    never = compressor(1e6, readable=readable)
    assert never.pack([NOISE]) is None
    assert not asked
    assert never.pack([TEXT]) is None
    assert never.pack([TEXT]) is None
    assert len(asked) == 1


@pytest.mark.parametrize("size", [0, len(TEXT) - 1, len(TEXT) + 1, 1 << 40, -1, 1.5, "large", True])
def test_what_lies_about_its_size_is_refused(size):
    packed = zstandard.compress(TEXT)
    with pytest.raises(ProtocolError):
        unseal(KEY, b"".join(seal_raw(KEY, "blob", [packed], zstd=size)))


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"nonsense",
        zstandard.compress(TEXT)[:-10],
        zstandard.ZstdCompressor(write_content_size=False).compress(TEXT),
    ],
)
def test_what_cannot_be_decompressed_is_refused(packed):
    with pytest.raises(ProtocolError):
        unseal(KEY, b"".join(seal_raw(KEY, "blob", [packed], zstd=len(TEXT))))


def test_no_payload_is_larger_than_any_that_is_sent():
    bomb = zstandard.compress(bytes(65 << 20))
    assert len(bomb) < 100_000
    with pytest.raises(ProtocolError):
        unseal(KEY, b"".join(seal_raw(KEY, "blob", [bomb], zstd=65 << 20)))


# ---------------------------------------------------------------- without the package


def test_without_the_package_a_message_says_that_it_cannot_be_read(not_installed, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(compression, "library", lambda: zstandard)
        body = b"".join(seal_raw(KEY, "task", [TEXT], job="j", task=1, compressor=compressor(), count=2))
    opened = unseal(KEY, body)
    assert not opened.readable
    assert opened.payload == b""
    assert opened.fields == {"count": 2}
    assert compressor(always=True).pack([TEXT]) is None


@pytest.mark.parametrize("chunked", [False, True])
def test_a_result_that_cannot_be_read_is_lost_and_says_why(monkeypatch, chunked):
    log = JobLog("j", KEY)
    buffers = codec.encode([TEXT])
    parts, layout = codec.pieces(buffers), codec.layout(buffers)
    size = sum(memoryview(part).nbytes for part in parts)
    about = {"start": 0, "count": 1, "layout": layout, "worker": "w", "host": "h", "pid": 1, "run": "r"}
    entries: list[tuple[str, Any, dict[str, Any]]] = [
        ("opened", (), {"units": 1}),
        ("sealed", (), {"tasks": 1, "units": 1}),
    ]
    if chunked:
        entries.append(("chunk", parts, {"task": 0, "run": "r", "offset": 0, "total": size}))
        entries.append(("result", (), {"task": 0, "chunked": size} | about))
    else:
        entries.append(("result", parts, {"task": 0} | about))
    bodies = [
        b"".join(seal_raw(KEY, kind, payload, job="j", compressor=compressor(), **fields))
        for kind, payload, fields in entries
    ]
    monkeypatch.setattr(compression, "library", lambda: None)
    for offset, body in enumerate(bodies):
        log.read(SimpleNamespace(body=body, offset=offset))
    assert log.ended
    (failure,) = log.failures()
    assert failure.reason == "lost"
    assert NEEDED in failure.summary


# ---------------------------------------------------------------- settings


def test_the_setting(monkeypatch):
    monkeypatch.delenv("NBMR_COMPRESSION", raising=False)
    assert compression.mode() == "auto"
    for said in compression.MODES:
        monkeypatch.setenv("NBMR_COMPRESSION", said)
        assert compression.mode() == said
    monkeypatch.setenv("NBMR_COMPRESSION", "gzip")
    with pytest.raises(ConfigError, match="'gzip' has to be one of auto, zstd, none"):
        compression.mode()


def test_the_setting_asks_for_what_is_not_installed(not_installed, monkeypatch):
    monkeypatch.setenv("NBMR_COMPRESSION", "zstd")
    with pytest.raises(ConfigError, match=r"pip install 'nbmr\[zstd\]'"):
        compression.mode()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "::1"])
def test_this_host(host):
    assert is_here(host)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])  # RFC 5737, RFC 6761
def test_another_host(host):
    assert not is_here(host)
