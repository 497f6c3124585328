"""What a run has to itself: its folders, its private RabbitMQ node; and that nothing is left of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from nbmr import node


@contextlib.contextmanager
def home() -> Iterator[Path]:
    """Folders of our own, so that nobody's node is touched; at the end, nothing of ours is left."""
    place = Path(tempfile.mkdtemp(prefix="nbmr-bench-"))
    (place / "tmp").mkdir()
    # the latter would have nbmr, unlike what is installed, compiled again in each new process
    for name in ("NBMR_URL", "NBMR_KEY", "NBMR_KEY_FILE", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name, None)
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    os.environ.update(
        JUPYTER_RUNTIME_DIR=str(place / "runtime"),
        XDG_STATE_HOME=str(place / "state"),
        IPYTHONDIR=str(place / "ipython"),
        TMPDIR=str(place / "tmp"),
        PYTHONPATH=path,
        PYTHONWARNINGS="ignore",
        PICKLE_PROTOCOL="5",  # kombu's own default is 4
        C_FORCE_ROOT="1",  # or else Celery takes no pickles where it runs as root
    )
    try:
        yield place
    finally:
        node.stop()
        if left := [*processes(place)]:
            print("left behind, and killed: " + ", ".join(f"{p.pid} {p.name()}" for p in left))
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        shutil.rmtree(place, ignore_errors=True)


def processes(place: Path | str, seconds: float = 5.0) -> Iterator[psutil.Process]:
    """Yield the processes of this run that still live after some seconds, besides this one.

    `place` is what they have in their arguments or environment: the run's folder, or a trial's mark.
    """
    until = time.monotonic() + seconds
    while found := [process for process in psutil.process_iter() if is_ours(process, place)]:
        if time.monotonic() > until:
            yield from found
            return
        time.sleep(0.1)


def is_ours(process: psutil.Process, place: Path | str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
            return any(str(place) in value for value in (*process.cmdline(), *process.environ().values()))
    return False


@contextlib.contextmanager
def private_node() -> Iterator[None]:
    """Give a new private RabbitMQ node, which lives as long as this lasts."""
    info = node.ensure()
    try:
        with node.hold(info.data_dir, "clients"):
            yield
    finally:
        node.stop()
