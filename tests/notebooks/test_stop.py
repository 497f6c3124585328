"""The stop button of a real kernel: what runs on the workers ends at once, and the next cell works."""

from __future__ import annotations

import queue as queues
import time

import pytest
from jupyter_client.manager import start_new_kernel

#: Seconds from the button to the next cell's first result. One is promised; machines are busy.
SOON = 3.0

BEGIN = """
import hashlib, os, time
import nbmr
client = nbmr.Client()
"""
WORK = {
    "sleep": "time.sleep(60)",
    "spin": "[None for _ in iter(int, 1)]",
    "c_code": "hashlib.pbkdf2_hmac('sha256', b'password', b'salt', 300_000_000)",
}
STOPPED = """
def work(x, started):
    with open(started, "a") as file:
        file.write(f"{{x}} {{os.getpid()}}\\n")
    {work}

client.map(range(20), work, {started!r}, queue={queue!r}, partitions=20)
"""
NEXT = "print(client.map([1, 2], lambda x: x + 1, queue={queue!r}, progress=False))"


@pytest.fixture
def kernel(server):
    """A kernel with a client, and what talks to it."""
    manager, talk = start_new_kernel()
    try:
        yield manager, talk
    finally:
        talk.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.destroy()


def run(talk, code):
    """Run a cell; return its reply and what it printed."""
    printed = []

    def on_output(message):
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = talk.execute_interactive(code, timeout=30, output_hook=on_output)
    return reply["content"], "".join(printed)


@pytest.mark.parametrize("work", WORK)
def test_the_stop_button(client, queue, kernel, tmp_path, eventually, work):
    manager, talk = kernel
    started = tmp_path / "started"
    assert run(talk, BEGIN)[0]["status"] == "ok"
    with client.workers(1, queue=queue):
        before = client.map([1], lambda x: x, queue=queue)
        assert before == [1]
        cell = STOPPED.format(work=WORK[work], started=str(started), queue=queue)
        talk.execute(cell, stop_on_error=False)  # or what comes just after the error is aborted
        eventually(started.exists)
        stopped = time.monotonic()
        manager.interrupt_kernel()
        reply = talk.get_shell_msg(timeout=20)["content"]
        content, printed = run(talk, NEXT.format(queue=queue))
        took = time.monotonic() - stopped
        assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
        assert (content["status"], printed) == ("ok", "[2, 3]\n")
        assert took < SOON, f"{took:.2f} s"
        assert len(started.read_text().splitlines()) == 1  # what was queued behind it never ran
        run(talk, "client.close()")
        with pytest.raises(queues.Empty):
            talk.get_shell_msg(timeout=0)
