"""pika's exceptions, translated once into nbmr's, with what to do."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any

from pika import exceptions

from nbmr.broker.address import Address
from nbmr.errors import AccessRefused, BrokerError, BrokerUnreachable

_ACCESS_REFUSED, _NOT_FOUND, _PRECONDITION_FAILED, _NOT_ALLOWED, _INTERNAL_ERROR = 403, 404, 406, 530, 541


class NotFound(BrokerError):
    """The queue or exchange isn't there."""


class DeliveryExpired(BrokerError):
    """RabbitMQ didn't wait any longer for a delivery's acknowledgement: the message is back in its queue."""


def refusal(reason: Any) -> BrokerError:
    """Return the error that tells why RabbitMQ closed a channel."""
    text = str(getattr(reason, "reply_text", reason))
    if missing(reason):
        return NotFound(f"RabbitMQ refused: {text}")
    if _expired(reason):
        waited = re.search(r"(\d+) ms", text)
        how_long = f" of {int(waited[1]) / 1000:g} s" if waited else ""
        return DeliveryExpired(
            f"RabbitMQ's delivery acknowledgement timeout{how_long}. Set consumer_timeout in the broker's"
            " rabbitmq.conf to more milliseconds, or cut the data into more partitions"
        )
    if _code(reason) == _PRECONDITION_FAILED and "inequivalent arg" in text:
        return BrokerError(
            f"RabbitMQ refused: {text}. It was declared by another version of nbmr, or by hand: delete that"
            " queue when nothing waits in it, or use a virtual host of its own for nbmr."
        )
    return BrokerError(f"RabbitMQ refused: {text}")


def translate(exc: BaseException | str, address: Address) -> BrokerError:
    """Return the error that tells a person why there is no connection to that address."""
    where = f"RabbitMQ at {address.host}:{address.port}"
    found = list(_causes(exc)) if isinstance(exc, BaseException) else []
    for cause in found:
        code = getattr(cause, "reply_code", None)
        text = getattr(cause, "reply_text", "")
        if code == _NOT_ALLOWED or isinstance(cause, exceptions.ProbableAccessDeniedError):
            return AccessRefused(
                f"{where} has no virtual host {address.vhost!r}, or user {address.user!r} may not use it"
                f" ({text or cause}). It is the last part of the URL."
            )
        if code == _ACCESS_REFUSED or isinstance(cause, exceptions.ProbableAuthenticationError):
            return AccessRefused(
                f"{where} refuses user {address.user!r} or the password. Check both in the URL."
            )
    for cause in found:
        if isinstance(cause, socket.gaierror):
            return BrokerUnreachable(f"There is no host called {address.host!r}. Check the host in the URL.")
        if isinstance(cause, ssl.SSLError):
            return BrokerUnreachable(f"No TLS connection to {where}: {cause}. Check the certificates.")
        if isinstance(cause, ConnectionRefusedError):
            return BrokerUnreachable(
                f"Nothing listens at {address.host}:{address.port}. Is RabbitMQ running there, and is the"
                " port right?"
            )
    why = next((str(c) for c in reversed(found) if str(c)), None) or (
        exc if isinstance(exc, str) else repr(exc)
    )
    if "Timeout while setting up AMQP" in why:  # pika's own text is about pika
        why = "it accepts connections, and then says nothing"
    return BrokerUnreachable(f"{where} doesn't answer: {why}. Check host and port in the URL, and firewalls.")


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Walk an exception and what it wraps; pika keeps that in attributes and arguments."""
    todo: list[Any] = [exc]
    seen: set[int] = set()
    while todo:
        item = todo.pop()
        if not isinstance(item, BaseException) or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        todo += [item.__cause__, item.__context__, *item.args, getattr(item, "exception", None)]
        todo += getattr(item, "exceptions", ())


def missing(reason: Any) -> bool:
    """Whether RabbitMQ says, by closing a channel, that a queue or exchange isn't there at all."""
    return _code(reason) == _NOT_FOUND and not passes(reason)


def passes(reason: Any) -> bool:
    """Whether RabbitMQ says, by closing a channel, what it will not say for long.

    That a queue's or stream's node is down, its leader not elected yet, its replica not started yet: so for
    a moment after a restart. The code for it is that of a queue which isn't there; the text tells them apart.
    """
    text = str(getattr(reason, "reply_text", ""))
    if _code(reason) == _NOT_FOUND:
        return not re.match(r"NOT_FOUND - no (queue|exchange|binding|vhost) ", text)
    return _code(reason) == _INTERNAL_ERROR or (
        _code(reason) == _PRECONDITION_FAILED
        and re.search(r"replica|timeout|leader", text) is not None
        and not _expired(reason)
    )


def _expired(reason: Any) -> bool:
    text = str(getattr(reason, "reply_text", ""))
    return (
        _code(reason) == _PRECONDITION_FAILED
        and re.search("delivery acknowledgement .* timed out", text) is not None
    )


def _code(reason: Any) -> int:
    return int(getattr(reason, "reply_code", 0) or 0)
