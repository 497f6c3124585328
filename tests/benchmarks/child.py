"""Measures one case of one peer: ``python child.py SPECIFICATION ANSWER-FILE``; `trial` starts it."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cases import CASES, Setting
from peers import make

#: Seconds within which workers have to be up.
PATIENCE = 120


def measure(case: str, peer: str, **options: Any) -> dict[str, Any]:
    try:
        tested = make(peer)
        if case in tested.skips:
            return {}
        with within(PATIENCE):
            address = tested.start()
            tested.prove()
    except Exception:  # noqa: BLE001 - told by the one who asked, who also ends what has started
        return {"not started": traceback.format_exc()}
    try:
        return dict(CASES[case](tested, Setting(peer=peer, address=address, **options)))
    except Exception:  # noqa: BLE001 - told by the one who asked
        return {"error": traceback.format_exc()}
    finally:
        tested.stop()


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise in the main thread if something takes longer."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"no two workers within {seconds} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def main() -> None:
    specification, file = sys.argv[1:]
    answer = measure(**json.loads(specification))
    Path(file).write_text(json.dumps(answer))


if __name__ == "__main__":  # workers that are spawned import this, too
    main()
