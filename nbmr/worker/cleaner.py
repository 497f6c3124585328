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
#: Longest path of the folder that it is made in, in bytes: the address of a socket in it has to fit 104 (on
#: Linux 108), and its own name and that of the socket take up to 38 of them.
_LONGEST = 64


def parent_folder() -> Path:
    """Return the folder that workers' temporary folders are made in."""
    usual = tempfile.gettempdir()
    return Path(usual if len(os.fsencode(usual)) <= _LONGEST else "/tmp")  # noqa: S108 - mkdtemp makes it safe


def folder_prefix(worker: int) -> str:
    """Return how the name of a worker's temporary folder begins."""
    return f"nbmr-{worker}-"


def clean_after(worker: int) -> None:
    """Remove the temporary folder of a worker that has ended, if its fork server was killed too."""
    for folder in parent_folder().glob(folder_prefix(worker) + "*"):
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove the folders of this user's workers that were killed with all who would have removed them."""
    for folder in parent_folder().glob("nbmr-*-*"):
        worker = folder.name.split("-")[1]
        if worker.isdigit() and folder.stat().st_uid == os.getuid() and not psutil.pid_exists(int(worker)):
            shutil.rmtree(folder, ignore_errors=True)


# The worker itself imports this before it has made the folder.
if FOLDER in os.environ:
    atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)
