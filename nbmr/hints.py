"""What to do instead of sending an object that can't be sent: one short sentence for each kind of thing."""

from __future__ import annotations

from typing import Any

#: Start of a class's full name, and the advice. The first that fits is given.
_HINTS = [
    ("builtins.generator", "it can be read only once: make it a list"),
    ("builtins.coroutine", "await it first, and send what it gives"),
    ("builtins.async_generator", "collect it into a list first"),
    ("builtins.module", "import it inside the function"),
    ("builtins.frame", "leave it out"),
    ("builtins.traceback", "send traceback.format_exc() instead"),
    ("builtins.weakref", "send the object itself"),
    ("weakref.", "send the object itself"),
    ("_thread.", "a lock holds only within its process: create it inside the function"),
    ("threading.", "threads and locks stay in their process: create it inside the function"),
    ("multiprocessing.", "it belongs to its process: create it inside the function"),
    ("concurrent.futures.", "it belongs to its process: create it inside the function"),
    ("asyncio.", "it belongs to its event loop: create it inside the function"),
    ("queue.", "it holds only within its process: pass the items as a list"),
    ("_queue.", "it holds only within its process: pass the items as a list"),
    ("subprocess.", "a process stays on its machine: start it inside the function"),
    ("socket.", "a connection stays in its process: open it inside the function"),
    ("_socket.", "a connection stays in its process: open it inside the function"),
    ("ssl.", "create it inside the function"),
    ("_io.", "an open file stays in its process: open it by its path inside the function"),
    ("tempfile.", "an open file stays in its process: open it by its path inside the function"),
    ("mmap.", "map the file inside the function, by its path"),
    ("contextvars.", "it belongs to its thread: leave it out"),
    ("itertools.", "it can be read only once: make it a list"),
    ("pika.", "a connection stays in its process: open it inside the function"),
    ("polars.", "polars has no way to send Python objects: use another type, or to_pandas()"),
    ("nbmr.", "nbmr's own objects stay in the notebook: leave it out of the function"),
]
_LAST_NAMES = {
    "Connection": "a connection stays in its process: create it inside the function",
    "connection": "a connection stays in its process: create it inside the function",
    "Cursor": "fetch the rows first, or connect inside the function",
    "Engine": "create the engine inside the function, from its URL",
    "Session": "create the session inside the function",
    "Client": "create the client inside the function",
    "SparkSession": "workers have no Spark session: collect what you need with toPandas() first",
    "SparkContext": "workers have no Spark session: collect what you need with toPandas() first",
}


def type_name(obj: Any) -> str:
    """Full name of an object's class, without ``builtins``: ``sqlite3.Connection``."""
    kind = type(obj)
    return (
        kind.__qualname__
        if kind.__module__ in ("builtins", "__main__")
        else f"{kind.__module__}.{kind.__qualname__}"
    )


def hint(obj: Any) -> str:
    """Advice on an object that can't be pickled.

    Examples
    --------
    >>> hint(x for x in ())
    'it can be read only once: make it a list'
    """
    kind = type(obj)
    name = f"{kind.__module__}.{kind.__qualname__}"
    for start, advice in _HINTS:
        if name == start or (start.endswith(".") and name.startswith(start)):
            return advice
    return _LAST_NAMES.get(kind.__name__, "create it inside the function, or leave it out")
