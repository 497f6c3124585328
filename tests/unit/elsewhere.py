"""Run payloads in a process that has neither the notebook's folder nor its modules."""

from __future__ import annotations

import linecache
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from nbmr.codec import decode, encode, layout, pieces, slices

ROOT = Path(__file__).parents[2]

CHILD = """
import sys, os
from nbmr import shipped, tracebacks
from nbmr.codec import decode, encode, layout, pieces, slices
shipped.prefer_shipped()
def payload(name):
    data = bytearray(open(name, "rb").read())
    places = eval(open(name + ".layout").read())
    return slices(memoryview(data), places)
fn, args, kwargs = decode(payload(sys.argv[1]))
data = [decode(payload(name)) for name in sys.argv[3:]]
try:
    result = fn(*data, *args, **kwargs)
except BaseException as exc:
    exc.__traceback__ = exc.__traceback__.tb_next  # this script's own frame
    result = ("raised", tracebacks.format_remote(exc), tracebacks.encode_exception(exc))
buffers = encode(result)
open(sys.argv[2], "wb").write(b"".join(pieces(buffers)))
open(sys.argv[2] + ".layout", "w").write(repr(layout(buffers)))
"""


def save(path: Path, buffers: list[Any]) -> str:
    path.write_bytes(b"".join(pieces(buffers)))
    Path(f"{path}.layout").write_text(repr(layout(buffers)))
    return str(path)


def run_elsewhere(tmp_path: Path, function: list[Any], *data: list[Any], child: str = CHILD) -> Any:
    """Decode a function in a fresh process, call it on decoded data, and decode what it returns."""
    folder = tmp_path / "elsewhere"
    folder.mkdir(exist_ok=True)
    names = [save(tmp_path / f"data{number}", buffers) for number, buffers in enumerate(data)]
    out = tmp_path / "result"
    out.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", child, save(tmp_path / "function", function), str(out), *names],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    payload = bytearray(out.read_bytes())
    return decode(slices(memoryview(payload), eval(Path(f"{out}.layout").read_text())))


class Notebook:
    """Runs cells as ipykernel does: in one namespace called ``__main__``, with their lines in `linecache`."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.count = 0

    def cell(self, source: str) -> Any:
        """Run a cell; give back the namespace."""
        self.count += 1
        filename = f"/tmp/ipykernel_1/{self.count}{id(self)}.py"
        linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
        exec(compile(source, filename, "exec"), self.names)
        return self.names

    def __getitem__(self, name: str) -> Any:
        return self.names[name]


__all__ = ["Notebook", "encode", "run_elsewhere"]
