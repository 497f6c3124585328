"""A child process under guard: watched while it runs a task and while it doesn't, stopped, and replaced."""

from __future__ import annotations

import contextlib
import logging
import math
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nbmr import topology
from nbmr.codec import Buffer
from nbmr.worker import oom, pipe
from nbmr.worker.output import Output, Tell
from nbmr.worker.process import Child

#: Seconds that an interrupted task has to end by itself, before its process is killed.
GRACE_SECONDS = 0.5
#: Seconds between two looks at a running child's memory.
MEMORY_SECONDS = 0.2
#: Seconds before each new attempt to start a child: its fork server may have been killed just now.
_START_AGAIN = (0.05, 0.2, 0.5)

_log = logging.getLogger(__name__)


class Died(Exception):
    """The child died under its task; says of what, and at which of the task's units."""

    def __init__(self, cause: str, unit: int = 0) -> None:
        super().__init__(cause)
        self.unit = unit


class Stopped(Exception):
    """The task was ended on purpose: ``"cancelled"``, by its ``"timeout"``, or since it ``"expired"``."""


class Guard:
    """Has one child process; one that dies under a task leaves its last words, and is replaced behind it.

    Parameters
    ----------
    memory_limit
        Bytes that the child may hold while it runs a task; None for no limit.
    """

    def __init__(self, memory_limit: int | None = None) -> None:
        self._limit = memory_limit
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)
        self._receiver = pipe.Receiver()
        self._kills = oom.Kills()
        self._child: Child | None = None
        #: Whether it was told to end at once: then no other child is started.
        self.ended = False
        self._output = Output()

    # ---------------------------------------------------------------- for other threads

    def wake(self) -> None:
        """End `idle`, or have the running task asked whether it is still wanted."""
        # full of calls to wake up, so that one more says nothing; or closed, so that nobody sleeps
        with contextlib.suppress(OSError):
            self._waker.send(b"w")

    def kill(self) -> None:
        """End the child at once, and start no other one."""
        self.ended = True
        if self._child:
            self._child.kill()
        self.wake()

    # ---------------------------------------------------------------- in the slot's thread

    def start(self) -> None:
        """Start the child, if there is none.

        Raises
        ------
        EOFError, OSError
            If that is not possible.
        Died
            After `kill`.
        """
        if self._child is not None:
            return
        for seconds in (*_START_AGAIN, None):
            if self.ended:
                raise Died("the end of its worker")
            try:
                self._child = Child(self._output)
            except (EOFError, OSError):
                if seconds is None:
                    raise
                _log.warning("a task's process could not be started; once more in %g s", seconds)
                time.sleep(seconds)
            else:
                if self.ended:  # meanwhile, and nobody has killed this one
                    self._child.kill()
                return

    @property
    def pid(self) -> int:
        """The child's process id; 0 if there is none."""
        return self._child.pid if self._child else 0

    @property
    def last_output(self) -> str:
        """The last lines that the task printed."""
        return self._output.last

    def forget_output(self) -> None:
        """Forget what the last task printed."""
        if self._child:
            self._child.read_output()
        self._output.forget()

    def idle(self) -> None:
        """Wait until woken; a child that dies meanwhile is replaced."""
        child = self._living()
        ready = {file for file, _ in self._poll(child).poll()}
        if child.output.fileno() in ready:
            child.read_output()
        if child.sock.fileno() in ready:  # it says nothing unasked
            _log.warning("a task's process died while it had no task: %s", self._bury())
            self.start()
        self._drain()

    def run(
        self,
        header: dict[str, Any],
        payload: Sequence[Buffer],
        files: Sequence[int],
        timeout: float | None,
        why_stop: Callable[[], str],
        tell: Tell,
        tell_begun: Callable[[], None],
        begun_after: float,
    ) -> dict[str, Any]:
        """Have the child run a task; return its reply, whose payload is to be taken by `receive`.

        Parameters
        ----------
        header, payload, files
            The task, as `nbmr.worker.child` takes it.
        timeout
            Seconds that it may run; None for no limit.
        why_stop
            Asked when woken: why the task is to be stopped; empty if it isn't.
        tell
            Sends what the task prints; `end_output` returns the rest.
        tell_begun, begun_after
            What is called once, if the task takes longer than so many seconds.

        Raises
        ------
        Stopped
            If there was a reason to stop it, or it took too long.
        Died
            If the child died.
        """
        self._kills.note()
        child = self._living()
        self.forget_output()
        self._output.begin(tell)
        with self._watched():
            child.send(header, payload, files)
            reply = self._wait(child, timeout, why_stop, tell_begun, begun_after)
        if reply["op"] == "interrupted":
            raise self._bury("a SIGINT from outside")
        return reply

    def receive(self, size: int) -> memoryview:
        """Take so many bytes of the child's result: good until the next call; raise `Died` as `run` does."""
        with self._watched():
            return self._receiver.receive(self._living().sock, size)

    def stop_sending(self) -> None:
        """End a child that is sending its result: nobody wants it any more."""
        self._bury("nobody wanted its result")
        raise Stopped("cancelled")

    def read_output(self) -> None:
        """Take what the task printed so far."""
        self._living().read_output()

    def end_output(self) -> tuple[str, int]:
        """Send no more of what the task prints; return the rest, as `Output.end` does."""
        return self._output.end()

    def close(self) -> None:
        """End the child, and free all."""
        if self._child:
            self._child.close()
            self._child = None
        self._wake.close()
        self._waker.close()

    def _living(self) -> Child:
        self.start()
        assert self._child is not None  # noqa: S101 - for the type checker
        return self._child

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Turn the end of a connection into the child's death."""
        try:
            yield
        except (EOFError, OSError) as exc:
            raise self._bury() from exc

    def _wait(
        self,
        child: Child,
        timeout: float | None,
        why_stop: Callable[[], str],
        tell_begun: Callable[[], None],
        begun_after: float,
    ) -> dict[str, Any]:
        """Wait for the child's reply, with an eye on everything that may end the task before."""
        began, told = time.monotonic(), False
        deadline = began + timeout if timeout else None
        poll = self._poll(child)
        while True:
            now = time.monotonic()
            if not told and now - began >= begun_after:
                tell_begun()
                told = True
            looks = (
                None if told else begun_after - (now - began),
                deadline and max(0.0, deadline - now),
                MEMORY_SECONDS if self._limit else None,
                self._output.due(),
            )
            patience = min((seconds for seconds in looks if seconds is not None), default=None)
            ready = {file for file, _ in poll.poll(None if patience is None else math.ceil(1000 * patience))}
            if child.output.fileno() in ready and not child.read_output():
                poll.unregister(child.output)
            self._output.send()
            if child.sock.fileno() in ready:
                return pipe.receive_header(child.sock)[0]
            if self._wake.fileno() in ready:  # perhaps since before this task: then there is no reason
                self._drain()
                if why := why_stop():
                    self._stop(child, why)
            if deadline is not None and time.monotonic() >= deadline:
                self._stop(child, "timeout")
            if self._limit and child.memory() > self._limit:
                child.kill()
                raise self._bury(f"its memory limit of {self._limit / 1e6:.0f} MB")

    def _poll(self, child: Child) -> select.poll:
        """Return what waits for anything from the child, or a call to wake up: made once for each wait."""
        poll = select.poll()  # an epoll would take a call of the system for each file
        for file in (child.sock, child.output, self._wake):
            poll.register(file, select.POLLIN)
        return poll

    def _stop(self, child: Child, why: str) -> None:
        """Interrupt the task; kill its process if it doesn't end by itself, or leaves something running."""
        child.interrupt()
        child.sock.settimeout(GRACE_SECONDS)
        try:
            reply, _ = pipe.receive_header(child.sock)
            clean = reply["clean"] and reply["size"] <= topology.MESSAGE_BYTES
            if clean:  # it may have been done just before: too late
                pipe.receive(child.sock, reply["size"])
        except (OSError, EOFError):
            clean = False
        if clean and not child.descendants():
            child.sock.settimeout(None)
            child.read_output()
        else:
            self._bury("it did not stop")
        raise Stopped(why)

    def _bury(self, cause: str = "") -> Died:
        """Give the child up; return the event that tells of what it died."""
        child, self._child = self._child, None
        if child is None:
            return Died(cause or "it could not be started")
        cause = cause or child.cause_of_death()
        if cause == "SIGKILL":
            cause += self._kills.verdict()
        child.close()
        return Died(cause, child.unit())

    def _drain(self) -> None:
        """Forget all calls to wake up."""
        with contextlib.suppress(BlockingIOError):
            while self._wake.recv(64):
                pass
