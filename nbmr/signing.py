"""The signing key: who may send tasks and results.

A task is code, so whoever can sign one owns the workers. The key never crosses the broker.

What is signed is the digest of a message by BLAKE3, since every byte is hashed four times on its way through
a worker and back. Measured: 128 MB in 0.035 s, and in 0.076 s by SHA-256 on a processor that has instructions
for it; on one that hasn't, SHA-256 takes several times that.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable

from blake3 import blake3

from nbmr.errors import ConfigError

#: Bytes of a signature (SHA-256).
SIGNATURE_BYTES = 32
#: Fewest bytes of a key; as many as the hash's output, as RFC 2104 advises.
KEY_BYTES = 32


def new_key() -> str:
    """Return a new random key, as text (hexadecimal)."""
    return secrets.token_hex(KEY_BYTES)


class Signer:
    """Signs and verifies bytes: HMAC-SHA256 (RFC 2104) of their BLAKE3 digest.

    Parameters
    ----------
    key
        At least 32 characters or bytes; text is taken as UTF-8. `new_key` makes a good one.

    Raises
    ------
    ConfigError
        If the key is too short.

    Examples
    --------
    >>> signer = Signer("0123456789abcdef0123456789abcdef")
    >>> signer.verify([b"a", b"b"], signer.sign([b"ab"]))
    True
    """

    def __init__(self, key: str | bytes) -> None:
        secret = key.encode() if isinstance(key, str) else bytes(key)
        secret = re.sub(rb"\s", b"", secret) if isinstance(key, str) else secret
        if len(secret) < KEY_BYTES:
            raise ConfigError(
                f"The signing key has {len(secret)} characters; at least {KEY_BYTES} are needed. Make one"
                ' with: python -c "import secrets; print(secrets.token_hex(32))"'
            )
        self._secret = secret

    def start(self) -> blake3:
        """Return a digest to be, which takes parts by `update`, for `finish`."""
        return blake3()

    def finish(self, digest: blake3) -> bytes:
        """Return the signature of what the digest took."""
        return hmac.digest(self._secret, digest.digest(), "sha256")

    def sign(self, parts: Iterable[bytes | bytearray | memoryview]) -> bytes:
        """Return the signature of the parts, one after another."""
        digest = self.start()
        for part in parts:
            digest.update(part)
        return self.finish(digest)

    def verify(self, parts: Iterable[bytes | bytearray | memoryview], signature: bytes | memoryview) -> bool:
        """Whether the signature is that of the parts; takes the same time whatever differs."""
        return hmac.compare_digest(self.sign(parts), signature)

    def __repr__(self) -> str:
        return "Signer(<key hidden>)"

    def __reduce__(self) -> str:
        raise TypeError("a signing key doesn't travel")
