"""What ``nbmr doctor`` looks at: each check tells ok, or what to do, or why it couldn't be made.

None of them leaves a node behind, tells a password or a key, or writes anything to a broker but the signed
question to the workers.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from nbmr import config, html, keycheck, machine, node, versions
from nbmr.broker import Broker, connect
from nbmr.broker.address import Address, parse
from nbmr.config import Settings
from nbmr.errors import BrokerError, NbmrError, NodeError
from nbmr.roster import Roster, WorkerFacts
from nbmr.signing import Signer
from nbmr.topology import NOWHERE, Queue

#: Seconds that RabbitMQ may take to start, and that it and workers have to answer.
START_SECONDS, ANSWER_SECONDS = 60.0, 3.0
#: Oldest RabbitMQ that works.
_OLDEST = (3, 10)
#: Seconds by which clocks may differ: messages take some of it.
_CLOCK_SECONDS = 5.0
#: Bytes of memory that a pandas process and a task want at least.
_FEW_BYTES = 500_000_000
#: How many of many are named.
_FEW = 3
_PACKAGES = ("pandas", "numpy", "cloudpickle")


@dataclass(frozen=True)
class Line:
    """What a check has found: all is well, or what to do, or why it couldn't be made."""

    #: ``"ok"``, ``"problem"`` or ``"unknown"``.
    status: str
    #: What was looked at.
    subject: str
    text: str

    def __str__(self) -> str:
        mark = {"ok": "ok", "problem": "!!", "unknown": "??"}[self.status]
        return f"{mark}  {self.subject}: {html.plain(self.text)}"


@dataclass
class Patient:
    """What is known so far."""

    #: The broker that is named; empty where none is.
    url: str
    key: str | None
    key_file: str | os.PathLike[str] | None
    #: None where there is no broker to look at: neither one that is named, nor a node that runs.
    settings: Settings | None = None
    #: None where it can't be connected to.
    broker: Broker | None = None
    #: What the workers told; None if they weren't asked.
    heard: list[WorkerFacts] | None = None
    #: Whether the key is known to be another one than the workers'.
    stranger: bool = False


def ok(subject: str, text: str) -> Line:
    """Tell that all is well."""
    return Line("ok", subject, text)


def problem(subject: str, text: str) -> Line:
    """Tell what is wrong, and what to do."""
    return Line("problem", subject, text)


def unknown(subject: str, text: str) -> Line:
    """Tell why a check couldn't be made, or what it is about."""
    return Line("unknown", subject, text)


# ---------------------------------------------------------------- this machine


def check_versions(_patient: Patient) -> Iterator[Line]:
    """Tell this side's versions."""
    found = versions.local_versions()
    if missing := [name for name in _PACKAGES if name not in found]:
        yield problem("nbmr", f"{missing[0]} is not installed: {sys.executable} -m pip install {missing[0]}")
    said = ", ".join(f"{'Python' if name == 'python' else name} {version}" for name, version in found.items())
    yield ok("nbmr", f"{said}, at {Path(__file__).parent}")


def check_installed(patient: Patient) -> Iterator[Line]:
    """Look for RabbitMQ: installed here, in a version that works."""
    try:
        script = node.find_server()
        erl = node.find_program("erl")
    except NodeError as exc:
        if patient.url:
            yield ok("RabbitMQ", "not installed here, nor needed: a broker is named")
        else:
            yield problem("RabbitMQ", str(exc))
        return
    version = node.server_version(script)
    if not version:
        yield unknown("RabbitMQ", f"{script} doesn't tell its version; 3.10 or newer is needed.")
    elif _too_old(version):
        yield problem("RabbitMQ", f"{version} at {script} is too old: install 3.10 or newer.")
    else:
        yield ok("RabbitMQ", f"{version} at {script}, Erlang at {erl}")


def check_node(patient: Patient) -> Iterator[Line]:
    """Look whether the private node runs, and answers."""
    if patient.url:
        return
    status = node.status()
    if status is None:
        yield ok("private node", "none runs; the first call starts one")
    elif not status["answers"]:
        yield problem("private node", "it doesn't answer. If that lasts: nbmr broker stop")
    else:
        patient.settings = config.resolve()
        yield ok(
            "private node",
            f"RabbitMQ {status['rabbitmq_version']} at {status['address']}, up for"
            f" {html.duration(status['uptime'])}, holds {html.size(status['memory'])}",
        )


def check_start(patient: Patient) -> Iterator[Line]:
    """Try whether RabbitMQ can start here."""
    if patient.url:
        return
    if patient.settings:
        yield ok("start", "RabbitMQ can start here: it runs")
        return
    try:
        node.find_server()
    except NodeError:
        return  # that was told already
    began = time.monotonic()
    try:
        version = node.try_start(START_SECONDS)
    except NodeError as exc:
        yield problem("start", f"{exc} Until that is mended, name a broker elsewhere by NBMR_URL.")
        return
    seconds = html.duration(time.monotonic() - began)
    yield ok("start", f"RabbitMQ {version} can start here: one did, for a trial, in {seconds}, and was ended")


def check_disk(patient: Patient) -> Iterator[Line]:
    """Look for room for the private node's data."""
    if patient.url:
        yield ok("disk", "the named broker's own affair: it raises an alarm when it is short of space")
        return
    place = platformdirs.user_state_path("nbmr")
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, node.DISK_LIMIT if patient.settings else node.DISK_NEEDED
    said = f"{html.size(free)} free at {place}"
    if free < needed:
        wanted = html.size(needed)
        yield problem("disk", f"{said}, and RabbitMQ wants {wanted}: free some, or set XDG_STATE_HOME.")
    elif not os.access(place, os.W_OK):
        yield problem("disk", f"you can't write to {place}: set XDG_STATE_HOME to a folder of your own.")
    else:
        yield ok("disk", f"{said}; RabbitMQ wants {html.size(needed)}")


def check_memory(patient: Patient) -> Iterator[Line]:
    """Look for memory, for RabbitMQ too."""
    total, limit, free = machine.memory_total(), machine.memory_limit(), machine.memory_available()
    said = f"{html.size(total)}, {html.size(free)} available"
    if limit:
        said += f"; the limit of this container is {html.size(limit)}"
    rabbit = 0 if patient.url else node.memory_watermark()
    if rabbit:
        said += f"; RabbitMQ may hold {html.size(rabbit)}"
    if limit and rabbit + _FEW_BYTES > limit:
        yield problem("memory", f"{said}: too little for both. Give it more, or name a broker elsewhere.")
    elif free < _FEW_BYTES:
        yield problem("memory", f"{said}: end something, or expect workers to be killed.")
    else:
        yield ok("memory", said)


# ---------------------------------------------------------------- the broker


def check_key(patient: Patient) -> Iterator[Line]:
    """Look for a key that nobody else can read."""
    if patient.url:
        try:
            settings = config.resolve(patient.url, patient.key, patient.key_file)
            Signer(settings.key)
        except NbmrError as exc:  # the connection can be looked at without it
            yield problem("key", str(exc))
            return
        patient.settings = settings
        where = f"the file {settings.key_file}, which only you can read" if settings.key_file else "NBMR_KEY"
        yield ok("key", f"from {'key=…' if patient.key else where}")
    elif patient.settings:
        yield ok("key", "the private node's own, in a file that only you can read")


def check_connection(patient: Patient) -> Iterator[Line]:
    """Connect to each of the broker's hosts: name, port, TLS, user, virtual host."""
    url = patient.url or (patient.settings.url if patient.settings else "")
    if not url:
        yield unknown("connection", "there is no broker to connect to yet")
        return
    good = [line for address in parse(url) if (line := _connects(address))]
    yield from good
    if any(line.status == "ok" for line in good):
        patient.broker = connect(url)


def _connects(address: Address) -> Line:
    """Connect to one host."""
    try:
        broker = Broker((address,))
    except BrokerError as exc:
        return problem("connection", str(exc))
    try:
        said = f"{address}: RabbitMQ {broker.version}"
        if _too_old(broker.version):
            return problem("connection", f"{said} is too old: 3.10 or newer is needed.")
        if not address.tls:
            return ok(
                "connection", said + ("" if _is_here(address.host) else ", without TLS: others can listen")
            )
        if dict(address.options).get("verify") == "verify_none":
            return problem("connection", f"{said}, but with verify=verify_none anybody can pose as it.")
        return ok("connection", f"{said}, by TLS")
    finally:
        broker.close()


def check_fits(patient: Patient) -> Iterator[Line]:
    """Compare the key with the one that the broker is used with."""
    if not (patient.broker and patient.settings and patient.url):
        return
    match keycheck.fits(patient.broker, Signer(patient.settings.key)):
        case True:
            yield ok("key", "it is the one that this broker is used with")
        case None:
            yield ok("key", "this broker has been used with none yet: the first is the right one")
        case _:
            patient.stranger = True
            yield problem(
                "key",
                "this broker is used with another one. Give the key that its workers have, or, if it was"
                " changed on purpose: nbmr broker reset-key",
            )


def check_alarms(patient: Patient) -> Iterator[Line]:
    """See whether RabbitMQ takes messages."""
    if not patient.broker:
        return
    taken = patient.broker.append(Queue(NOWHERE), [b"?"], urgent=True)
    if wait([taken], ANSWER_SECONDS).done and not patient.broker.trouble:
        yield ok("alarms", "none: RabbitMQ takes messages")
    else:
        trouble = patient.broker.trouble or "it doesn't answer"
        yield problem(
            "alarms",
            f"RabbitMQ takes no messages ({trouble}). Give it disk space or memory: its log, and"
            " `rabbitmq-diagnostics alarms` where it runs, tell which.",
        )


# ---------------------------------------------------------------- the workers


def check_workers(patient: Patient) -> Iterator[Line]:
    """Ask who works, and whether their versions go with ours."""
    if not (patient.broker and patient.settings) or patient.stranger:
        return
    roster = Roster(patient.broker, Signer(patient.settings.key))
    try:
        heard = patient.heard = roster.look(ANSWER_SECONDS)
    finally:
        roster.close()
    if not heard:
        start = "`nbmr.workers(2)` in a cell, or `nbmr worker` on a machine that reaches the broker"
        if patient.url:
            yield unknown("workers", f"none answers. Start some: {start}")
        else:
            yield ok("workers", f"none runs; the first call starts some, or start them: {start}")
        return
    for name in sorted({facts.queue for facts in heard}):
        crew = [facts for facts in heard if facts.queue == name]
        hosts = ", ".join(sorted({facts.host for facts in crew}))
        yield ok("workers", f"{len(crew)} on queue {name}, on {hosts}")
    wrong: dict[str, list[str]] = {}
    for facts in heard:
        if facts.mismatch:
            wrong.setdefault(facts.mismatch, []).append(facts.worker)
    for why, workers in wrong.items():
        yield problem("versions", f"{', '.join(workers[:3])}{' …' if workers[3:] else ''}: {why}")
    if not wrong:
        yield ok("versions", "those of all workers go with ours")


def check_clock(patient: Patient) -> Iterator[Line]:
    """Compare the workers' clocks with ours."""
    if patient.heard is None:
        return
    if not patient.heard:
        yield unknown("clock", "no worker answers, so there is none to compare with")
        return
    late = [facts for facts in patient.heard if abs(facts.ahead) > _CLOCK_SECONDS]
    for facts in late[:_FEW]:
        way = "ahead of" if facts.ahead > 0 else "behind"
        yield problem(
            "clock",
            f"that of {facts.worker} is {html.duration(abs(facts.ahead))} {way} this one: set both by NTP.",
        )
    if not late:
        most = max(abs(facts.ahead) for facts in patient.heard)
        yield ok("clock", f"the workers' and ours differ by {html.duration(most)} at most")


def check_limits(patient: Patient) -> Iterator[Line]:
    """Add up the memory limits of the workers on this machine."""
    here = [facts for facts in patient.heard or () if facts.host == platform.node()]
    if not here:
        return
    total = machine.memory_limit() or machine.memory_total()
    held = sum((facts.memory_limit or 0) * max(1, len(facts.slots)) for facts in here)
    unlimited = sum(facts.memory_limit is None for facts in here)
    if held > total:
        yield problem(
            "memory limits",
            f"tasks on this machine may hold {html.size(held)} together, and it has {html.size(total)}: start"
            " fewer workers, or with a smaller memory_limit.",
        )
    elif unlimited:
        yield ok(
            "memory limits",
            f"{unlimited} of {len(here)} workers on this machine have none; memory_limit='2GB' sets one",
        )
    else:
        yield ok("memory limits", f"tasks on this machine may hold {html.size(held)} of {html.size(total)}")


def _too_old(version: str) -> bool:
    numbers = [int(number) for number in re.findall(r"\d+", version)[:2]]
    return len(numbers) == len(_OLDEST) and tuple(numbers) < _OLDEST


def _is_here(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"
