"""What workers do, done in this process; and what tests of the same things in several files share."""

from __future__ import annotations

import datetime as dt
import pickle
import warnings

import cloudpickle

from nbmr import codec, frames
from nbmr.tasks import source_of

#: pandas' aggregations, by name.
NAMES = [
    "sum", "mean", "min", "max", "count", "std", "var", "sem", "first", "last", "nunique", "median",
    "quantile", "prod", "any", "all", "size",
]  # fmt: skip
#: Of a night in which Paris has no third hour; the last is missing.
TIMES = [dt.datetime(2026, 3, 29, hour) for hour in (0, 1, 2, 3)] + [None]  # noqa: DTZ001 - local times


def copied(value):
    """A copy, as if it had been sent."""
    return pickle.loads(cloudpickle.dumps(value, protocol=5))


def travel(value):
    """What arrives: views of received bytes."""
    return codec.decode([bytearray(part) for part in codec.encode(value)])


def mapped(data, fn, partitions=None, slots=2, **how):
    """Do what a job does, with all that travels encoded."""
    source = source_of(data, partitions, slots)
    results = [travel(fn(travel(task.units)[0])) for task in source.tasks(lambda: None)]
    return frames.gather(results, of_frame=source.of_frame, library=source.library, **how)


def outcome(call):
    """What came of it: a result, or an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except Exception as exc:  # noqa: BLE001 - whatever pandas raises
            return exc
