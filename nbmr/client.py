"""A client: one broker, one key, and the verbs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

from nbmr import joining, mapreduce, reduction
from nbmr.chaining import MOST_MAP_TASKS, FoldSource, MergedSource, ShuffleSource, check_map_tasks
from nbmr.cluster import Workers, overview
from nbmr.environment import Environment
from nbmr.errors import ConfigError
from nbmr.filelist import Files
from nbmr.folding import Fold, Later
from nbmr.groups import GroupBy, grouped
from nbmr.job import Job
from nbmr.mapping import Map, Reduce
from nbmr.opening import Opening
from nbmr.outcome import warn_of
from nbmr.placed import Answer, answers, raise_failure
from nbmr.progress import awaiting, follow
from nbmr.reading import Read, Reading
from nbmr.session import Session


def groups_of(data: Any, by: Any, options: dict[str, Any], client: Callable[[], Client]) -> GroupBy:
    """Group data, for verbs that work on workers.

    Parameters
    ----------
    data, by, options
        As for `nbmr.groupby`.
    client
        Returns the client that does the work, when there is some.
    """
    if isinstance(data, Job | Files):
        from nbmr import jobgroups  # noqa: PLC0415 - it imports pandas

        return jobgroups.grouped(data, by, options, client)

    def run(*args: Any, **given: Any) -> Any:
        __tracebackhide__ = True
        return client().map(*args, **given)

    return grouped(data, by, options, run, lambda queue: client().slots(queue) or os.cpu_count() or 1)


class Client(Session):
    """A connection to one broker, with the same verbs as the module.

    Parameters
    ----------
    url
        The broker, as ``amqp://user:password@host:5672/vhost``, or several parted by commas. By default
        ``NBMR_URL``; without that, this user's private RabbitMQ node, which is started if need be.
    key
        The signing key, the same on every side; by default ``NBMR_KEY``, or the file ``NBMR_KEY_FILE``. The
        private node has its own.
    key_file
        A file with the key in it.
    on_progress
        Called with a line to show while the private node starts.

    Raises
    ------
    ConfigError
        If a setting is missing or wrong.
    BrokerError
        If the broker can't be used: unreachable, refused, or another key. The message says which.

    Examples
    --------
    >>> with nbmr.Client("amqp://me:secret@broker", key=key) as client:  # doctest: +SKIP
    ...     client.map(df, fn)
    """

    @classmethod
    def open(cls, url: str | None = None, key: str | None = None, **options: Any) -> Opening[Self]:
        """Make a client without keeping an event loop waiting: the class itself connects at once.

        Parameters
        ----------
        url, key, **options
            As for the class.

        Returns
        -------
        awaitable and asynchronous context manager
            Gives the client; errors are those of the class.

        Examples
        --------
        >>> async with nbmr.Client.open() as client:  # doctest: +SKIP
        ...     out = await client.submit(df, fn)
        """
        return Opening(partial(cls, url, key, **options))

    def map(
        self, data: Any, fn: Callable[..., Any], *args: Any, progress: bool = True, **options: Any
    ) -> Any:
        """Apply a function on workers, wait, and gather; see `nbmr.map`."""
        __tracebackhide__ = True
        job, send = self.start(data, fn, args, options, brief=True, merges=True)
        try:
            with follow(job, progress):
                try:
                    job.send(send)
                    try:
                        return job.take()
                    finally:
                        job.keep_inputs()
                finally:
                    job.forget()  # what is still running is ended, and nothing stays on the broker
        finally:
            job.forget()  # also where an interrupt came before or behind all that

    def reduce(
        self,
        data: Any,
        fn: Callable[[Any, Any], Any],
        initial: Any = reduction.MISSING,
        *,
        partitions: int | None = None,
        queue: str = "default",
        retries: int = 0,
        timeout: float | None = None,
        progress: bool = True,
        name: str | None = None,
    ) -> Any:
        """Fold data into one value on workers; see `nbmr.reduce`."""
        __tracebackhide__ = True
        if not callable(fn):
            raise ConfigError(f"fn has to be callable; got {type(fn).__name__}.")
        fold, begin = Fold(fn), 1
        if isinstance(data, Files):
            data = data.later()
        if isinstance(data, Job):
            partial = self.map(
                FoldSource(data, partitions), Fold(fn, Read(None, {}) if data.target else None), queue=queue,
                retries=retries, timeout=timeout, gather="list", progress=progress,
                name=reduction.label(fn, name, begin),
            )  # fmt: skip
            data, partitions, begin = partial, None, begin + 1
            chunks: Any = reduction.next_level(reduction.some(initial, partial))
        else:
            chunks = reduction.first_level(data, partitions, initial)
        for level in itertools.count(begin):
            if isinstance(chunks, list) and len(chunks) == len(chunks[0]) == 1:
                alone = chunks[0][0]
                if not isinstance(alone, Later):  # or else a worker reads it
                    return alone
            partial = self.map(
                chunks, fold, partitions=len(chunks) if isinstance(chunks, list) else None, queue=queue,
                retries=retries, timeout=timeout, gather="list", progress=progress,
                name=reduction.label(fn, name, level),
            )  # fmt: skip
            chunks = reduction.next_level(partial)
        raise AssertionError  # each level is smaller than the one below

    def groupby(self, df: Any, by: Any = None, **options: Any) -> GroupBy:
        """Group a frame, for verbs that work on workers; see `nbmr.groupby`."""
        __tracebackhide__ = True
        return groups_of(df, by, options, lambda: self)

    def map_reduce(
        self,
        data: Any,
        mapper: Callable[..., Any],
        reducer: Callable[[Any], Any],
        by: Any,
        combiner: Callable[[Any], Any] | None = None,
        reducers: int | None = None,
        *,
        partitions: int | None = None,
        queue: str = "default",
        retries: int = 0,
        timeout: float | None = None,
        progress: bool = True,
        name: str | None = None,
    ) -> Any:
        """Map, shuffle by key, and reduce on workers; see `nbmr.map_reduce`."""
        __tracebackhide__ = True
        names = mapreduce.check(mapper, reducer, by, combiner, reducers)
        data, partitions, items = mapreduce.cut(data, partitions)
        if data is None:
            return mapreduce.gather([], by, names)
        count = mapreduce.buckets_for(reducers, self.slots(queue) or os.cpu_count() or 1)
        label = name if name is not None else getattr(mapper, "__qualname__", type(mapper).__name__)
        parts = self.shuffle(
            data, Map(mapper, names, combiner, count, items=items), Reduce(reducer, by, count, combiner),
            count, name=label, partitions=partitions, progress=progress, queue=queue, retries=retries,
            timeout=timeout,
        )  # fmt: skip
        return mapreduce.gather(parts, by, names)

    def shuffle(
        self,
        data: Any,
        mapper: Callable[[Any], Any],
        reducer: Callable[[Any], Any],
        count: int,
        *,
        name: str,
        progress: bool = True,
        partitions: int | None = None,
        **options: Any,
    ) -> list[Any]:
        """Sort what a function makes of data into buckets, on workers, and call another one on each bucket.

        Parameters
        ----------
        data
            As for `nbmr.map`.
        mapper
            Gives `Buckets` for a unit of the data, or None.
        reducer
            Gets the buckets of all units, of which one is its own: `nbmr.unit` tells which.
        count
            How many buckets.
        name
            What to call both jobs.
        progress, partitions, **options
            As for `nbmr.map`.

        Returns
        -------
        list
            What `reducer` gave for each bucket; nothing where there was nothing to map.
        """
        __tracebackhide__ = True
        options["gather"] = "list"
        if isinstance(data, Files):
            partitions = min(partitions or MOST_MAP_TASKS, max(len(data), 1))
            check_map_tasks(partitions)
        elif isinstance(data, Job) and options.get("timeout") is None:
            mapper = Reading(mapper, Read(None, {})) if data.target else mapper
            data, partitions = MergedSource(data, partitions), None
        job, send = self.start(
            data, mapper, (), options | {"partitions": partitions, "name": f"{name} (map)"}
        )
        try:
            job.log.counts_only = True  # workers read its results, and not the kernel
            with follow(job, progress):
                job.send(send)
                try:
                    job.wait()
                    job.raise_why_it_failed()
                    for first in job.sources:
                        if first.failures:  # of a job that goes on without these
                            warn_of(first.failures, first.progress.total, first.name or first.id)
                finally:
                    job.keep_inputs()
            if not job.log.outcomes:  # nothing was mapped
                return []
            source = ShuffleSource(job, count)
            found: list[Any] = self.map(
                source, reducer, progress=progress, name=f"{name} (reduce)", **options
            )
        finally:
            job.forget()
        return found

    def submit(
        self, data: Any, fn: Callable[..., Any], *args: Any, progress: bool = True, **options: Any
    ) -> Job:
        """Start a job and return at once; see `nbmr.submit`."""
        job, send = self.start(data, fn, args, options, merges=True)
        job.following = partial(awaiting, job, progress)
        try:
            job.send_in_background(send)
        except BaseException:
            job.forget()  # nobody else has it
            raise
        return job

    def everywhere(
        self, what: str | Callable[[], Any], queue: str = "default", *, progress: bool = True
    ) -> dict[str, Any]:
        """Run something once in every process that runs tasks; see `nbmr.everywhere`."""
        found = self.ask_everywhere(what, queue, progress=progress)
        raise_failure(found)
        return {answer.place: answer.value for answer in found}

    def ask_everywhere(
        self, what: str | Callable[[], Any], queue: str = "default", *, progress: bool = True
    ) -> list[Answer]:
        """Like `everywhere`, but return what came of it in each place, failures and output included."""
        job, send, places = self.start_everywhere(what, queue)
        try:
            with follow(job, progress):
                try:
                    job.send(send)
                    return answers(job, places)
                finally:
                    job.forget()
        finally:
            job.forget()  # also where an interrupt came before or behind all that

    def attach(self, id_or_name: str) -> Job:
        """Return a job that was started here or elsewhere; see `nbmr.attach`."""
        job = super().attach(id_or_name)
        job.following = partial(awaiting, job)
        return job

    def workers(
        self,
        n: int | None = None,
        queue: str = "default",
        memory_limit: int | str | None = None,
        python: str | os.PathLike[str] | None = None,
        env: Mapping[str, str | None] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> Workers | Any:
        """Start workers on this machine; see `nbmr.workers`."""
        if n is None:
            if (memory_limit, python, env, cwd) != (None,) * 4:
                raise ConfigError("Say how many workers to start: nbmr.workers(2, …).")
            return overview(self)
        return Workers(self, n, queue, memory_limit, Environment.check(python, env, cwd))

    def join_command(
        self,
        queue: str = "default",
        slots: int | None = None,
        memory_limit: int | str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        *,
        with_password: bool = False,
    ) -> str:
        """Return the line that starts workers on another machine; see `nbmr.join_command`."""
        return joining.command(
            self.settings, queue, slots, memory_limit, key_file, with_password=with_password
        )
