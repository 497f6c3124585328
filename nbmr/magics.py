"""IPython's magics: ``%nbmr`` tells how things are, ``%%nbmr`` runs a cell's body once on every worker."""

from __future__ import annotations

import argparse
import shlex
from typing import Any, NoReturn

from IPython.core.error import UsageError

from nbmr import api
from nbmr.cell import Cell
from nbmr.placed import Answer, raise_failure
from nbmr.status import Status


def load_ipython_extension(shell: Any) -> None:
    """Add the magics to a shell; ``%load_ext nbmr`` calls this."""

    def nbmr_cell(line: str, cell: str) -> None:
        """Run the cell's body once on every worker: ``%%nbmr [--queue NAME]``.

        What each worker printed, and the value of the last line, are shown when all have answered. Functions
        that come later find there what the cell has defined or imported. ``!command`` works; magics don't.
        """
        _everywhere(shell, line, cell)

    shell.register_magic_function(status, "line", "nbmr")
    shell.register_magic_function(nbmr_cell, "cell", "nbmr")


def status(line: str) -> Status:
    """Tell about the broker, its workers and its jobs: ``%nbmr``."""
    if line.strip():
        raise UsageError("%nbmr takes no arguments. To run something on every worker: %%nbmr, above a cell.")
    return api.status()


class _Options(argparse.ArgumentParser):
    """Tells what is wrong, where argparse ends the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"%%nbmr: {message}. It goes: %%nbmr [--queue NAME]")


def _everywhere(shell: Any, line: str, cell: str) -> None:
    options = _Options(add_help=False, allow_abbrev=False)
    options.add_argument("--queue", default="default")
    try:
        queue = options.parse_args(shlex.split(line)).queue
    except ValueError as exc:  # a quote that isn't closed
        options.error(str(exc))
    if not cell.strip():
        raise UsageError("%%nbmr: the cell has no body; that is what would run on the workers.")
    body = Cell(shell.transform_cell(cell), "%%nbmr")  # raises what is wrong with it, before anything starts
    answers = api.client().ask_everywhere(body, queue)
    for answer in answers:
        _show(answer)
    raise_failure(answers)


def _show(answer: Answer) -> None:
    """Print what came of it in one place."""
    said = answer.output
    if answer.failure:
        said += (answer.failure.traceback or answer.failure.summary).rstrip() + "\n"
    elif answer.value is not None:
        said += f"{answer.value}\n"
    print(f"── {answer.place}\n{said}", end="")  # noqa: T201 - that is what it is for
