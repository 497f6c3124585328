"""The signing key: who may send tasks and results.

A task is code, so whoever can sign one owns the workers. The key never crosses the broker.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable

from nbmr.errors import ConfigError

#: Bytes of a signature (SHA-256).
SIGNATURE_BYTES = 32
#: Fewest bytes of a key; as many as the hash's output, as RFC 2104 advises.
KEY_BYTES = 32


def new_key() -> str:
    """Return a new random key, as text (hexadecimal)."""
    return secrets.token_hex(KEY_BYTES)


class Signer:
    """Signs and verifies bytes by HMAC-SHA256 (RFC 2104).

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

    def start(self) -> hmac.HMAC:
        """Return a signature to be, which takes parts by `update` and ends by `digest`."""
        return hmac.new(self._secret, digestmod="sha256")

    def sign(self, parts: Iterable[bytes | bytearray | memoryview]) -> bytes:
        """Return the signature of the parts, one after another."""
        digest = self.start()
        for part in parts:
            digest.update(part)
        return digest.digest()

    def verify(self, parts: Iterable[bytes | bytearray | memoryview], signature: bytes | memoryview) -> bool:
        """Whether the signature is that of the parts; takes the same time whatever differs."""
        return hmac.compare_digest(self.sign(parts), signature)

    def __repr__(self) -> str:
        return "Signer(<key hidden>)"

    def __reduce__(self) -> str:
        raise TypeError("a signing key doesn't travel")
