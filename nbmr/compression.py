"""Payloads that cross a network are compressed where that is measured to save time.

zstd at its lowest level compresses some 500 MB/s to 2 GB/s on one core, and a network of 1 Gbit/s takes 118
MB/s. So texts, and numbers with a pattern, are there sooner; random floats are not. A sample of each payload
tells. Nothing is compressed for a broker on this host: there memory is the network.

What it gained over links of 100 Mbit/s to 10 Gbit/s (``tests/benchmarks/network.py``): texts were there and
back 26 times to just as fast, mixed columns 3.5 times to just as fast, random floats as without.

It needs the package zstandard on both sides: ``nbmr[zstd]``.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from nbmr.codec import Buffer
from nbmr.errors import ConfigError, ProtocolError

#: What ``NBMR_COMPRESSION`` may say.
MODES = ("auto", "zstd", "none")
#: Bytes from which on a payload is compressed, and of the sample that tells whether it is worth it.
LEAST_BYTES, SAMPLE_BYTES = 32 << 10, 64 << 10
#: Bytes a second of a network, as long as nothing was measured: 1 Gbit/s, less what its frames take.
USUAL_RATE = 118e6
#: Bytes a second at which they are decompressed: less than zstd's own figure, 1.5 GB/s.
_UNPACK_RATE = 1e9
#: zstd's lowest level: the next ones take twice as long for a tenth less.
_LEVEL = 1
#: No payload is larger, whatever a message says.
_MOST_BYTES = 64 << 20

#: What to do where a compressed payload can't be read.
NEEDED = "it is compressed, and the package zstandard is not installed here: pip install 'nbmr[zstd]'"


@lru_cache(maxsize=1)
def library() -> Any:
    """Return the module zstandard; None if it isn't installed."""
    try:
        import zstandard  # noqa: PLC0415 - optional, and needed only where there is a network
    except ImportError:
        return None
    return zstandard


def mode() -> str:
    """Return what ``NBMR_COMPRESSION`` says.

    Raises
    ------
    ConfigError
        If that is none of `MODES`, or asks for what isn't installed.
    """
    said = os.environ.get("NBMR_COMPRESSION") or "auto"
    if said not in MODES:
        raise ConfigError(f"NBMR_COMPRESSION={said!r} has to be one of {', '.join(MODES)}.")
    if said == "zstd" and library() is None:
        raise ConfigError("NBMR_COMPRESSION=zstd needs the package zstandard: pip install 'nbmr[zstd]'.")
    return said


class Compressor:
    """Compresses payloads; safe to use from several threads.

    Parameters
    ----------
    always
        Whether it compresses whatever becomes smaller, and not only where that saves time.
    rate
        Tells how many bytes a second the network takes, as far as is known.
    readable
        Asked once, before anything is compressed: whether those who get it can read it.
    """

    def __init__(
        self,
        *,
        always: bool,
        rate: Callable[[], float | None],
        readable: Callable[[], bool] = lambda: True,
    ) -> None:
        self._always, self._rate, self._readable = always, rate, readable
        self._lock = threading.Lock()
        self._may: bool | None = None

    def pack(self, parts: Sequence[Buffer]) -> bytes | None:
        """Compress a payload.

        Parameters
        ----------
        parts
            The payload, in pieces that follow one another.

        Returns
        -------
        bytes or None
            None if it is to travel as it is.
        """
        zstd = library()
        views = [memoryview(part).cast("B") for part in parts]
        size = sum(map(len, views))
        if zstd is None or not LEAST_BYTES <= size <= _MOST_BYTES:
            return None
        if not self._always and not self._saves(zstd, max(views, key=len)):
            return None
        with self._lock:
            if self._may is None:
                self._may = self._readable()
        if not self._may:
            return None
        packer = zstd.ZstdCompressor(level=_LEVEL).compressobj(size=size)
        packed = b"".join([*map(packer.compress, views), packer.flush()])
        return packed if len(packed) < size else None

    def _saves(self, zstd: Any, view: memoryview) -> bool:
        """Whether a payload is there sooner if it is compressed, as a sample from its middle tells."""
        first = max(0, len(view) - SAMPLE_BYTES) // 2
        sample = view[first : first + SAMPLE_BYTES]
        began = time.perf_counter()
        left = len(zstd.ZstdCompressor(level=_LEVEL).compress(sample)) / len(sample)
        seconds = (time.perf_counter() - began) / len(sample)
        rate = self._rate() or USUAL_RATE
        return (1 - left) / rate > seconds + 1 / _UNPACK_RATE


def unpack(packed: memoryview, size: int) -> memoryview:
    """Decompress a payload of a genuine message.

    Parameters
    ----------
    packed
        What `Compressor.pack` gave.
    size
        Bytes that the payload has.

    Raises
    ------
    ProtocolError
        If it isn't that.
    """
    zstd = library()
    try:
        if not 0 <= size <= _MOST_BYTES or zstd.frame_content_size(packed) != size:
            raise ProtocolError("a compressed payload of another size than it says")
        return memoryview(zstd.ZstdDecompressor().decompress(packed))
    except zstd.ZstdError as exc:
        raise ProtocolError(f"a payload that can't be decompressed: {exc}") from exc
