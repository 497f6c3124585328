"""The peers: nbmr, and what it is compared with, each with two workers and set up as well as it can be.

Each has a module, which loads when it is used, and imports nothing heavy before it has to: `first` measures
imports.
"""

from __future__ import annotations

import importlib

from peers.peer import Peer

_HOMES = {
    "nbmr": "Nbmr",
    "futures": "Futures",
    "joblib": "Joblib",
    "dask": "Dask",
    "ipyparallel": "Ipyparallel",
    "ray": "Ray",
    "celery": "Celery",
    "pandas": "Pandas",
}
NAMES = tuple(_HOMES)
#: What has to be installed for a peer: its module, which is also the name to install it by.
NEEDS = {
    "joblib": "joblib",
    "dask": "distributed",
    "ipyparallel": "ipyparallel",
    "ray": "ray",
    "celery": "celery",
}


def make(name: str) -> Peer:
    """Make a peer, by name; it is not started yet."""
    peer: Peer = getattr(importlib.import_module(f"peers.{name}"), _HOMES[name])()
    return peer
