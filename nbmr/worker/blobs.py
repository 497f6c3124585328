"""A worker's large payloads: each read from its stream once, kept in a file without a name.

A child maps the file into its memory; slots of one worker share its pages. A file without a name is gone with
its last user, however that ends.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Container
from typing import Any, BinaryIO
from weakref import WeakValueDictionary

from nbmr.blobfile import read
from nbmr.broker import Broker
from nbmr.errors import ProtocolError
from nbmr.signing import Signer

#: Bytes of blobs that a worker keeps for later tasks.
KEPT_BYTES = 2 << 30


class Blobs:
    """A worker's blobs.

    Parameters
    ----------
    broker, signer
        Where they come from, and what verifies them.
    on_rejected
        Called with the error for each message that isn't genuine.
    """

    def __init__(self, broker: Broker, signer: Signer, on_rejected: Callable[[ProtocolError], None]) -> None:
        self._broker, self._signer, self._on_rejected = broker, signer, on_rejected
        #: By digest: the only job that may want it, or empty, and its file.
        self._kept: OrderedDict[str, tuple[str, BinaryIO]] = OrderedDict()
        #: Held while a blob is read, one for each; gone when nobody has it any more.
        self._reading: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
        self._lock = threading.Lock()

    def open(self, job: str, reference: dict[str, Any], cancelled: Callable[[], bool]) -> int:
        """Return a file descriptor of the blob's content; the caller closes it.

        Parameters
        ----------
        job
            The job whose blob it is.
        reference
            What the task says of it: ``name``, ``size`` in bytes, and ``digest`` if it is worth keeping:
            for as long as its job is there if it has a ``place`` among the data, and otherwise for others.
        cancelled
            Asked now and then whether the blob is still wanted.

        Raises
        ------
        BlobGone
            If it was deleted, or isn't wanted any more.
        BrokerError
            If it doesn't arrive.
        """
        digest = reference.get("digest")
        if not digest:
            with self._read(job, reference, cancelled) as file:
                return os.dup(file.fileno())
        with self._reading_lock(digest):  # slots that want the same blob wait; others go on
            with self._lock:
                if digest in self._kept:
                    self._kept.move_to_end(digest)
                    return os.dup(self._kept[digest][1].fileno())
            file = self._read(job, reference, cancelled)
            with self._lock:
                self._kept[digest] = job if "place" in reference else "", file
                self._drop_old()
                return os.dup(file.fileno())

    def keep_of(self, jobs: Container[str]) -> None:
        """Let go of what no other job than its own would want, if that isn't among these, which are all."""
        with self._lock:
            for digest in [digest for digest, (job, _) in self._kept.items() if job and job not in jobs]:
                self._kept.pop(digest)[1].close()

    def _reading_lock(self, digest: str) -> threading.Lock:
        with self._lock:
            lock = self._reading.get(digest)
            if lock is None:
                lock = self._reading[digest] = threading.Lock()
            return lock

    def _drop_old(self) -> None:
        sizes = {digest: os.fstat(file.fileno()).st_size for digest, (_, file) in self._kept.items()}
        while len(self._kept) > 1 and sum(sizes[digest] for digest in self._kept) > KEPT_BYTES:
            self._kept.popitem(last=False)[1][1].close()

    def _read(self, job: str, reference: dict[str, Any], cancelled: Callable[[], bool]) -> BinaryIO:
        return read(self._broker, self._signer, job, reference, self._on_rejected, cancelled)
