"""How what a person sees is written as HTML and as text: escaping, numbers, colours.

Everything is static and escaped: user data (names, messages, output) never becomes markup or a terminal's
control sequence. Colours are Jupyter's theme variables; each stands after a plain one, which remains where
variables are stripped, as in a notebook that isn't trusted. Where styles are stripped too, the text still
says all of it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

#: The longest summary or hint that is shown, in characters.
_LONGEST = 400
#: What terminals take as colours and the like.
_SEQUENCE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])")

#: Each is a plain colour, and the theme's.
BLUE = ("#1976d2", "var(--jp-brand-color1, #1976d2)")
GREEN = ("#388e3c", "var(--jp-success-color1, #388e3c)")
RED = ("#d32f2f", "var(--jp-error-color1, #d32f2f)")
ORANGE = ("#f57c00", "var(--jp-warn-color1, #f57c00)")
GREY = ("#9e9e9e", "var(--jp-ui-font-color3, #9e9e9e)")
TEXT = ("inherit", "var(--jp-ui-font-color1, inherit)")
LINE = ("#e0e0e0", "var(--jp-border-color2, rgba(128, 128, 128, 0.3))")
SHADE = ("#f5f5f5", "var(--jp-layout-color2, rgba(128, 128, 128, 0.1))")


#: The style of what is shown in a cell's output.
BOX = (
    "max-width:720px;padding:2px 0;font-size:13px;line-height:1.55;"
    "font-family:var(--jp-ui-font-family, system-ui, sans-serif);"
    f"font-variant-numeric:tabular-nums;color:{TEXT[0]};color:{TEXT[1]}"
)


def escape(text: object) -> str:
    """Make text fit for HTML, in elements and in attributes."""
    return html.escape(plain(text))


def plain(text: object) -> str:
    r"""Make one line of any text: without control characters, and not too long.

    Examples
    --------
    >>> plain("two\nlines\x1b[31m")
    'two lines?[31m'
    """
    line = " ".join(str(text)[: 4 * _LONGEST].split())
    line = "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def block(text: object, longest: int = 20_000) -> str:
    r"""Make text of several lines fit for HTML: as it would stand in a terminal, without colours.

    Parameters
    ----------
    text
        Anything.
    longest
        How many characters of it are shown; the last ones.

    Examples
    --------
    >>> block("\x1b[31mred\x1b[0m <b>\n50%\r100%")
    'red &lt;b&gt;\n100%'
    """
    return html.escape("\n".join(clean(line) for line in _last(str(text), longest).split("\n")))


def clean(line: str, longest: int = 2_000) -> str:
    r"""Make one line of output fit for a screen: without colours, and what was written over is gone.

    Examples
    --------
    >>> clean("\x1b[31m 50%\r100%\x07")
    '100%?'
    """
    line = _SEQUENCE.sub("", line[: 4 * longest]).rstrip("\r").rpartition("\r")[2].expandtabs(4)
    line = "".join(char if char.isprintable() else "?" for char in line)
    return line if len(line) <= longest else line[: longest - 1] + "…"


def _last(text: str, longest: int) -> str:
    return text if len(text) <= longest else "…" + text[-longest:]


def plain_lines(text: object) -> str:
    r"""Make lines of any text: without control characters, but for line ends; tabs become blanks.

    Examples
    --------
    >>> plain_lines("two\nlines\x1b[31m")
    'two\nlines?[31m'
    """
    lines = str(text).expandtabs().splitlines()
    return "\n".join("".join(char if char.isprintable() else "?" for char in line) for line in lines)


def duration(seconds: float) -> str:
    """Write a duration as a person would, in seconds, minutes, hours or days.

    Examples
    --------
    >>> [duration(s) for s in (0.042, 3.21, 42.4, 200, 7500, 100_000)]
    ['0.04 s', '3.2 s', '42 s', '3 min 20 s', '2 h 05 min', '1 d 3 h']
    """
    if seconds < 0.995:  # noqa: PLR2004 - from here on it would be rounded to 1.00
        return f"{max(seconds, 0):.2f} s"
    if seconds < 9.95:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, whole = divmod(whole, 60)
    if not minutes:
        return f"{whole} s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} min {whole:02d} s"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes:02d} min"


def rate(per_second: float) -> str:
    """Write a rate: units a second, or the time that each takes if it is more than a second.

    Examples
    --------
    >>> [rate(r) for r in (12_345.6, 42.4, 3.21, 0.25, 0)]
    ['12,346/s', '42/s', '3.2/s', '4.0 s each', '']
    """
    if per_second <= 0:
        return ""
    if per_second < 1:
        return f"{duration(1 / per_second)} each"
    return f"{per_second:.1f}/s" if per_second < 9.95 else f"{per_second:,.0f}/s"  # noqa: PLR2004


def size(count: float) -> str:
    """Write a number of bytes.

    Examples
    --------
    >>> [size(n) for n in (512, 2_500, 1_234_567, 25_300_000, 3_000_000_000)]
    ['512 B', '2.5 kB', '1.2 MB', '25 MB', '3.0 GB']
    """
    if count < 1000:  # noqa: PLR2004 - from here on in kB
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):  # noqa: B007 - the last stands for all that is more
        count /= 1000
        if count < 999.5:  # noqa: PLR2004 - from here on it would be rounded to 1000
            break
    return f"{count:.1f} {unit}" if count < 9.95 else f"{count:,.0f} {unit}"  # noqa: PLR2004


def color(color: tuple[str, str]) -> str:
    """Write a colour of text as a style."""
    return f"color:{color[0]};color:{color[1]}"


def background(color: tuple[str, str]) -> str:
    """Write a colour of what is behind text as a style."""
    return f"background:{color[0]};background:{color[1]}"


def folded(summary: object, text: object) -> str:
    """Write lines of text as static HTML, folded under one line that says what they are."""
    lines = html.escape(plain_lines(text))
    return (
        f'<details><summary style="cursor:pointer">{escape(summary)}</summary>'
        f'<pre style="margin:4px 0;max-height:24em;overflow:auto;white-space:pre-wrap;text-align:left;'
        f'{color(TEXT)};background:transparent">{lines}</pre></details>'
    )


def table(headings: Iterable[str], rows: Iterable[Iterable[str]], notes: Iterable[str] = ()) -> str:
    """Write a table as static HTML; its cells are HTML already, headings and notes are text."""
    cell = "text-align:left;vertical-align:top;padding:2px 10px 2px 0;overflow-wrap:anywhere"
    head = "".join(f'<th style="{cell}">{escape(heading)}</th>' for heading in headings)
    body = "".join(
        "<tr>" + "".join(f'<td style="{cell}">{content}</td>' for content in row) + "</tr>" for row in rows
    )
    more = "".join(f'<div style="opacity:0.75">{escape(note)}</div>' for note in notes)
    return (
        f'<div style="{BOX}"><table style="border-collapse:collapse">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}</div>"
    )


def message(line: str) -> str:
    """Write one line as static HTML, in the style of a panel."""
    return f'<div style="{BOX};opacity:0.75">{escape(line)}</div>'
