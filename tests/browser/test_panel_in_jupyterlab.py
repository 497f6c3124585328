"""The job panel in JupyterLab: what a person sees, and that each button which is shown works."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import expect

#: A page takes its time on a busy machine; no test waits for long where nothing happens.
pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
#: Where to save a picture of the panel for README.md.
SCREENSHOT = os.environ.get("NBMR_SCREENSHOT", "")
#: Whether the kernels are some of the older kind: see conftest.py.
IPYKERNEL_6 = os.environ.get("NBMR_TEST_KERNEL_6", "")
#: Most seconds from a click to the cell's end; one or two are usual.
SOON = 20.0

BEGIN = """
import time
import nbmr
client = nbmr.Client()

def work(x):
    print(f"item {{x}} <b>begins</b>")
    if x % 10 == 3:
        raise ValueError(f"bad <i>{{x}}</i>")
    time.sleep({seconds})
    return x

options = dict(queue={queue!r}, partitions=400, on_error="keep")
"""
MAP = "client.map(range(400), work, **options)"
SUBMIT = "job = client.submit(range(400), work, **options)\njob"
AWAIT = "await client.submit(range(400), work, **options)"
RUNNING = re.compile(r"running\s*\d+ of 400")


@pytest.fixture
def begin(queue):
    """The first cell: a client, and a function that takes its time."""
    return BEGIN.format(queue=queue, seconds=0.2)


def begun(notebook):
    """Run a notebook's first cell."""
    notebook.run(0)
    notebook.ended(0)
    return notebook


def cancel(notebook, number):
    """Click a panel's button; return how many seconds it took until it was gone."""
    button = notebook.output(number).get_by_role("button", name="Cancel")
    button.wait_for()
    clicked = time.monotonic()
    button.click()
    button.wait_for(state="detached")
    return time.monotonic() - clicked


def test_a_blocking_call(notebook, client, queue, begin, lab):
    with client.workers(2, queue=queue):
        page = begun(notebook(begin, MAP))
        page.run(1)
        panel = page.output(1)
        expect(panel.get_by_role("progressbar", name="work")).to_have_attribute(
            "aria-valuenow", re.compile(r"[1-9]")
        )
        expect(panel).to_contain_text(re.compile(r"\d+ of 400 · \d+ failed · \d+ running · .*/s · .* left"))
        expect(panel).to_contain_text(re.compile(r"2 workers · .*B sent · .*B received"))
        workers = panel.get_by_role("row")
        expect(workers).to_have_count(3)
        expect(workers.first).to_contain_text(re.compile("Worker.*State.*Done.*Task.*Memory.*CPU"))
        expect(workers.nth(1)).to_contain_text(re.compile(r"\w+:\d+\s*running.*\d for \d.*MB.*%"))
        expect(panel.get_by_role("log")).to_contain_text("item 5 <b>begins</b>")

        # a traceback that was unfolded stays so, while the panel goes on
        failure = panel.locator("details", has_text="Number 3: ValueError: bad <i>3</i>")
        expect(failure.get_by_text("Traceback")).to_be_hidden()
        failure.locator("summary").click()
        expect(failure.get_by_text("Traceback")).to_be_visible()
        expect(panel).to_contain_text("Number 33: ValueError")
        expect(failure.get_by_text("Traceback")).to_be_visible()

        assert cancel(page, 1) < SOON
        page.ended(1)
        expect(panel.first).to_contain_text("cancelled")
        expect(panel.last).to_contain_text("JobCancelled")
        free = client.map([1, 2], lambda x: -x, queue=queue, partitions=2, progress=False)
        assert free == [-1, -2]

        saved = page.save()
        shown = saved.cells[1].outputs[0].data
        assert set(shown) == {"text/html", "text/plain"}
        static = HTMLExporter().from_notebook_node(saved)[0]
        for text in ("cancelled", "of 400", "Number 3: ValueError: bad &lt;i&gt;3&lt;/i&gt;", "ValueError(f"):
            assert text in static
        assert "widget-view" not in static
        # in a page of its own, with a kernel that knows nothing of it
        again = notebook(file=saved)
        expect(again.output(1).first).to_contain_text(re.compile(r"cancelled.*of 400.*Number 3: ", re.DOTALL))
        assert again.output(1).get_by_role("button").count() == 0


def test_cancel_of_jobs_that_do_not_block(notebook, client, queue, begin):
    with client.workers(2, queue=queue):
        page = begun(notebook(begin, SUBMIT, AWAIT, "time.sleep(600)"))
        page.run(1)
        page.ended(1)
        assert cancel(page, 1) < SOON
        expect(page.output(1)).to_contain_text("cancelled")
        page.run(2)
        assert cancel(page, 2) < SOON
        page.ended(2)
        expect(page.output(2).first).to_contain_text("cancelled")
        expect(page.output(2).last).to_contain_text("JobCancelled")

        # while another cell computes, a button is shown only if it works
        page.run(1)
        page.run(3)
        busy = page.output(1).get_by_text("kernel busy: interrupt it, then cancel")
        expect(busy.or_(page.output(1).get_by_role("button", name="Cancel"))).to_be_visible()
        page.page.wait_for_timeout(1000)
        if busy.is_visible():
            page.interrupt()
            page.ended(3)
        assert cancel(page, 1) < SOON
        expect(page.output(1)).to_contain_text("cancelled")


def test_after_a_reload_and_in_a_second_notebook_the_panel_lives(notebook, client, queue, begin):
    with client.workers(2, queue=queue):
        page = begun(notebook(begin, SUBMIT, AWAIT))
        page.run(1)
        expect(page.output(1).get_by_role("progressbar")).to_be_visible()
        if not IPYKERNEL_6:  # it answers a page that was loaded again when no cell runs
            page.run(2)
            expect(page.output(2).get_by_role("progressbar")).to_be_visible()
        page.save()
        page.open()
        panel = page.output(1)
        expect(panel).to_contain_text(RUNNING)
        before = panel.inner_text()
        expect(panel).not_to_have_text(before)  # it lives
        if not IPYKERNEL_6:
            expect(page.output(2)).to_contain_text(re.compile(r"pending\s*0 of 400"))

        second = notebook(
            "import nbmr\nclient = nbmr.Client()\njobs = client.jobs()",
            f"job = client.attach(jobs[jobs.queue == {queue!r}].id.iloc[0])\njob",
        )
        begun(second).run(1)
        expect(second.output(1)).to_contain_text(RUNNING)
        assert cancel(second, 1) < SOON
        expect(second.output(1)).to_contain_text("cancelled")
        expect(page.output(1)).to_contain_text("cancelled")  # the same job, in the page that was loaded anew
        if not IPYKERNEL_6:
            expect(page.output(2)).to_contain_text(RUNNING)  # it was behind the other
            assert cancel(page, 2) < SOON
            expect(page.output(2)).to_contain_text("cancelled")


def test_broker_states_themes_and_foreign_text(notebook, named, server, queue):
    evil = "<img src=x onerror='window.evil=1'>"
    cells = (
        f"import nbmr\nclient = nbmr.Client({named.url!r}, {named.key!r})",
        f"client.map([1], print, name={evil!r}, queue={queue!r})",
    )
    page = begun(notebook(*cells))
    page.run(1)
    panel = page.output(1)
    hint = panel.get_by_role("status")
    expect(hint).to_contain_text("No worker listens to queue")
    expect(hint).to_contain_text("Start some: nbmr.workers(2")
    expect(panel.get_by_text(evil)).to_be_visible()
    assert page.page.evaluate("window.evil") is None

    def darkness():
        color = hint.evaluate("element => getComputedStyle(element).color")
        return sum(map(int, re.findall(r"\d+", color)[:3])) < 3 * 128

    assert darkness()
    page.choose("Settings", "Theme", "JupyterLab Dark")
    page.page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
    assert not darkness()

    alarm = "{resource_limit, memory, node()}"
    server.eval(f"rabbit_alarm:set_alarm({{{alarm}, []}}).")
    try:
        expect(hint).to_contain_text("RabbitMQ: blocked")
    finally:
        server.eval(f"rabbit_alarm:clear_alarm({alarm}).")
    expect(hint).to_contain_text("No worker listens to queue")
    server.eval(
        '[rabbit_networking:close_connection(P, "test") || [{pid, P}, {vhost, <<"named">>}] <-'
        " rabbit_networking:connection_info_all([pid, vhost])]."
    )
    expect(hint).to_contain_text("RabbitMQ: reconnecting")
    expect(hint).to_contain_text("No worker listens to queue")
    assert cancel(page, 1) < SOON
    page.ended(1)
    expect(panel.first).to_contain_text("cancelled")


def test_the_first_cell_of_the_readme(notebook, client):
    readme = (ROOT / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL).group(1)
    assert len([line for line in code.splitlines() if line]) == 5
    check = "assert len(means) == 500 and means[7] == resample(7)"
    page = notebook(code.strip(), check, device_scale_factor=2)
    page.page.keyboard.press("Control+b")  # the list of files goes
    page.run(0)
    panel = page.output(0)
    bar = panel.get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuenow", re.compile(r"[3-9]\d"))
    expect(panel.get_by_role("row")).to_have_count(3)
    expect(panel.get_by_role("button", name="Cancel")).to_be_visible()
    if SCREENSHOT:
        page.page.mouse.move(0, 0)
        page.cell(0).screenshot(path=SCREENSHOT)
    page.ended(0)
    expect(panel).to_contain_text(re.compile("done.*500 of 500 · in ", re.DOTALL))
    page.run(1)
    page.ended(1)
    expect(page.output(1)).to_have_count(0)
