"""An interrupt at any moment: the call raises KeyboardInterrupt, and the next one in the same process works.

That nothing stays on the broker, and no process, is what conftest.py looks for when all tests are through.
"""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest

from nbmr import node, pools
from nbmr.node import connection_file, handover

pytestmark = pytest.mark.slow

#: What all of these share; then comes what is interrupted.
BEGIN = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # even if the tests run in the background
import numpy as np, pandas as pd
import nbmr

class Told:
    '''Says when it is pickled or unpickled.'''
    def __init__(self, when):
        self.when = when
    def __getstate__(self):
        if self.when == 'pickled':
            print('now' + chr(10), end='', flush=True)
        return self.__dict__
    def __setstate__(self, state):
        self.__dict__.update(state)
        if self.when == 'unpickled' and os.getpid() == kernel:
            print('now' + chr(10), end='', flush=True)
            time.sleep(30)

kernel, queue = os.getpid(), sys.argv[1]
"""
END = """
except KeyboardInterrupt:
    print('interrupted', flush=True)
frame = pd.DataFrame({'a': range(1000)})
assert nbmr.map(frame, lambda part: part + 1, queue=queue, progress=False).equals(frame + 1)
print('works', flush=True)
"""

MOMENTS = {
    "a frame is sent": """
values = np.zeros((100, 250_000), dtype=float)
frame = pd.DataFrame({'a': range(100)}, dtype=object)
frame['values'] = list(values)
frame.loc[40, 'a'] = Told('pickled')
try:
    nbmr.map(frame, len, queue=queue, partitions=50, progress=False)
""",
    "an iterable is read": """
def items():
    for x in range(10**9):
        if x == 500:
            print('now' + chr(10), end='', flush=True)
        yield x
try:
    nbmr.map(items(), str, queue=queue, progress=False)
""",
    "a large function is sent": """
weights = [np.zeros(5_000_000), Told('pickled'), np.zeros(5_000_000)]
try:
    nbmr.map(range(4), lambda x: time.sleep(30) or len(weights), queue=queue, progress=False)
""",
    "results are gathered": """
try:
    nbmr.map(range(4), lambda x: (np.zeros(1_000_000), Told('unpickled')), queue=queue, partitions=4,
             progress=False)
""",
    "results arrive": """
job = nbmr.submit(range(9), lambda x: time.sleep(x * 30) or x, queue=queue, partitions=9)
try:
    for number, result in job:
        print('now' + chr(10), end='', flush=True)
""",
    "a result is waited for": """
job = nbmr.submit(range(9), lambda x: time.sleep(x * 30) or x, queue=queue, partitions=9)
try:
    while not job.progress.done:
        time.sleep(0.01)
    print('now' + chr(10), end='', flush=True)
    job.result()
""",
    "what came of chunks is folded": """
def fold(a, b):
    if isinstance(b, tuple):
        time.sleep(90)
    return 0, Told('pickled')
try:
    nbmr.reduce(range(200), fold, queue=queue, progress=False)
""",
}


def interrupt(process):
    process.send_signal(signal.SIGINT)


def read_until(process, line):
    """Read what it prints up to a line."""
    while (said := process.stdout.readline()) != line + "\n":
        assert said, process.stderr.read()


def finish(process, timeout=60):
    """Wait for the end of a script; it has to be the good one."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    assert out.splitlines()[-2:] == ["interrupted", "works"], out + err


@pytest.mark.parametrize("moment", MOMENTS)
def test_while(client, queue, start, moment):
    end = END
    if "job = " in MOMENTS[moment]:  # it goes on without whoever waits for it, and can still be cancelled
        end = END.replace("frame =", "assert job.status == 'running'\njob.cancel()\nframe =")
    with client.workers(1, queue=queue):
        script = start("-c", BEGIN + MOMENTS[moment] + end, queue)
        read_until(script, "now")
        interrupt(script)
        finish(script)


def test_while_workers_start(client, queue, start, eventually):
    """Those that were starting are gone; the next call starts others."""
    script = start(
        "-c",
        BEGIN + "try:\n    nbmr.workers(2, queue=queue)\n" + END,
        queue,
    )
    (pool,) = eventually(lambda: living(client, queue))
    eventually(lambda: pool.state()["workers"])
    family = [psutil.Process(pool.state()["pid"]), *map(psutil.Process, pool.state()["workers"])]
    interrupt(script)
    read_until(script, "interrupted")
    assert not [process for process in family if process.is_running()]
    out, err = script.communicate(timeout=60)
    assert out == "works\n", err


def test_while_a_call_waits_for_workers(client, queue, start, eventually):
    """They go on to start, for the next call."""
    script = start("-c", BEGIN + "try:\n    nbmr.map([1], str, queue=queue, progress=False)\n" + END, queue)
    (pool,) = eventually(lambda: living(client, queue))
    interrupt(script)
    finish(script)
    assert living(client, queue) == [pool]


def living(client, queue):
    return [pool for pool in pools.living(client.settings) if pool.state().get("queue") == queue]


@pytest.mark.parametrize("times", [1, 2])
def test_while_the_job_is_forgotten(client, server, queue, start, tmp_path, eventually, times):
    """Twice, while RabbitMQ does not answer: the task is ended and all is deleted as soon as RabbitMQ can."""
    code = """
def slow(file):
    open(file, 'w').close()
    time.sleep(60)
try:
    nbmr.map([sys.argv[2]], slow, queue=queue, progress=False)
"""
    rabbitmq = psutil.Process(server.info.node_pid)
    with client.workers(1, queue=queue):
        script = start("-c", BEGIN + code + END, queue, str(tmp_path / "runs"))
        eventually((tmp_path / "runs").exists)
        known = set(server.queues())
        rabbitmq.suspend()
        try:
            for _ in range(times):
                interrupt(script)
                eventually(lambda: not pending(script, signal.SIGINT))
        finally:
            rabbitmq.resume()
        finish(script, 30)  # the task was ended
    assert [name for name in known if name.startswith("nbmr.job.")]
    eventually(
        lambda: not [name for name in server.queues() if name in known and name.startswith("nbmr.job.")]
    )


def pending(process, number):
    """Whether a signal has not been taken yet by a process."""
    with Path(f"/proc/{process.pid}/status").open() as file:
        status = dict(line.split(":", 1) for line in file)
    return any(int(status[name], 16) >> (number - 1) & 1 for name in ("SigPnd", "ShdPnd"))


@pytest.mark.slow
def test_while_the_node_starts(start, tmp_path, monkeypatch, eventually, rabbitmq):
    """It goes on to start; the next call waits for it. A second interrupt is as good as the first."""
    for name, folder in [("JUPYTER_RUNTIME_DIR", "runtime"), ("XDG_STATE_HOME", "state")]:
        monkeypatch.setenv(name, str(tmp_path / folder))
    file = connection_file.path()
    twice = """
for _ in range(2):
    try:
        print('trying', flush=True)
        nbmr.map([1], str, progress=False)
    except KeyboardInterrupt:
        print('interrupted', flush=True)
try:
    raise KeyboardInterrupt
"""
    last = "\nassert nbmr.shutdown()\nprint('interrupted\\nworks')\n"
    script = start("-c", BEGIN + twice + END.replace(", queue=queue", "") + last, "default")
    starting = eventually(lambda: handover.starting(file))
    for _ in range(2):
        read_until(script, "trying")
        assert handover.starting(file) == starting, "the machine was too quick for this test"
        interrupt(script)
        read_until(script, "interrupted")
    finish(script)
    assert node.living(starting["pid"], starting["started"]) is None
    assert not file.exists()
