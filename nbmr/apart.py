"""Large buffers that come in many tasks of a job: each is sent once, apart from them, as a blob of the job's.

What is the same is told by its content: an array that was changed meanwhile is another one, and two equal
ones are the same. To tell them costs a digest, at some gigabytes a second.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from blake3 import blake3

from nbmr import codec

#: How many buffers may lie apart that came in one task only: with more of them, one has to come twice first.
#: So what all tasks share is sent once, and what each has for itself travels, and goes, with its task.
_GUESSES = 4


class Apart:
    """The buffers of one job that lie apart from its tasks.

    Parameters
    ----------
    least
        Bytes from which on a buffer may.
    send
        Sends a payload under a name; returns what messages say of it.
    """

    def __init__(self, least: int, send: Callable[[str, Sequence[codec.Buffer]], dict[str, Any]]) -> None:
        self._least, self._send = least, send
        #: What messages say of each buffer, by its digest; None if it has come once, with its task.
        self._known: dict[str, dict[str, Any] | None] = {}
        #: Those that lie apart and have come once.
        self._guesses: set[str] = set()
        self._names = (f"apart{number}" for number in itertools.count())

    def split(self, buffers: Sequence[codec.Buffer]) -> tuple[list[dict[str, Any]], list[codec.Buffer]]:
        """Take out of a task's buffers those that lie apart.

        Parameters
        ----------
        buffers
            The pickle stream, which stays, and its buffers.

        Returns
        -------
        references, rest
            What the task says of those that lie apart, with the ``place`` of each among its buffers, in
            order; and the others.
        """
        references: list[dict[str, Any]] = []
        rest: list[codec.Buffer] = []
        for place, buffer in enumerate(buffers):
            lies = self._find(buffer) if place and memoryview(buffer).nbytes >= self._least else None
            if lies is None:
                rest.append(buffer)
            else:
                references.append(lies | {"place": place})
        return references, rest

    def _find(self, buffer: codec.Buffer) -> dict[str, Any] | None:
        digest = blake3(memoryview(buffer).cast("B")).hexdigest()
        known = digest in self._known
        lies = self._known.get(digest)
        if known:
            self._guesses.discard(digest)
        elif len(self._guesses) < _GUESSES:
            self._guesses.add(digest)
        else:
            self._known[digest] = None
            return None
        if lies is None:
            lies = self._send(next(self._names), [buffer]) | {"digest": digest}
            self._known[digest] = lies
        return lies
