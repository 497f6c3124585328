"""An event loop goes on while calls and jobs are started, waited for and cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest

import nbmr
from nbmr.errors import NodeError
from nbmr.opening import Opening

pytestmark = pytest.mark.slow
#: Seconds that each of the calls takes that are waited for.
LENGTH = 1.5
#: Seconds that anything here may take.
PATIENCE = 100


@contextlib.asynccontextmanager
async def watched():
    """Tell for how many seconds at most the event loop did nothing else, and how long it all took."""
    gaps = []

    async def tick():
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - last)
            last = time.monotonic()

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.05)
    found = {}
    began = time.monotonic()
    yield found
    found["seconds"] = time.monotonic() - began
    await asyncio.sleep(0.05)
    ticking.cancel()
    found["gap"] = max(gaps)


def slowly(x):
    time.sleep(LENGTH)
    return x


def check(work):
    """Run something that waits for as long as `LENGTH`, and see that the loop went on meanwhile."""

    async def main():
        async with watched() as found:
            await work()
        assert found["seconds"] > LENGTH
        assert found["gap"] < LENGTH / 2

    asyncio.run(main())


def test_an_executor(client):
    with nbmr.Executor(client=client) as executor:
        executor.submit(abs, 1).result(PATIENCE)

        async def work():
            loop = asyncio.get_running_loop()
            results = [loop.run_in_executor(executor, slowly, x) for x in range(2)]
            assert await asyncio.gather(*results) == [0, 1]
            endless = loop.run_in_executor(executor, time.sleep, 1000)
            await asyncio.sleep(0.05)
            endless.cancel()
            with pytest.raises(asyncio.CancelledError):
                await endless

        check(work)


def test_a_job(client):
    async def work():
        job = client.submit(range(2), slowly, partitions=2, progress=False)
        assert await job == [0, 1]
        job.forget()
        job = client.submit(range(2), slowly, partitions=2, progress=False)
        assert sorted([item async for item in job]) == [(0, 0), (1, 1)]
        job.forget()
        job = client.submit([1000], time.sleep, progress=False)
        await asyncio.sleep(0.05)
        job.cancel()
        with pytest.raises(nbmr.JobCancelled):
            await job

    check(work)


@pytest.mark.usefixtures("client")
def test_a_client():
    async def work():
        async with nbmr.Client.open() as other:
            job = other.submit([3], slowly, progress=False)
            assert await job == [3]
            job.forget()
            assert other.usable
        assert not other.usable
        other = await nbmr.Client.open()
        assert other.usable
        await asyncio.to_thread(other.close)

    check(work)


def test_a_client_that_can_not_be_made():
    async def work():
        with pytest.raises(nbmr.ConfigError):
            await nbmr.Client.open("http://nowhere")
        with pytest.raises(nbmr.ConfigError):
            async with nbmr.Client.open("http://nowhere"):
                pass

    asyncio.run(work())


@pytest.mark.usefixtures("client")
def test_a_client_that_nobody_waits_for_any_more_is_closed(eventually):
    gate, made = threading.Event(), []

    class Slow(nbmr.Client):
        def __init__(self):
            gate.wait(PATIENCE)
            super().__init__()
            made.append(self)

    async def wait():
        await Opening(Slow)

    async def work():
        opening = asyncio.create_task(wait())
        await asyncio.sleep(0.05)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        gate.set()
        while not made:  # noqa: ASYNC110 - a thread makes it
            await asyncio.sleep(0.01)

    asyncio.run(work())
    eventually(lambda: not made[0].usable)


@pytest.fixture
def gate(client, monkeypatch):
    """Jobs don't start before this is set, or 100 seconds are over."""
    gate, start = threading.Event(), client.start

    def starting(*args):
        gate.wait(PATIENCE)
        return start(*args)

    monkeypatch.setattr(client, "start", starting)
    yield gate
    gate.set()


def test_the_first_call_does_not_wait_for_the_start(client, gate):
    async def work():
        executor = nbmr.Executor(client=client)
        loop = asyncio.get_running_loop()
        first, second = loop.run_in_executor(executor, pow, 2, 3), loop.run_in_executor(executor, pow, 2, 4)
        dropped = executor.submit(abs, 1)
        assert dropped.cancel()
        assert not gate.wait(0.05)
        gate.set()
        assert await asyncio.gather(first, second) == [8, 16]
        await asyncio.to_thread(executor.shutdown)

    asyncio.run(work())


def test_elsewhere_the_first_call_waits_for_the_start(client, gate):
    with nbmr.Executor(client=client) as executor:
        calls = []
        thread = threading.Thread(target=lambda: calls.append(executor.submit(pow, 2, 3)))
        thread.start()
        assert not gate.wait(0.2)
        assert not calls
        gate.set()
        thread.join(PATIENCE)
        assert calls[0].result(PATIENCE) == 8


def test_a_start_that_fails_is_told(client, monkeypatch):
    def fail(*_args):
        raise NodeError("no room")

    monkeypatch.setattr(client, "start", fail)
    executor = nbmr.Executor(client=client)
    for _ in range(2):  # each call tries again
        with pytest.raises(NodeError, match="no room"):
            executor.submit(abs, 1)
    executor.shutdown()

    async def work():
        executor = nbmr.Executor(client=client)
        with pytest.raises(NodeError, match="no room"):
            await asyncio.get_running_loop().run_in_executor(executor, abs, 1)
        executor.shutdown()

    asyncio.run(work())
