"""What a call is given besides its data: its options, checked at once, and the function as it is sent."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from nbmr import frames, topology
from nbmr.errors import ConfigError, PickleError
from nbmr.filelist import Files
from nbmr.job import Job
from nbmr.reading import Read, Reading
from nbmr.tasks import Call
from nbmr.written import Target, Writing

#: What a job is given besides its data and function, for all to know; `partitions` is between us and the
#: data.
OPTIONS = ("queue", "retries", "timeout", "on_error", "gather", "name")


def check_options(
    fn: Any,
    queue: str = "default",
    retries: int = 0,
    timeout: float | None = None,
    on_error: str = "raise",
    gather: str = "auto",
    name: str | None = None,
) -> dict[str, Any]:
    """Return the options of a call, as all may know them.

    Parameters and errors are those of `nbmr.map`.
    """
    topology.check_queue(queue)
    frames.check_how(gather)
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ConfigError(f"retries={retries!r} has to be a whole number, 0 or more.")
    if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
        raise ConfigError(f"timeout={timeout!r} has to be seconds, more than 0, or None.")
    if on_error not in ("raise", "keep"):
        raise ConfigError(f"on_error={on_error!r} has to be 'raise' or 'keep'.")
    label = str(name if name is not None else getattr(fn, "__qualname__", type(fn).__name__))
    return {
        "queue": queue, "retries": retries, "timeout": timeout, "on_error": on_error, "gather": gather,
        "name": label.removeprefix("<locals>.").rpartition("<locals>.")[2],
    }  # fmt: skip


def encode_call(
    fn: Any, data: Any, target: Target | None, job: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Call:
    """Encode a function with what comes before it and behind it: reading its data, writing its result.

    Parameters
    ----------
    fn, data, args, kwargs
        As for `nbmr.map`.
    target
        Where results are written to, if they are.
    job
        The job's id.

    Raises
    ------
    PickleError
        If it can't travel.
    """
    called = fn
    if callable(fn):
        if isinstance(data, Files):
            called = Reading(called, data.read)
        if isinstance(data, Job) and data.target:  # its results are the paths of what it has written
            called = Reading(called, Read(None, {}))
        if target:
            called = Writing(called, target, job)
    try:
        return Call.encode(called, args, kwargs)
    except PickleError:
        Call.encode(fn, args, kwargs)  # its error names what the user knows
        raise


def target_of(to: Any, options: dict[str, Any]) -> Target | None:
    """Return where results are to be written, and note it in the options; None for nowhere.

    Raises
    ------
    ConfigError
        If that can't be, or there is something already.
    """
    if to is None:
        return None
    if options["gather"] != "auto":
        raise ConfigError(f"gather={options['gather']!r} and to=…: what is written to files is not gathered.")
    target = Target.parse(to)
    target.check()
    options["to"] = vars(target).copy()
    return target


def check_spelling(fn: Any, kwargs: dict[str, Any]) -> None:
    """Refuse a keyword that `fn` doesn't take and that is nearly the name of an option.

    Raises
    ------
    ConfigError
        If there is one; it names the option.
    """
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    for name in kwargs.keys() - {p.name for p in parameters}:
        if near := difflib.get_close_matches(name, (*OPTIONS, "partitions", "progress", "to"), 1, 0.75):
            raise ConfigError(
                f"{name}=… is no option, and fn takes no such argument; did you mean {near[0]}=…?"
            )
