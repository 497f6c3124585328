"""Several workers on this machine, as one process: ``python -m nbmr.worker.pool``.

Starts workers, replaces those that die, and tells how it goes in a file that whoever started it can read
(`nbmr.pools`). It outlives the kernel. Its options come as JSON on standard input, since there is a key among
them.

SIGHUP: read how many workers are wanted. SIGTERM: let the workers finish their tasks, and end; twice: now.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import psutil

from nbmr import private
from nbmr.worker.cleaner import clean_after

#: A worker that dies more often than this within a minute is not replaced any more.
_MOST_DEATHS = 10
_MINUTE = 60.0


class Pool:
    """The workers of one `nbmr.workers` call.

    Parameters
    ----------
    options
        What each worker is started with (`nbmr.worker.worker.Options`).
    count
        How many workers.
    folder
        Where to tell how it goes: ``<pid>.json``; the wanted number is read from ``<pid>.want``.
    """

    def __init__(self, options: dict[str, Any], count: int, folder: Path) -> None:
        self._options, self._count = options, count
        pid = os.getpid()
        self._file, self._wish = folder / f"{pid}.json", folder / f"{pid}.want"
        self._events: queue.SimpleQueue[tuple[str, subprocess.Popen[str] | None, str]] = queue.SimpleQueue()
        self._workers: dict[int, subprocess.Popen[str]] = {}
        self._ready: set[int] = set()
        self._leaving: set[int] = set()
        self._deaths: deque[float] = deque(maxlen=_MOST_DEATHS)
        self._stopping = False
        self._failed = ""

    def run(self) -> int:
        """Keep the workers until all have ended; return the exit status."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda n, _frame: self._events.put((signal.Signals(n).name, None, "")))
        self._adjust()
        while self._workers:
            self._tell()
            self._handle(*self._events.get())
        self._wish.unlink(missing_ok=True)
        if self._failed:
            self._tell()  # stays, for whoever started us to read
            return 1
        self._file.unlink(missing_ok=True)
        self._file.with_suffix(".log").unlink(missing_ok=True)
        return 0

    def _handle(self, event: str, worker: subprocess.Popen[str] | None, text: str) -> None:
        if event == "SIGHUP":
            if self._wish.exists():  # a hang-up of a terminal says nothing
                self._count = int(self._wish.read_text())
                self._adjust()
        elif worker is None:  # SIGTERM, SIGINT
            for process in self._workers.values():
                process.kill() if self._stopping else process.terminate()
            self._stopping = True
        elif event == "ready":
            self._ready.add(worker.pid)
        elif event == "failed":
            self._failed = text
            self._stopping = True
            for process in self._workers.values():
                process.terminate()
        else:
            self._on_exit(worker)

    def _on_exit(self, worker: subprocess.Popen[str]) -> None:
        del self._workers[worker.pid]
        clean_after(worker.pid)
        self._ready.discard(worker.pid)
        if worker.pid in self._leaving or self._stopping:
            self._leaving.discard(worker.pid)
            return
        if worker.returncode == 0:  # it had nothing to do for long enough
            self._count -= 1
            return
        now = time.monotonic()
        if len(self._deaths) == _MOST_DEATHS and now - self._deaths[0] < _MINUTE:
            self._failed = f"workers keep dying, at last with status {worker.returncode}"
            self._stopping = True
            for process in self._workers.values():
                process.terminate()
            return
        self._deaths.append(now)
        self._adjust()

    def _adjust(self) -> None:
        """Start workers, or let some go."""
        staying = [worker for pid, worker in self._workers.items() if pid not in self._leaving]
        for worker in staying[self._count :]:
            self._leaving.add(worker.pid)
            worker.terminate()
        for _ in range(self._count - len(staying)):
            self._start()

    def _start(self) -> None:
        worker = subprocess.Popen(
            [sys.executable, "-m", "nbmr.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Linux shares processors by session, where autogroups are on
        )
        assert worker.stdin is not None  # noqa: S101 - for the type checker
        worker.stdin.write(json.dumps(self._options) + "\n")
        worker.stdin.flush()  # and left open: the worker drains when it closes with us
        self._workers[worker.pid] = worker
        threading.Thread(target=self._watch, args=(worker,), daemon=True).start()

    def _watch(self, worker: subprocess.Popen[str]) -> None:
        assert worker.stdout is not None  # noqa: S101 - for the type checker
        for line in worker.stdout:
            event, _, text = line.rstrip().partition(" ")
            if event == "failed":  # the message may have more lines
                text = "\n".join([text, *worker.stdout.read().splitlines()])
            self._events.put((event, worker, text))
        worker.wait()
        self._events.put(("exit", worker, ""))

    def _tell(self) -> None:
        """Write how it goes."""
        state = {
            "pid": os.getpid(),
            "started": psutil.Process().create_time(),
            "queue": self._options["queue"],
            "count": self._count,
            "workers": [pid for pid in self._workers if pid not in self._leaving],
            "ready": sorted(self._ready - self._leaving),
            "failed": self._failed,
        }
        private.write(self._file, json.dumps(state))


def main() -> int:
    """Run one pool; return the exit status."""
    spec = json.loads(sys.stdin.readline())
    return Pool(spec["options"], spec["count"], Path(spec["folder"])).run()


if __name__ == "__main__":
    sys.exit(main())
