"""Notice a wrong signing key when connecting, and a key that is changed later; not by waiting in vain.

Whoever comes first leaves a signed greeting in a stream. Who comes later and can verify none of the greetings
there has another key. To change the key, the stream is deleted: who follows it notices at once.
"""

from __future__ import annotations

import queue
from collections.abc import Callable

from nbmr import message
from nbmr.broker import Broker, Consumer, Delivery
from nbmr.errors import BrokerError, ProtocolError, WrongKey
from nbmr.signing import Signer
from nbmr.topology import key_stream

#: Seconds of silence after which the stream is taken to be read to its end.
_QUIET = 0.4
#: Seconds for which a key that was confirmed is the right one: less than a first comer waits with a new key.
FRESH = _QUIET / 2


def check_key(broker: Broker, signer: Signer) -> None:
    """Compare our key with the one that the broker is used with; if there is none yet, it is ours.

    Raises
    ------
    WrongKey
        If it is another one.
    """
    stream = key_stream()
    if not broker.exists(stream):
        broker.declare(stream)
    verified = _verified(broker, signer)
    if verified is False:
        raise WrongKey(
            "This broker is used with another signing key. Give the key that its workers have (NBMR_KEY,"
            " key=… or --key-file). If the key was changed on purpose: `nbmr broker reset-key`."
        )
    if verified is None:
        broker.append(stream, message.seal(signer, "key")).result()


def fits(broker: Broker, signer: Signer) -> bool | None:
    """Whether a key is the one that the broker is used with; None if there is none yet. Changes nothing."""
    return _verified(broker, signer) if broker.exists(key_stream()) else None


def confirm_key(broker: Broker, signer: Signer) -> None:
    """Make sure that our key, which was the right one, still is.

    Raises
    ------
    WrongKey
        If the broker was made ready for another one.
    """
    if not broker.exists(key_stream()) or not _verified(broker, signer):
        raise WrongKey(
            "The signing key of this broker was changed (`nbmr broker reset-key`). Start again with the new"
            " one (NBMR_KEY, key=… or --key-file)."
        )


def watch_key(broker: Broker, on_lost: Callable[[], None]) -> Consumer:
    """Have a function called, in the I/O thread, when the key may have been changed: `confirm_key` tells."""
    return broker.consume(key_stream(), Delivery.ack, offset="next", on_lost=lambda _: on_lost())


class KeyWatch:
    """Notices that the key, which was the right one, may have been changed, and finds out when asked.

    Parameters
    ----------
    broker, signer
        Where it is used, and what has it.
    """

    def __init__(self, broker: Broker, signer: Signer) -> None:
        self._broker, self._signer = broker, signer
        self._watch()

    def confirm(self) -> None:
        """Make sure that the key is still the right one, if there is any doubt.

        Raises
        ------
        WrongKey
            If it isn't.
        """
        if self._doubtful:
            confirm_key(self._broker, self._signer)
            self._watch()

    def close(self) -> None:
        """Watch it no longer."""
        self._consumer.close()

    def _watch(self) -> None:
        self._doubtful = False
        self._consumer = watch_key(self._broker, self._doubt)

    def _doubt(self) -> None:
        self._doubtful = True


def _verified(broker: Broker, signer: Signer) -> bool | None:
    """Whether one of the greetings is signed with our key; None if there is no greeting."""
    seen: queue.SimpleQueue[Delivery | BrokerError] = queue.SimpleQueue()
    consumer = broker.consume(key_stream(), seen.put, offset="first", on_lost=seen.put)
    strangers = 0
    try:
        while True:
            try:
                delivery = seen.get(timeout=_QUIET)
            except queue.Empty:
                break
            if isinstance(delivery, BrokerError):
                return None
            delivery.ack()
            try:
                message.unseal(signer, delivery.body).expect("key")
            except ProtocolError:
                strangers += 1
            else:
                return True
    finally:
        consumer.close()
    return False if strangers else None
