"""polars' frames and Arrow's tables as data: every verb, on real workers."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest

import nbmr

pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")
import pyarrow.compute as pc  # noqa: E402

pytestmark = pytest.mark.slow
ROWS = {"k": list("aabbc") * 20, "x": list(range(100)), "y": [0.5 * n if n % 7 else None for n in range(100)]}
DATA = {"polars": pl.DataFrame(ROWS), "arrow": pa.table(ROWS), "batch": pa.RecordBatch.from_pydict(ROWS)}
HERE = os.getpid()


def positive(part):
    """Works row by row, on whichever it gets."""
    if isinstance(part, pl.DataFrame):
        return part.filter(pl.col("x") % 3 == 0).with_columns(z=pl.col("y") * 2)
    return part.filter(pc.greater(part["x"], 30)).select(["y", "k"])


def same(got, want):
    assert type(got) is type(want)
    assert got.equals(want), (got, want)
    assert got.schema == want.schema


@pytest.fixture(params=DATA)
def data(request):
    return DATA[request.param]


def test_map_is_the_same_as_the_function_on_the_whole(client, data):
    for partitions in (None, 1, 7, 1000):
        same(client.map(data, positive, partitions=partitions), positive(data))
    same(client.map(data[:0], positive), positive(data[:0]))
    assert client.map(data, lambda part: (type(part).__name__, os.getpid() != HERE), partitions=1) == [
        (type(data).__name__, True)
    ]


def test_series_dicts_and_scalars(client):
    series = DATA["polars"]["x"]
    out = client.map(series, lambda part: part * 2, partitions=3)
    assert out.equals(series * 2, check_dtypes=True, check_names=True)
    assert client.map(series, len, partitions=4).to_list() == [25] * 4
    rows = client.map(DATA["arrow"], lambda part: {"n": len(part), "x": pc.sum(part["x"])}, partitions=2)
    assert rows.to_pylist() == [{"n": 50, "x": 1225}, {"n": 50, "x": 3725}]
    column = client.map(DATA["arrow"], lambda part: pc.add(part["x"], 1), partitions=3)
    assert column.equals(pc.add(DATA["arrow"]["x"], 1))


def test_of_other_libraries(client):
    frame = DATA["polars"].to_pandas()
    pd.testing.assert_frame_equal(client.map(DATA["polars"], pl.DataFrame.to_pandas, partitions=3), frame)
    same(client.map(frame, pl.from_pandas, partitions=3), DATA["polars"])
    same(client.map(DATA["polars"], pl.DataFrame.to_arrow, partitions=3), DATA["polars"].to_arrow())
    kinds = client.map(DATA["polars"], lambda part: part if part["x"][0] else part.to_pandas(), partitions=2)
    assert list(map(type, kinds)) == [pd.DataFrame, pl.DataFrame]
    kinds[0].loc[0, "x"] = 99  # is its own


@pytest.mark.parametrize("way", ["shared memory", "messages"])
def test_large_frames_with_each_way_to_travel(client, way, request):
    if way == "messages":
        request.getfixturevalue("in_messages")
    count = 1_200_000
    columns = {"a": np.arange(count), "b": np.arange(count) / 3, "c": np.arange(count) % 7 == 0}
    for frame in (pl.DataFrame(columns), pa.table(columns)):
        job = client.submit(frame, lambda part: part, partitions=2, progress=False)
        same(job.result(), frame)
        sent = job.log.bytes_sent
        assert sent < 1.1 * 17 * count
        job.forget()


def test_failures_name_rows_and_are_run_again_here(client, data):
    def fn(part):
        if part["x"][0] if isinstance(part, pl.DataFrame) else part["x"][0].as_py():
            raise ValueError("bad")
        return part

    with pytest.raises(nbmr.TaskError) as caught:
        client.map(data, fn, partitions=2)
    failure = caught.value.failure
    assert failure.rows == ("50", "99")
    same(failure.partition, data[50:] if isinstance(data, pl.DataFrame) else data.slice(50))
    with pytest.raises(ValueError, match="bad"):
        failure.replay()
    with pytest.warns(RuntimeWarning, match="1 of 2 failed"):
        kept = client.map(data, fn, partitions=2, on_error="keep")
    same(kept, data[:50] if isinstance(data, pl.DataFrame) else data.slice(0, 50))


def test_partial_results_and_another_kernel(client, data, tmp_path, start, eventually):
    go = tmp_path / "go"

    def fn(part, go=str(go)):
        import time
        from pathlib import Path

        first = part["x"][0]
        while first in (50, pa.scalar(50)) and not Path(go).exists():
            time.sleep(0.01)
        return {"first": first, "rows": len(part)}

    job = client.submit(data, fn, partitions=2, name="halves")
    eventually(lambda: job.progress.done == 1, 60)
    partial = job.partial()
    assert type(partial) is (pl.DataFrame if isinstance(data, pl.DataFrame) else pa.Table)
    assert len(partial) == 1
    go.touch()
    job.wait()
    script = f"import nbmr; out = nbmr.attach({job.id!r}).result(); print(type(out).__module__, out.shape)"
    printed, _ = start("-c", script).communicate(timeout=100)
    library = type(job.result()).__module__
    assert printed.split("\n")[0] == f"{library} (2, 2)"
    job.forget()


def test_chains_and_reductions(client, data):
    first = client.submit(data, positive, partitions=5)
    second = client.submit(first, lambda part: {"rows": len(part)})
    got = second.result()
    assert type(got) is (pl.DataFrame if isinstance(data, pl.DataFrame) else pa.Table)
    assert sum(got["rows"].to_pylist() if hasattr(got["rows"], "to_pylist") else got["rows"]) == len(
        positive(data)
    )
    same(client.map(first, lambda part: part), positive(data))
    for job in (second, first):
        job.forget()

    def longer(left, right):
        return left if len(left) > len(right) else right

    assert len(client.reduce(data, longer, partitions=3)) == 34
    whole = client.reduce(DATA["polars"], lambda left, right: pl.concat([left, right]), partitions=5)
    same(whole, DATA["polars"])


def test_map_reduce_by_way_of_pandas(client, data):
    def mapper(part):
        return part.to_pandas()[["k", "x"]]

    got = client.map_reduce(data, mapper, lambda group: group["x"].sum(), "k", partitions=3)
    want = pd.DataFrame(ROWS).groupby("k")["x"].apply(lambda values: values.sum())
    pd.testing.assert_series_equal(got, want, check_exact=True, check_names=False)
    with pytest.raises(nbmr.TaskError, match=r"mapper has to give a DataFrame of pandas.*\.to_pandas\(\)"):
        client.map_reduce(data, lambda part: part, len, "k", partitions=2)
    with pytest.raises(nbmr.ConfigError, match=r"to_pandas\(\)"):
        client.groupby(data, "k")
    with pytest.raises(nbmr.ConfigError, match=r"collect\(\)"):
        client.map(DATA["polars"].lazy(), len)


def test_results_are_written_as_files(client, data, tmp_path):
    files = client.map(data, positive, partitions=3, to=tmp_path / "parts")
    read = pl.concat(map(pl.read_parquet, files))
    assert read.equals(pl.DataFrame(positive(data)))
    assert client.map(files, len).sum() == len(read)  # read by pandas
    again = client.map(nbmr.files(files, pl.read_parquet), lambda part: part)
    assert again.equals(read)
    client.map(data, positive, partitions=3, to=tmp_path / "texts" / "*.csv")
    texts = pl.concat(map(pl.read_csv, sorted((tmp_path / "texts").iterdir())), how="vertical_relaxed")
    assert texts.shape == read.shape
    series = client.map(DATA["polars"]["x"], lambda part: part, partitions=2, to=tmp_path / "series")
    assert pl.concat(map(pl.read_parquet, series))["x"].to_list() == ROWS["x"]


def test_workers_that_need_no_polars_do_not_load_it(client, queue):
    look = "import sys; 'polars' in sys.modules"
    with client.workers(1, queue=queue):
        assert client.map(pd.DataFrame({"a": [1, 2]}), len, queue=queue, partitions=2).to_list() == [1, 1]
        assert set(client.everywhere(look, queue).values()) == {"False"}
        assert client.map(DATA["polars"], len, queue=queue, partitions=2).to_list() == [50, 50]
        assert set(client.everywhere(look, queue).values()) == {"True"}


def test_a_kernel_that_needs_no_polars_does_not_load_it(client, start):
    script = (
        "import sys, nbmr, pandas as pd\n"
        "nbmr.map(pd.DataFrame({'a': [1, 2]}), lambda part: part)\n"
        "nbmr.map([1, 2], str)\n"
        "print('polars' in sys.modules)"
    )
    printed, _ = start("-c", script).communicate(timeout=100)
    assert printed.split() == ["False"]
