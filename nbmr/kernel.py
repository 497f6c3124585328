"""The Jupyter kernel that this process is, and whether a click in its front end would reach it now."""

from __future__ import annotations

import sys
import time
from typing import Any

#: Seconds in which a kernel that has nothing else to do answers.
_PATIENCE = 0.4


def running() -> Any:
    """Return this process' kernel; None if it is none. IPython isn't imported to find out."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython and hasattr(ipython, "get_ipython") else None
    return getattr(shell, "kernel", None)


def takes_commands() -> bool:
    """Whether the front end that runs this cell is JupyterLab, or Notebook 7.

    There, a button in HTML can stand for a command of the application. Both tell with each cell which ones
    were deleted; others don't.
    """
    kernel = running()
    parent = kernel.get_parent("shell") if kernel is not None else None
    return {"deletedCells", "recordTiming"} <= set((parent or {}).get("metadata", {}))


class Clicks:
    """Tells whether a click on a widget would be handled now, or only when the cell that runs has ended.

    Clicks are messages to the kernel's main thread, which handles none while a cell computes or waits. With
    ipykernel 6, it handles none while an async cell waits either. With ipykernel 7, JupyterLab can send those
    of widgets to a thread of their own, a subshell.
    """

    def __init__(self) -> None:
        self._kernel = running()
        self._asked = 0.0
        self._answered = 0.0

    def arrive(self) -> bool:
        """Tell by the kernel's last answer, and ask again; doesn't wait, so the first calls may say no."""
        if self._kernel is None:
            return False
        if self._has_subshell():
            return True
        now = time.monotonic()
        waiting = self._asked > self._answered
        if not waiting:
            self._asked = now
            self._ask()
        return self._answered > 0.0 and not (waiting and now - self._asked > _PATIENCE)

    def _has_subshell(self) -> bool:
        """Whether a front end has made a subshell, as JupyterLab does for the first widget."""
        try:
            return bool(self._kernel.shell_channel_thread.manager.list_subshell())
        except AttributeError:  # a kernel without subshells
            return False

    def _ask(self) -> None:
        # on the way that a click takes, and behind what is before it
        queue = getattr(self._kernel, "schedule_dispatch", None)
        if queue is not None:  # ipykernel 6: one message after the other
            self._kernel.io_loop.add_callback(queue, self._answer)
        else:
            self._kernel.io_loop.add_callback(self._note)

    async def _answer(self) -> None:
        self._asked, self._answered = 0.0, time.monotonic()

    def _note(self) -> None:
        lock = getattr(self._kernel, "_main_asyncio_lock", None)
        if lock is not None and lock.locked() and not _handles_comms_meanwhile():
            self._kernel.io_loop.call_later(_PATIENCE / 4, self._note)
            return
        self._asked, self._answered = 0.0, time.monotonic()


def _handles_comms_meanwhile() -> bool:
    """Whether ipykernel handles clicks while an async cell waits, as it does from 7.4 on."""
    from ipykernel._version import version_info  # noqa: PLC0415 - only where it runs already

    return tuple(version_info[:2]) >= (7, 4)


def to_subshell(widget: Any) -> None:
    """Let a widget's clicks go to the subshell that the front end has made for them.

    ipykernel 7.4 would send them to where the widget was last changed from: to the busy main thread.
    """
    if hasattr(widget.comm, "_reply_subshell_for"):
        widget.comm._reply_subshell_for = None  # noqa: SLF001 - there is no public way
