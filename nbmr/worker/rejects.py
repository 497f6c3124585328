"""What a worker does with messages that are not genuine: counts them, tells, and drops them.

Unless it is its own key that is wrong. `nbmr broker reset-key` changes a broker's key under workers that are
connected, and a genuine task of the new key's must not be dropped by a worker of the old one. So before it
drops anything, a worker makes sure that its key is the broker's. If it isn't, the worker ends, and what it
holds goes back.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from nbmr.broker import Broker, Delivery
from nbmr.errors import BrokerError, ProtocolError, WrongKey
from nbmr.keycheck import FRESH, confirm_key, watch_key
from nbmr.signing import Signer

#: Rejected messages that are logged each; after that, one in a thousand.
_ALL_LOGGED = 10
#: Seconds between two attempts to confirm the key while RabbitMQ doesn't answer.
_RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Rejects:
    """A worker's rejected messages.

    Parameters
    ----------
    broker, signer
        Where they come from, and what can't verify them.
    on_wrong_key
        Called once with what to tell if our key is no longer the broker's; None for a private node, whose key
        can't be changed.
    """

    def __init__(self, broker: Broker, signer: Signer, on_wrong_key: Callable[[str], None] | None) -> None:
        self.count = 0
        self._broker, self._signer, self._on_wrong_key = broker, signer, on_wrong_key
        self._doubtful: queue.SimpleQueue[Delivery | None] = queue.SimpleQueue()
        self._confirmed = 0.0
        self._closed = threading.Event()
        if on_wrong_key:
            watch_key(broker, self._doubt)
            threading.Thread(target=self._run, name="confirms the key", daemon=True).start()

    def note(self, error: ProtocolError) -> None:
        """Count a message that is not genuine; nothing in it was looked at."""
        self.count += 1
        if self.count <= _ALL_LOGGED or self.count % 1000 == 0:
            _log.warning("rejected %s (%d so far)", error, self.count)

    def drop(self, delivery: Delivery, error: ProtocolError) -> None:
        """Take a message that is not genuine out of its queue, unless it is our key that is wrong."""
        self.note(error)
        if self._on_wrong_key:
            self._doubtful.put(delivery)  # finding out takes a moment, which an I/O thread doesn't have
        else:
            delivery.ack()

    def close(self) -> None:
        """Drop no more; what was not dropped yet goes back to its queue."""
        self._closed.set()
        self._doubtful.put(None)
        if self.count > _ALL_LOGGED:
            _log.warning("rejected %d messages in all", self.count)

    def _doubt(self) -> None:
        """Look again: the stream of the key is gone, or its server is."""
        self._confirmed = 0.0
        self._doubtful.put(None)

    def _run(self) -> None:
        while not self._closed.is_set():
            delivery = self._doubtful.get()
            try:
                while not self._closed.is_set() and not self._confirm():
                    self._closed.wait(_RETRY_SECONDS)
            except WrongKey as exc:
                if self._on_wrong_key:
                    self._on_wrong_key(str(exc))
                return  # what is not settled goes back when its channel closes, for others to verify
            if delivery is None:
                watch_key(self._broker, self._doubt)
            elif not self._closed.is_set():
                delivery.ack()

    def _confirm(self) -> bool:
        """Make sure that our key is the broker's; False if RabbitMQ doesn't answer."""
        if time.monotonic() - self._confirmed < FRESH:
            return True
        try:
            confirm_key(self._broker, self._signer)
        except WrongKey:
            raise
        except BrokerError as exc:
            _log.warning("the key can't be confirmed: %s", exc)
            return False
        self._confirmed = time.monotonic()
        return True
