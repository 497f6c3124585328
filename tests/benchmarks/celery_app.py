"""The Celery application, for the worker and the client: on the private node of this run."""

from __future__ import annotations

from typing import Any

import celery
from peers import pickled

from nbmr.node import connection_file

_info = connection_file.read()
if _info is None:
    raise RuntimeError("there is no private node; tests/benchmarks/run.py starts one")

app = celery.Celery("benchmark", broker=_info.url, backend="rpc://")
app.conf.update(
    accept_content=["pickle"],
    broker_connection_retry_on_startup=True,
    result_serializer="pickle",
    task_default_delivery_mode="transient",
    task_default_queue="benchmark",
    task_serializer="pickle",
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=1,
)


@app.task(name="benchmark.call")
def call(function: bytes, item: Any) -> Any:
    return pickled.call(function, item)
