"""What each kind of message must say, checked once: where a genuine message is opened.

A good signature tells who sent a message, not which version of nbmr did. A field that is missing or of
another type is found here, and not by whoever uses it in the middle of something.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from nbmr.errors import ProtocolError

Check = Callable[[Any], bool]

#: No count or size is as large; below it, JSON and all arithmetic are exact.
_LARGEST = 1 << 53
#: Most units that a task may have.
_MOST_UNITS = 1 << 24
#: Part of a queue's name.
_NAME = re.compile(r"[A-Za-z0-9_\-]{1,100}")


def whole(value: Any) -> bool:
    """Whether it is a count, a size or a number of something."""
    return type(value) is int and 0 <= value < _LARGEST


def count(value: Any) -> bool:
    """Whether it can be how many units a task has."""
    return whole(value) and 0 < value <= _MOST_UNITS


def number(value: Any) -> bool:
    """Whether it is an amount, of seconds say; NaN and infinity are none."""
    return type(value) in (int, float) and 0 <= value < _LARGEST


def name(value: Any) -> bool:
    """Whether it can be part of a queue's name on the broker."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def layout(value: Any) -> bool:
    """Whether it gives places in a payload, one behind the other: ``[[offset, length], …]``."""
    if not isinstance(value, list) or not all(
        isinstance(place, list) and len(place) == 2 and all(map(whole, place))  # noqa: PLR2004 - a pair
        for place in value
    ):
        return False
    return all(start + length <= following for (start, length), (following, _) in pairwise(value))


def _of(*types: type) -> Check:
    return lambda value: type(value) in types


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _each(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _one_of(*texts: str) -> Check:
    return lambda value: isinstance(value, str) and value in texts


def _versions(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(version, str) for version in value.values())


_text, _flag = _of(str), _of(bool)
_BLOB = {"name": name, "size": whole}
_WHY = {"reason": _text, "summary": _text, "attempts": whole}
#: Who did something with a task.
_WHO = {"worker": _text, "host": _text, "pid": whole, "run": _text}


_TO = {"folder": _text, "kind": _one_of("parquet", "csv")}


#: Most keys that are told of, and the longest text of one.
_MOST_KEYS, _LONGEST_KEY = 10_000, 1_000


def _keys(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= _MOST_KEYS
        and all(len(text) <= _LONGEST_KEY and whole(count) for text, count in value.items())
    )


def told(value: Any) -> bool:
    """Whether it tells what came of the units of a task, or of a job: counts, and which keys are large."""
    return isinstance(value, dict) and not fault(value, {}, _TOLD)


#: Rows that were mapped, and that are in buckets, with their bytes; groups; and keys with very many rows.
_TOLD = {"mapped": whole, "rows": whole, "bytes": whole, "groups": whole, "buckets": whole, "keys": _keys}


_RESULT = {"job": name, "task": whole, "offset": whole, "first": whole, "count": count}


def _result(value: Any) -> bool:
    return isinstance(value, dict) and not fault(value, _RESULT, {})


def _to(value: Any) -> bool:
    return isinstance(value, dict) and not fault(value, _TO, {})


def _blob(value: Any) -> bool:
    return isinstance(value, dict) and not fault(value, _BLOB, {"digest": _text, "file": _text, "sum": _text})


def _apart(value: Any) -> bool:
    optional = {"file": _text, "sum": _text}
    return isinstance(value, dict) and not fault(value, _BLOB | {"digest": _text, "place": whole}, optional)


def _stored(value: Any) -> bool:
    return isinstance(value, dict) and not fault(value, _BLOB | {"file": _text, "sum": _text}, {})


def _why(value: Any) -> bool:
    return isinstance(value, dict) and not fault(value, _WHY, _SAID)


def failure(value: Any) -> bool:
    """Whether it tells of a unit that failed."""
    return isinstance(value, dict) and not fault(value, _WHY | {"unit": whole}, _SAID)


#: What a failure may say besides.
_SAID = {"traceback": _text, "exception": _text, "output": _text, "where": _text}
#: What has to be known of a task to call its function on its data.
_INPUT = {
    "start": whole,
    "count": count,
    "inline": whole,
    "function_layout": layout,
    "function_blob": _or_none(_blob),
    "data_layout": layout,
    "data_blob": _or_none(_blob),
}

#: What may be known besides: results of other jobs are data, and perhaps all of them one unit; and some of
#: the data's buffers lie apart.
_DATA = {"layout": layout, "results": _each(_result), "together": _flag, "apart": _each(_apart)}

#: Whose frames a job's data were.
_library = _one_of("pandas", "polars", "pyarrow")
_SLOT = {
    "state": _one_of("idle", "running"),
    "job": _text,
    "name": _text,
    "task": lambda value: value == -1 or whole(value),
    "attempt": whole,
    "seconds": number,
    "pid": whole,
}


def _slot(value: Any) -> bool:
    return isinstance(value, dict) and not fault(value, _SLOT, {})


#: Fields that must be there, and fields that may be, by kind.
KINDS: dict[str, tuple[dict[str, Check], dict[str, Check]]] = {
    "task": (
        _INPUT
        | {
            "rows": _each(_text),
            "queue": _text,
            "timeout": _or_none(number),
            "retries": whole,
            "stop_at_error": _flag,
            "versions": _versions,
            "function": _text,
        },
        _DATA | {"name": _text, "to": _or_none(_to), "shared": _text, "begun_after": number},
    ),
    "input": (_INPUT, _DATA),
    "blob": ({"name": name, "offset": whole}, {}),
    "opened": (
        {"units": _or_none(whole)},
        {
            "name": _text,
            "queue": _text,
            "on_error": _text,
            "gather": _text,
            "of_frame": _flag,
            "library": _library,
            "ttl": number,
            "everywhere": _flag,
            "to": _to,
            "shuffled": told,
        },
    ),
    "sealed": ({"tasks": whole, "units": whole}, {"of_frame": _flag, "library": _library}),
    "sending": ({}, {}),
    "kept": ({}, {"mark": _text}),
    "started": ({"worker": _text, "attempt": whole, "host": _text, "pid": whole}, {}),
    "died": (
        {"attempt": whole, "cause": _text, "host": _text, "pid": whole},
        {"output": _text, "unit": whole},
    ),
    "output": (_WHO | {"number": whole, "text": _text, "dropped": whole}, {}),
    "chunk": ({"run": _text, "offset": whole, "total": whole}, {}),
    "result": (
        _WHO | {"start": whole, "count": count},
        {
            "layout": layout,
            "chunked": whole,
            "stored": _stored,
            "failures": _each(failure),
            "failures_encoded": _flag,
            "all_failed": _why,
            "given_back_too_often": _flag,
            "rows": _each(_text),
            "output": _text,
            "printed": _text,
            "dropped": whole,
            "attempt": whole,
            "seconds": number,
            "input": _flag,
            "told": told,
        },
    ),
    "job": (
        {
            "name": _text,
            "queue": _text,
            "submitted": number,
            "ttl": number,
            "host": _text,
            "pid": whole,
            "started": number,
            "blobs": _each(name),
        },
        {"shared": _text, "spare": _flag, "replaces": _text},
    ),
    "made": ({"name": name}, {}),
    "unwanted": ({}, {}),
    "forgotten": ({}, {}),
    "mark": ({"mark": _text}, {}),
    "cancel": ({}, {}),
    "key": ({}, {}),
    "ask": ({}, {}),
    "worker": (
        {
            "id": name,
            "state": _one_of("here", "ending", "gone"),
            "worker": _text,
            "host": _text,
            "pid": whole,
            "queue": _text,
            "memory": whole,
            "memory_limit": _or_none(whole),
            "cpu": number,
            "versions": _versions,
            "started": number,
            "done": whole,
            "failed": whole,
            "slots": _each(_slot),
        },
        {},
    ),
}


def check(kind: str, fields: Mapping[str, Any]) -> None:
    """Check the fields of a genuine message.

    Raises
    ------
    ProtocolError
        If one is missing, or isn't what it must be.
    """
    if wrong := fault(fields, *KINDS[kind]):
        raise ProtocolError(f"a {kind!r} with {wrong}: of another version of nbmr")


def fault(fields: Mapping[str, Any], required: Mapping[str, Check], optional: Mapping[str, Check]) -> str:
    """Name a field that is missing, or isn't what it must be; empty if all is well."""
    for field, check in required.items():
        if field not in fields:
            return f"no {field!r}"
        if not check(fields[field]):
            return f"a strange {field!r}"
    for field, check in optional.items():
        if field in fields and not check(fields[field]):
            return f"a strange {field!r}"
    return ""
