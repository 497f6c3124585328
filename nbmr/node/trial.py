"""Whether RabbitMQ can start on this machine: a server is started, and ended again, data included."""

from __future__ import annotations

import time
from pathlib import Path

import platformdirs

from nbmr.errors import NodeError
from nbmr.node.configuration import Configuration
from nbmr.node.folder import Folder, check_disk
from nbmr.node.server import Server


def try_start(timeout: float, state_dir: Path | None = None) -> str:
    """Start a server as a private node's would be, and end it.

    Parameters
    ----------
    timeout
        Most seconds that it may take to start.
    state_dir
        Where its data lies meanwhile; by default where a private node's would.

    Returns
    -------
    str
        RabbitMQ's version.

    Raises
    ------
    NodeError
        It can't be started; says why.
    """
    place = state_dir or platformdirs.user_state_path("nbmr").absolute()
    check_disk(place)
    until = time.monotonic() + timeout

    def pause(seconds: float) -> None:
        if time.monotonic() > until:
            raise NodeError(f"RabbitMQ did not start within {timeout:g} s.")
        time.sleep(seconds)

    configuration = Configuration.draw()
    # Should this process be killed meanwhile, the next node ends what is left in such a folder.
    folder = Folder.make(place)
    server = Server(folder, configuration, pause, note=lambda _line: None)
    try:
        server.start()
    except OSError as exc:
        raise NodeError(f"RabbitMQ can't be started: {exc}") from exc
    finally:
        folder.end()
        server.forget()
    return server.version
