"""Results of other jobs that a worker's tasks take as their data."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

from nbmr import resultfile
from nbmr.broker import Broker
from nbmr.errors import ProtocolError
from nbmr.resultfile import Layout
from nbmr.signing import Signer

#: Results that a worker keeps for a while, since several tasks may take parts of one; and the largest.
_KEPT, _KEPT_BYTES = 4, 8 << 20


class Results:
    """A worker's copies of results.

    Parameters
    ----------
    broker, signer
        Where they come from, and what verifies them.
    on_rejected
        Called with the error for each message that isn't genuine.
    """

    def __init__(self, broker: Broker, signer: Signer, on_rejected: Callable[[ProtocolError], None]) -> None:
        self._broker, self._signer, self._on_rejected = broker, signer, on_rejected
        self._kept: OrderedDict[tuple[str, int], tuple[BinaryIO, Layout]] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, reference: dict[str, Any], cancelled: Callable[[], bool]) -> tuple[int, Layout]:
        """Return a file descriptor of a result's encoded values, which the caller closes, and their places.

        Parameters
        ----------
        reference
            What the task says of it.
        cancelled
            Asked now and then whether it is still wanted.

        Raises
        ------
        ResultGone
            If its job is gone.
        BlobGone
            If it isn't wanted any more.
        BrokerError
            If it doesn't arrive.
        """
        key = reference["job"], reference["task"]
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                file, layout = self._kept[key]
                return os.dup(file.fileno()), layout
        file, layout = resultfile.read(self._broker, self._signer, reference, self._on_rejected, cancelled)
        number = os.dup(file.fileno())
        with self._lock:
            if key in self._kept or os.fstat(number).st_size > _KEPT_BYTES:
                file.close()
            else:
                self._kept[key] = file, layout
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)[1][0].close()
        return number, layout
