"""How a demo ends: what was counted, what must hold, and the exit status that follows from it.

Every demo closes alike: a table of figures, a table of checks with what was found and whether that
is right, and one last line that says how many checks hold and with which status the demo exits.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

FAILED = 1
NUMBER = re.compile(r"[\d.]+( (s|ms|KiB|B))?")
COLUMNS_MIN = 72
"""In a terminal so wide the first column stays on one line."""


class Check(NamedTuple):
    """A line of the closing table: what was checked, what was found, whether that is right."""

    name: str
    found: str
    ok: bool


def show(
    console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Print a table; what its cells say is text, not markup, and a column of numbers stands right.

    No rows, no table.
    """
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        numbers = all(NUMBER.fullmatch(row[number]) for row in rows)
        first = not number and console.width >= COLUMNS_MIN
        table.add_column(column, justify="right" if numbers else "left", no_wrap=first)
    for row in rows:
        style = {"ok": "green", "FAILED": "bold red"}.get(row[-1])
        table.add_row(*map(Text, row), style=style)
    console.print(table)


def close(console: Console, checks: Sequence[Check], summary: str) -> int:
    """Print the checks and the last line; the exit status: 0 if all of them hold, else `FAILED`."""
    rows = [(check.name, check.found, "ok" if check.ok else "FAILED") for check in checks]
    show(console, "Checks", ("check", "found", "verdict"), rows)
    held = all(check.ok for check in checks)
    status = 0 if held else FAILED
    verdict = f"all {len(checks)} checks hold" if held else "a check FAILED"
    last = Text(f"{summary}; {verdict} (exit status {status})", style="bold")
    console.print(last, soft_wrap=True)
    return status
