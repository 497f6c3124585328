"""Removes a worker's temporary folder when its fork server ends.

The fork server ends when its worker has, however that came about. So a killed worker leaves nothing behind.
Where the fork server is killed too, the pool removes the folder.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import psutil

#: Names the folder, in the fork server's environment.
FOLDER = "NBMR_WORKER_FOLDER"


def folder_prefix(worker: int) -> str:
    """Return how the name of a worker's temporary folder begins."""
    return f"nbmr-{worker}-"


def clean_after(worker: int) -> None:
    """Remove the temporary folder of a worker that has ended, if its fork server was killed too."""
    for folder in Path(tempfile.gettempdir()).glob(folder_prefix(worker) + "*"):
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove the folders of this user's workers that were killed with all who would have removed them."""
    for folder in Path(tempfile.gettempdir()).glob("nbmr-*-*"):
        worker = folder.name.split("-")[1]
        if worker.isdigit() and folder.stat().st_uid == os.getuid() and not psutil.pid_exists(int(worker)):
            shutil.rmtree(folder, ignore_errors=True)


# The worker itself imports this before it has made the folder.
if FOLDER in os.environ:
    atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)
