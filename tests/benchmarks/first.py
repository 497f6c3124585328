"""A new process up to its first result: ``python first.py PEER ADDRESS list|frame`` prints the seconds."""

from time import perf_counter

BEGAN = perf_counter()

import sys  # noqa: E402 - imports are what is measured
from typing import Any  # noqa: E402

from peers import Peer, make  # noqa: E402 - as light as it can be


def first(peer: Peer, data: str) -> Any:
    if data == "list":
        assert peer.items([1], lambda x: x + 1) == [2]
        return
    import pandas as pd

    got = peer.frame(pd.DataFrame({"x": range(16)}), lambda part: part * 2, 2)
    assert got["x"].tolist() == list(range(0, 32, 2))


def main() -> None:
    name, address, data = sys.argv[1:]
    peer = make(name)
    peer.connect(address)
    first(peer, data)
    print(perf_counter() - BEGAN)
    peer.close()


if __name__ == "__main__":
    main()
