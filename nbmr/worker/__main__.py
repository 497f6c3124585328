"""A worker as a process: ``python -m nbmr.worker``, with its options as JSON on standard input.

They come that way, and not as arguments, because the key among them must not stand in a list of processes.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading

from nbmr.errors import NbmrError
from nbmr.worker.cleaner import clean_after
from nbmr.worker.worker import Options, SubscriptionLost, Worker


def main() -> int:
    """Run one worker; return the exit status."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    # pika logs an exception for every connection that breaks; the link reconnects
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    options = Options(**json.loads(sys.stdin.readline()))
    try:
        worker = Worker(options, on_ready=lambda: _tell("ready"))
    except NbmrError as exc:
        _tell(f"failed {exc}")
        return 1
    worker.handle_signals()
    threading.Thread(target=_stop_without_pool, args=(worker,), daemon=True).start()
    try:
        worker.run()
    except SubscriptionLost as exc:
        logging.getLogger(__name__).warning("%s: this worker ends; its pool starts another one", exc)
        return 1
    except NbmrError as exc:
        _tell(f"failed {exc}")
        return 1
    finally:
        clean_after(os.getpid())
    return 0


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _stop_without_pool(worker: Worker) -> None:
    """Drain when the pool that started this worker is gone: it holds the other end of standard input."""
    sys.stdin.read()
    worker.stop()


if __name__ == "__main__":
    sys.exit(main())
