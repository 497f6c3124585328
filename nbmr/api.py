"""The verbs of the module: those of `Client`, on a default client that is made when first needed."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from nbmr import config, failures, joining, node, pools, reduction
from nbmr.client import Client, groups_of
from nbmr.cluster import Workers
from nbmr.examination import Report, examine
from nbmr.failures import Failure
from nbmr.groups import GroupBy
from nbmr.job import Job
from nbmr.progress import starting
from nbmr.status import NO_BROKER, Status, look
from nbmr.worker.cleaner import sweep

_lock = threading.Lock()
_default: list[Client] = []


def connect(url: str | None = None, key: str | None = None, **options: Any) -> Client:
    """Choose the broker that the module's verbs use from now on.

    Parameters
    ----------
    url, key, **options
        As for `Client`.

    Returns
    -------
    Client
        The new default client.

    Raises
    ------
    ConfigError, BrokerError
        As `Client` does; then the default client stays what it was.

    Examples
    --------
    >>> nbmr.connect("amqp://me:secret@broker.example.org", key=key)  # doctest: +SKIP
    """
    client = Client(url, key, **options)
    with _lock:
        previous = _default[:]
        _default[:] = [client]
    for old in previous:
        old.close()
    return client


def client(*, progress: bool = True) -> Client:
    """Return the default client; made when first needed, and again if its private node was stopped."""
    with _lock:
        if _default and _default[0].usable:
            return _default[0]
        for old in _default:
            old.close()
        _default.clear()
        with starting(progress) as show:
            _default.append(Client(on_progress=show))
        return _default[0]


def map(  # noqa: A001 - the name that users expect
    data: Any,
    fn: Callable[..., Any],
    *args: Any,
    partitions: int | None = None,
    queue: str = "default",
    retries: int = 0,
    timeout: float | None = None,
    on_error: str = "raise",
    gather: str = "auto",
    progress: bool = True,
    name: str | None = None,
    to: str | os.PathLike[str] | None = None,
    **kwargs: Any,
) -> Any:
    """Apply a function to the partitions of a frame, or to the items of a list, on workers; wait, and gather.

    Parameters
    ----------
    data
        A DataFrame or Series (of pandas or polars), or a table or record batch of Arrow: `fn` gets a
        partition, some of its rows, of the same type. Or a list, range or any iterable: `fn` gets an item. An
        iterable is read as the work goes on. Or files, from `nbmr.files`: `fn` gets what one holds. Or a
        `Job`: `fn` gets what each partition or item came to, read by the workers from that job's log as it
        arrives; what failed there is left out.
    fn
        Any callable: a lambda, a closure, a function from a cell or a module. It is never called on data that
        isn't in `data`.
    *args, **kwargs
        Passed on to `fn` behind its first argument.
    partitions
        How many partitions (or batches of items); None chooses by rows, bytes and workers. Batches of a list
        that take only milliseconds are sent several at a time, unless there is a `timeout`.
    queue
        Which workers: those that were started with the same queue.
    retries
        How often a partition or item is tried again after `fn` raised or timed out.
    timeout
        Seconds that one task may run; None for no limit. With a limit, each item of a list is a task of its
        own, unless `partitions` says otherwise.
    on_error
        ``"raise"``: the first failure ends the job. ``"keep"``: the rest is finished; failures are warned
        about, left out of a frame, and stand as `Failure` in a list.
    gather
        ``"auto"``: DataFrames, Series and tables are concatenated in order, by their own library; from a
        frame, one dict a partition makes one row, one scalar a partition a Series; anything else is a list in
        order. ``"list"``: always a list.
        ``"concat"``: concatenate, or complain.
    progress
        Whether to show progress.
    name
        What to call the job; by default the function's name.
    to
        A folder for the results: DataFrames, Series or tables (None writes nothing). The workers
        write each as a file, ``part-00000.parquet`` and so on, or CSV for ``to="folder/*.csv"``; the folder
        is one that you and they reach by the same path. It must not hold results already. Parquet needs
        pyarrow on the workers, and keeps the index; CSV keeps an index that has a name. A Series becomes a
        frame with one column.

    Returns
    -------
    DataFrame, Series, table or list
        For a row-wise `fn`, exactly what ``fn(data)`` gives. With `to`, the list of the files written, in
        order: data for another ``nbmr.map``, as from `nbmr.files`.

    Raises
    ------
    TaskError
        If `fn` raised: with the remote traceback, and the original exception as its cause. `TaskTimeout` and
        `TaskLost` are kinds of it.
    PickleError
        If something can't travel; names it.
    BrokerError, ConfigError
        If there is no broker to be had, or an argument makes no sense.
    KeyboardInterrupt
        If interrupted; the running tasks are ended on their workers.

    Examples
    --------
    >>> nbmr.map(flights, lambda part: part.assign(speed=part.distance / part.air_time))  # doctest: +SKIP
    >>> nbmr.map(range(100), lambda x: x**2)  # doctest: +SKIP
    """
    __tracebackhide__ = True
    return client(progress=progress).map(
        data, fn, *args, partitions=partitions, queue=queue, retries=retries, timeout=timeout,
        on_error=on_error, gather=gather, progress=progress, name=name, to=to, **kwargs,
    )  # fmt: skip


def reduce(
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
    """Fold data into one value on workers, as `functools.reduce` does, by a tree.

    Neighbours are folded in their order, and then what came of them, until one is left. Which ones are folded
    together depends on the data and `partitions` alone, so adding floats gives the same sum every time.

    Parameters
    ----------
    data
        A list, range or any iterable: its items are folded. Or a DataFrame or Series: its partitions are,
        each some of its rows; one partition alone is the result as it is, unless `initial` is given. Or
        files, from `nbmr.files`: what each holds is folded. Or a `Job`: its results are, read by the workers.
    fn
        Gets two neighbours, or what came of them, the left one first, and returns what they come to. Has to
        be associative: ``fn(fn(a, b), c)`` equals ``fn(a, fn(b, c))``. It need not be commutative.
    initial
        Stands before the first, and is the result for empty data.
    partitions
        How many partitions, or chunks of items, to begin with; None chooses. No matter for an iterable whose
        length isn't known; not for a job.
    queue, retries, progress, name
        As for `map`. Each level of the tree is a job, and shows its own progress.
    timeout
        Seconds that the folding of one chunk may take.

    Returns
    -------
    object
        One value. Partial results pass through this process between levels.

    Raises
    ------
    NothingToReduce
        If the data is empty and there is no `initial`. It is a `TypeError`, too.
    TaskError, PickleError, BrokerError, ConfigError, KeyboardInterrupt
        As for `map`. What a `Failure` shows as its item is the chunk: the list that was being folded.

    Examples
    --------
    >>> nbmr.reduce(range(1, 6), lambda a, b: a * b)  # doctest: +SKIP
    120
    >>> worst = lambda a, b: pd.concat([a, b]).nlargest(10, "arr_delay")  # doctest: +SKIP
    >>> nbmr.reduce(flights, worst, flights[:0])  # doctest: +SKIP
    """
    __tracebackhide__ = True
    return client(progress=progress).reduce(
        data, fn, initial, partitions=partitions, queue=queue, retries=retries, timeout=timeout,
        progress=progress, name=name,
    )  # fmt: skip


def groupby(
    df: Any,
    by: Any = None,
    *,
    partitions: int | None = None,
    queue: str = "default",
    retries: int = 0,
    timeout: float | None = None,
    progress: bool = True,
    name: str | None = None,
    **options: Any,
) -> GroupBy:
    """Group the rows of a frame, to aggregate, transform, filter or map the groups on workers.

    Parameters
    ----------
    df
        A DataFrame or Series. Or a `Job` whose results are DataFrames, or `nbmr.files`: then the groups are
        those of all its partitions together, and the workers read them; the rows don't come to this process.
    by
        What pandas takes: a column's label, several, a Series, an array, a dict, a function of the index, or
        a `pd.Grouper`. The kernel evaluates it. Over a job or files, no Series or array, whose rows would
        have to be here; what isn't a label makes one worker do all of it.
    partitions
        How many tasks at most; None chooses by rows and groups. A group whose rows go to a function is never
        parted.
    queue, retries, timeout, progress, name
        As for `map`; each verb is a job.
    **options
        pandas' own: ``level``, ``sort``, ``dropna``, ``observed``, ``as_index``, ``group_keys``, with its
        defaults.

    Returns
    -------
    GroupBy
        With ``[columns]``, ``apply``, ``agg``, ``transform``, ``filter``, and the aggregations by name: ``sum
        mean min max count size std var sem first last nunique median quantile prod any all``.

    Raises
    ------
    KeyError, ValueError, TypeError
        As pandas does, if the keys don't fit the frame. Nothing is sent then. Over a job or files, workers
        see that, so the verbs raise it.
    ConfigError
        If `df` can't be grouped, or an option is unknown.

    Examples
    --------
    >>> nbmr.groupby(flights, "carrier")["arr_delay"].mean()  # doctest: +SKIP
    >>> nbmr.groupby(flights, ["origin", "month"]).agg({"arr_delay": ["mean", "std"]})  # doctest: +SKIP
    >>> nbmr.groupby(flights, "carrier").apply(fit_a_model)  # doctest: +SKIP
    """
    __tracebackhide__ = True
    jobs = {
        "partitions": partitions, "queue": queue, "retries": retries, "timeout": timeout,
        "progress": progress, "name": name,
    }  # fmt: skip
    return groups_of(df, by, options | jobs, lambda: client(progress=progress))


def map_reduce(
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
    """Map data to rows, bring rows with the same key together, and reduce each key's rows, all on workers.

    The rows travel from the workers that map to those that reduce, and not through the kernel.

    Parameters
    ----------
    data
        A DataFrame or Series: `mapper` gets a partition. Or a list or any iterable: it gets an item. Or
        `nbmr.files`, or a job.
    mapper
        Gives a DataFrame of pandas; None for no rows. Rows whose key is missing (NaN) are dropped.
    reducer
        Called once for each key with a DataFrame of all its rows, in the order in which they stood in `data`.
        As in pandas' groupby, it has the key as its ``name``, and no key columns. Gives a scalar, a Series or
        a DataFrame.
    by
        Name of the key column, or a list of several.
    combiner
        Called with what came of a partition; gives a DataFrame with the same columns and, it is to be hoped,
        fewer rows. `reducer` then gets its rows.
    reducers
        How many tasks to reduce in, from 1 to 64; None chooses by the number of workers.
    partitions
        How many tasks to map in, at most 64; None chooses.
    queue, retries, timeout, progress, name
        As for `nbmr.map`, for both stages.

    Returns
    -------
    DataFrame or Series
        What ``pd.concat(mapped).groupby(by).apply(reducer)`` gives: keys in sorted order.

    Raises
    ------
    TaskError
        If one of the functions raised.
    ConfigError
        If an argument makes no sense.

    Examples
    --------
    >>> words = lambda text: pd.DataFrame({"word": text.split(), "n": 1})
    >>> nbmr.map_reduce(texts, words, lambda rows: rows.n.sum(), "word")  # doctest: +SKIP
    """
    __tracebackhide__ = True
    return client(progress=progress).map_reduce(
        data, mapper, reducer, by, combiner, reducers, partitions=partitions, queue=queue, retries=retries,
        timeout=timeout, progress=progress, name=name,
    )  # fmt: skip


def submit(
    data: Any,
    fn: Callable[..., Any],
    *args: Any,
    partitions: int | None = None,
    queue: str = "default",
    retries: int = 0,
    timeout: float | None = None,
    on_error: str = "raise",
    gather: str = "auto",
    progress: bool = True,
    name: str | None = None,
    to: str | os.PathLike[str] | None = None,
    **kwargs: Any,
) -> Job:
    """Start a job and return at once; parameters as for `map`.

    The data is sent by a thread, which also reads an iterable; don't change what `data` holds meanwhile.

    Returns
    -------
    Job
        Ask it for its ``result()``. It stays on the broker until ``forget()``.

    Examples
    --------
    >>> job = nbmr.submit(df, fn)  # doctest: +SKIP
    >>> job.result()  # doctest: +SKIP
    """
    return client(progress=progress).submit(
        data, fn, *args, partitions=partitions, queue=queue, retries=retries, timeout=timeout,
        on_error=on_error, gather=gather, name=name, to=to, **kwargs,
    )  # fmt: skip


def attach(id_or_name: str) -> Job:
    """Return a job that was started in another kernel, or in this one before its restart.

    Results that were there already are not computed again. Any number of kernels can follow one job.

    Parameters
    ----------
    id_or_name
        A job's id, or its name if only one is called so; `nbmr.jobs` shows both.

    Returns
    -------
    Job
        As `nbmr.submit` gives. Its ``result()`` raises `JobIncomplete` if the kernel that sent the job died
        before all of it was sent; ``partial()`` gives what there is.

    Raises
    ------
    JobNotFound
        If there is no such job: ``map`` deletes its job when it is gathered, and jobs that nobody forgets are
        deleted when they were left alone for a day (or ``NBMR_JOB_TTL`` seconds).
    ConfigError
        If several jobs are called so.

    Examples
    --------
    >>> nbmr.attach("clean").result()  # doctest: +SKIP
    """
    return client().attach(id_or_name)


def last_failure() -> Failure:
    """Return what failed in the last error that this session has shown.

    For an error that nobody has caught, so that no variable holds it.

    Returns
    -------
    Failure
        With ``replay()``, which runs the function on the same data again here, and ``partition``, the data.

    Raises
    ------
    NotReplayable
        If that error was not a task's.

    Examples
    --------
    >>> nbmr.last_failure().replay()  # and then %debug  # doctest: +SKIP
    """
    return failures.last_failure(getattr(sys, "last_value", None))


def jobs() -> Any:
    """Return the jobs that are on the broker, oldest first.

    Their logs are read from beginning to end, at a few hundred MB/s of results; nothing is kept of them.

    Returns
    -------
    DataFrame
        ``id``, ``name``; ``state`` (pending, running, done, failed); how many partitions or items are
        ``done``, have ``failed``, and there are in ``total`` (missing while an iterable is being read);
        ``queue``; ``submitted`` (UTC) and from which ``host``; and a ``note`` if there is anything to say.

    Examples
    --------
    >>> nbmr.jobs()  # doctest: +SKIP
    """
    return client().jobs()


def everywhere(
    what: str | Callable[[], Any], queue: str = "default", *, progress: bool = True
) -> dict[str, Any]:
    """Run something once in every process that runs tasks: an import, a setting, a question.

    It waits for those that are at a task. A process that takes the place of one that died, and workers that
    come later, have to be told again.

    Parameters
    ----------
    what
        Python source, as of a cell: names that it defines are found by functions that use them and don't
        bring them along. Or a function without parameters.
    queue
        Whose workers.
    progress
        Whether to show progress.

    Returns
    -------
    dict
        By the worker's name, ``host:pid`` (with the slot's number where it has several): what the function
        returned, or the text of the value of the source's last line, None if it has none.

    Raises
    ------
    TaskError
        If it failed anywhere, after all have answered. `TaskLost` if a worker went before it had answered.
    SyntaxError, ConfigError
        If the source isn't Python, or calls a magic; before anything is sent.
    WorkerError
        If nobody listens to the queue.

    Examples
    --------
    >>> nbmr.everywhere("import numpy as np; np.seterr(all='raise')")  # doctest: +SKIP
    >>> nbmr.everywhere(os.getpid)  # doctest: +SKIP
    {'example:4711': 4713}
    """
    return client(progress=progress).everywhere(what, queue, progress=progress)


def workers(
    n: int | None = None,
    queue: str = "default",
    memory_limit: int | str | None = None,
    python: str | os.PathLike[str] | None = None,
    env: Mapping[str, str | None] | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> Workers | Any:
    """Start workers on this machine, and wait until they are ready.

    Parameters
    ----------
    n
        How many. None shows those that live, as a DataFrame, and starts nothing.
    queue
        The queue that they take tasks from.
    memory_limit
        Bytes that a task's process may hold, such as ``"2GB"``; a task that holds more is ended.
    python
        The interpreter that they run on, or the folder of its virtual environment; by default the kernel's.
        nbmr is imported from there. Its minor version has to be the same, and Python's. ``PYTHONPATH`` and
        the like are not handed on to another interpreter.
    env
        Environment variables for them, beside the kernel's own; the value None removes one. Their names are
        shown, not their values.
    cwd
        The folder that they run in; by default the kernel's.

    Returns
    -------
    Workers
        With ``scale(n)``, ``stop()`` and ``len()``. Workers that replace others, or come by ``scale``, run as
        these do.

    Raises
    ------
    ConfigError
        If an argument makes no sense, or that interpreter can't run them; says what to install.
    WorkerError
        If they can't be started, with the reason.

    Examples
    --------
    >>> workers = nbmr.workers(2)  # doctest: +SKIP
    >>> gpu = nbmr.workers(1, "gpu", python="/opt/torch", env={"OMP_NUM_THREADS": "1"})  # doctest: +SKIP
    """
    return client().workers(n, queue, memory_limit, python, env, cwd)


def join_command(
    queue: str = "default",
    slots: int | None = None,
    memory_limit: int | str | None = None,
    key_file: str | os.PathLike[str] | None = None,
    *,
    with_password: bool = False,
) -> str:
    """Return the line to paste into a terminal of another machine, which then works for this broker.

    It names the broker and a key file. It holds neither the key nor, by default, the broker's password: the
    worker asks for that on its terminal. Copy the key file there first, by a safe way. A host called
    ``localhost`` in the broker's URL is the machine that the line is pasted on.

    Parameters
    ----------
    queue
        The queue that the worker takes tasks from.
    slots
        How many tasks it runs at a time; by default one.
    memory_limit
        Bytes that a task's process may hold there, such as ``"2GB"``.
    key_file
        Where the key file lies on the other machine; by default as here, or ``nbmr.key`` where the key came
        from no file.
    with_password
        Whether to hold the URL with its password, for scripts, where there is no terminal to ask on. It is
        then in this cell's output, and in the other shell's history.

    Returns
    -------
    str
        One line for a shell. Nothing is written, and nothing is started.

    Raises
    ------
    ConfigError
        If the broker is the private node, which other machines can't reach, or an argument makes no sense.

    Examples
    --------
    >>> nbmr.join_command("gpu", slots=2)  # doctest: +SKIP
    'nbmr worker --url amqp://me@broker.example.org/ --key-file nbmr.key --queue gpu --slots 2'
    """
    with _lock:
        known = _default[0].settings if _default and _default[0].usable else None
    if known is None and os.environ.get("NBMR_URL"):
        known = config.resolve()  # no node is started to say that it can't be reached
    return joining.command(known, queue, slots, memory_limit, key_file, with_password=with_password)


def status() -> Status:
    """Tell about the broker, its workers and its jobs: what ``%nbmr`` shows. Starts no node."""
    with _lock:
        known = bool(_default) and _default[0].usable
    if known or os.environ.get("NBMR_URL") or node.status():
        return look(client())
    return Status(NO_BROKER)


def doctor(*, start: bool = True) -> Report:
    """Check RabbitMQ, the connection, the key, versions, clocks, disk and memory; ``nbmr doctor`` does too.

    Parameters
    ----------
    start
        Whether to try if RabbitMQ can start, where no broker is named and no node runs. The trial takes some
        seconds and leaves nothing behind.

    Returns
    -------
    Report
        A line for each thing that was looked at: ok, or what to do. Its ``ok`` says whether all is well.

    Examples
    --------
    >>> nbmr.doctor()  # doctest: +SKIP
    ok  nbmr: Python 3.11.7, nbmr 0.1.0, pandas 3.0.1, numpy 2.1.0, cloudpickle 3.1.2, at …
    """
    with _lock:
        known = _default[0].settings if _default and _default[0].usable else None
    named = known is not None and not known.node
    url, key = (known.url, known.key) if known and named else (None, None)
    lines = []
    with starting() as show:
        for line in examine(url, key, start=start):
            lines.append(line)
            show(str(line))
    return Report(lines)


def shutdown() -> bool:
    """End what this user's nbmr started on this machine: the private node and its workers, with their jobs.

    Returns
    -------
    bool
        Whether there was anything to end.
    """
    with _lock:
        for one in _default:
            one.close()
        _default.clear()
    there = pools.living(pools.NAMED_BROKERS)
    for pool in there:
        pool.stop(now=True)
    ended = node.stop()
    sweep()
    return ended or bool(there)
