"""A cluster of three RabbitMQ servers: any one of them dies in the middle of a job, and the job completes."""

from __future__ import annotations

import ast
import secrets
import time

import psutil
import pytest
from notes import connections_of
from servers import cluster

import nbmr
from nbmr import hearing, node, topology

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def servers(rabbitmq, tmp_path_factory):
    """Three servers that are one broker."""
    with cluster(node.find_server(), tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


def hosts(servers):
    return ",".join(server.url for server in servers)


@pytest.fixture(scope="module")
def key():
    return secrets.token_hex(32)


@pytest.fixture(scope="module")
def client(servers, key):
    """A client that prefers the first server, and workers that prefer the second."""
    first, second, third = servers
    with (
        nbmr.Client(hosts([second, third, first]), key) as theirs,
        theirs.workers(2),
        nbmr.Client(hosts([first, third, second]), key) as ours,
    ):
        yield ours


def connected(servers, pids):
    """The servers that these processes have connections to."""
    ports = {c.raddr.port for pid in pids for c in connections_of(psutil.Process(pid)) if c.raddr}
    return {server.port for server in servers} & ports


def leader(servers, queue):
    """The server that leads a quorum queue."""
    alive = next(server for server in servers if server.alive)
    name = alive.eval(
        f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),'
        ' io:format("~p", [atom_to_list(element(2, amqqueue:get_pid(Q)))]).'
    )
    return next(server for server in servers if server.name in name)


def members(server, queue):
    """How many servers hold a copy of a queue or stream, and answer."""
    return len(
        ast.literal_eval(
            server.eval(
                f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)),'
                ' io:format("~p", [[atom_to_list(N) || N <- proplists:get_value('
                "online, rabbit_queue_type:info(Q, [online]), [])]]).",
            ).removesuffix("ok")
        )
    )


@pytest.fixture
def whole(servers, client, eventually):
    """Bring back whoever was killed, and wait until every copy is there again."""
    yield
    for server in servers:
        if not server.alive:
            server.start()
    queues = (topology.task_queue("default").name, topology.CONTROL_STREAM)
    eventually(lambda: all(members(servers[0], queue) == 3 for queue in queues), 90)
    eventually(lambda: not client._broker.trouble and client.slots("default") == 2, 60)


def slow(x):
    time.sleep(0.05)
    return x


def test_every_queue_and_stream_has_three_copies(servers, client, eventually):
    job = client.submit([1], slow)
    names = [topology.task_queue("default"), topology.dead_queue("default"), topology.job_log(job.id)]
    for queue in [*names, topology.control_stream(), topology.key_stream()]:
        eventually(lambda queue=queue: members(servers[0], queue.name) == 3)
    job.forget()


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("role", ["client's", "workers'", "leader"])
def test_one_server_dies(servers, client, eventually, role):
    job = client.submit(range(80), slow, partitions=80)
    eventually(lambda: job.progress.done >= 3)
    if role == "leader":
        doomed = leader(servers, topology.task_queue("default").name)
    else:
        pids = client.workers().pid if role == "workers'" else [psutil.Process().pid]
        (port, *_) = connected(servers, pids)
        doomed = next(server for server in servers if server.port == port)
    doomed.kill()
    arrived = list(job)
    assert sorted(arrived) == [(x, x) for x in range(80)]  # nothing lost, nothing doubled
    job.forget()
    # while it is down, new queues and new streams can be made, and jobs run
    assert client.map(range(10), slow) == list(range(10))
    other = client.submit([1], slow, queue=f"new-{secrets.token_hex(4)}")
    with pytest.raises(nbmr.JobTimeout, match="No worker"):
        other.result(timeout=5)
    other.cancel()


def test_a_server_that_hands_nothing_out(servers, client, key, eventually, monkeypatch, tmp_path):
    """Whoever reads a log there gets nothing, and goes on on another server."""
    monkeypatch.setattr(hearing, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(hearing, "BACK_SECONDS", 1.0)
    gate = tmp_path / "gate"

    def gated(x):
        while not gate.exists():
            time.sleep(0.01)
        return x

    first, second, third = servers
    with nbmr.Client(first.url, key) as writer, nbmr.Client(hosts([second, third]), key) as reader:
        job = writer.submit(range(4), gated, partitions=4)
        read = reader.attach(job.id)
        eventually(lambda: read.progress.running)
        suspended = second.eval(
            "Copies = [P || {Id, P, _, _} <- supervisor:which_children(osiris_server_sup),"
            f' lists:prefix("__nbmr_job_{job.id}", Id)],'
            " spawn(fun() -> [erlang:suspend_process(P) || P <- Copies], timer:sleep(60000) end),"
            ' io:format("~p", [length(Copies)]).'
        )
        assert suspended.removesuffix("ok") == "1"
        gate.touch()
        assert job.result(60) == list(range(4))
        assert read.result(60) == list(range(4))
        assert reader._broker._consuming.generation > 1
        job.forget()
