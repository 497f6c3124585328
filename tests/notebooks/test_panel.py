"""The panel in a real kernel: what a saved notebook shows, and what goes to the front end meanwhile."""

from __future__ import annotations

import sys
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

WIDGET = "application/vnd.jupyter.widget-view+json"
#: A job that its own thread moves on, while the main thread waits or does something else.
JOB = """
import threading, time
from types import SimpleNamespace
from nbmr import widgets
from nbmr.failures import Failure
from nbmr.standing import Member, Progress
from nbmr.printed import Printed
from nbmr.progress import follow, starting

class Job:
    id, name, status, hint, rejected = "4f2a", "<script>alert(1)</script>", "pending", "", 0
    done, failures = 0, []
    workers = frozenset(["one", "two"])
    members, roster, cancelled, log = {}, list, False, SimpleNamespace(about={}, told={})

    def __init__(self, total, seconds_each):
        self.total, self.seconds_each = total, seconds_each
        self.began, self.ended = time.monotonic(), threading.Event()
        self.followers, self.printed, self.while_waiting = set(), Printed(), None

    def cancel(self):
        self.cancelled = True

    def crew(self):
        return self.members

    def print(self, *lines):
        self.printed.add(3, "w", "".join(f"{line}\\n" for line in lines))

    def start(self):
        threading.Thread(target=self.run).start()
        return self

    def run(self):
        self.status = "running"
        for self.done in range(1, self.total + 1):
            time.sleep(self.seconds_each)
        self.status = "done"
        self.ended.set()

    @property
    def progress(self):
        seconds = time.monotonic() - self.began
        return Progress(self.done, len(self.failures), 0, self.total, seconds, 0, self.workers)

    def _repr_mimebundle_(self, include=None, exclude=None):
        return widgets.mimebundle(self)

    def _ipython_display_(self):
        widgets.show(self)

def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("nbmr")]
"""


class Client(NotebookClient):
    """Runs a notebook as a front end does, and keeps what it hears."""

    heard: list[dict[str, Any]]

    def process_message(self, msg, cell, cell_index):
        self.heard.append({"type": msg["msg_type"], "cell": cell_index, **msg["content"]})
        return super().process_message(msg, cell, cell_index)

    def of_type(self, *types: str) -> list[dict[str, Any]]:
        return [message for message in self.heard if message["type"] in types]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Give a function that runs cells in a kernel of their own, after the one that makes `Job`."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))

    def run(*cells: str, allow_errors: bool = False) -> tuple[list[list[Any]], Client]:
        notebook = new_notebook(cells=[new_code_cell(source) for source in (JOB, *cells)])
        client = Client(notebook, timeout=60, kernel_name="python3", allow_errors=allow_errors)
        client.heard = []
        client.execute()
        nbformat.validate(notebook)
        return [cell.outputs for cell in notebook.cells[1:]], client

    return run


def is_static(output: Any, *texts: str) -> None:
    """Assert that an output needs neither kernel nor widgets, and says all these."""
    assert set(output.data) == {"text/html", "text/plain"}
    assert output.data["text/plain"].startswith("<script>alert(1)</script>: ")
    assert "<script" not in output.data["text/html"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in output.data["text/html"]
    for text in texts:
        assert text in output.data["text/plain"]
        assert text in output.data["text/html"]


def test_a_saved_notebook_shows_the_final_state(run):
    (outputs,), client = run("job = Job(40, 0.01).start()\nwith follow(job):\n    job.ended.wait()")
    (output,) = outputs
    is_static(output, "done", "40 of 40", "in 0.", "2 workers")
    (shown,) = client.of_type("display_data")
    assert WIDGET in shown["data"]
    assert {"text/html", "text/plain"} < set(shown["data"])


def test_ten_updates_a_second_at_most_while_the_cell_blocks(run):
    (outputs,), client = run("job = Job(1500, 0.001).start()\nwith follow(job):\n    job.ended.wait()")
    is_static(outputs[0], "1,500 of 1,500")
    seconds = float(outputs[0].data["text/plain"].split("in ")[1].split(" s")[0])
    updates = client.of_type("comm_msg")
    assert 5 * seconds < len(updates) <= 10 * seconds + 3
    values = [str(update["data"]["state"]) for update in updates]
    assert "<script" not in "".join(values)
    assert len(set(values)) == len(values)
    assert len(client.of_type("update_display_data", "display_data")) == 2


def test_nothing_is_sent_while_nothing_changes(run):
    source = "job = Job(40, 0)\njob.workers = ()\nwith follow(job):\n    time.sleep(0.6)"
    (outputs,), client = run(source)
    is_static(outputs[0], "still pending", "0 of 40")
    (last,) = client.of_type("comm_msg")
    assert set(last["data"]["state"]) == {"children"}  # the last state takes the place of the others


def values(client: Client) -> list[str]:
    """The HTML that was sent to widgets, in order."""
    opened = [message["data"]["state"].get("value", "") for message in client.of_type("comm_open")]
    updated = [message["data"]["state"].get("value", "") for message in client.of_type("comm_msg")]
    return [value for value in (*opened, *updated) if value]


def test_hint_and_failure_are_shown(run):
    source = """
job = Job(40, 0)
with follow(job):
    job.hint = "No worker listens to queue '<b>'."
    time.sleep(0.3)
    job.hint, job.failures = "", [Failure("error", 7, "ValueError: <bad>")]
    job.status = "failed"
"""
    (outputs,), client = run(source)
    is_static(outputs[0], "failed", "1 failed")
    assert "Number 7: ValueError: <bad>" in outputs[0].data["text/plain"]
    assert "Number 7: ValueError: &lt;bad&gt;" in outputs[0].data["text/html"]
    assert any("No worker listens to queue &#x27;&lt;b&gt;&#x27;." in value for value in values(client))


def test_a_failure_is_shown_once_and_never_written_anew(run):
    source = """
job = Job(1500, 0.001).start()
with follow(job):
    for n in range(100):
        job.failures = [*job.failures, Failure("error", n, f"bad {n}", "Traceback: <b>")]
        time.sleep(0.01)
    job.ended.wait()
"""
    (outputs,), client = run(source)
    is_static(outputs[0], "100 failed")
    live = [value for value in values(client) if "<details" in value and "progressbar" not in value]
    assert len(live) == 20
    assert all(value.count("<details") == 1 for value in live)
    assert all(f"bad {n}</summary>" in live[n] for n in range(20))
    assert any("and 80 more failures" in value for value in values(client))
    assert outputs[0].data["text/html"].count("Traceback: &lt;b&gt;") == 20


def test_a_million_lines_of_output_are_a_few_small_messages(run):
    source = """
job = Job(1500, 0.001).start()
with follow(job):
    for done in range(0, 1_000_000, 1000):
        job.print(*(f"line {done + n} " + "x" * 5000 for n in range(1000)))
    job.print("the last line")
    job.ended.wait()
    time.sleep(0.5)
"""
    (outputs,), client = run(source)
    live = [value for value in values(client) if 'role="log"' in value]
    assert 1 <= len(live) <= len(client.of_type("comm_msg", "comm_open"))
    assert max(map(len, live)) < 250_000
    assert "the last line" in live[-1]
    assert "999,801 more lines before these" in live[-1]
    assert "1,000,001 lines" in outputs[0].data["text/html"]
    assert "the last line" in outputs[0].data["text/plain"]
    assert len(outputs[0].data["text/html"]) < 100_000


def test_the_workers_are_looked_at_once_a_second(run):
    source = """
job = Job(1500, 0.001).start()
with follow(job):
    while not job.ended.wait(0.01):
        job.members = {"node1:1": Member("node1", job.done, 0, {job.done: time.time() - 3})}
"""
    (outputs,), client = run(source)
    live = [value for value in values(client) if "<table" in value and "progressbar" not in value]
    seconds = float(outputs[0].data["text/plain"].split("in ")[1].split(" s")[0])
    assert 1 <= len(live) <= seconds + 1
    assert "node1:1" in live[0]
    assert " for 3." in live[0]
    assert "node1:1" in outputs[0].data["text/html"]


def test_where_no_button_would_work_it_says_what_to_do(run):
    source = "job = Job(40, 0)\nwith follow(job):\n    time.sleep(2.5)\nprint(job.cancelled)"
    (outputs,), client = run(source)
    assert any("interrupt the kernel to stop" in value for value in values(client))
    assert not any("<button" in value for value in values(client))
    models = [message["data"]["state"].get("_model_name") for message in client.of_type("comm_open")]
    assert "HTMLModel" in models
    assert "ButtonModel" not in models
    assert outputs[-1].text == "False\n"


def test_the_kernel_keeps_little(run):
    source = """
from ipywidgets.widgets import widget
for _ in range(widgets.KEPT + 5):
    job = Job(2, 0.05).start()
    with follow(job):
        assert len(threads()) == 1
        job.ended.wait()
    assert not job.followers
print(len(widget._instances) // widgets.KEPT, threads())
"""
    (outputs,), _ = run(source)
    assert outputs[-1].text == "5 []\n"  # a box with one HTML in it, and their layouts and style


@pytest.mark.parametrize(
    ("stop", "name"),
    [("raise ValueError('bad')", "ValueError"), ("signal.raise_signal(signal.SIGINT)", "KeyboardInterrupt")],
)
def test_after_an_error_or_a_stop_the_state_stays(run, stop, name):
    source = f"import signal\njob = Job(40, 0)\njob.done = 24\nwith follow(job):\n    {stop}"
    (first, second), _ = run(source, "print(threads())", allow_errors=True)
    is_static(first[0], "still pending", "24 of 40")
    assert first[1].ename == name
    assert second[0].text == "[]\n"


def test_without_ipywidgets_the_output_itself_is_updated(run):
    source = """
import sys
sys.modules["ipywidgets"] = None
job = Job(40, 0.01).start()
with follow(job):
    job.ended.wait()
"""
    (outputs,), client = run(source)
    is_static(outputs[0], "done", "40 of 40")
    assert 3 <= len(client.of_type("update_display_data")) <= 8
    assert client.of_type("comm_open") == []


def test_a_job_at_the_end_of_a_cell_lives_on_in_its_own_output(run):
    (first, second, third), client = run(
        "job = Job(40, 0.02).start()\njob",
        "print('elsewhere')\njob.ended.wait()\nwhile threads():\n    time.sleep(0.02)",
        "job",
    )
    assert len(first) == 1
    is_static(first[0], "done", "40 of 40")
    assert WIDGET in client.of_type("display_data")[0]["data"]
    assert [output.output_type for output in second] == ["stream"]
    assert third[0].output_type == "execute_result"
    is_static(third[0], "done", "40 of 40")


def test_false_shows_nothing(run):
    source = "with starting(False) as say, follow(Job(40, 0), False):\n    say('…')"
    (outputs,), client = run(source)
    assert outputs == []
    assert client.of_type("comm_open", "display_data") == []


def test_what_is_waited_for_is_shown_and_gone_at_the_end(run):
    source = "with starting() as say:\n    say('Starting <node> … 1 s')\n    say('Starting <node> … 2 s')"
    (outputs,), client = run(source)
    first, second, last = client.of_type("display_data", "update_display_data")
    assert first["data"]["text/plain"] == "Starting <node> … 1 s"
    assert "Starting &lt;node&gt; … 2 s" in second["data"]["text/html"]
    assert last["data"] == outputs[0].data == {"text/plain": ""}


def test_nothing_is_shown_where_nothing_is_waited_for(run):
    (outputs,), _ = run("with starting() as say:\n    pass")
    assert outputs == []


def test_an_error_names_the_cell(run):
    with pytest.raises(CellExecutionError, match="progress is 'window'"):
        run("follow(Job(1, 0), 'window')")
