"""What runs in a worker's child process: the user's functions, one task at a time.

The child never touches the broker. It gets tasks whose signatures were verified by its supervisor, and hands
back encoded results. A task covers one or more *units*: one partition of a frame, or some items of a list.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import mmap
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import OrderedDict
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

from nbmr import cell, codec, shared, shipped, tracebacks
from nbmr import unit as current
from nbmr.errors import PickleError
from nbmr.worker import pipe

#: Decoded functions that a child keeps.
_FUNCTIONS = 8
#: prctl's option that names the signal to get when the parent dies (linux/prctl.h).
_PR_SET_PDEATHSIG = 1
#: How much sooner than others a task's process is ended where memory runs out, of 1000.
_OOM_SCORE = 300


class _Interrupt:
    """Turns SIGINT into KeyboardInterrupt, but only while the user's code runs."""

    def __init__(self) -> None:
        self.running = False
        #: Whether it was this that raised, and not the user's code.
        self.raised = False
        signal.signal(signal.SIGINT, self)

    def __call__(self, _number: int, _frame: object) -> None:
        if self.running:
            self.running = False
            self.raised = True
            raise KeyboardInterrupt

    def __enter__(self) -> None:
        self.raised = False
        self.running = True

    def __exit__(self, *_: object) -> None:
        self.running = False


def main(sock: socket.socket, output: Connection) -> None:
    """Run tasks until the supervisor is gone."""
    os.setpgrp()
    _leave_fork_server()
    _die_with_parent()
    _die_first()
    interrupt = _Interrupt()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    output.close()
    sys.stdout, sys.stderr = _stream(1), _stream(2)
    shipped.prefer_shipped()
    runner = Runner(interrupt)
    receiver = pipe.Receiver()
    pipe.send(sock, {"op": "ready"})
    try:
        runner.place = pipe.receive_header(sock)[1][0]
        while True:
            header, files = pipe.receive_header(sock)
            payload = receiver.receive(sock, header["size"])
            reply, parts = runner.run(header, payload, files)
            del payload
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            pipe.send(sock, reply, parts)
            del parts
    except (EOFError, BrokenPipeError):
        os._exit(0)


def _stream(number: int) -> TextIO:
    return open(number, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _leave_fork_server() -> None:
    """Close our copy of the pipe by which the fork server notices that the supervisor is gone."""
    known: Any = forkserver._forkserver  # noqa: SLF001 - there is no public way
    if known._forkserver_alive_fd is not None:  # noqa: SLF001
        os.close(known._forkserver_alive_fd)  # noqa: SLF001
        known._forkserver_alive_fd = known._forkserver_address = None  # noqa: SLF001


def _die_with_parent() -> None:
    """Be killed when the fork server goes, which goes with the supervisor, even inside C code."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            threading.Event().wait(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _die_first() -> None:
    """Where memory runs out, have the system end the task: not the supervisor, RabbitMQ or the kernel."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))


class Runner:
    """Decodes tasks, calls functions, encodes results."""

    def __init__(self, interrupt: _Interrupt) -> None:
        self._interrupt = interrupt
        #: An open file, to note in which unit the task is at: read if this process dies.
        self.place = -1
        self._functions: OrderedDict[tuple[str, int], Any] = OrderedDict()

    def run(
        self, task: dict[str, Any], payload: memoryview, files: list[int]
    ) -> tuple[dict[str, Any], list[codec.Buffer]]:
        """Run one task; return the reply's header and the parts of its payload."""
        values: list[Any] = []
        failures: list[dict[str, Any]] = []
        began = time.monotonic()
        threads = set(threading.enumerate())
        os.pwrite(self.place, bytes(8), 0)
        try:
            with self._interrupt:
                buffers = codec.slices(payload, task["layout"])
                mapped = [_map(file) for file in files]
                function_file = mapped.pop(0) if task["function_blob"] else None
                inline = task["inline"]
                fn, args, kwargs = self._function(
                    task["function"], buffers[:inline], function_file, task["function_layout"]
                )
                encoded = [buffers[inline:]]
                if task["results"]:
                    encoded = [
                        codec.slices(memoryview(file), result["layout"])
                        for file, result in zip(mapped, task["results"], strict=True)
                    ]
                elif task["data_layout"]:
                    encoded = [codec.slices(memoryview(mapped.pop(0)), task["data_layout"])]
                if task["apart"]:
                    _insert(encoded[0], task["apart"], mapped)
                data = _Data(task, encoded)
                units = data.decode()
                del encoded
                del buffers, mapped, payload
                self._run_units(task, data, units, (fn, args, kwargs), values, failures)
                layout, parts = self._encode(values, failures)
        except BaseException as exc:  # noqa: BLE001 - the data, or the function, can't be decoded
            if self._interrupt.raised:
                return {"op": "interrupted", "clean": self._clean(threads, exc)}, []
            failures = [_failure(exc) | {"unit": number} for number in range(task["count"])]
            values = [None] * len(failures)
            layout, parts = self._encode(values, failures)
        reply = {
            "op": "done",
            "clean": not self._interrupt.raised or self._clean(threads),
            "layout": layout,
            "count": len(values),
            "failures_encoded": bool(failures),
        }
        if stored := shared.write(task["shared"], task["run"], parts):
            reply["stored"], parts = stored, []
        return reply | {"seconds": time.monotonic() - began}, parts

    @staticmethod
    def _clean(threads: set[threading.Thread], exc: BaseException | None = None) -> bool:
        """Whether an interrupted task leaves this process fit for others: no thread, no half import."""
        if set(threading.enumerate()) - threads:
            return False
        trace = exc.__traceback__ if exc else None
        return not any(
            frame.f_code.co_name == "<module>" and not frame.f_code.co_filename.startswith(cell.FILENAME)
            for frame, _ in traceback.walk_tb(trace)
        )

    def _run_units(
        self,
        task: dict[str, Any],
        data: _Data,
        units: list[Any],
        call: tuple[Any, tuple[Any, ...], dict[str, Any]],
        values: list[Any],
        failures: list[dict[str, Any]],
    ) -> None:
        """Call the function on each unit, and add to the values and the failures."""
        for number in range(len(units)):
            unit, units[number] = units[number], None
            if number in task["skip"]:
                values.append(None)
                continue
            os.pwrite(self.place, number.to_bytes(8, "big"), 0)
            current.enter(task["start"] + number)
            value, failure = self._call(unit, *call)
            del unit
            for attempt in range(2, task["retries"] + 2):
                if not failure:
                    break
                # decoded again: the function may have changed it in place before it failed
                value, failure = self._call(data.decode()[number], *call)
                if failure:
                    failure["attempts"] = attempt
            values.append(value)
            if failure:
                failures.append(failure | {"unit": number})
                if task["stop_at_error"]:
                    break

    def _function(
        self, digest: str, inline: list[codec.Buffer], file: mmap.mmap | None, layout: list[tuple[int, int]]
    ) -> Any:
        # another job may have brought another version of a module since: then decode again
        known = (digest, shipped.generation())
        if known in self._functions:
            self._functions.move_to_end(known)
            return self._functions[known]
        buffers = (
            codec.slices(memoryview(file), layout) if file is not None else [bytearray(b) for b in inline]
        )
        call = codec.decode(buffers)
        self._functions[digest, shipped.generation()] = call
        if len(self._functions) > _FUNCTIONS:
            self._functions.popitem(last=False)
        return call

    def _call(
        self, unit: Any, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any] | None]:
        try:
            return fn(unit, *args, **kwargs), None
        except BaseException as exc:  # SystemExit, too, is the function's failure
            if self._interrupt.raised:
                raise
            return None, _failure(exc)

    @staticmethod
    def _encode(
        values: list[Any], failures: list[dict[str, Any]]
    ) -> tuple[list[tuple[int, int]], list[codec.Buffer]]:
        """Encode the values, and behind them the failures, if there are any."""
        try:
            buffers = codec.encode(values, what="the result of `fn`")
        except PickleError:
            for number, value in enumerate(values):
                try:
                    codec.encode(value, what="the result of `fn`")
                except PickleError as exc:
                    values[number] = None
                    failures.append(_failure(exc) | {"unit": number, "traceback": ""})
            buffers = codec.encode(values)
        if failures:
            buffers.append(json.dumps(failures).encode())
        return codec.layout(buffers), codec.pieces(buffers)


class _Data:
    """A task's encoded data, which can be decoded again if it is to be kept as it was sent."""

    def __init__(self, task: dict[str, Any], parts: list[list[codec.Buffer]]) -> None:
        self._task, self._parts, self._keep = task, parts, task["retries"] > 0

    def decode(self) -> list[Any]:
        """Decode the units."""
        if self._keep:
            parts: list[list[codec.Buffer]] = [[bytearray(one) for one in part] for part in self._parts]
        else:
            parts, self._parts = self._parts, []
        if not (results := self._task["results"]):
            units: list[Any] = codec.decode(parts[0])
            return units
        units = []
        for part, result in zip(parts, results, strict=True):
            units += codec.decode(part)[result["first"] : result["first"] + result["count"]]
        return [units] if self._task["together"] else units


def _insert(buffers: list[codec.Buffer], places: list[int], files: list[mmap.mmap]) -> None:
    """Put the buffers that lay apart back to their places."""
    for place, file in zip(places, files, strict=True):
        buffers.insert(place, memoryview(file))


def _map(file: int) -> mmap.mmap:
    """Map a blob's file: private, so that functions may write to their arrays."""
    mapped = mmap.mmap(file, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    os.close(file)
    return mapped


def _failure(exc: BaseException) -> dict[str, Any]:
    encoded = tracebacks.encode_exception(exc)
    return {
        "reason": "error",
        "summary": _summary(exc),
        "where": tracebacks.failing_line(exc),
        "traceback": tracebacks.format_remote(exc),
        "exception": base64.b64encode(encoded).decode() if encoded else "",
        "attempts": 1,
    }


def _summary(exc: BaseException) -> str:
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - users' exceptions raise anything
        text = "<its message can't be shown>"
    return ": ".join(filter(None, (type(exc).__qualname__, *text.strip().splitlines()[:1])))[:500]
