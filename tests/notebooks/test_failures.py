"""What a person sees and does in a notebook when something failed: in a real kernel, with a real broker."""

from __future__ import annotations

import re

import pytest
from jupyter_client.manager import start_new_kernel

ANSI = re.compile(r"\x1b\[[0-9;]*m")
BEGIN = """import asyncio, os, pdb, threading, time
import nbmr
import pandas as pd
client = nbmr.Client()
df = pd.DataFrame({"a": range(10)}, index=[f"row{i}" for i in range(10)])
"""
CLEAN = """def inverse(x):
    difference = x - 6
    return 1 / difference

def clean(part):
    print("begins at", part.a.iloc[0])
    return part.a.map(inverse)
"""
CALL = "client.map(df, clean, partitions=5)"


class Talk:
    """Runs cells, answers what they ask, and keeps what a front end hears."""

    def __init__(self, client):
        self.client = client

    def run(self, code, *answers):
        self.messages, self.asked, waiting = [], [], list(answers)

        def answer(message):
            self.asked.append(message["content"]["prompt"])
            self.client.input(waiting.pop(0))

        reply = self.client.execute_interactive(
            code,
            allow_stdin=bool(answers),
            stdin_hook=answer,
            timeout=100,
            output_hook=lambda message: self.messages.append((message["msg_type"], message["content"])),
        )
        assert waiting == []
        return reply["content"]

    def of_type(self, kind):
        return [content for name, content in self.messages if name == kind]

    @property
    def printed(self):
        return ANSI.sub("", "".join(content["text"] for content in self.of_type("stream")))

    @property
    def shown(self):
        """The traceback as text, without colours."""
        (error,) = self.of_type("error")
        return ANSI.sub("", "\n".join(error["traceback"]))

    def works(self, code):
        content = self.run(code)
        assert content["status"] == "ok", content
        return self.printed


@pytest.fixture
def talk(client):
    """A kernel with a client of the private node, whose workers are there."""
    manager, channels = start_new_kernel()
    try:
        talk = Talk(channels)
        talk.works(BEGIN)
        talk.works(CLEAN)
        yield talk
        talk.run("client.close()")
    finally:
        channels.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.destroy()


def in_order(text, *parts):
    """Assert that these parts are in a text, one behind the other."""
    at = 0
    for part in parts:
        found = text.find(part, at)
        assert found >= 0, f"{part!r} is not there, or not behind {text[:at]!r}, in {text!r}"
        at = found + len(part)


# ---------------------------------------------------------------- shown


def test_an_error_shows_first_what_its_author_needs(talk):
    assert talk.run(CALL)["ename"] == "TaskError"
    shown = talk.shown
    in_order(
        shown,
        "TaskError: ZeroDivisionError: division by zero\n",
        "in partition 3 (rows 'row6' to 'row7'), on worker ",
        "Cell In[2], line 3, in inverse\n",
        "     2     difference = x - 6\n",
        "----> 3     return 1 / difference\n",
        "called from\nCell In[3], line 1\n----> 1 client.map(df, clean, partitions=5)",
        "on the worker\n",
        "Cell In[2], line 7, in clean\n",
        "last output\nbegins at 6\n",
        "nbmr.last_failure().replay()",
    )
    assert "nbmr/" not in shown
    assert "site-packages" not in shown
    assert len(shown.splitlines()) < 40


def test_all_kinds_of_errors_are_shown_so(talk):
    talk.run("client.map(df, lambda part: time.sleep(60), partitions=1, timeout=0.3)")
    in_order(talk.shown, "TaskTimeout: ran longer than its timeout of 0.3 s\nin partition 0 (rows 'row0'")
    in_order(talk.shown, "called from\nCell In[3], line 1\n----> 1 client.map(", "last_failure().replay()")
    talk.run("client.map([1], lambda x: os._exit(3))")
    in_order(talk.shown, "TaskLost: its worker process died 3 times", "called from\nCell In[4], line 1\n")
    in_order(talk.shown, "attempt 1: exit code 3", "attempt 2: exit code 3", "replay(anyway=True)")
    talk.run("job = client.submit([0], lambda x: 1 / x)\nawait job")
    in_order(talk.shown, "TaskError: ZeroDiv", "----> 1 job =", "called from\nCell In[5], line 2\n")
    in_order(talk.shown, "called from", "----> 2 await job")
    for machinery in ("nbmr/", "asyncio", "concurrent"):
        assert machinery not in talk.shown
    talk.run("client.map([5], pd.concat)")  # nothing in it is the user's own
    in_order(
        talk.shown, "TaskError: TypeError: first argument must be", "called from\nCell In[6]", "in concat"
    )
    talk.works("job.forget()")


def test_what_was_said_on_the_worker_cannot_control_the_front_end(talk):
    talk.run(r"def f(x):" "\n" r"    print('\x1b[2J out')" "\n" r"    raise ValueError('\x1b]0;t\x07<b>')")
    talk.run("client.map([1], f)")
    (error,) = talk.of_type("error")
    assert set(re.findall(r"\x1b\[[0-9;]*[A-Za-z]?", "".join(error["traceback"]))) <= {
        "\x1b[31m",
        "\x1b[1m",
        "\x1b[0m",
    }
    assert "\x1b]" not in "".join(error["traceback"])
    in_order(talk.shown, "TaskError: ValueError: ?]0;t?<b>", "?[2J out")


def test_an_error_that_became_the_cause_of_another(talk):
    talk.run(f"try:\n    {CALL}\nexcept nbmr.TaskError as error:\n    raise RuntimeError('mine') from error")
    in_order(talk.shown, "division by zero", "in partition 3", "line 3, in inverse", "direct cause", "mine")
    assert talk.works("print(nbmr.last_failure().number)") == "3\n"


def test_failures_are_shown_as_a_table(talk):
    talk.works("job = client.submit(df, clean, partitions=5, on_error='keep', progress=False); job.wait()")
    talk.works("job.failures")
    (data,) = [content["data"] for content in talk.of_type("execute_result")]
    for part in (
        "<table",
        "<details>",
        "ZeroDivisionError: division by zero",
        "begins at 6",
        "return 1 / diff",
    ):
        assert part in data["text/html"]
    in_order(data["text/plain"], "number", "rows", "what", "worker", "attempts\n3", "'row6' to 'row7'")
    talk.works("job.failures[0]")
    (data,) = [content["data"] for content in talk.of_type("execute_result")]
    in_order(data["text/plain"], "ZeroDivisionError: division by zero\n  in partition 3", "\n    return 1 / ")
    talk.works("job.forget()")


# ---------------------------------------------------------------- run again, under the debugger


def test_replay_and_debug(talk):
    """Post mortem is in the user's own frame, with its variables and its source."""
    talk.run(CALL)
    assert talk.run("nbmr.last_failure().replay()")["ename"] == "ZeroDivisionError"
    in_order(talk.shown, "Cell In[4], line 1", "in clean(part)", "----> 3     return 1 / difference")
    assert "nbmr/" not in talk.shown
    assert talk.printed == "begins at 6\n"
    talk.run("%debug", "p (x, difference)", "list", "up 99", "q")
    in_order(talk.printed, "return 1 / difference", "(6, 0)", "difference = x - 6")
    assert len(talk.asked) == 4


def test_breakpoint_in_a_replay(talk):
    """In a function that is defined in a cell; its source is shown, and stepping works."""
    talk.works(
        "def halves(x):\n    half = x / 2\n    if half == 3:\n        raise ValueError\n    return half"
    )
    talk.run("client.map(range(9), halves, partitions=2)")
    talk.works("failure = nbmr.last_failure(); print(failure.partition, failure.number)")
    assert talk.printed == "6 6\n"
    talk.run(
        "import pdb, sys\nfn, args, kwargs = failure.given.call()\nprint(fn.__code__.co_filename)\n"
        "pdb.runcall(fn, failure.partition)",
        "next", "p half", "continue",
    )  # fmt: skip
    in_order(talk.printed, "half = x / 2", "3.0")
    talk.works(  # breakpoint() itself is ipykernel's where debugpy is there: for JupyterLab's own debugger
        "def stops(x):\n    if os.getpid() == here: pdb.set_trace()\n    return 1 / x\nhere = os.getpid()"
    )
    talk.run("client.map([0], stops)")
    talk.run("nbmr.last_failure().replay()", "p x", "continue")
    in_order(talk.printed, "return 1 / x", "0")
    assert talk.of_type("error")[0]["ename"] == "ZeroDivisionError"


def test_without_an_error_there_is_nothing_to_replay(talk):
    assert talk.run("nbmr.last_failure()")["ename"] == "NotReplayable"
    talk.run("1 / 0")
    assert talk.run("nbmr.last_failure()")["ename"] == "NotReplayable"
    in_order(talk.shown, "not that of a task")


# ---------------------------------------------------------------- several at once, and await


def test_await_shows_the_job_while_it_runs(talk, tmp_path):
    gate = tmp_path / "gate"
    talk.works(
        f"from pathlib import Path\ngate = Path({str(gate)!r})\n"
        "def gated(x):\n    while x and not gate.exists(): time.sleep(0.01)\n    return x"
    )
    talk.works(
        "job = client.submit([0, 1, 2], gated, partitions=3)\n"
        "async def open_it():\n    await asyncio.sleep(1.0)\n    gate.touch()\n"
        "opening = asyncio.create_task(open_it())\n"
        "print(await job)"
    )
    assert talk.printed == "[0, 1, 2]\n"
    shown = [content["data"]["text/plain"] for content in talk.of_type("display_data")]
    last = [content["data"]["text/plain"] for content in talk.of_type("update_display_data")]
    assert len(shown) == 1
    assert "gated: done, 3 of 3" in last[-1]
    assert talk.of_type("comm_msg"), "it is not live"
    talk.works(
        "quiet = client.submit([1], lambda x: x, progress=False)\nprint(await job); print(await quiet)"
    )
    assert talk.printed == "[0, 1, 2]\n[1]\n"
    assert talk.of_type("display_data") == []
    talk.works("job.forget(); quiet.forget()")


def test_several_threads_each_show_their_job(talk):
    talk.works(
        "def use(n): results[n] = client.map(range(4), lambda x: x * n, name=f'job {n}')\n"
        "results = {}\n"
        "threads = [threading.Thread(target=use, args=[n]) for n in range(3)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "print([results[n] for n in range(3)])"
    )
    assert talk.printed == "[[0, 0, 0, 0], [0, 1, 2, 3], [0, 2, 4, 6]]\n"
    assert len(talk.of_type("display_data")) == 3
    last = " ".join(content["data"]["text/plain"] for content in talk.of_type("update_display_data"))
    for n in range(3):
        assert f"job {n}: done, 4 of 4" in last


def test_the_stop_button_of_an_async_cell_ends_the_waiting_alone(talk, tmp_path):
    """As for result(): the job goes on; cancel() ends it."""
    talk.works(
        "from pathlib import Path\n"
        f"gate = Path({str(tmp_path / 'gate')!r})\n"
        "def gated(x):\n    while not gate.exists(): time.sleep(0.01)\n    return x\n"
        "job = client.submit([1], gated, progress=False)\n"
        "threading.Timer(1.0, lambda: __import__('signal').raise_signal(2)).start()"
    )
    content = talk.run("await job")
    assert (content["status"], content["ename"]) == ("error", "CancelledError") or content[
        "ename"
    ] == "KeyboardInterrupt"
    talk.works("print(job.status); gate.touch(); print(await job); job.forget()")
    assert talk.printed == "running\n[1]\n"
