"""Gathering holds the result and little more: measured in a process of its own."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from nbmr.frames import gather

SCRIPT = '''
import gc, json, pickle, sys
import numpy as np, pandas as pd
from nbmr.frames import gather
import nbmr.frames.concat  # so that its import is not measured

kind, count, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def part(number):
    rng = np.random.default_rng(number)
    if kind == "wide":
        return pd.DataFrame(rng.random((rows // 200, 1200)))
    frame = pd.DataFrame(rng.random((6, rows)).T)
    if kind == "mixed":
        frame[6] = pd.array(np.arange(rows), dtype="Int64")
        frame[7] = pd.date_range("2024", periods=rows, freq="s", tz="UTC")
        frame[8] = pd.Categorical.from_codes(np.arange(rows) % 3, ["a", "b", "c"])
    if kind == "pieces":  # what this one column holds on to must not keep the others
        breaks = np.arange(rows + 1)
        frame[6] = pd.arrays.IntervalArray.from_breaks(breaks)
    if kind == "index":
        frame.index = rng.permutation(rows)
    return frame


def received(frame):
    """Unpickle a frame whose arrays are views of one message."""
    buffers = []
    head = pickle.dumps(frame, protocol=5, buffer_callback=buffers.append)
    body = memoryview(b"".join(buffer.raw() for buffer in buffers))
    views, start = [], 0
    for buffer in buffers:
        views.append(body[start : start + buffer.raw().nbytes])
        start += buffer.raw().nbytes
    return pickle.loads(head, buffers=views)


def mebibytes(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(key))


parts = [received(part(number)) for number in range(count)]
gc.collect()
with open("/proc/self/clear_refs", "w") as clear:
    clear.write("5")  # forget the peak so far
before = mebibytes("VmRSS")
result = gather(parts, of_frame=True)
size = int(result.memory_usage(index=kind == "index").sum()) / 2**20
print(json.dumps({"above": mebibytes("VmHWM") - before, "size": size, "rows": len(result)}))
'''


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["floats", "mixed", "pieces", "wide", "index"])
@pytest.mark.parametrize(("count", "rows"), [(8, 600_000), (60, 80_000)], ids=["large", "small"])
def test_memory_holds_the_result_and_one_partition(kind, count, rows):
    command = [sys.executable, "-c", SCRIPT, kind, str(count), str(rows)]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert done["rows"] == count * (rows // 200 if kind == "wide" else rows)
    # Before it, memory held all partitions: as much as the result. A plain pd.concat needs that twice.
    assert done["size"] > 200
    # An interval column is copied once more at the end: 16 bytes for each row.
    assert done["above"] < 100 + (16 * count * rows / 2**20 if kind == "pieces" else 0)


def test_a_forked_process_does_not_write_into_a_large_result():
    part = pd.DataFrame({"a": np.zeros(400_000), "b": np.zeros(400_000)})
    joined = gather([part, part], of_frame=True)
    pid = os.fork()
    if not pid:
        joined.iloc[:, :] = 1.0
        os._exit(0)
    os.waitpid(pid, 0)
    assert not joined.to_numpy().any()
