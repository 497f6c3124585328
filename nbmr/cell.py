"""A cell's body that runs in a worker's process: checked where it is written, run where it is sent.

IPython isn't there. Its ``!command`` is, by the shell; its magics are not, and are refused before anything is
sent.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from nbmr import shipped
from nbmr.errors import ConfigError

#: Characters of a value's text that travel.
MOST_TEXT = 100_000
#: How the file names of cells begin that run on workers.
FILENAME = "<nbmr-"
#: What takes the place of IPython's ``get_ipython()`` in a cell that has ``!command`` in it.
_SHELL = "__nbmr_shell__"

#: What this process's cells have left in `builtins`.
_left: dict[str, Any] = {}


class Cell:
    r"""A cell's body, as a function of nothing that matters.

    Parameters
    ----------
    source
        Its text, with IPython's own syntax turned into Python as IPython does.
    label
        What tracebacks call it.

    Raises
    ------
    SyntaxError
        If it isn't Python.
    ConfigError
        If it calls a magic.

    Examples
    --------
    >>> Cell("x = 1\nx + 1")()
    '2'
    """

    def __init__(self, source: str, label: str = "everywhere") -> None:
        self.source, self.label = source, label
        digest = hashlib.sha256(source.encode()).hexdigest()[:12]
        self.filename = f"{FILENAME}{digest}>"
        _compile(source, self.filename)

    def __call__(self, *_: object) -> str | None:
        """Run it in this process's ``__main__``; return the text of its last line's value, if it has one.

        What it defines is found by functions from notebooks, too.
        """
        shipped.install_cell(self.filename, self.source, self.label)
        body, last = _compile(self.source, self.filename)
        namespace = vars(sys.modules["__main__"])
        namespace.setdefault(_SHELL, Shell())
        before = dict(namespace)
        try:
            exec(body, namespace)  # noqa: S102 - that is what it is for
            value = eval(last, namespace) if last else None  # noqa: S307 - likewise
        finally:
            _leave(before, namespace)
        return None if value is None else repr(value)[:MOST_TEXT]


class Once:
    """A function that is called once, without arguments; whatever data comes with the task is no matter."""

    def __init__(self, fn: Callable[[], Any]) -> None:
        self.fn = fn

    def __call__(self, *_: object) -> Any:
        """Call it."""
        return self.fn()


class Shell:
    """Runs a cell's ``!commands``."""

    @staticmethod
    def system(command: str) -> None:
        """Run a command; what it prints goes where the cell's output goes.

        Raises
        ------
        RuntimeError
            If it fails.
        """
        sys.stdout.flush()
        status = subprocess.run(command, shell=True, check=False).returncode  # noqa: S602 - the user's own
        if status:
            raise RuntimeError(f"`{command}` ended with exit status {status}")

    @staticmethod
    def getoutput(command: str) -> list[str]:
        """Run a command, and return the lines that it printed."""
        done = subprocess.run(command, shell=True, check=False, stdout=subprocess.PIPE, text=True)  # noqa: S602
        return done.stdout.splitlines()


class _Translate(ast.NodeTransformer):
    """Turns IPython's calls of the shell into ours, and refuses its magics."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        method = node.func
        if not (isinstance(method, ast.Attribute) and _is_get_ipython(method.value)):
            return node
        if method.attr in ("system", "getoutput"):
            method.value = ast.copy_location(ast.Name(_SHELL, ast.Load()), method.value)
        elif method.attr in ("run_line_magic", "run_cell_magic"):
            name = str(node.args[0].value) if node.args and isinstance(node.args[0], ast.Constant) else "?"
            sign = "%" if method.attr == "run_line_magic" else "%%"
            raise ConfigError(
                f"{sign}{name} in line {node.lineno} is a magic of IPython, which doesn't run on workers. Use"
                " Python, or !command for the shell."
            )
        return node


def _is_get_ipython(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "get_ipython"


def _compile(source: str, filename: str) -> tuple[Any, Any]:
    """Compile a cell's statements, and its last line apart if that is an expression."""
    tree = _Translate().visit(ast.parse(source, filename))
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        expression = ast.Expression(tree.body.pop().value)
        last = compile(expression, filename, "eval", dont_inherit=True)
    return compile(tree, filename, "exec", dont_inherit=True), last


def _leave(before: dict[str, Any], namespace: dict[str, Any]) -> None:
    """Let functions that come later find what a cell has defined.

    A function from a notebook brings along what it uses of the notebook's names. A name that isn't there, as
    ``np`` where ``import numpy as np`` ran on the workers alone, is looked up in the function's own globals,
    which are its payload's and not our ``__main__``, and then in `builtins`: the one place that all share.
    """
    for name, value in namespace.items():
        new = name not in before or before[name] is not value
        free = name in _left or not hasattr(builtins, name)
        if new and free and not name.startswith("__"):
            _left[name] = value
            setattr(builtins, name, value)
    for name in [name for name in _left if name not in namespace]:
        del _left[name]
        delattr(builtins, name)
