"""The command line: ``nbmr worker``, ``nbmr broker …``, ``nbmr status``, ``jobs`` and ``doctor``."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import click

from nbmr import config, node, pools, private, topology
from nbmr.broker import connect, passwords
from nbmr.errors import NbmrError
from nbmr.progress import starting
from nbmr.worker.cleaner import clean_after


class _Commands(click.Group):
    """Shows nbmr's own errors as one message, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except NbmrError as exc:
            raise click.ClickException(str(exc)) from exc


def _with_password(_context: click.Context, _option: click.Parameter, url: str | None) -> str | None:
    """Ask for the password of a URL that names a user and no password."""
    return passwords.complete(url, _ask_for_password, os.environ.get("NBMR_URL", "")) if url else url


def _ask_for_password(whose: str) -> str:
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"The URL names {whose} and no password, and there is no terminal to ask on. Set NBMR_URL to the"
            " URL with its password: arguments stand in the list of processes."
        )
    return str(
        click.prompt(f"Password of {whose}", hide_input=True, err=True, default="", show_default=False)
    )


_url = click.option(
    "--url",
    envvar="NBMR_URL",
    callback=_with_password,
    help="The broker: amqp://user@host:5672/vhost. Its password is asked for, or give the whole by NBMR_URL."
    " Default: the private node.",
)
_key_file = click.option(
    "--key-file",
    envvar="NBMR_KEY_FILE",
    type=click.Path(dir_okay=False),
    help="File that holds the signing key.",
)


@click.group(cls=_Commands)
@click.version_option(package_name="nbmr")
def main() -> None:
    """Map-reduce for notebooks, through RabbitMQ."""


@main.command()
@_url
@_key_file
@click.option("--queue", default="default", show_default=True, help="Take tasks from this queue.")
@click.option("--slots", default=1, show_default=True, type=click.IntRange(1), help="Tasks at a time.")
@click.option("--memory-limit", help="Memory that a task's process may hold, such as 2GB.")
@click.option("--max-idle", type=click.FloatRange(0), help="End after so many seconds without a task.")
def worker(
    url: str | None,
    key_file: str | None,
    queue: str,
    slots: int,
    memory_limit: str | None,
    max_idle: float | None,
) -> None:
    """Run a worker in the foreground. Ctrl-C or SIGTERM lets it finish its tasks; twice ends it at once."""
    from nbmr.worker.worker import Options, Worker  # noqa: PLC0415 - not needed by the other commands

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    with starting() as show:
        settings = config.resolve(url, key_file=key_file, on_progress=show)
    private.forget_secrets()  # the tasks' processes inherit the environment
    options = Options(
        settings.url,
        settings.key,
        queue,
        slots,
        pools.parse_bytes(memory_limit),
        max_idle,
        node=settings.node,
    )
    plural = "s" if slots > 1 else ""
    running = Worker(
        options, on_ready=lambda: click.echo(f"Ready: {slots} slot{plural} on queue {queue!r}.", err=True)
    )
    running.handle_signals()
    try:
        running.run()
    finally:
        clean_after(os.getpid())


@main.group()
def broker() -> None:
    """Start, stop or ask after the private RabbitMQ node of this user."""


@broker.command()
def start() -> None:
    """Start the node, unless it runs already."""
    with starting() as show:
        info = node.ensure(show)
    click.echo(f"RabbitMQ {info.rabbitmq_version} on 127.0.0.1:{info.port}.")


@broker.command()
def stop() -> None:
    """End the node and its workers, with all jobs, at once."""
    click.echo("Stopped." if node.stop() else "There is no private node.")


@broker.command("status")
def broker_status() -> None:
    """Tell whether the node runs."""
    _show_node()


@broker.command("reset-key")
@_url
@_key_file
def reset_key(url: str | None, key_file: str | None) -> None:
    """Let the next client or worker decide which key this broker is used with."""
    if not url:
        raise click.ClickException(
            "Name a broker by --url. The private node draws a new key whenever it starts: nbmr broker stop."
        )
    connection = connect(config.resolve(url, key_file=key_file).url)
    connection.delete(topology.key_stream())
    connection.release()
    click.echo("The broker takes the next key that is used with it. Workers that have the old one end.")


@main.command()
@_url
@_key_file
def status(url: str | None, key_file: str | None) -> None:
    """Tell about the broker, the workers of all hosts, and the jobs; starts nothing."""
    from nbmr.session import Session  # noqa: PLC0415 - not needed by the other commands
    from nbmr.status import look  # noqa: PLC0415 - likewise

    if not url:
        _show_node()
    with Session(url, key_file=key_file) as session:
        click.echo(repr(look(session)))


@main.command()
@_url
@_key_file
def jobs(url: str | None, key_file: str | None) -> None:
    """List the jobs that are on the broker."""
    from nbmr.session import Session  # noqa: PLC0415 - not needed by the other commands

    if not url and not node.status():  # nor is one started to be asked
        _show_node()
    with starting() as show, Session(url, key_file=key_file, on_progress=show) as session:
        table = session.jobs()
    click.echo("There are no jobs." if table.empty else table.fillna("?").to_string(index=False))


@main.command()
@_url
@_key_file
@click.option("--start/--no-start", default=True, help="Try whether RabbitMQ can start, if no node runs.")
def doctor(url: str | None, key_file: str | None, start: bool) -> None:
    """Check RabbitMQ, the connection, the key, versions, clocks, disk and memory; say what to do.

    The exit status is 1 if there is a problem.
    """
    from nbmr.examination import examine, summary  # noqa: PLC0415 - not needed by the other commands

    lines = []
    for line in examine(url, key_file=key_file, start=start):
        lines.append(line)
        click.echo(str(line))
    click.echo(summary(lines))
    if any(line.status == "problem" for line in lines):
        sys.exit(1)


def _show_node() -> None:
    info = node.status()
    if not info:
        click.echo("No private node runs. The first nbmr.map starts one, or: nbmr broker start")
        sys.exit(1)
    for name, value in info.items():
        click.echo(f"{name.replace('_', ' ')}: {value}")
