"""The panel of workers in a real kernel: what it shows, what its controls do, and what is left of it."""

from __future__ import annotations

import sys
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

WIDGET = "application/vnd.jupyter.widget-view+json"
#: What the cells below use: a way to wait, and to look at what a panel has sent last.
TOOLS = """
import time, threading, nbmr
from ipywidgets.widgets import widget as widgets

def eventually(condition, seconds=90):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.05)

def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("nbmr shows")]

def shown(panel):
    return panel._shown["text/plain"]
"""


class Client(NotebookClient):
    """Runs a notebook as a front end does, and keeps what it hears."""

    heard: list[dict[str, Any]]

    def process_message(self, msg, cell, cell_index):
        self.heard.append({"type": msg["msg_type"], "cell": cell_index, **msg["content"]})
        return super().process_message(msg, cell, cell_index)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Give a function that runs cells in a kernel of their own, after the tools."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))

    def run(*cells: str) -> tuple[list[list[Any]], Client]:
        notebook = new_notebook(cells=[new_code_cell(source) for source in (TOOLS, *cells)])
        client = Client(notebook, timeout=110, kernel_name="python3")
        client.heard = []
        client.execute()
        nbformat.validate(notebook)
        return [cell.outputs for cell in notebook.cells[1:]], client

    return run


def test_it_lives_scales_and_stops(server, queue, run):
    (first, second, third, fourth), client = run(
        f"workers = nbmr.workers(1, {queue!r}, memory_limit='2GB', env={{'TOKEN': 'hunter2'}})\nworkers",
        """
job = nbmr.submit([1], lambda x: __import__("time").sleep(2), queue=workers.queue, name="<b>nap")
eventually(lambda: "<b>nap #0 for" in shown(workers._panel))
job.result()
job.forget()
eventually(lambda: "1 ready" in shown(workers._panel))
""",
        """
controls = workers._panel._controls
controls._field.value = 2
began = time.monotonic()
controls._scaling.click()
assert time.monotonic() - began < 1  # no cell waits for it
assert controls._scaling.disabled
eventually(lambda: "2 workers" in shown(workers._panel) and "2 ready" in shown(workers._panel))
eventually(lambda: not controls._scaling.disabled)
""",
        """
controls._stopping.click()
assert controls._stopping.description == "Stop now"
eventually(lambda: "stopped" in shown(workers._panel))
eventually(lambda: not threads())
print(len(workers), len(widgets._instances))
workers
""",
    )
    table, controls = first
    # the notebook has the last state, without any widget
    assert set(table.data) == {"text/html", "text/plain"}
    assert table.data["text/plain"] == f"Workers of queue {queue}: stopped"
    assert set(controls.data) == {"text/plain"}
    assert second == third == []
    assert fourth[0].text == "0 0\n"
    assert fourth[1].data["text/plain"] == table.data["text/plain"]
    displays = [heard for heard in client.heard if "display_data" in heard["type"]]
    assert WIDGET in displays[1]["data"]
    assert displays[1]["data"]["text/plain"] == ""
    pages = "".join(heard["data"].get("text/html", "") for heard in displays)
    assert "&lt;b&gt;nap #0 for" in pages
    assert "<b>nap" not in pages
    assert "memory: at most 2.0 GB a task" in pages
    assert "variables: TOKEN" in pages
    assert "hunter2" not in str([heard for heard in client.heard if heard["type"] != "execute_input"])


def test_a_panel_shown_twice_is_one_panel(server, queue, run):
    (first, second, third), client = run(
        f"workers = nbmr.workers(1, {queue!r})\nworkers",
        "workers",
        "assert len(threads()) == 1\nworkers.stop()\neventually(lambda: not threads())",
    )
    for outputs in (first, second):
        assert "stopped" in outputs[0].data["text/plain"]
        assert set(outputs[1].data) == {"text/plain"}
    assert third == []
    assert sum(heard["type"] == "comm_open" for heard in client.heard) == sum(
        heard["type"] == "comm_close" for heard in client.heard
    )


FAKE = """
from nbmr.crew import Member
from nbmr.workers_panel import View, WorkersPanel

state = {"count": 2, "ended": False}

def look():
    members = tuple(Member("gpu", "lab", pid, "ready", 25_000_000) for pid in range(state["count"]))
    return View("gpu", members, state["count"], ended=state["ended"])

def scale(count):
    raise nbmr.WorkerError("Workers can't be started: <b>no memory</b>\\nTheir log ends:\\nlast line")

def stop(now):
    state["ended"] = True

panel = WorkersPanel(look, scale, stop)
panel.show()
"""


def test_what_goes_wrong_is_shown(run):
    (first, _), _ = run(
        FAKE,
        """
panel._controls._scaling.click()
eventually(lambda: "Their log ends:" in shown(panel))
assert "2 workers" in shown(panel)
eventually(lambda: not panel._controls._scaling.disabled)
""",
    )
    assert "WorkerError: Workers can't be started: <b>no memory</b>" in first[0].data["text/plain"]
    assert "  last line" in first[0].data["text/plain"]
    assert 'role="alert"' in first[0].data["text/html"]
    assert "&lt;b&gt;no memory" in first[0].data["text/html"]
    assert WIDGET in first[1].data


def test_it_is_sent_once_a_second_at_most_and_only_if_it_changed(run):
    _, client = run(
        FAKE,
        "time.sleep(2.5)",
        """
began = time.monotonic()
while time.monotonic() - began < 3:
    state["count"] += 1
    time.sleep(0.005)
seconds = time.monotonic() - began
""",
        "print(seconds)",
        "state['ended'] = True\neventually(lambda: not threads())",
    )

    def updates(cell):
        return sum(h["type"] == "update_display_data" and h["cell"] == cell for h in client.heard)

    assert updates(2) == 0  # nothing has changed
    seconds = float(client.nb.cells[4].outputs[0].text)
    assert 1 <= updates(3) <= seconds + 1


def test_without_ipywidgets_there_are_no_controls(run):
    (first, second), client = run(
        "import sys\nsys.modules['ipywidgets'] = None\n" + FAKE,
        "state['count'] = 5\neventually(lambda: '5 workers' in shown(panel))\nstate['ended'] = True\n"
        "eventually(lambda: not threads())",
    )
    (table,) = first
    assert "stopped" in table.data["text/plain"]
    assert second == []
    assert not any(heard["type"] == "comm_open" for heard in client.heard)
