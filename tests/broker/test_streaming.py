"""Results as they arrive, awaited and iterated: by one loop, by several, by threads and by other kernels."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import nbmr

WAITING = 100.0


@pytest.fixture
def submit(client):
    """Give what starts a job that is forgotten at the end, however the test ends."""
    jobs = []

    def submit(*args, **options):
        jobs.append(client.submit(*args, **options))
        return jobs[-1]

    yield submit
    for job in jobs:
        job.forget()


def gated(x, gate):
    """Wait for a file, unless it is 1."""
    while x != 1 and not gate.exists():
        time.sleep(0.01)
    return x * 10


async def ticks(until):
    """Count how often the event loop comes by."""
    count = 0
    while not until.is_set():
        count += 1
        await asyncio.sleep(0.01)
    return count


# ---------------------------------------------------------------- await


def test_several_jobs_at_once(submit):
    async def main():
        jobs = [submit(range(3), lambda x, n: x + n, n, progress=False) for n in range(12)]
        before = threading.active_count()
        waiting = asyncio.gather(*jobs)
        await asyncio.sleep(0)
        most = threading.active_count() - before
        results = await asyncio.wait_for(waiting, WAITING)
        return results, most

    results, most = asyncio.run(main())
    assert results == [[n, n + 1, n + 2] for n in range(12)]
    assert most <= 0  # nobody waits in a thread


def test_the_loop_goes_on_meanwhile(submit, tmp_path):
    async def main():
        job = submit([0, 1], gated, tmp_path / "gate", progress=False, partitions=2)
        over = asyncio.Event()
        ticking = asyncio.create_task(ticks(over))
        asyncio.get_running_loop().call_later(0.5, (tmp_path / "gate").touch)
        result = await asyncio.wait_for(job, WAITING)
        over.set()
        return result, await ticking

    result, count = asyncio.run(main())
    assert result == [0, 10]
    assert count >= 5


def test_who_stops_waiting_leaves_the_job_alone(submit, tmp_path):
    """A cancelled await: the job goes on, no thread stays behind, and it can be awaited again."""
    gate = tmp_path / "gate"
    job = submit([0, 1], gated, gate, progress=False, partitions=2)

    async def wait(seconds):
        return await asyncio.wait_for(job, seconds)

    with pytest.raises(TimeoutError):
        asyncio.run(wait(0.3))  # which also waits for the threads of its loop
    assert job.status == "running"
    gate.touch()
    assert asyncio.run(wait(WAITING)) == [0, 10]
    assert asyncio.run(wait(WAITING)) == [0, 10]


def test_a_failure_is_raised_by_await(submit):
    async def main():
        return await submit([1, 0], lambda x: 1 / x, progress=False)

    with pytest.raises(nbmr.TaskError, match="division by zero") as caught:
        asyncio.run(main())
    assert caught.value.failure.partition == 0


def test_a_cancelled_job_is_told_at_once(submit, tmp_path):
    async def main():
        job = submit([0], gated, tmp_path / "never", progress=False)
        asyncio.get_running_loop().call_later(0.2, job.cancel)
        await asyncio.wait_for(job, WAITING)

    with pytest.raises(nbmr.JobCancelled):
        asyncio.run(main())


# ---------------------------------------------------------------- async for


def test_async_for_gives_results_as_they_arrive(submit, tmp_path):
    gate = tmp_path / "gate"
    job = submit(range(5), gated, gate, progress=False, partitions=5)

    async def main():
        seen = []
        async for number, result in job:
            seen.append((number, result))
            if len(seen) == 1:
                assert not gate.exists()
                assert job.partial() == [10]
                gate.touch()
        return seen

    seen = asyncio.run(asyncio.wait_for(main(), WAITING))
    assert seen[0] == (1, 10)
    assert sorted(seen) == [(n, n * 10) for n in range(5)]


def test_async_for_can_be_left_early(submit, tmp_path):
    """And also be cancelled while it waits; nothing waits on."""
    gate = tmp_path / "gate"
    job = submit([0, 1], gated, gate, progress=False, partitions=2)
    threads = threading.active_count()

    async def first():
        async for item in job:
            return item
        return None

    async def all_of_it():
        return [item async for item in job]

    assert asyncio.run(first()) == (1, 10)
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(all_of_it(), 0.3))
    assert job.status == "running"
    assert job._log._listeners == []
    assert threading.active_count() <= threads
    gate.touch()
    assert sorted(asyncio.run(asyncio.wait_for(all_of_it(), WAITING))) == [(0, 0), (1, 10)]


def test_async_for_over_several_jobs(submit):
    jobs = [submit(range(20), lambda x, n: x + n, 100 * n, progress=False) for n in range(5)]

    async def all_of(job):
        return sorted([item async for item in job])

    async def main():
        return await asyncio.gather(*map(all_of, jobs))

    assert asyncio.run(main()) == [[(x, x + 100 * n) for x in range(20)] for n in range(5)]


def test_a_failure_ends_a_loop_behind_what_there_is(submit, tmp_path):
    gate = tmp_path / "gate"

    def fn(x):
        while x == 0 and not gate.exists():
            time.sleep(0.01)
        return 10 // x

    async def main(job, seen):
        async for item in job:
            seen.append(item)
            gate.touch()

    job, seen = submit([1, 0], fn, partitions=2, progress=False), []
    with pytest.raises(nbmr.TaskError, match="division") as caught:
        asyncio.run(main(job, seen))
    assert seen == [(0, 10)]
    assert caught.value.number == 1


# ---------------------------------------------------------------- for


def test_two_kernels_iterate_over_one_job(client, submit, start, tmp_path):
    gate = tmp_path / "gate"
    job = submit(range(30), gated, gate, partitions=30)
    code = f"import nbmr\nfor item in nbmr.Client().attach({job.id!r}): print(*item, flush=True)"
    other = start("-c", code)
    assert other.stdout.readline() == "1 10\n"  # it has some before the job is done
    assert next(iter(job)) == (1, 10)
    gate.touch()
    assert sorted(job) == [(n, n * 10) for n in range(30)]
    out, error = other.communicate(timeout=WAITING)
    assert sorted(int(line.split()[0]) for line in out.splitlines()) == [0, *range(2, 30)], error


def test_a_loop_goes_on_when_the_results_are_gathered_meanwhile(submit):
    """What was gathered was let go; the loop reads the rest again, and gives nothing twice."""
    job = submit(range(30), lambda x: x * 2, partitions=30)
    results = iter(job)
    seen = [next(results)]
    assert job.result(WAITING) == [2 * n for n in range(30)]
    seen += results
    assert sorted(seen) == [(n, 2 * n) for n in range(30)]
    assert sorted(asyncio.run(_all_of(job))) == sorted(seen)
    assert job.status == "done"
    job.forget()
    with pytest.raises(nbmr.JobNotFound, match=r"result\(\) is still here"):
        next(iter(job))
    assert job.result() == [2 * n for n in range(30)]


async def _all_of(job):
    return [item async for item in job]


# ---------------------------------------------------------------- threads


def test_several_threads_have_jobs_of_their_own(client):
    def use(n):
        return client.map(range(10), lambda x: x + n, partitions=4)

    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(use, range(12)))
    assert results == [[x + n for x in range(10)] for n in range(12)]


def test_several_threads_gather_one_job(submit):
    """They get the same, once gathered; whoever asks for what is there gets all or nothing lost."""
    job = submit(range(2000), lambda x: [x] * 50, partitions=50)
    job.wait(WAITING)
    go = threading.Barrier(8)

    def gather(n):
        go.wait(WAITING)
        return job.result() if n % 2 else job.partial()

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(gather, range(8)))
    assert all(result == [[x] * 50 for x in range(2000)] for result in results)
    assert len({id(result) for result in results[1::2]}) == 1
