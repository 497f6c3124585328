"""The password in a broker's URL: taken out where the URL is shown, and put in where it was left out."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote, urlsplit

#: Where a list of URLs is cut; what parts them is kept.
_BETWEEN = re.compile(r"([\s,]+(?=amqps?://))")


def without(url: str) -> str:
    """Return a URL, or a list of them, without passwords.

    Examples
    --------
    >>> without("amqp://me:secret@one,two:5673/lab")
    'amqp://me@one,two:5673/lab'
    """
    return _each(url, lambda user, _password, hosts: f"{user}@{hosts}")


def complete(url: str, ask: Callable[[str], str], known: str = "") -> str:
    """Put in the passwords that a URL leaves out although it names a user.

    Parameters
    ----------
    url
        The URL, or a list of them.
    ask
        Gives the password of ``user@hosts``; called at most once for each.
    known
        Another URL: the passwords in it are those of its users at its hosts, and aren't asked for.

    Examples
    --------
    >>> complete("amqp://me@one/lab", lambda whose: f"{whose}'s")
    'amqp://me:me%40one%27s@one/lab'
    """
    found: dict[str, str] = {}

    def learn(user: str, password: str | None, hosts: str) -> str:
        if password is not None:
            found[f"{user}@{hosts}"] = password
        return ""

    def put(user: str, password: str | None, hosts: str) -> str:
        whose = f"{user}@{hosts}"
        if password is None and whose not in found:
            found[whose] = quote(ask(whose), safe="")
        return f"{user}:{found[whose] if password is None else password}@{hosts}"

    _each(known, learn)
    return _each(url, put)


def _each(url: str, change: Callable[[str, str | None, str], str]) -> str:
    """Have the account and the hosts of each URL replaced, where there is an account."""
    return "".join(_change(part, change) for part in _BETWEEN.split(url.strip()))


def _change(url: str, change: Callable[[str, str | None, str], str]) -> str:
    account, at, hosts = urlsplit(url).netloc.rpartition("@")
    if not at:
        return url
    user, colon, password = account.partition(":")
    return url.replace(f"{account}@{hosts}", change(user, password if colon else None, hosts), 1)
