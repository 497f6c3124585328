"""How well two processors are used, by tasks of one length and by tasks of very different ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import work
from peers import Peer
from peers.peer import WORKERS

from cases.setting import Numbers, Setting, best


def cpu(peer: Peer, setting: Setting) -> Numbers:
    partitions = 16
    df = pd.DataFrame({"x": range(partitions)})
    burn, warm_up = work.burner(setting.steps), work.burner(1)
    peer.frame(df, lambda part: part.assign(y=[warm_up(x) for x in part["x"]]), partitions)
    half, serial, bare, seconds = partitions // WORKERS, [], [], []
    for _ in range(setting.best_of):  # by turns, for the speed of a machine changes
        serial.append(work.bare(1, setting.steps, half) * WORKERS)
        bare.append(work.bare(WORKERS, setting.steps, half))
        got, took = best(
            lambda: peer.frame(df, lambda part: part.assign(y=[burn(x) for x in part["x"]]), partitions), 1
        )
        seconds.append(took)
    pd.testing.assert_frame_equal(got, df.assign(y=[burn(x) for x in df["x"]]))
    return {
        "cpu, s": min(seconds),
        "cpu, efficiency": min(serial) / min(seconds) / WORKERS,
        "cpu of two bare processes, efficiency": min(serial) / min(bare) / WORKERS,
    }


def tail(peer: Peer, setting: Setting) -> Numbers:
    weights = np.random.default_rng(7).pareto(1.5, 64) + 0.1
    items = [max(1, int(steps)) for steps in weights / weights.sum() * 12 * setting.steps]
    compute = work.computer()
    ones = [1] * len(items)
    assert peer.items(ones, compute) == [compute(1)] * len(items)
    want = [compute(steps) for steps in items]
    serial, seconds = [], []
    for _ in range(setting.best_of):
        serial.append(work.bare(1, sum(items) // WORKERS, 1) * WORKERS)
        got, took = best(lambda: peer.items(items, compute), 1)
        assert got == want
        seconds.append(took)
    ideal = min(serial) * max(1 / WORKERS, max(items) / sum(items))
    return {"heavy tail, s": min(seconds), "heavy tail, times the ideal": min(seconds) / ideal}
