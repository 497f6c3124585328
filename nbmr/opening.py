"""A client that is being made while an event loop goes on: connecting, or starting a node, takes seconds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from nbmr.session import Session

Made = TypeVar("Made", bound="Session")


class Opening(Generic[Made]):
    """What `nbmr.Client.open` returns: ``await`` it, or use it in ``async with``, which closes it.

    Parameters
    ----------
    make
        Makes the client; called in a thread.
    """

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._client: Made | None = None

    def __await__(self) -> Generator[Any, None, Made]:
        return self._open().__await__()

    async def _open(self) -> Made:
        __tracebackhide__ = True
        opening = asyncio.get_running_loop().run_in_executor(None, self._make)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close)
            raise

    async def __aenter__(self) -> Made:
        self._client = await self
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await asyncio.to_thread(self._client.close)


def _close(opening: asyncio.Future[Made]) -> None:
    """Close a client that nobody waits for any more, if it was made."""
    if not opening.cancelled() and opening.exception() is None:
        threading.Thread(target=opening.result().close, name="nbmr closes a client").start()
