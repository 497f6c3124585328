"""Opens a task for its process: large payloads, results of other jobs, and what it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nbmr import compression
from nbmr.blobfile import BlobGone
from nbmr.errors import BrokerError
from nbmr.message import Message
from nbmr.resultfile import ResultGone

if TYPE_CHECKING:
    from nbmr.worker.worker import Worker

#: What a child is told of a task.
_FOR_CHILD = (
    "inline",
    "function",
    "function_layout",
    "function_blob",
    "data_layout",
    "retries",
    "start",
    "count",
    "stop_at_error",
)


class Unfit(Exception):
    """The task can't be run by this worker, but perhaps by another; says why."""


def open_task(worker: Worker, task: Message, files: list[int]) -> dict[str, Any]:
    """Add the files that a task refers to to those that are open; return what its child is told of it.

    Raises
    ------
    BlobGone
        If nobody wants the task any more.
    ResultGone
        If a result that is its data can't be had any more.
    Unfit
        If something can't be read by this worker, or kept on it.
    """
    if not task.readable:
        raise Unfit(f"its data can't be read: {compression.NEEDED}")
    fields = task.fields
    _open_blobs(worker, task, files)
    return {name: fields[name] for name in _FOR_CHILD} | {
        "results": _open_results(worker, task, files),
        "together": fields.get("together", False),
        "apart": [reference["place"] for reference in fields.get("apart", ())],
        "layout": fields.get("layout", []),
        "shared": fields.get("shared", ""),
    }


def _open_blobs(worker: Worker, task: Message, files: list[int]) -> None:
    """Add the files of a task's large payloads to those that are open: function, data, data's parts."""
    fields = task.fields
    for reference in (fields["function_blob"], fields["data_blob"], *fields.get("apart", ())):
        if reference:
            try:
                files.append(
                    worker.blobs.open(task.job, reference, lambda: not worker.wanted(task, look=True))
                )
            except BlobGone:
                raise
            except (OSError, BrokerError) as exc:
                raise Unfit(f"a large payload could not be kept on this worker: {exc}") from exc


def _open_results(worker: Worker, task: Message, files: list[int]) -> list[dict[str, Any]]:
    """Add the files of the results that are a task's data; return where in them its units are."""
    references = task.fields.get("results", ())
    if not references:
        return []
    try:
        opened = worker.results.open(references, lambda: not worker.wanted(task, look=True))
    except (BlobGone, ResultGone):
        raise
    except (OSError, BrokerError) as exc:
        job = references[0]["job"]
        raise Unfit(f"results of job {job} could not be read: {exc}") from exc
    files += [file for file, _ in opened]
    return [
        {"layout": layout, "first": reference["first"], "count": reference["count"]}
        for reference, (_, layout) in zip(references, opened, strict=True)
    ]
