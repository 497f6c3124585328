"""The panel of workers in JupyterLab: its buttons, and what a saved notebook has of it."""

from __future__ import annotations

import re

import nbformat
import pytest

PATIENCE = 90_000


def saved(page):
    """Save a notebook; return the first cell's outputs as the file has them."""
    before = page.file.stat().st_mtime_ns
    page.page.keyboard.press("Control+s")
    for _ in range(600):
        page.page.wait_for_timeout(100)
        text = page.file.read_text()
        if page.file.stat().st_mtime_ns != before and text.endswith("}\n"):
            break
    return nbformat.reads(text, 4).cells[0].outputs


@pytest.mark.timeout(300)
def test_scale_and_stop_by_their_buttons(server, queue, notebook):
    from playwright.sync_api import expect

    page = notebook(
        f"import nbmr\nworkers = nbmr.workers(1, {queue!r})\nworkers", "print(len(workers), 'live')"
    )
    page.wait_for_kernel()
    page.run(0)
    cell = page.cell(0)
    expect(cell.get_by_text("1 worker on this machine", exact=False)).to_be_visible(timeout=PATIENCE)
    expect(cell.get_by_role("row")).to_have_count(2)
    expect(cell.get_by_role("cell", name="ready")).to_be_visible(timeout=PATIENCE)
    cell.get_by_role("spinbutton", name="Workers:").fill("2")
    cell.get_by_role("button", name="Scale").click()
    expect(cell.get_by_role("cell", name="ready")).to_have_count(2, timeout=PATIENCE)
    expect(cell.get_by_role("button", name="Scale")).to_be_enabled(timeout=PATIENCE)
    page.run(1)
    expect(page.output(1).first).to_have_text(re.compile("2 live"), timeout=PATIENCE)
    outputs = saved(page)
    assert "2 workers on this machine" in outputs[0].data["text/plain"]
    assert "<table" in outputs[0].data["text/html"]
    cell.get_by_role("button", name="Stop").click()
    expect(cell.get_by_text("stopped", exact=False)).to_be_visible(timeout=PATIENCE)
    expect(cell.get_by_role("button", name="Scale")).to_have_count(0)
    outputs = saved(page)
    assert outputs[0].data["text/plain"] == f"Workers of queue {queue}: stopped"
    assert all(set(output.data) <= {"text/html", "text/plain"} for output in outputs)
