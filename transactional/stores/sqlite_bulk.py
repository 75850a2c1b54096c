"""Many rows in few statements.

SQLite gives up Python's lock once per statement, and gets it back only when the event loop lets go:
a statement per row waits longer than it works (three times slower, measured).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

INSERT_ROWS: Final = (256, 128, 64, 32, 16, 8, 4, 2, 1)
"""Rows per statement: any count takes at most one of each size below the largest, and they are few
enough for the compiled statements to be found again."""


def insert_rows(
    connection: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]]
) -> None:
    """Insert rows of equal length; ``into`` is the statement up to ``VALUES``."""
    done = 0
    for size in INSERT_ROWS:
        while len(rows) - done >= size:
            row = "(" + ",".join("?" * len(rows[0])) + ")"
            flat = [cell for row in rows[done : done + size] for cell in row]
            connection.execute(f"{into} VALUES {','.join([row] * size)}", flat)
            done += size
