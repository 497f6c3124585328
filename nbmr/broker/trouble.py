"""pika's exceptions, translated once into nbmr's, with what to do."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import Any

from pika import exceptions

from nbmr.broker.address import Address
from nbmr.errors import AccessRefused, BrokerError, BrokerUnreachable

_ACCESS_REFUSED, _NOT_FOUND, _RESOURCE_LOCKED, _PRECONDITION_FAILED = 403, 404, 405, 406
_NOT_ALLOWED, _INTERNAL_ERROR = 530, 541


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
    if refused := _refusal(found, where, address):
        return refused
    if unreachable := _no_connection(found, where, address):
        return BrokerUnreachable(unreachable)
    why = next((str(c) for c in reversed(found) if str(c)), None) or (
        exc if isinstance(exc, str) else repr(exc)
    )
    if "Timeout while setting up AMQP" in why:  # pika's own text is about pika
        why = "it accepts connections, and then says nothing"
    return BrokerUnreachable(f"{where} doesn't answer: {why}. Check host and port in the URL, and firewalls.")


def _refusal(found: list[BaseException], where: str, address: Address) -> BrokerError | None:
    """Tell that RabbitMQ answered, and doesn't let us in."""
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
    return None


def _no_connection(found: list[BaseException], where: str, address: Address) -> str:
    """Tell why there is no connection, where that can be told."""
    for cause in found:
        if isinstance(cause, socket.gaierror):
            return f"There is no host called {address.host!r}. Check the host in the URL."
        if isinstance(cause, ConnectionRefusedError):
            return (
                f"Nothing listens at {address.host}:{address.port}. Is RabbitMQ running there, and is the"
                " port right?"
            )
    said = " ".join(map(str, found))
    closed = any(isinstance(cause, exceptions.IncompatibleProtocolError) for cause in found)
    if address.tls and ("SSL" in said or closed):
        given = "certfile" in dict(address.options)
        return _of_tls(said, where, closed=closed, given=given)
    if closed:
        return (
            f"{where} doesn't answer in plain AMQP. If the port is one for TLS (usually 5671 is), write amqps://"
            " in the URL; if not, something else than RabbitMQ listens there."
        )
    return ""


def _of_tls(said: str, where: str, *, closed: bool, given: bool) -> str:
    """Explain OpenSSL's error; its text is in other exceptions' texts, with its code in capitals.

    Parameters
    ----------
    said, where
        Those texts; which server.
    closed
        Whether the connection was closed after the handshake. With TLS 1.3 a server refuses a client's
        certificate only then; it says so, but is not always heard.
    given
        Whether the client has a certificate.
    """
    code = re.sub(r"[^A-Z0-9]+", "_", said.upper())
    if found := re.search(r"certificate verify failed: (.*?)\.? *\(_ssl", said):
        return f"The certificate of {where} is refused: {found[1]}. {_advice(found[1])}"
    if re.search("WRONG_VERSION_NUMBER|RECORD_LAYER|PACKET_LENGTH", code):
        return (
            f"{where} doesn't speak TLS on that port. Give the port of its TLS listener (usually 5671), or"
            " write amqp:// in the URL, for a connection that anybody on the way can read."
        )
    if given and (closed or "_ALERT_" in code):
        alert = re.search("alert [a-z ]+", said)
        why = f" ({alert[0].strip()})" if alert else ""
        return (
            f"{where} seems to refuse the client's certificate{why}. Check certfile and keyfile in the URL."
        )
    if closed or "HANDSHAKE_FAILURE" in code:
        return f"{where} seems to ask for a client certificate. Give one by ?certfile=…&keyfile=… in the URL."
    return f"No TLS connection to {where}: {said}. Check the certificates, and the port."


def _advice(reason: str) -> str:
    """Tell what to do about a certificate that is not to be trusted."""
    if "valid for" in reason:
        return "Write the certificate's name as the URL's host, or as ?server_name_indication=…"
    if "expired" in reason or "not yet valid" in reason:
        return "It has to be renewed, or a clock is wrong."
    return "Name the authority that signed it by ?cacertfile=… in the URL."


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
    Or that an exclusive queue still belongs to a connection of ours which has broken.
    """
    text = str(getattr(reason, "reply_text", ""))
    if _code(reason) == _NOT_FOUND:
        return not re.match(r"NOT_FOUND - no (queue|exchange|binding|vhost) ", text)
    return _code(reason) in (_INTERNAL_ERROR, _RESOURCE_LOCKED) or (
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
