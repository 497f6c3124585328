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

from nbmr import private
from nbmr.node import identity
from nbmr.worker.cleaner import clean_after

#: Deaths within a minute after which the pool ends: this many, or as many as there are workers.
MOST_DEATHS = 10
MINUTE = 60.0
#: Seconds before a dead worker is replaced: the first at once, later ones after waits that double.
FIRST_BACKOFF, LONGEST_BACKOFF = 0.1, 5.0


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
    about
        What to tell besides: of the environment that they run in.
    """

    def __init__(
        self, options: dict[str, Any], count: int, folder: Path, about: dict[str, Any] | None = None
    ) -> None:
        self._options, self._count, self._about = options, count, about or {}
        pid = os.getpid()
        self._file, self._wish = folder / f"{pid}.json", folder / f"{pid}.want"
        self._events: queue.SimpleQueue[tuple[str, subprocess.Popen[str] | None, str]] = queue.SimpleQueue()
        self._workers: dict[int, subprocess.Popen[str]] = {}
        self._ready: set[int] = set()
        self._leaving: set[int] = set()
        self._deaths: deque[float] = deque()
        #: What the last worker said that failed.
        self._last_words = ""
        #: Whether a worker was ever ready, so that nothing is wrong with the options.
        self._began = False
        #: Workers to be started after a back-off.
        self._due = 0
        self._stopping = False
        self._failed = ""

    def run(self) -> int:
        """Keep the workers until all have ended; return the exit status."""
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda n, _frame: self._events.put((signal.Signals(n).name, None, "")))
        self._adjust()
        while self._workers or (self._due and not self._stopping):
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
        if event == "replace":
            self._due -= 1
            if not self._stopping:
                self._adjust()
        elif event == "SIGHUP":
            if self._wish.exists():  # a hang-up of a terminal says nothing
                self._count = int(self._wish.read_text())
                self._adjust()
        elif worker is None:  # SIGTERM, SIGINT
            for process in self._workers.values():
                process.kill() if self._stopping else process.terminate()
            self._stopping = True
        elif event == "ready":
            self._ready.add(worker.pid)
            self._began = True
        elif event == "failed":
            if self._began:
                self._last_words = text  # it may be this worker's trouble alone: another takes its place
            else:
                self._give_up(text)
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
        self._replace(worker.returncode)

    def _replace(self, status: int) -> None:
        """Start another worker for one that died, the later the more have died; or give up."""
        now = time.monotonic()
        while self._deaths and now - self._deaths[0] > MINUTE:
            self._deaths.popleft()
        self._deaths.append(now)
        count = len(self._deaths)
        if count > max(MOST_DEATHS, self._count):
            why = f"{count} of them died within a minute, the last of {_cause(status)}."
            self._give_up(f"{why} {self._last_words}".strip())
        elif count <= self._count:
            self._adjust()
        else:
            self._due += 1
            seconds = min(FIRST_BACKOFF * 2 ** (count - self._count - 1), LONGEST_BACKOFF)
            timer = threading.Timer(seconds, self._events.put, [("replace", None, "")])
            timer.daemon = True
            timer.start()

    def _give_up(self, why: str) -> None:
        """End all workers, and tell why."""
        self._failed = why
        self._stopping = True
        for process in self._workers.values():
            process.terminate()

    def _adjust(self) -> None:
        """Start workers, or let some go."""
        staying = [worker for pid, worker in self._workers.items() if pid not in self._leaving]
        for worker in staying[self._count :]:
            self._leaving.add(worker.pid)
            worker.terminate()
        for _ in range(self._count - len(staying) - self._due):
            self._start()

    def _start(self) -> None:
        worker = subprocess.Popen(
            # as this process runs: without the current folder on the path, if it is so
            [sys.executable, *(["-P"] if sys.flags.safe_path else []), "-m", "nbmr.worker"],
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
            **self._about,
            **identity(),
            "queue": self._options["queue"],
            "memory_limit": self._options.get("memory_limit"),
            "count": self._count,
            "workers": [pid for pid in self._workers if pid not in self._leaving],
            "ready": sorted(self._ready - self._leaving),
            "failed": self._failed,
        }
        private.write(self._file, json.dumps(state))


def _cause(status: int) -> str:
    """Name what ended a process."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def main() -> int:
    """Run one pool; return the exit status."""
    spec = json.loads(sys.stdin.readline())
    return Pool(spec["options"], spec["count"], Path(spec["folder"]), spec["about"]).run()


if __name__ == "__main__":
    sys.exit(main())
