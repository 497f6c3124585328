from __future__ import annotations

import hashlib
import hmac
import pickle

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from nbmr.errors import ConfigError
from nbmr.signing import SIGNATURE_BYTES, Signer, new_key

KEY = "0123456789abcdef" * 4


def test_it_is_hmac_sha256_of_a_blake3_digest():
    """The digest of nothing is that of BLAKE3's own test vectors."""
    nothing = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    signature = Signer(KEY).sign([])
    assert signature == hmac.new(KEY.encode(), bytes.fromhex(nothing), hashlib.sha256).digest()
    assert len(signature) == SIGNATURE_BYTES


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_parts_are_signed_as_one(parts):
    signer = Signer(KEY)
    whole = b"".join(parts)
    assert signer.sign(parts) == hmac.new(KEY.encode(), blake3(whole).digest(), hashlib.sha256).digest()
    assert signer.verify([whole], signer.sign(parts))
    assert signer.verify([memoryview(whole)], memoryview(signer.sign(parts)))


@given(st.binary(), st.binary())
def test_another_text_has_another_signature(one, other):
    signer = Signer(KEY)
    assert signer.verify([one], signer.sign([other])) == (one == other)


def test_another_key_signs_otherwise():
    assert not Signer(KEY).verify([b"text"], Signer(new_key()).sign([b"text"]))


@pytest.mark.parametrize("signature", [b"", b"\0", bytes(31), bytes(33), bytes(32)])
def test_signatures_of_any_length_are_refused(signature):
    assert not Signer(KEY).verify([b"text"], signature)


@pytest.mark.parametrize("key", ["", "short", "x" * 31, b"x" * 31, " " * 40, "x" * 31 + "\n\n"])
def test_short_keys_are_refused_with_advice(key):
    with pytest.raises(ConfigError, match=r"secrets\.token_hex"):
        Signer(key)


def test_spaces_and_line_ends_in_a_text_do_not_matter():
    assert Signer(f" {KEY[:20]}\n{KEY[20:]}\r\n").sign([b"a"]) == Signer(KEY).sign([b"a"])
    raw = b"\n" * 32
    assert Signer(raw).sign([b"a"]) != Signer(b" " * 32).sign([b"a"])  # bytes are taken as they are


def test_new_keys_are_random_and_long_enough():
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(bytes.fromhex(key)) == 32 for key in keys)


def test_a_key_is_not_shown_and_does_not_travel():
    signer = Signer(KEY)
    assert KEY not in repr(signer)
    assert KEY not in str(signer)
    with pytest.raises(TypeError, match="key"):
        pickle.dumps(signer)
