"""How fast is a word count by nbmr.map_reduce beside plain Python?

Run it with nothing else going on::

    .venv/bin/python tests/benchmarks/wordcount.py
    .venv/bin/python tests/benchmarks/wordcount.py --rounds 1 --megabytes 2   # does it work at all?

The text is that of `pydoc_data.topics`, again and again, in files of about 4 MB. Both count the words of each
file with a `collections.Counter`; plain Python adds these up, nbmr's two workers sort them into buckets by
word, and sum each word's counts. Rounds interleave the two; answers are compared. The figure is the ratio of
the medians over rounds. Beside it stands what two bare processes do that count half of the files each, and
add up nothing: no tool can do better on this machine.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics
from time import perf_counter

import click
import pandas as pd
from home import home, private_node

WORKERS = 2
FILE_BYTES = 4_000_000


def write(folder: Path, megabytes: float) -> list[Path]:
    """Write files of text."""
    text = "\n".join(topics.values())
    text *= max(FILE_BYTES // len(text), 1)
    files = []
    while len(files) * len(text) < megabytes * 1e6:
        files.append(folder / f"{len(files):03}.txt")
        files[-1].write_text(text)
    return files


def plain(files: list[Path]) -> Counter[str]:
    """Count words in this process."""
    total: Counter[str] = Counter()
    for file in files:
        total.update(Counter(file.read_text().lower().split()))
    return total


def bare(files: list[Path]) -> float:
    """Return the seconds that two bare processes take for half of the files each."""
    halves = [multiprocessing.Process(target=plain, args=(files[half::WORKERS],)) for half in range(WORKERS)]
    start = perf_counter()
    for process in halves:
        process.start()
    for process in halves:
        process.join()
    return perf_counter() - start


def words(text: str) -> pd.DataFrame:
    """Count the words of one file."""
    counts = Counter(text.lower().split())
    return pd.DataFrame({"word": list(counts), "n": list(counts.values())})


@click.command(help="Measure a word count; see the top of this file.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--megabytes", type=float, default=200.0, show_default=True)
def main(rounds: int, megabytes: float) -> None:
    import nbmr

    seconds: dict[str, list[float]] = {"plain": [], "bare": [], "nbmr": []}
    with home() as place, private_node(), nbmr.Client() as client:
        files = write(place, megabytes)
        workers = client.workers(WORKERS)
        data = nbmr.files(files, reader=lambda path: Path(path).read_text())
        options = {"by": "word", "progress": False}
        client.map_reduce(data[:2], words, lambda group: group["n"].sum(), **options)  # warms up
        for _ in range(rounds):
            start = perf_counter()
            want = plain(files)
            seconds["plain"].append(perf_counter() - start)
            seconds["bare"].append(bare(files))
            start = perf_counter()
            got = client.map_reduce(data, words, lambda group: group["n"].sum(), **options)
            seconds["nbmr"].append(perf_counter() - start)
            assert got.to_dict() == dict(want)
        workers.stop(now=True)
    print(f"{len(files)} files, {len(want):,} words, load {os.getloadavg()[0]:.1f}")
    for name, values in seconds.items():
        print(f"{name:8} {statistics.median(values):8.2f} s ({min(values):.2f} to {max(values):.2f})")
    ratio, most = (
        statistics.median(seconds["plain"]) / statistics.median(seconds[name]) for name in ("nbmr", "bare")
    )
    print(f"{'ratio':8} {ratio:8.2f}  (should be 1.6 at least; two bare processes: {most:.2f})")


if __name__ == "__main__":
    main()
