"""Removes a worker's temporary folder when its fork server ends.

The fork server ends when its worker has, however that came about. So a killed worker leaves nothing behind.
"""

from __future__ import annotations

import atexit
import os
import shutil

#: Names the folder, in the fork server's environment.
FOLDER = "NBMR_WORKER_FOLDER"

# The worker itself imports this before it has made the folder.
if FOLDER in os.environ:
    atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)
