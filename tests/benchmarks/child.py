"""Measures one case of one peer: ``python child.py SPECIFICATION ANSWER-FILE``; `run` starts it."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

from cases import CASES, Setting
from peers import PEERS


def measure(case: str, peer: str, **options: Any) -> dict[str, Any]:
    tested = PEERS[peer]()
    if case in tested.skips:
        return {}
    address = tested.start()
    try:
        tested.prove()
        return dict(CASES[case](tested, Setting(peer=peer, address=address, **options)))
    except Exception:  # noqa: BLE001 - told by the one who asked
        return {"error": traceback.format_exc()}
    finally:
        tested.stop()


def main() -> None:
    specification, file = sys.argv[1:]
    answer = measure(**json.loads(specification))
    Path(file).write_text(json.dumps(answer))


if __name__ == "__main__":  # workers that are spawned import this, too
    main()
