"""Has workers do a groupby's work on a job's results, or on files: the jobs that it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nbmr import grouptasks, mapreduce
from nbmr.chaining import TogetherSource
from nbmr.errors import ConfigError, TaskError
from nbmr.filelist import Files
from nbmr.grouptasks import Grouped, Table
from nbmr.job import Job
from nbmr.reading import Read

#: What to say where no partition is a DataFrame.
NOTHING = "There is nothing to group: the data has no DataFrame."


class Runner:
    """Runs what workers do with one groupby's data.

    Parameters
    ----------
    data
        A job, or files.
    options
        Those of `nbmr.map`.
    client
        Returns the client.
    """

    def __init__(self, data: Job | Files, options: dict[str, Any], client: Callable[[], Any]) -> None:
        self._data, self._client = data, client
        self._options = {name: value for name, value in options.items() if name != "name"}
        self._name = options.get("name")

    def map(self, fn: Callable[[Any], Any], name: str) -> list[Any]:
        """Call a function on each partition."""
        __tracebackhide__ = True
        options = self._options | {"gather": "list", "name": self._name or name}
        found: list[Any] = self._client().map(self._data, fn, **options)
        return found

    def shuffle(self, how: Grouped, work: Callable[..., Table], name: str, *, every: bool) -> list[Table]:
        """Sort the rows into buckets by their keys, and have work done on each bucket."""
        __tracebackhide__ = True
        client = self._client()
        count = mapreduce.buckets_for(None, client.slots(self._options.get("queue", "default")))
        mapper = grouptasks.ToBuckets(how, count, every=every)
        reducer = grouptasks.OfBucket(how, count, work)
        options = self._options | {"name": self._name or name}
        tables = [
            table for part in client.shuffle(self._data, mapper, reducer, count, **options) for table in part
        ]
        if not tables:
            raise ConfigError(NOTHING)
        return tables

    def together(
        self, how: Grouped, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any], name: str
    ) -> Any:
        """Have one worker do all of it with pandas."""
        __tracebackhide__ = True
        options = self._options | {"gather": "list", "name": self._name or name, "partitions": None}
        data, read = self._data, None
        if isinstance(data, Job):
            source: Any = TogetherSource(data)
            read = Read(None, {}) if data.target else None
        else:
            source, options["partitions"] = [data.later()], 1
        return self._client().map(source, grouptasks.Together(how, verb, args, kwargs, read), **options)[0]

    def reason(self, error: TaskError) -> BaseException:
        """Return what pandas said, where no function of the user's was called, and the data could be read."""
        if isinstance(self._data, Job) and self._data.failures:
            return error
        cause = error.__cause__
        return error if cause is None or isinstance(cause, OSError | ImportError) else cause
