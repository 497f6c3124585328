"""Which modules a piece of code imports, read off its bytecode without running it."""

from __future__ import annotations

import dis
import importlib.util
from collections.abc import Iterator
from types import CodeType

_IMPORT = dis.opmap["IMPORT_NAME"]
_DYNAMIC = frozenset({"import_module", "__import__"})


def code_objects(code: CodeType) -> Iterator[CodeType]:
    """Yield a code object and every one nested in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from code_objects(constant)


def imported_names(code: CodeType, package: str) -> set[str]:
    """Dotted names that the code may import, nested functions included.

    ``from a import b`` gives ``a`` and ``a.b``, since ``b`` may be a submodule. So does a text
    constant where the code calls ``importlib.import_module`` or ``__import__``.

    Parameters
    ----------
    code
        Code of a function or of a whole module.
    package
        What relative imports are relative to; empty outside a package.

    Examples
    --------
    >>> sorted(imported_names(compile("from a import b", "", "exec"), ""))
    ['a', 'a.b']
    """
    names: set[str] = set()
    for part in code_objects(code):
        if _IMPORT in part.co_code[::2]:
            names.update(_statements(part, package))
        if not _DYNAMIC.isdisjoint(part.co_names):
            texts = (text for text in part.co_consts if isinstance(text, str))
            names.update(text for text in texts if all(map(str.isidentifier, text.split("."))))
    return names


def _statements(code: CodeType, package: str) -> Iterator[str]:
    arguments: list[object] = [None, None]
    for instruction in dis.get_instructions(code):
        if instruction.opcode == _IMPORT:
            level, members = arguments[-2:]
            name = str(instruction.argval)
            if level:
                try:
                    name = importlib.util.resolve_name("." * int(str(level)) + name, package)
                except ImportError:
                    continue
            yield name
            if isinstance(members, tuple):
                yield from (f"{name}.{member}" for member in members if member != "*")
        if instruction.opname != "EXTENDED_ARG":
            arguments.append(instruction.argval)
