"""Why an object can't be pickled: find the part that can't, and name what holds it.

Runs only after pickling has failed. From the object down, each part is pickled by itself; the first that
fails is where to look further. The walk is bounded in depth and time, and doesn't go in circles.
"""

from __future__ import annotations

import functools
import inspect
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from nbmr.errors import PickleError
from nbmr.hints import hint, type_name
from nbmr.imports import code_objects

MAX_DEPTH = 30
#: How long to look, in seconds.
MAX_TIME = 5.0
#: How many parts of one object to try.
MAX_PARTS = 100_000

#: Kinds of parts that are places in data, not variables.
_PLACES = frozenset({"column", "row label", "key", "element"})
_CACHED = type(functools.lru_cache(lambda: None))
_ATOMS = (type(None), bool, int, float, complex, str, bytes, bytearray, BuiltinFunctionType, ModuleType)


@dataclass(frozen=True)
class Root:
    """Something that was to be sent."""

    obj: Any
    #: What to call it: ``"`fn`"``, ``"argument `table`"``.
    name: str


@dataclass(frozen=True)
class Step:
    """The way from an object to one of its parts."""

    part: Any
    #: Continues an expression (``".lock"``, ``"[3]"``), or names a variable.
    text: str
    #: What kind of variable: ``"global"``. Empty where ``text`` continues an expression.
    kind: str = ""


def explain(
    roots: Sequence[Root], exc: Exception, pickle: Callable[[Any], object], *, seconds: float = MAX_TIME
) -> PickleError:
    """Make the error that says which part of which root can't be pickled.

    Parameters
    ----------
    roots
        What was to be sent; pickling it together failed.
    exc
        How it failed.
    pickle
        Raises if what it is given can't be pickled.
    seconds
        How long to look at most.
    """
    deadline = time.monotonic() + seconds
    for root in roots:
        failure = exc if len(roots) == 1 else _failure(pickle, root.obj)
        if failure is not None:
            steps, failure = _descend(root.obj, failure, pickle, deadline)
            return PickleError(_message(root, steps, failure))
    return PickleError(f"can't send {roots[0].name}: {_one_line(exc)}")


def call_roots(fn: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Root]:
    """Return a function and its arguments, each under the name that its author knows."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())[1:]
        names = [f"`{p.name}`" for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    except (TypeError, ValueError):
        names = []
    names += [f"{number + 1}" for number in range(len(names), len(args))]
    roots = [Root(fn, f"`{_function_name(fn)}`")]
    roots += [Root(arg, f"argument {name}") for name, arg in zip(names, args, strict=False)]
    return roots + [Root(arg, f"argument `{name}`") for name, arg in kwargs.items()]


def _function_name(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    return str(name).rpartition("<locals>.")[2].replace("<lambda>", "lambda")


def _failure(pickle: Callable[[Any], object], obj: Any) -> Exception | None:
    if isinstance(obj, _ATOMS) and not isinstance(obj, ModuleType):
        return None
    try:
        pickle(obj)
    except Exception as exc:  # noqa: BLE001 - users' classes raise anything
        return exc
    return None


def _descend(
    obj: Any, failure: Exception, pickle: Callable[[Any], object], deadline: float
) -> tuple[list[Step], Exception]:
    steps: list[Step] = []
    seen = {id(obj)}
    while len(steps) < MAX_DEPTH:
        for step in islice(_parts(obj), MAX_PARTS):
            if time.monotonic() > deadline:
                return steps, failure
            if id(step.part) in seen or (_too_deep(failure) and not step.kind):
                continue
            worse = _failure(pickle, step.part)
            if worse is not None:
                steps.append(step)
                seen.add(id(step.part))
                obj, failure = step.part, worse
                break
        else:
            break
    return steps, failure


def _message(root: Root, steps: Sequence[Step], failure: Exception) -> str:
    chain: list[str] = []
    for step in steps:
        if step.kind in _PLACES:
            chain.append(f"{step.kind} {step.text}")
        elif step.kind:
            chain.append(f"{'whose' if chain else 'its'} {step.kind} `{step.text}`")
        elif not chain:
            chain.append(f"item {step.text}" if step.text.startswith("[") else f"its `{step.text[1:]}`")
        elif chain[-1].endswith("`"):
            chain[-1] = f"{chain[-1][:-1]}{step.text}`"
        else:
            chain[-1] += step.text
    culprit = steps[-1].part if steps else root.obj
    where = f"{', '.join(chain)} ({type_name(culprit)})" if chain else f"a {type_name(culprit)}"
    if _too_deep(failure):
        return f"can't send {root.name}: {where} is nested too deeply to be pickled; make it flatter"
    return f"can't send {root.name}: {where} can't be pickled; {hint(culprit)} [{_one_line(failure)}]"


def _too_deep(failure: Exception) -> bool:
    return isinstance(failure, RecursionError) or isinstance(failure.__cause__, RecursionError)


def _one_line(exc: Exception) -> str:
    try:
        text = str(exc).partition("\n")[0][:200]
    except Exception:  # noqa: BLE001 - users' exceptions
        text = ""
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _parts(obj: Any) -> Iterator[Step]:
    """Yield what an object is made of, as pickle would see it."""
    if isinstance(obj, FunctionType):
        yield from _function_parts(obj)
        return
    if isinstance(obj, dict | list | tuple | set | frozenset):
        yield from _items(obj)
    elif isinstance(obj, MethodType | functools.partial | staticmethod | classmethod | property | _CACHED):
        yield from _wrapped(obj)
        return
    elif type(obj).__module__.partition(".")[0] in ("pandas", "numpy"):
        yield from _table_parts(obj)
    elif type(obj).__module__.partition(".")[0] == "polars":  # the rest of it isn't Python's
        if hasattr(obj, "get_columns"):
            yield from (Step(column, _short(column.name), "column") for column in obj.get_columns())
        return
    yield from _attributes(obj)
    if not isinstance(obj, type):
        yield Step(type(obj), type(obj).__qualname__, "class")


def _items(obj: Any) -> Iterator[Step]:
    if isinstance(obj, dict):
        yield from (Step(value, f"[{_short(key)}]") for key, value in obj.items())
        yield from (Step(key, _short(key), "key") for key in obj)
    elif isinstance(obj, list | tuple):
        yield from (Step(value, f"[{number}]") for number, value in enumerate(obj))
    else:
        yield from (Step(value, _short(value), "element") for value in obj)


def _wrapped(obj: Any) -> Iterator[Step]:
    """Yield the parts of what wraps a function as if they were the function's own."""
    if isinstance(obj, MethodType):
        yield Step(obj.__self__, "self", "object")
    if isinstance(obj, functools.partial):
        yield from (Step(arg, str(number), "argument") for number, arg in enumerate(obj.args, 1))
        yield from (Step(arg, name, "argument") for name, arg in obj.keywords.items())
    for name in ("func", "__func__", "__wrapped__", "fget", "fset", "fdel"):
        inner = getattr(obj, name, None)
        if inner is not None:
            yield from _parts(inner)
            return


def _function_parts(fn: FunctionType) -> Iterator[Step]:
    names = [name for code in code_objects(fn.__code__) for name in code.co_names]
    yield from (Step(fn.__globals__[n], n, "global") for n in dict.fromkeys(names) if n in fn.__globals__)
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield Step(cell.cell_contents, name, "closure variable")
        except ValueError:  # not bound yet
            continue
    positional = fn.__code__.co_varnames[: fn.__code__.co_argcount]
    defaults = fn.__defaults__ or ()
    if defaults:
        yield from (
            Step(v, n, "default value of")
            for n, v in zip(positional[-len(defaults) :], defaults, strict=True)
        )
    yield from (Step(v, n, "default value of") for n, v in (fn.__kwdefaults__ or {}).items())
    yield from (Step(v, n, "annotation of") for n, v in fn.__annotations__.items())
    yield from (Step(v, n, "attribute") for n, v in vars(fn).items())


def _attributes(obj: Any) -> Iterator[Step]:
    try:
        found = dict(vars(obj))
    except TypeError:
        found = {}
    for slot in (slot for kind in type(obj).__mro__ for slot in _slots(kind)):
        try:
            found.setdefault(slot, object.__getattribute__(obj, slot))
        except AttributeError:
            continue
    if isinstance(obj, type):  # a method fails with its class: data first
        found = {
            n: v for n, v in found.items() if n not in ("__dict__", "__weakref__", "__doc__", "__module__")
        }
        found = dict(sorted(found.items(), key=lambda item: callable(item[1])))
    yield from (Step(value, f".{name}") for name, value in found.items())


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _table_parts(obj: Any) -> Iterator[Step]:
    pandas, numpy = sys.modules.get("pandas"), sys.modules.get("numpy")
    if pandas is not None and isinstance(obj, pandas.DataFrame):
        for position, name in enumerate(obj.columns):
            yield Step(obj.iloc[:, position], _short(name), "column")
        yield Step(obj.index, ".index")
        yield Step(obj.attrs, ".attrs")
    elif pandas is not None and isinstance(obj, pandas.Series):
        if obj.dtype == object:
            yield from (
                Step(v, _short(label), "row label") for label, v in zip(obj.index, obj.array, strict=True)
            )
        yield Step(obj.index, ".index")
        yield Step(obj.attrs, ".attrs")
    elif pandas is not None and isinstance(obj, pandas.Index):
        yield from (Step(value, f"[{number}]") for number, value in enumerate(obj))
    elif numpy is not None and isinstance(obj, numpy.ndarray) and obj.dtype.hasobject:
        yield from (Step(value, f"[{number}]") for number, value in enumerate(obj.reshape(-1)))


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - users' classes
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 40 else text[:37] + "…"  # noqa: PLR2004 - one glance
