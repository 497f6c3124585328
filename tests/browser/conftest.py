"""JupyterLab, and Chromium that shows it: one of each for all tests here."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import expect, sync_playwright

#: Seconds that anything in a page may take before a test gives up; what is fast on a free machine is not on a
#: busy one.
PATIENCE = 60.0

ROOT = Path(__file__).parents[2]
#: Another Python to run the notebooks in: one that has ipykernel 6 instead of 7.
KERNEL = os.environ.get("NBMR_TEST_KERNEL_6", "")

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of Chromium; without it the tests are skipped, and fail where CI is set."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    why = "Chromium is not installed: apt-get install chromium"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


class Lab:
    """A JupyterLab server of these tests.

    Parameters
    ----------
    folder
        Where it keeps all its files; notebooks are in `folder / "notebooks"`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notebooks = folder / "notebooks"
        self.notebooks.mkdir(parents=True)
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, eventually: Callable[..., Any]) -> None:
        """Start it; it listens when this returns."""
        self.set("apputils-extension", "notification", {"fetchNews": "false", "checkForUpdates": False})
        if KERNEL:
            spec = self.folder / "data" / "kernels" / "python3" / "kernel.json"
            spec.parent.mkdir(parents=True)
            argv = [KERNEL, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            spec.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
        # what is in a notebook file is what a test saved
        self.set("docmanager-extension", "plugin", {"autosave": False})
        names = ("CONFIG", "DATA", "RUNTIME")
        folders = {f"JUPYTER_{name}_DIR": str(self.folder / name.lower()) for name in names}
        environment = {
            **os.environ,
            "JUPYTER_CONFIG_DIR": folders["JUPYTER_CONFIG_DIR"],
            "JUPYTER_DATA_DIR": folders["JUPYTER_DATA_DIR"],
            "JUPYTERLAB_SETTINGS_DIR": str(self.folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(self.folder / "workspaces"),
            "IPYTHONDIR": str(self.folder / "ipython"),
            "PYTHONPATH": str(ROOT),
            "JUPYTER_PREFER_ENV_PATH": "0",  # kernels of our own come first
        }
        log = (self.folder / "log").open("wb")
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0",
            "--IdentityProvider.token=", "--ServerApp.password=", f"--ServerApp.root_dir={self.notebooks}",
            "--ServerApp.allow_root=True", "--ServerApp.quit_button=False",
        ]  # fmt: skip
        with log:
            self._process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.url = eventually(self._find_url, PATIENCE)

    def _find_url(self) -> str:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        found = re.search(r"(http://127\.0\.0\.1:[1-9]\d*)/lab", self.log)
        return found.group(1) if found else ""

    @property
    def log(self) -> str:
        """What it has written."""
        return (self.folder / "log").read_text()

    def set(self, extension: str, plugin: str, values: dict[str, Any]) -> None:
        """Change the settings of one of JupyterLab's plugins."""
        file = self.folder / "settings" / "@jupyterlab" / extension / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))

    def stop(self) -> None:
        """End it, with its kernels."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        Path(os.environ["JUPYTER_RUNTIME_DIR"], "jupyter_cookie_secret").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def lab(home: Path, chromium: str) -> Iterator[Lab]:
    """A JupyterLab server with folders of its own."""
    lab = Lab(home / "lab")

    def eventually(condition: Callable[[], Any], seconds: float) -> Any:
        until = time.monotonic() + seconds
        while not (result := condition()):
            assert time.monotonic() < until, lab.log
            time.sleep(0.1)
        return result

    try:
        lab.start(eventually)
        yield lab
    finally:
        lab.stop()


@pytest.fixture(scope="module")
def browser(chromium: str, home: Path) -> Iterator[Any]:
    """Chromium without a window; ended with the file, since an event loop runs in this thread meanwhile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        yield browser
        browser.close()


class Notebook:
    """A notebook that is open in JupyterLab, in a page of its own."""

    def __init__(self, page: Any, lab: Lab, name: str) -> None:
        self.page, self._lab, self.name = page, lab, name
        self.file = lab.notebooks / name

    def open(self) -> None:
        """Open it, or open it again."""
        self.page.goto(f"{self._lab.url}/lab/tree/{self.name}?reset")
        self.page.get_by_role("tab", name=re.compile(re.escape(self.name))).first.wait_for()
        self.cell(0).wait_for()

    def wait_for_kernel(self) -> None:
        """Wait until its kernel is there, and has nothing to do."""
        self.page.get_by_text(re.compile(r"\| Idle")).first.wait_for()

    def cell(self, number: int) -> Any:
        """One cell."""
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell").nth(number)

    def output(self, number: int) -> Any:
        """What a cell shows."""
        return self.cell(number).locator(".jp-OutputArea-output")

    def run(self, number: int) -> None:
        """Begin to run a cell."""
        self.cell(number).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def choose(self, *path: str) -> None:
        """Choose from the menu."""
        menu, *items = path
        self.page.get_by_role("menuitem", name=menu, exact=True).first.click()
        for item in items:
            self.page.locator(".lm-Menu-item", has_text=re.compile(rf"^{item}")).last.click()

    def interrupt(self) -> None:
        """Press the notebook's own stop button."""
        self.page.get_by_role("button", name="Interrupt the kernel").click()

    def ended(self, number: int) -> None:
        """Wait until a cell is done."""
        prompt = self.cell(number).locator(".jp-InputPrompt")
        expect(prompt).to_have_text(re.compile(r"\[\d+\]"))

    def save(self) -> Any:
        """Save it; return what the file has now."""
        before = self.file.stat().st_mtime_ns
        self.page.keyboard.press("Control+s")
        for _ in range(600):
            if self.file.stat().st_mtime_ns != before:
                with contextlib.suppress(nbformat.reader.NotJSONError):  # it is being written
                    return nbformat.read(self.file, 4)
            self.page.wait_for_timeout(100)
        raise AssertionError("the notebook was not saved")


@pytest.fixture
def notebook(lab: Lab, browser: Any, request: Any) -> Iterator[Callable[..., Notebook]]:
    """Give a function that opens a notebook of these cells, or a saved one; its kernel ends with the test."""
    contexts: list[Any] = []

    def notebook(*cells: str, file: Any = None, **options: Any) -> Notebook:
        name = re.sub(r"\W", "_", f"{request.node.name}-{len(contexts)}") + ".ipynb"
        kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
        new = new_notebook(cells=[new_code_cell(c) for c in cells], metadata={"kernelspec": kernel})
        nbformat.write(file or new, lab.notebooks / name)
        expect.set_options(timeout=PATIENCE * 1000)
        context = browser.new_context(viewport={"width": 1000, "height": 900}, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE * 1000)
        made = Notebook(context.new_page(), lab, name)
        made.open()
        made.wait_for_kernel()
        return made

    yield notebook
    for context in contexts:
        with contextlib.suppress(Exception):
            for session in context.request.get(f"{lab.url}/api/sessions").json():
                context.request.delete(f"{lab.url}/api/sessions/{session['id']}", headers={"Origin": lab.url})
        context.close()
