"""joblib's Parallel, and what is built on it, with the backend "nbmr"."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from notes import lines, note

import nbmr
from nbmr import codec

joblib = pytest.importorskip("joblib")
Parallel, delayed = joblib.Parallel, joblib.delayed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
#: Seconds that anything here may take.
PATIENCE = 100


@pytest.fixture
def nbmr_backend(client):
    """Have joblib use the workers of this session."""
    with joblib.parallel_config(backend="nbmr", client=client) as config:
        yield config["backend"]


@pytest.fixture
def jobs(client, monkeypatch):
    """The jobs that are started."""
    start, jobs = client.start, []

    def starting(*args):
        job, send = start(*args)
        jobs.append(job)
        return job, send

    monkeypatch.setattr(client, "start", starting)
    yield jobs
    assert jobs
    assert all(job.forgotten for job in jobs)
    assert not any(Path(job.shared).exists() for job in jobs if job.shared)


@pytest.fixture
def nothing_left(server, client, eventually):
    """Nothing is left of any job, wherever it might be, when the test is over."""
    folder = Path("/dev/shm") / f"nbmr-{os.getuid()}-{Path(server.info.data_dir).name}"

    def left():
        files = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return {*files, *(name for name in server.queues() if name.startswith("nbmr.job."))}

    before = left()  # such as a stream that is kept for the next job, and deleted in between
    yield
    # what an interrupt has left behind is deleted by a worker
    eventually(lambda: not left() - before)


def wait_for(file):
    while not file.exists():
        time.sleep(0.01)


@pytest.mark.usefixtures("nbmr_backend")
def test_results_come_in_order(jobs):
    here = os.getpid()
    pids = Parallel()(delayed(os.getpid)() for _ in range(20))
    assert here not in pids
    assert Parallel(n_jobs=2)(delayed(pow)(x, 2) for x in range(300)) == [x**2 for x in range(300)]
    assert Parallel(batch_size=7)(delayed(pow)(x, y=2) if 0 else delayed(pow)(x, 2) for x in range(30)) == [
        x**2 for x in range(30)
    ]
    assert Parallel(pre_dispatch="all")(delayed(abs)(-x) for x in range(30)) == list(range(30))
    assert Parallel()(delayed(abs)(x) for x in ()) == []
    found = Parallel(return_as="generator")(delayed(abs)(-x) for x in range(30))
    assert next(found) == 0
    assert list(found) == list(range(1, 30))
    if joblib.__version__ >= "1.4":
        unordered = Parallel(return_as="generator_unordered")(delayed(abs)(-x) for x in range(30))
        assert sorted(unordered) == list(range(30))


def test_the_old_context_manager_and_options(client, queue):
    with client.workers(1, queue=queue), joblib.parallel_backend("nbmr", queue=queue, client=client):
        one = set(Parallel()(delayed(os.getpid)() for _ in range(5)))
        assert len(one) == 1  # that worker's process, and not this one
        assert os.getpid() not in one
        with Parallel(n_jobs=-1) as parallel:
            assert set(parallel(delayed(os.getpid)() for _ in range(5))) == one
        assert joblib.effective_n_jobs(-1) == 1
    pids = Parallel(n_jobs=2, backend="nbmr")(delayed(os.getpid)() for _ in range(20))
    assert os.getpid() not in pids
    assert not one & set(pids)
    with pytest.raises(nbmr.ConfigError, match="queue"):
        joblib.parallel_config(backend="nbmr", queue="no queue")
    with pytest.raises(TypeError, match="quue"):
        joblib.parallel_config(backend="nbmr", quue="default")


@pytest.mark.usefixtures("nbmr_backend")
def test_how_many_run_at_once(client, queue, tmp_path):
    assert joblib.effective_n_jobs(-1) == 2
    assert joblib.effective_n_jobs(None) == 2
    assert joblib.effective_n_jobs(-2) == 1
    assert joblib.effective_n_jobs(7) == 7
    with pytest.raises(ValueError, match="n_jobs"):
        Parallel(n_jobs=0)(delayed(abs)(x) for x in range(3))
    assert set(Parallel(n_jobs=1)(delayed(os.getpid)() for _ in range(3))) == {os.getpid()}

    def work(log):
        note(log, "1")
        time.sleep(0.05)
        note(log, "-1")

    with client.workers(3, queue=queue), joblib.parallel_config(backend="nbmr", client=client, queue=queue):
        for n_jobs, most in ((2, 2), (-2, 2), (-1, 3)):
            log = tmp_path / f"log{n_jobs}"
            Parallel(n_jobs=n_jobs, batch_size=1)(delayed(work)(log) for _ in range(16))
            running = np.cumsum([int(line) for line in lines(log)])
            assert running.max() <= most
            assert running[-1] == 0


@pytest.mark.usefixtures("nbmr_backend", "nothing_left")
def test_errors_come_through_and_end_the_rest(tmp_path, jobs):
    class Own(Exception):
        pass

    def fails(begun):
        wait_for(begun)
        raise Own("mine")

    def endless(begun):
        begun.touch()
        time.sleep(1000)

    with pytest.raises(Own, match="mine") as caught:
        Parallel()(delayed(fn)(tmp_path / "begun") for fn in (endless, fails, endless, endless))
    assert isinstance(caught.value.__cause__, nbmr.TaskError)
    assert 'raise Own("mine")' in str(caught.value.__cause__)
    assert Parallel()(delayed(abs)(x) for x in range(5)) == list(range(5))  # no worker is at those any more
    with pytest.raises(nbmr.PickleError, match="lock"):
        Parallel()(delayed(id)(threading.Lock()) for _ in range(3))
    with pytest.raises(nbmr.PickleError, match="lock"):
        Parallel()(delayed(len)([threading.Lock()] * 20_000) for _ in range(3))
    with pytest.raises(nbmr.PickleError, match="lock"):
        Parallel()(delayed(threading.Lock)() for _ in range(3))
    with Parallel() as parallel:
        with pytest.raises(ZeroDivisionError):
            parallel(delayed(divmod)(1, x) for x in (1, 0, 1))
        assert parallel(delayed(divmod)(1, x) for x in (1, 1)) == [(1, 0)] * 2
    with pytest.raises(nbmr.TaskLost, match="exit code 3"):
        Parallel()(delayed(os._exit)(3) for _ in range(2))

    def tasks():
        yield delayed(abs)(1)
        raise Own("of the iterable")

    with pytest.raises(Own, match="of the iterable"):
        Parallel()(tasks())


@pytest.mark.usefixtures("nbmr_backend")
def test_timeout(jobs):
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=0.5)(delayed(time.sleep)(1000) for _ in range(4))
    assert Parallel(timeout=PATIENCE)(delayed(abs)(x) for x in range(5)) == list(range(5))


@pytest.mark.usefixtures("nbmr_backend")
def test_generators_side_by_side_and_abandoned(recwarn, jobs):
    first = Parallel(return_as="generator")(delayed(pow)(x, 2) for x in range(40))
    second = Parallel(return_as="generator")(delayed(pow)(x, 3) for x in range(40))
    assert next(first) == 0
    assert list(second) == [x**3 for x in range(40)]
    assert Parallel()(delayed(abs)(x) for x in range(5)) == list(range(5))
    assert list(first) == [x**2 for x in range(1, 40)]
    abandoned = Parallel(return_as="generator", batch_size=1)(delayed(time.sleep)(x) for x in (0, 1000, 1000))
    next(abandoned)
    del abandoned
    assert "have been cancelled" in str(recwarn.pop(UserWarning).message)


@pytest.mark.usefixtures("nbmr_backend")
def test_a_job_that_is_cancelled_from_elsewhere(client, tmp_path, jobs, eventually):
    def cancel():
        eventually((tmp_path / "begun").exists, PATIENCE)
        client.attach(jobs[0].id).cancel()

    def endless(begun):
        begun.touch()
        time.sleep(1000)

    thread = threading.Thread(target=cancel)
    thread.start()
    with pytest.raises(RuntimeError, match="cancelled"):
        Parallel()(delayed(endless)(tmp_path / "begun") for _ in range(4))
    thread.join()


def test_nested_calls_do_not_wait_for_each_other(client, queue):
    def inner(x, **options):
        return sum(Parallel(**options)(delayed(pow)(x, y) for y in range(3)))

    def with_the_same_workers(x):
        with joblib.parallel_config(backend="nbmr", queue=queue, n_jobs=2):
            return inner(x)

    wanted = [1 + x + x**2 for x in range(4)]
    with client.workers(1, queue=queue), joblib.parallel_config(backend="nbmr", client=client, queue=queue):
        for options in ({}, {"n_jobs": 2}, {"n_jobs": -1, "backend": "nbmr"}):
            assert Parallel()(delayed(inner)(x, **options) for x in range(4)) == wanted
        assert Parallel()(delayed(with_the_same_workers)(x) for x in range(4)) == wanted
        assert client.map(range(4), with_the_same_workers, queue=queue, progress=False) == wanted


@pytest.mark.usefixtures("nbmr_backend")
def test_progress_is_joblibs(capsys):
    Parallel(verbose=11)(delayed(abs)(x) for x in range(20))
    text = capsys.readouterr().err
    assert "Using backend NbmrBackend with 2 concurrent workers." in text
    assert "Done  20 out of  20" in text


def test_an_initializer(client):
    def prepare(value):
        import builtins

        builtins.prepared_by_joblib = value

    def look():
        import builtins

        return builtins.prepared_by_joblib

    with joblib.parallel_config(backend="nbmr", client=client, initializer=prepare, initargs=(5,)):
        assert Parallel()(delayed(look)() for _ in range(9)) == [5] * 9
    with (
        joblib.parallel_config(backend="nbmr", client=client, initializer=lambda: 1 / 0),
        pytest.raises(RuntimeError, match="ZeroDivisionError"),
    ):
        Parallel()(delayed(abs)(x) for x in range(5))


def test_an_interrupt_leaves_nothing(server, client, start, nothing_left, tmp_path, eventually):
    code = (
        "import time, pathlib, nbmr, numpy as np, joblib\n"
        "from joblib import Parallel, delayed\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "def endless(array, number):\n"
        "    (folder / str(number)).touch()\n"
        "    time.sleep(1000)\n"
        "with joblib.parallel_config(backend='nbmr'):\n"
        "    Parallel()(delayed(endless)(np.zeros(1_000_000), number) for number in range(4))\n"
    )
    process = start("-c", code)
    eventually(lambda: len(list(tmp_path.iterdir())) >= 2, PATIENCE)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    # the workers are free again
    with joblib.parallel_config(backend="nbmr", client=client):
        assert Parallel()(delayed(abs)(x) for x in range(5)) == list(range(5))


# ---------------------------------------------------------------- large arrays


@pytest.fixture(params=["memory", "messages"])
def route(request):
    """How what is large travels."""
    if request.param == "messages":
        request.getfixturevalue("in_messages")
    return request.param


def numbers():
    return np.random.default_rng(0).random(2_500_000)  # 20 MB


def texts():
    return [f"text {x}" for x in range(100_000)]


def frame():
    frame = pd.DataFrame(numbers().reshape(-1, 10)).add_prefix("x")
    return frame.assign(day=pd.Timestamp("2024-01-01"), text=[f"text {x}" for x in range(len(frame))])


def in_a_file(folder):
    np.save(folder / "numbers.npy", numbers())
    return np.load(folder / "numbers.npy", mmap_mode="r")


LARGE = {
    "array": lambda _folder: numbers(),
    "part of an array": lambda _folder: numbers().reshape(-1, 2)[:, 0],
    "frame": lambda _folder: frame(),
    "rows of a frame": lambda _folder: frame()[::2],
    "columns": lambda _folder: pd.concat([pd.Series(numbers()[:100_000], name=x) for x in range(9)], axis=1),
    "objects": lambda _folder: np.array(texts(), dtype=object).reshape(-1, 2),
    "frame of objects": lambda _folder: pd.DataFrame({"text": texts()}, dtype=object),
    "list": lambda _folder: texts(),
    "file": in_a_file,
}


@pytest.mark.usefixtures("nbmr_backend")
@pytest.mark.parametrize("kind", LARGE)
def test_large_arrays_travel_once(jobs, route, kind, tmp_path):
    data = LARGE[kind](tmp_path)
    nbytes = sum(memoryview(buffer).nbytes for buffer in codec.encode(data))

    def digest(data, task):
        whole = data if isinstance(data, pd.DataFrame) else pd.DataFrame(data)
        return int(pd.util.hash_pandas_object(whole).sum()), task

    wanted, _ = digest(data, 0)
    results = Parallel(batch_size=1)(delayed(digest)(data, task=task) for task in range(8))
    assert results == [(wanted, task) for task in range(8)]
    assert nbytes <= jobs[0].log.bytes_sent < nbytes * 1.5


@pytest.mark.usefixtures("nbmr_backend")
def test_many_arrays_are_not_all_kept(jobs, route):
    shared = np.ones(250_000)
    results = Parallel(batch_size=1)(
        delayed(lambda own, shared: (own[0], own.sum() + shared.sum()))(np.full(250_000, x), shared)
        for x in range(20)
    )
    assert results == [(x, (x + 1) * 250_000) for x in range(20)]
    assert jobs[0].log.bytes_sent < 2 * 21 * shared.nbytes
    assert len(jobs[0].blobs) < 8


@pytest.mark.usefixtures("nbmr_backend")
def test_no_task_sees_what_another_wrote(route, jobs):
    array = np.zeros(500_000)

    def write(array, number):
        before = array.sum()
        array[:] = number + 1
        return before, array[-1]

    found = Parallel(batch_size=1)(delayed(write)(array, number) for number in range(10))
    assert found == [(0, number + 1) for number in range(10)]
    assert not array.any()


@pytest.mark.usefixtures("nbmr_backend")
def test_a_limit_of_size_is_joblibs(jobs):
    array = np.zeros(50_000)
    for most, wanted in ((None, 10), ("1M", 10), ("100K", 1)):
        Parallel(batch_size=1, max_nbytes=most)(delayed(len)(array) for _ in range(10))
        assert jobs[-1].log.bytes_sent // array.nbytes == wanted


def test_what_failed_can_be_run_again(client, route):
    executor = nbmr.Executor(client=client)
    executor._job.calls.shares_from = 1_000_000

    def fn(array, number):
        return int(array.sum()) // number

    array = np.ones(500_000)
    with executor:
        calls = [executor.submit(fn, array, number) for number in (1, 0, 2)]
        assert calls[0].result(PATIENCE) == array.size
        failure = calls[1].exception(PATIENCE).__cause__.failure
        with pytest.raises(ZeroDivisionError):
            failure.replay()
        assert calls[2].result(PATIENCE) == array.size // 2
        assert executor._job.job.log.bytes_sent < 1.5 * array.nbytes


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="asks the system for open files")
@pytest.mark.usefixtures("nbmr_backend")
def test_workers_let_go_of_what_was_shared(client, jobs, eventually):
    workers = {facts.pid for facts in client.workers_seen()}
    assert len(workers) == 2

    def held():
        names = []
        for pid in workers:
            for file in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    names.append(str(file.readlink()))
        return [name for name in names if jobs[0].id in name]

    array = np.full(500_000, 3.25)  # no other test's, which a worker might still hold
    slowly = delayed(lambda array, number: time.sleep(number > 0) or len(array))  # all but the first one
    running = Parallel(return_as="generator", batch_size=1)(slowly(array, number) for number in range(4))
    first, found = next(running), held()
    assert [first, *running] == [array.size] * 4
    assert found  # a worker had the file open, in shared memory
    eventually(lambda: not held(), PATIENCE)


# ---------------------------------------------------------------- scikit-learn


@pytest.fixture
def flowers():
    datasets = pytest.importorskip("sklearn.datasets")
    return datasets.load_iris(return_X_y=True)


SCORES = """
import joblib, numpy as np, pandas as pd, nbmr
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.svm import SVC

x, y = load_iris(return_X_y=True)
grid = {"C": [0.1, 1, 10], "kernel": ["linear", "rbf"]}
found = {}
for backend in ("loky", "nbmr"):
    with joblib.parallel_config(backend=backend, n_jobs=2):
        search = GridSearchCV(SVC(), grid, cv=4, return_train_score=True).fit(x, y)
        scores = cross_val_score(SVC(), x, y, cv=5)
    results = pd.DataFrame(search.cv_results_).filter(regex="(test|train)_score")
    found[backend] = results, search.best_params_, search.predict(x), scores
pd.testing.assert_frame_equal(found["nbmr"][0], found["loky"][0], check_exact=True)
assert found["nbmr"][0].shape == (6, 13)
assert found["nbmr"][1] == found["loky"][1]
for ours, theirs in zip(found["nbmr"][2:], found["loky"][2:]):
    assert np.array_equal(ours, theirs)
print("the same")
"""


@pytest.mark.usefixtures("client")
def test_scores_are_those_of_loky(start):
    """In a process of its own, with which loky's processes go."""
    pytest.importorskip("sklearn")
    out, errors = start("-c", SCORES).communicate(timeout=200)
    assert out.strip() == "the same", errors


def test_a_forest_and_what_needs_shared_memory(client, flowers):
    from sklearn.ensemble import RandomForestClassifier

    x, y = flowers
    alone = RandomForestClassifier(30, random_state=0).fit(x, y)
    with joblib.parallel_config(backend="nbmr", client=client):
        forest = RandomForestClassifier(30, random_state=0).fit(x, y)
        assert np.array_equal(forest.predict_proba(x), alone.predict_proba(x))  # in threads, by `require`
        found = []
        Parallel(n_jobs=2, require="sharedmem")(delayed(found.append)(x) for x in range(3))
        assert sorted(found) == [0, 1, 2]
    with pytest.raises(ValueError, match="shared memory"):
        Parallel(n_jobs=2, backend="nbmr", require="sharedmem")
