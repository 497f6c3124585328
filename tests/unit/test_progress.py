"""Where progress is shown, and the terminal's bar in a pseudo-terminal."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from nbmr import progress
from nbmr.errors import ConfigError

JOB = """
import sys, time
from types import SimpleNamespace
from nbmr.failures import Failure
from nbmr.standing import Progress
from nbmr.printed import Printed
from nbmr.progress import follow, starting

class Job:
    id, name, status, hint, rejected, done, total, failures = "4f2a", "clean", "running", "", 0, 0, 40, []
    workers = frozenset(["one", "two"])
    began, followers, printed, total = time.monotonic(), set(), Printed(), 40
    roster, crew, log = list, dict, SimpleNamespace(about={}, told={})

    def print(self, *lines):
        self.printed.add(3, "w", "".join(f"{line}\\n" for line in lines))

    @property
    def progress(self):
        seconds = time.monotonic() - self.began
        return Progress(self.done, len(self.failures), 0, self.total, seconds, 0, self.workers)

    def shown(self):
        time.sleep(0.25)

job = Job()
"""
RUN = """
with starting(show) as say:
    say("Starting a \\x1b[31mnode … 1 s")
with follow(job, show):
    job.hint = "No worker listens to queue 'default'."
    job.shown()
    job.hint, job.done = "", 24
    job.shown()
    job.failures = [Failure("error", 7, "ValueError: bad")]
    job.done, job.status = 39, "failed"
assert "IPython" not in sys.modules and "ipywidgets" not in sys.modules
"""


def in_terminal(script: str, columns: int = 120) -> str:
    """Run a script whose stderr is a terminal; return what it writes there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                written += os.read(ours, 65536)
            except OSError as exc:  # how Linux says that the other side is closed
                assert exc.errno == errno.EIO  # noqa: PT017
                break
        assert process.stdout is not None
        assert process.stdout.read() == b""
    os.close(ours)
    assert process.returncode == 0, written.decode()
    return written.decode()


def in_pipes(script: str) -> tuple[str, str]:
    """Run a script without a terminal; return what it writes to stdout and to stderr."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def test_a_terminal_shows_a_bar_with_the_facts():
    written = in_terminal(JOB + "show = True\n" + RUN)
    lines = re.split(r"[\r\n]+", written)
    assert "Starting a ?[31mnode … 1 s\x1b[K" in lines
    assert "\x1b[K" in lines[lines.index("Starting a ?[31mnode … 1 s\x1b[K") + 1]  # and gone again
    assert "No worker listens to queue 'default'." in lines
    assert "Number 7: ValueError: bad" in lines
    running = [line for line in lines if "24 of 40" in line]
    assert re.fullmatch(r"clean \|[█▏▎▍▌▋▊▉ ]+\| 24 of 40, \d+/s, 0\.\d+ s left, 2 workers *", running[0])
    last = [line for line in lines if line.strip()][-1]
    assert re.fullmatch(
        r"clean \|█+\| failed, 39 of 40, 1 failed, in 0\.\d+ s, \d+/s, 2 workers *",
        last.replace("\x1b[A", ""),
    )


def test_a_terminals_bar_shows_an_unknown_total():
    written = in_terminal(JOB + "job.total = None\nwith follow(job): job.done = 12; job.shown()")
    assert "12 done" in written
    assert written.rstrip().endswith("2 workers")


def test_what_tasks_print_stands_above_the_bar_within_limits():
    script = """
with follow(job):
    job.print("one \x1b[31mline", "another")
    job.shown()
    job.print(*(f"of many {n}" for n in range(5000)))
    job.shown()
    job.print("last")
"""
    lines = re.split(r"[\r\n]+", in_terminal(JOB + script))
    shown = [line for line in lines if re.match(r"\[3\] |… ", line)]
    assert shown[:3] == ["[3] one line", "[3] another", "… 4,980 more lines of output"]
    assert shown[3:] == [*(f"[3] of many {n}" for n in range(4980, 5000)), "[3] last"]


def test_many_failures_are_counted():
    script = """
with follow(job):
    job.failures = [Failure("error", n, "bad") for n in range(500)]
"""
    lines = re.split(r"[\r\n]+", in_terminal(JOB + script))
    shown = [line for line in lines if line.startswith(("Number", "and"))]
    assert shown == [*(f"Number {n}: bad" for n in range(20)), "and 480 more failures"]


def test_a_narrow_terminal_never_wraps():
    script = JOB + "job.name = 'n' * 500\nwith follow(job), starting() as say: say('s' * 500); job.shown()"
    lines = re.split(r"[\r\n]+", in_terminal(script, columns=60))
    texts = [re.sub(r"\x1b\[\w", "", line) for line in lines]
    assert any("nnn" in text for text in texts)
    assert any("sss" in text for text in texts)
    assert max(map(len, texts)) <= 60


@pytest.mark.parametrize("show", [True, False])
def test_without_a_terminal_nothing_is_written(show):
    assert in_pipes(JOB + f"show = {show}\n" + RUN) == ("", "")


def test_false_silences_a_terminal():
    assert in_terminal(JOB + "show = False\n" + RUN) == ""


def test_a_bar_can_be_had_without_a_terminal():
    _, written = in_pipes(JOB + "show = 'terminal'\n" + RUN)
    assert "failed, 39 of 40, 1 failed" in written


def test_a_stop_ends_the_thread_and_leaves_the_state():
    script = """
import threading
job.done = 24
try:
    with follow(job):
        raise KeyboardInterrupt
except KeyboardInterrupt:
    assert threading.active_count() == 1, threading.enumerate()
else:
    raise AssertionError("swallowed")
"""
    assert "still running, 24 of 40" in in_terminal(JOB + script).splitlines()[-1]


def test_a_view_that_fails_does_not_disturb_the_job():
    script = """
from nbmr import progress
def broken(state): raise RuntimeError("no bar")
with follow(job):
    progress.facts = broken
    job.shown()
print("the job's result", file=sys.stderr)
"""
    written = in_terminal(JOB + script)
    assert "The display of job 4f2a doesn't work; the job does." in written
    assert "the job's result" in written


def test_an_unknown_place_is_an_error():
    with pytest.raises(ConfigError, match="progress is 'window'"):
        progress.follow(None, "window")  # type: ignore[arg-type]  # it doesn't come to that
    with pytest.raises(ConfigError, match="progress is 'window'"):
        progress.starting("window")
