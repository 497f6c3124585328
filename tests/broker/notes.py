"""What tasks note in a file, for a test to read what really ran."""

from __future__ import annotations

from pathlib import Path


def note(file: Path, text: object) -> None:
    """Add a line to a file; one write, so that processes don't mix theirs."""
    with file.open("a") as f:
        f.write(f"{text}\n")


def lines(file: Path) -> list[str]:
    """Return the lines so far; none if there is no file yet."""
    return file.read_text().splitlines() if file.exists() else []
