"""What a task gave, as its answer in the job's log tells it: values, and failures."""

from __future__ import annotations

import base64
import functools
import json
import sys
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nbmr import codec, schema, shared, tracebacks
from nbmr.errors import ProtocolError
from nbmr.failures import Failure, Input

#: Bytes by which a chunk may come before its turn: more than a worker sends unconfirmed.
_EARLY_BYTES = 64 << 20
#: Bytes up to which a payload is copied out of its message, of which nothing else is needed any more.
_COPIED_BYTES = 4 << 10
#: Buffers up to which results share what tells where they lie.
_SHARED_PLACES = 4
#: Failures that a warning names.
_NAMED = 10
_HERE = str(Path(__file__).parent)
#: Failures of all tasks that have none; nobody changes those of an outcome.
_NOTHING_FAILED: dict[int, dict[str, Any]] = {}


@functools.lru_cache(256)
def _same(layout: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Return the same object for layouts that are equal; to be asked of short ones, for it keeps them."""
    return layout


@dataclass(slots=True)
class Outcome:
    """What a task gave: encoded values, and failures by their place in the task.

    A job has one for each of its tasks, so it is kept small.
    """

    start: int
    count: int
    payload: bytes | memoryview | None
    layout: tuple[tuple[int, int], ...]
    failures: dict[int, dict[str, Any]]
    writable: bool = False
    #: From where on in the log it can be read again.
    offset: int = 0
    #: Bytes of its payload.
    size: int = 0

    def without_values(self) -> Outcome:
        """Return what is known of it when its values are let go."""
        return replace(self, payload=None, layout=())

    @classmethod
    def read(cls, fields: dict[str, Any], payload: memoryview, offset: int = 0) -> Outcome:
        """Read an answer.

        Parameters
        ----------
        fields
            Those of the message, whose types were checked.
        payload
            Its payload, or what its chunks make.
        offset
            From where on in the log it can be read again.

        Raises
        ------
        ProtocolError
            If it isn't laid out as it says, or tells of failures that make no sense.
        """
        layout = fields.get("layout", [])
        there = payload if layout else None
        try:
            codec.slices(payload, layout)
        except ValueError as exc:
            raise ProtocolError(f"a result that isn't laid out as it says: {exc}") from exc
        failed = list(fields.get("failures", ()))
        if "all_failed" in fields:
            failed = [fields["all_failed"] | {"unit": unit} for unit in range(fields["count"])]
        if fields.get("failures_encoded") and there is not None:
            failed += _decode_failures(there, layout[-1:])
            layout = layout[:-1]
        if any(failure["unit"] >= fields["count"] for failure in failed):
            raise ProtocolError("a failure of a unit that its task doesn't have")
        failures = {failure["unit"]: failure for failure in failed} if failed else _NOTHING_FAILED
        kept = bytes(there) if there is not None and len(there) <= _COPIED_BYTES else there
        places = tuple((start, length) for start, length in layout)
        return cls(
            fields["start"],
            fields["count"],
            kept,
            _same(places) if len(places) <= _SHARED_PLACES else places,
            failures,
            kept is there and not payload.readonly,
            offset,
            len(payload),
        )

    def values(self, *, writable: bool = False, last: bool = False) -> list[Any]:
        """Decode the values; those of failed units are None.

        Parameters
        ----------
        writable
            Whether arrays must be writable, which may cost a copy. Otherwise they aren't to be written to.
        last
            Whether nobody will decode them again, so that they may be views of what is kept.
        """
        if self.payload is None:
            return [None] * self.count
        payload = memoryview(self.payload)
        if writable and not (self.writable and last) and len(self.layout) > 1:
            payload = memoryview(bytearray(payload))
        values: list[Any] = codec.decode(codec.slices(payload, self.layout))
        return values


@dataclass
class Chunks:
    """A large result on its way. Some chunks may come twice, or late, where RabbitMQ was restarted.

    It grows with what has come, and not by what a chunk says of its place.
    """

    #: The first one's place in the log.
    begin: int = 0
    body: bytearray = field(default_factory=bytearray)
    offsets: set[int] = field(default_factory=set)
    received: int = 0

    def add(self, offset: int, chunk: memoryview) -> bool:
        """Put a chunk into its place; return whether it was new, and could have that place."""
        if offset in self.offsets or offset > self.received + _EARLY_BYTES:
            return False
        end = offset + len(chunk)
        if offset == len(self.body):
            self.body += chunk
        else:
            self.body.extend(bytes(max(0, end - len(self.body))))
            self.body[offset:end] = chunk
        self.offsets.add(offset)
        self.received += len(chunk)
        return True

    def whole(self, size: int) -> bool:
        """Whether all is there."""
        return self.received == len(self.body) == size


def failure(
    number: int, why: dict[str, Any], fields: dict[str, Any], story: list[str], given: Input | None = None
) -> Failure:
    """Return what is known of a unit that failed.

    Parameters
    ----------
    number
        Which unit of the job it is.
    why
        What the answer says of it.
    fields
        Those of the answer.
    story
        What was told of its attempts that came to nothing.
    given
        What it was given.
    """
    encoded = why.get("exception")
    return Failure(
        reason=why["reason"],
        number=number,
        summary=why["summary"],
        where=why.get("where", ""),
        traceback=why.get("traceback", "") or "\n".join(story),
        rows=_labels(fields, number),
        host=fields["host"],
        pid=fields["pid"],
        attempts=max(why["attempts"], fields.get("attempt", 1)),
        output=why.get("output", fields.get("output", "")),
        exception=tracebacks.decode_exception(base64.b64decode(encoded)) if encoded else None,
        given=given,
    )


def _labels(fields: dict[str, Any], number: int) -> tuple[str, ...]:
    """Return the first and last label of a unit that is a partition."""
    rows = fields.get("rows", ())
    if len(rows) > 2:  # noqa: PLR2004 - of several partitions
        first = 2 * (number - fields["start"])
        rows = filter(None, rows[first : first + 2])
    return tuple(rows)


def values_of(
    outcomes: list[Outcome], standing: dict[int, Failure], *, writable: bool, last: bool = False
) -> list[Any]:
    """Decode the values of outcomes, in their order.

    Parameters
    ----------
    outcomes
        What to decode.
    standing
        The failures that stand in place of their values, by number; others are left out.
    writable, last
        As for `Outcome.values`.
    """
    values: list[Any] = []
    for outcome in outcomes:
        for unit, value in enumerate(outcome.values(writable=writable, last=last)):
            if unit not in outcome.failures:
                values.append(value)
            elif outcome.start + unit in standing:
                values.append(standing[outcome.start + unit])
    return values


def warn_of(failures: list[Failure], total: int | None, job: str) -> None:
    """Warn, at the user's own line, of failures that a job was told to live with."""
    failures = sorted(failures, key=lambda failure: failure.number)
    numbers = ", ".join(str(failure.number) for failure in failures[:_NAMED])
    more = ", …" if len(failures) > _NAMED else ""
    warnings.warn(
        f"{len(failures)} of {total} failed in job {job} (numbers {numbers}{more}); the first of"
        f" {failures[0].summary}",
        RuntimeWarning,
        stacklevel=_callers_level(),
    )


def _callers_level() -> int:
    """How many frames up the user's own code is, for a warning that points at it."""
    frame, level = sys._getframe(1), 1  # noqa: SLF001 - as `warnings` itself does
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame, level = frame.f_back, level + 1
    return level


def _decode_failures(payload: memoryview, place: list[tuple[int, int]]) -> list[dict[str, Any]]:
    try:
        failures: list[dict[str, Any]] = json.loads(bytes(codec.slices(payload, place)[0]))
    except (ValueError, RecursionError, IndexError) as exc:
        raise ProtocolError("failures that can't be read") from exc
    if not isinstance(failures, list) or not all(map(schema.failure, failures)):
        raise ProtocolError("failures that make no sense")
    return failures


def stored(fields: dict[str, Any], *, failures_only: bool) -> tuple[dict[str, Any], memoryview]:
    """Return what an answer in shared memory says, and its payload; without values if nobody wants them."""
    if failures_only and not fields.get("failures_encoded"):
        return fields | {"layout": []}, memoryview(b"")
    try:
        return fields, shared.map_file(fields["stored"])
    except shared.SharedGone as exc:  # it was computed, and can't be had: nobody else will tell
        return lost(fields, str(exc)), memoryview(b"")


def lost(fields: dict[str, Any], why: str) -> dict[str, Any]:
    """Return what an answer says whose result can't be had here: all its units are lost."""
    said = {"reason": "lost", "summary": f"its result can't be had: {why}", "attempts": 1}
    return fields | {"layout": [], "failures": [], "failures_encoded": False, "all_failed": said}
