"""Notice a wrong signing key when connecting, and not by waiting for results that never come.

Whoever comes first leaves a signed greeting in a stream. Who comes later and can verify none of the greetings
there has another key.
"""

from __future__ import annotations

import queue

from nbmr import message
from nbmr.broker import Broker, Delivery
from nbmr.errors import ProtocolError, WrongKey
from nbmr.signing import Signer
from nbmr.topology import key_stream

#: Seconds of silence after which the stream is taken to be read to its end.
_QUIET = 0.4


def check_key(broker: Broker, signer: Signer) -> None:
    """Compare our key with the one that the broker is used with.

    Raises
    ------
    WrongKey
        If it is another one.
    """
    stream = key_stream()
    broker.declare(stream)
    seen: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
    consumer = broker.consume(stream, seen.put, offset="first")
    strangers = 0
    try:
        while True:
            try:
                delivery = seen.get(timeout=_QUIET)
            except queue.Empty:
                break
            delivery.ack()
            try:
                message.unseal(signer, delivery.body).expect("key")
            except ProtocolError:
                strangers += 1
            else:
                return
    finally:
        consumer.close()
    if strangers:
        raise WrongKey(
            "This broker is used with another signing key. Give the key that its workers have (NBMR_KEY,"
            " key=… or --key-file). If the key was changed on purpose: `nbmr broker reset-key`."
        )
    broker.append(stream, message.seal(signer, "key")).result()
