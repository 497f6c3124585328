"""Exceptions of tasks: as text with the user's own lines first, and as objects where they can travel."""

from __future__ import annotations

import linecache
import traceback
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from types import TracebackType

from nbmr import shipped
from nbmr.modules import is_library_file

MAX_FRAMES = 30
MAX_CHAIN = 8
MAX_TEXT = 4_000
#: Source lines that stand above and below the one that failed, and how many characters of each.
AROUND, MAX_LINE = 2, 200
#: Stands before the library frames in what `format_remote` writes.
LIBRARY = "\nLibrary frames, outermost first:\n"
#: Largest encoded exception that travels, in bytes.
MAX_ENCODED = 256 * 1024

_HERE = str(Path(__file__).parent)
_CAUSE = "\nThe above exception was the direct cause of the following exception:\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n"


def format_remote(exc: BaseException) -> str:
    """Write the traceback of a task's exception for its author.

    The user's frames stand first, with their source lines; runs of library frames are one line there, and
    are listed after the message. Frames of nbmr itself and of the import system are left out. Causes,
    contexts, notes and the members of exception groups are kept; everything is bounded.

    Parameters
    ----------
    exc
        The exception, with its ``__traceback__``.
    """
    blocks: list[str] = []
    library: list[str] = []
    chain = _chain(exc)
    users = any(not is_library for link, _ in chain for is_library, _ in _frames(link.__traceback__))
    for link, joint in chain:
        blocks.append("\n".join(_block(link, library, users=users)))
        if joint:
            blocks.append(joint)
    if library:
        shown = library if len(library) <= MAX_FRAMES else library[-MAX_FRAMES:]
        blocks.append(LIBRARY + "\n".join(shown))
    return "\n".join(blocks) + "\n"


def failing_line(exc: BaseException) -> str:
    """Write the user's own line that an exception comes from, with those around it; empty if none is.

    Parameters
    ----------
    exc
        The exception, with its ``__traceback__``.
    """
    own = [tb for is_library, tb in _frames(exc.__traceback__) if not is_library]
    return excerpt(own[-1]) if own else ""


def own_lines(tb: TracebackType | None) -> list[str]:
    """Write the lines of the user's by which an exception came to where it was caught, outermost first."""
    return _shorten([excerpt(each, around=0) for is_library, each in _frames(tb) if not is_library])


def excerpt(tb: TracebackType, around: int = AROUND) -> str:
    """Write where a frame is: its file or cell, and its line among so many above and below it.

    Examples
    --------
    ::

        Cell In[5], line 7, in clean
              6     factor = part["x"]
        ----> 7     return 1 / factor
    """
    code, number = tb.tb_frame.f_code, tb.tb_lineno
    linecache.lazycache(code.co_filename, tb.tb_frame.f_globals)
    place = shipped.cell_label(code.co_filename) or f'File "{code.co_filename}"'
    name = "" if code.co_name == "<module>" else f", in {code.co_name}"
    lines = [f"{place}, line {number}{name}"]
    try:
        source = linecache.getlines(code.co_filename, tb.tb_frame.f_globals)
    except Exception:  # noqa: BLE001 - a loader's get_source may raise
        source = []
    if not 0 < number <= len(source):
        return lines[0]
    for at in range(max(1, number - around), min(len(source), number + around) + 1):
        mark = "---->" if at == number else "     "
        lines.append(f"{mark} {at} {source[at - 1].rstrip()[:MAX_LINE]}".rstrip())
    return "\n".join(lines)


def encode_exception(exc: BaseException) -> bytes | None:
    """Encode an exception with its causes and notes, or return None if it wouldn't arrive as it is.

    Many can't travel: their class needs arguments that they don't pass on, they hold a
    connection, or they are large. It never raises. The traceback doesn't travel; `format_remote` tells it.
    """
    from nbmr.codec import decode, encode, pieces  # noqa: PLC0415 - loads cloudpickle

    links = [link for link, _ in _chain(exc)][::-1]  # the exception itself first, then its causes
    for count in range(len(links), 0, -1):  # drop causes that can't travel, from the far end
        kept = links[:count]
        try:
            state = [(link, list(getattr(link, "__notes__", ())), link.__suppress_context__) for link in kept]
            causes = [link.__cause__ is not None for link in kept]
            buffers = encode((state, causes), what="the exception")
            data = b"".join(pieces(buffers))
            if len(buffers) == 1 and len(data) <= MAX_ENCODED and _alike(decode(buffers)[0][0][0], exc):
                return data
        except Exception:  # noqa: BLE001, S112 - users' classes raise anything
            continue
    return None


def decode_exception(data: bytes) -> BaseException | None:
    """Undo `encode_exception`, or return None where this process can't: the class isn't here, say."""
    from nbmr.codec import decode  # noqa: PLC0415 - loads cloudpickle

    try:
        state, causes = decode([data])
        above: BaseException | None = None
        for (link, notes, suppress), direct in reversed(list(zip(state, causes, strict=True))):
            if notes:
                link.__notes__ = notes
            if direct:
                link.__cause__ = above
            link.__context__ = above
            link.__suppress_context__ = suppress
            above = link
    except Exception:  # noqa: BLE001 - users' classes raise anything
        return None
    return above if isinstance(above, BaseException) else None


def _alike(copy: object, exc: BaseException) -> bool:
    return type(copy) is type(exc) and repr(copy) == repr(exc) and str(copy) == str(exc)


def _chain(exc: BaseException) -> list[tuple[BaseException, str]]:
    """Return the exceptions from the first cause on, each with the sentence that joins it to the next."""
    links: list[tuple[BaseException, str]] = [(exc, "")]
    while len(links) < MAX_CHAIN:
        last = links[-1][0]
        if last.__cause__ is not None:
            above, joint = last.__cause__, _CAUSE
        elif last.__context__ is not None and not last.__suppress_context__:
            above, joint = last.__context__, _CONTEXT
        else:
            break
        if any(above is link for link, _ in links):
            break
        links.append((above, joint))
    return links[::-1]


def _block(exc: BaseException, library: list[str], *, users: bool, depth: int = 0) -> Iterator[str]:
    frames = list(_frames(exc.__traceback__))
    if frames:
        yield "Traceback (most recent call last):"
    if users:
        yield from _shorten(list(_user_frames(frames, library)))
    else:  # nothing of the user's: show what there is
        yield from _shorten([_frame_text(tb) for _, tb in frames])
    yield _message(exc)
    if isinstance(exc, BaseExceptionGroup) and depth < MAX_CHAIN:
        members = exc.exceptions[:MAX_CHAIN]
        for number, member in enumerate(members, 1):
            yield f"  +-- {number} of {len(exc.exceptions)} --"
            for part in _block(member, library, users=users, depth=depth + 1):
                yield "\n".join("  | " + line for line in part.splitlines())


def _user_frames(frames: list[tuple[bool, TracebackType]], library: list[str]) -> Iterator[str]:
    for is_library, run in groupby(frames, key=lambda pair: pair[0]):
        tracebacks = [tb for _, tb in run]
        if not is_library:
            yield from map(_frame_text, tracebacks)
            continue
        lines = [_frame_line(tb) for tb in tracebacks]
        library += lines
        count = f"{len(lines)} library frames, the last" if len(lines) > 1 else "library frame"
        yield f"  … {count} {lines[-1].strip()}"


def _frames(tb: TracebackType | None) -> Iterator[tuple[bool, TracebackType]]:
    """Yield each frame that isn't nbmr's or the import system's, and whether it is a library's."""
    while tb is not None:
        filename = tb.tb_frame.f_code.co_filename
        if not filename.startswith((_HERE, "<frozen importlib")):
            yield is_library_file(filename), tb
        tb = tb.tb_next


def _frame_text(tb: TracebackType) -> str:
    code = tb.tb_frame.f_code
    linecache.lazycache(code.co_filename, tb.tb_frame.f_globals)
    try:
        text = traceback.format_list(traceback.extract_tb(tb, limit=1))[0].rstrip("\n")
    except Exception:  # noqa: BLE001 - a loader's get_source may raise
        return _frame_line(tb)
    label = shipped.cell_label(code.co_filename)
    return text.replace(f'File "{code.co_filename}"', label, 1) if label else text


def _frame_line(tb: TracebackType) -> str:
    code = tb.tb_frame.f_code
    name = getattr(code, "co_qualname", code.co_name)
    return f"  {code.co_filename}:{tb.tb_lineno} in {name}"


def _shorten(frames: list[str]) -> list[str]:
    if len(frames) <= MAX_FRAMES:
        return frames
    half = MAX_FRAMES // 2
    return [*frames[:half], f"  … {len(frames) - 2 * half} more frames …", *frames[-half:]]


def _message(exc: BaseException) -> str:
    try:
        shown = traceback.TracebackException(type(exc), exc, None, compact=True)
        text = "".join(shown.format_exception_only()).rstrip("\n")
    except Exception:  # noqa: BLE001 - users' exceptions raise anything
        text = f"{type(exc).__qualname__}: <its message can't be shown>"
    if len(text) > MAX_TEXT:
        half = MAX_TEXT // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
    return text
