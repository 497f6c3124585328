"""The Jupyter kernel that this process is, and whether a click in its front end would reach it now."""

from __future__ import annotations

import hmac
import sys
import threading
import time
from typing import Any

#: Seconds in which a kernel that has nothing else to do answers.
_PATIENCE = 0.4
#: Seconds after which nobody fetches messages any more.
_FETCH_SECONDS = 3.0


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
    """Tells whether a click on a widget would be noticed now, or only when the cell that runs has ended.

    Clicks are messages to the kernel's main thread, which handles none while a cell computes or waits.
    Ways around that: with ipykernel 7, JupyterLab can send those of widgets to a thread of their own, a
    subshell; from 7.4 on they are handled while an async cell waits. With ipykernel 6 they can be seen in the
    queue of messages, if the main thread puts them there now and then: see `fetch`.
    """

    def __init__(self) -> None:
        self._kernel = running()
        #: ipykernel 6 has it.
        self._queue = getattr(self._kernel, "msg_queue", None)
        self._asked = self._answered = self._fetched = 0.0

    def arrive(self) -> bool:
        """Tell by the kernel's last answer, and ask again; doesn't wait, so the first calls may say no."""
        if self._kernel is None:
            return False
        now = time.monotonic()
        if self._has_subshell() or now - self._fetched < _FETCH_SECONDS:
            return True
        waiting = self._asked > 0.0
        if not waiting:
            self._asked = now
            self._kernel.io_loop.add_callback(self._answer)
        return self._answered > 0.0 and not (waiting and now - self._asked > _PATIENCE)

    def waits(self, widget: Any) -> bool:
        """Whether a click on a widget waits in the kernel's queue; it will be handled from there as well."""
        if self._queue is None:
            return False
        try:
            waiting = [args[-1] for _, _, args in tuple(self._queue._queue)]  # noqa: SLF001 # no public way
        except (AttributeError, RuntimeError, TypeError, ValueError, IndexError):  # it changed meanwhile
            return False
        return any(self._is_click(frames, widget.comm.comm_id) for frames in waiting)

    def fetch(self) -> None:
        """Put the messages that have come into the kernel's queue, if this is the main thread.

        To be called about once a second by who waits.
        """
        if self._queue is not None and threading.current_thread() is threading.main_thread():
            self._kernel.shell_stream.flush()
            self._fetched = time.monotonic()

    def _is_click(self, frames: Any, comm: str) -> bool:
        session = self._kernel.session
        try:
            _, (signature, *parts) = session.feed_identities(frames, copy=False)
            parts = [bytes(part) for part in parts[:4]]
            if not hmac.compare_digest(bytes(signature), session.sign(parts)):
                return False
            if session.unpack(parts[0])["msg_type"] != "comm_msg":
                return False
            content = session.unpack(parts[3])
            return bool(content["comm_id"] == comm and content["data"]["content"]["event"] == "click")
        except (KeyError, TypeError, ValueError, IndexError):  # some other message
            return False

    def _has_subshell(self) -> bool:
        """Whether a front end has made a subshell, as JupyterLab does for the first widget."""
        try:
            return bool(self._kernel.shell_channel_thread.manager.list_subshell())
        except AttributeError:  # a kernel without subshells
            return False

    def _answer(self) -> None:
        lock = getattr(self._kernel, "_main_asyncio_lock", None)
        if lock is not None and lock.locked() and not _handles_comms_meanwhile():
            self._kernel.io_loop.call_later(_PATIENCE / 4, self._answer)
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
