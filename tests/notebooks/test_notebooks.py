"""Every notebook under notebooks/ runs, on a private node of its own, and leaves nothing behind."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

from nbmr import node

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
#: How many pictures are drawn, by the notebooks that draw any.
PLOTS = {"01-quickstart.ipynb": 1, "06-growth.ipynb": 6}
#: Notebooks that are stored with their outputs, since they take long; and the line that makes them quick.
KEPT = {"06-growth.ipynb": "SCALE = 1.0  #"}
NOT_KEPT = [path for path in NOTEBOOKS if path.name not in KEPT]


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes that were told to keep their state in this folder, other than this one."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("XDG_STATE_HOME", "").startswith(str(folder))
            ended = process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:  # another user's, or gone meanwhile
            continue
        if ours and not ended and process.pid != os.getpid():
            found.append(process)
    return found


@pytest.fixture
def own_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rabbitmq: None) -> Iterator[Path]:
    """Kernels started meanwhile find no node but their own, which lies in this folder."""
    for name in ("NBMR_URL", "NBMR_KEY", "NBMR_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in {
        "JUPYTER_RUNTIME_DIR": "runtime",
        "XDG_STATE_HOME": "state",
        "IPYTHONDIR": "ipython",
        "MPLCONFIGDIR": "matplotlib",
    }.items():
        (tmp_path / folder).mkdir(mode=0o700)
        monkeypatch.setenv(name, str(tmp_path / folder))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's is inline
    yield tmp_path
    node.stop()
    left = processes_of(tmp_path)
    for process in left:
        process.kill()
    assert not left, f"the node was stopped, and left {left}"


def outputs(notebook: nbformat.NotebookNode) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def pictures(notebook: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def words(text: str) -> set[str]:
    return set(re.findall(r"\b[^\W\d]\w*", text))


def test_there_are_notebooks() -> None:
    assert {path.name for path in NOTEBOOKS} >= PLOTS.keys() | KEPT.keys()
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOT_KEPT, ids=lambda path: path.name)
def test_is_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not outputs(notebook)
    assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("name", KEPT)
def test_is_stored_with_its_pictures(name: str) -> None:
    """And with nothing of the machine that drew them: tables have no word that the code doesn't have."""
    path = FOLDER / name
    assert path.stat().st_size < 400_000
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), (
        "run it once, from the top"
    )
    assert pictures(notebook) == PLOTS[name]
    assert notebook.metadata.keys() == {"kernelspec", "language_info"}, "no state of widgets"
    assert not any(cell.metadata for cell in notebook.cells)
    known = words(" ".join(cell.source for cell in code)) | words("<Figure size 1x1 with 1 Axes>")
    for output in outputs(notebook):
        assert output.output_type in ("execute_result", "display_data")
        assert not output.metadata
        assert output.data.keys() <= {"text/plain", "text/html", "image/png"}
        html = re.sub(r"<style.*?</style>|<[^>]*>", " ", output.data.get("text/html", ""), flags=re.DOTALL)
        for text in (output.data["text/plain"], html):
            assert "/" not in text
            assert words(text) <= known


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_executes(path: Path, own_node: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    if scale := KEPT.get(path.name):
        (cell,) = [cell for cell in notebook.cells if scale in cell.source]
        cell.source = cell.source.replace(scale, "SCALE = 0.001  #")
        for cell in notebook.cells:
            cell.update({"outputs": [], "execution_count": None} if cell.cell_type == "code" else {})
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()  # an error in a cell is raised, with its traceback

    assert [output for output in outputs(notebook) if output.output_type == "error"] == []
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source)
    assert processes_of(own_node), "it did not use the private node that was meant for it"
    assert pictures(notebook) == PLOTS.get(path.name, 0)
