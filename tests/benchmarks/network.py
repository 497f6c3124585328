"""What does compression gain where a network lies between?

It makes two hosts of this one, in network namespaces, so it needs Linux, root and iproute2. RabbitMQ stands
between them; each is connected to it by a link of its own, which takes only so much::

    sudo .venv/bin/python tests/benchmarks/network.py
    sudo .venv/bin/python tests/benchmarks/network.py --rates 1gbit --rounds 1 --rows 100000  # does it work?

The client is on one host, a worker with two slots on the other. Frames go there and come back as they are,
in 8 partitions: random floats, which zstd makes no smaller; numbers, words and times; and words alone. With
NBMR_COMPRESSION=none, and =auto, which compresses what saves time. Rounds interleave the two, answers are
compared. The figures are medians over rounds in seconds, and their ratio.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import click
import numpy as np
import pandas as pd
from home import home
from table import markdown

from nbmr import node

sys.path.append(str(Path(__file__).parents[1] / "broker"))
from servers import started

MODES = ("none", "auto")
#: The hosts' networks: RabbitMQ is the first in each, the host the second.
HOSTS = {"client": "10.213.1", "worker": "10.213.2"}
PORT = 5672
PARTITIONS = 8
ANSWER_SECONDS = 600


def run(command: str) -> None:
    subprocess.run(command.split(), check=True)


@contextlib.contextmanager
def hosts() -> Iterator[None]:
    """Make two hosts, each with a link to this one."""
    with contextlib.ExitStack() as stack:
        for host, net in HOSTS.items():
            run(f"ip netns add nbmr-{host}")
            stack.callback(run, f"ip netns del nbmr-{host}")  # and with it the link
            run(f"ip link add nbmr-{host} type veth peer name out netns nbmr-{host}")
            run(f"ip addr add {net}.1/24 dev nbmr-{host}")
            run(f"ip link set nbmr-{host} up")
            run(f"ip -n nbmr-{host} addr add {net}.2/24 dev out")
            for device in ("lo", "out"):
                run(f"ip -n nbmr-{host} link set {device} up")
        yield


def limit(rate: str) -> None:
    """Let the links take so much, each way."""
    bucket = "burst 256kb latency 100ms"
    for host in HOSTS:
        run(f"tc qdisc replace dev nbmr-{host} root tbf rate {rate} {bucket}")
        run(f"tc -n nbmr-{host} qdisc replace dev out root tbf rate {rate} {bucket}")


def on(host: str, *command: str, **env: str) -> subprocess.Popen[str]:
    """Run Python on a host."""
    return subprocess.Popen(
        ["ip", "netns", "exec", f"nbmr-{host}", sys.executable, *command], env=os.environ | env,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def frames(rows: int) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)
    words = np.array(["alpha", "beta", "gamma delta"])
    return {
        "random floats": pd.DataFrame(rng.standard_normal((rows, 4)), columns=list("abcd")),
        "mixed": pd.DataFrame(
            {
                "i": rng.integers(0, 1000, rows),
                "f": rng.standard_normal(rows).round(2),
                "s": words[rng.integers(0, 3, rows)],
                "t": pd.date_range("2024", periods=rows, freq="s"),
            }
        ),
        "words": pd.DataFrame({"t": [f"the same words {n % 1000}" for n in range(rows)]}),
    }


def answer(rounds: int, rows: int) -> None:
    """On the client's host: for each line that comes, print the seconds and bytes that each frame took."""
    import nbmr

    clients = {}
    for mode in MODES:
        os.environ["NBMR_COMPRESSION"] = mode
        clients[mode] = nbmr.Client()
    given = frames(rows)
    for _ in sys.stdin:
        found: dict[str, list[tuple[float, int]]] = {}
        for turn in range(rounds + 1):
            for (name, frame), mode in itertools.product(given.items(), MODES):
                start = perf_counter()
                job = clients[mode].submit(frame, lambda part: part, partitions=PARTITIONS, queue=mode)
                back = job.result(ANSWER_SECONDS)
                seconds = perf_counter() - start
                pd.testing.assert_frame_equal(back, frame, check_exact=True)
                if turn:  # the first one is to get warm, and to measure the network
                    found.setdefault(f"{name} {mode}", []).append((seconds, job.log.bytes_sent))
                job.forget()
        print(json.dumps(found), flush=True)
    for client in clients.values():
        client.close()


def row(found: dict[str, list[tuple[float, int]]], name: str, rate: str) -> list[str]:
    seconds, sent = ({mode: [one[i] for one in found[f"{name} {mode}"]] for mode in MODES} for i in (0, 1))
    medians = {mode: statistics.median(values) for mode, values in seconds.items()}
    return [
        f"{name}, {rate}",
        *(f"{medians[mode]:.3f} s, {statistics.median(sent[mode]) / 1e6:.1f} MB" for mode in MODES),
        f"{medians['none'] / medians['auto']:.2f}x",
    ]


@click.command(help="Measure compression over a network; see the top of this file.")
@click.option("--rates", default="100mbit,1gbit,2500mbit,10gbit", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--rows", type=click.IntRange(1), default=1_000_000, show_default=True)
@click.option("--answer", "is_client", is_flag=True, hidden=True)
def main(rates: str, rounds: int, rows: int, is_client: bool) -> None:
    if is_client:
        answer(rounds, rows)
        return
    if os.getuid():
        raise click.UsageError("It makes network namespaces: run it as root.")
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(home())
        stack.enter_context(hosts())
        listen = "\n".join(f"listeners.tcp.{n} = {net}.1:{PORT}" for n, net in enumerate(HOSTS.values(), 2))
        server = stack.enter_context(started(node.find_server(), place / "rabbitmq", listen))
        user, key = server.url.removeprefix("amqp://").partition("@")[0], secrets.token_hex(32)
        at = {
            host: {"NBMR_URL": f"amqp://{user}@{net}.1:{PORT}", "NBMR_KEY": key}
            for host, net in HOSTS.items()
        }
        for mode in MODES:
            worker = on(
                "worker", "-m", "nbmr", "worker", "--queue", mode, "--slots", "2", NBMR_COMPRESSION=mode,
                **at["worker"],
            )  # fmt: skip
            stack.callback(worker.wait)
            stack.callback(worker.terminate)
        client = on("client", __file__, "--answer", f"--rounds={rounds}", f"--rows={rows}", **at["client"])
        stack.callback(client.wait)
        assert client.stdin is not None
        assert client.stdout is not None
        stack.callback(client.stdin.close)
        lines = [["frame, network", *MODES, "ratio"]]
        for rate in rates.split(","):
            limit(rate)
            print(file=client.stdin, flush=True)
            found = json.loads(client.stdout.readline())
            lines += [row(found, name, rate) for name in frames(1)]
        print(markdown(lines))


if __name__ == "__main__":
    main()
