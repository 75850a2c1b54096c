"""Looks at every row of an open file again, a few at a time: is it still what was written?

Theory of operation
-------------------
Whoever reads a row checks it.  But a bit that the disk turned in the structure of a page can hide
rows, and a row that is not found is not checked: "there is no such key" would be the answer.  So
once in a while all rows are looked at, in the order of their table.  Each must be what was written,
and come after the one before it; together they must be what ``meta`` counts of the table (see
``sqlite_schema.py``).  Then a search finds each of them, for it compares the same cells, which
stand in order.

That is done in steps between the writer's groups, about ``STEP_S`` each, through a connection that
only reads and lets go of its snapshot after each step, so that no log is held up.  Between two
steps rows change.  What a group changes *behind* the place that was reached is counted with what
was passed; what it changes before that is met on the way::

    first row . . . . . . . . . . . . last | . . . . . . . . . . . . end
    passed: how many, sum, bytes           | not looked at yet
    and what groups changed there since    |

Whatever an opening would refuse, ends the work of an open store: see ``SQLiteStore``.  A count that
is off is taken again in one go before anything is said, so that a mistake in the adding up
accuses no disk.

What the system has in memory, it does not read from the disk: a turned bit under such a page is
seen when it is read again.
"""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from transactional.errors import CorruptStoreError
from transactional.stores import sqlite_schema as schema
from transactional.stores.sqlite_schema import NOTHING, Totals

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

EVERY_S: Final = 86_400.0
"""How long after the last round the next one begins."""
EVERY_S_MAX: Final = 1e9
"""A thread cannot wait for ever."""
STEP_S: Final = 0.01
"""How long a step takes, about, or one row if that takes longer; commits wait as long."""
REST: Final = 49.0
"""A step is followed by a pause of so many times its length: one part in fifty of the time."""
AGAIN_S: Final = 10.0
"""Pause before a step is tried again that could not read."""
CACHE_KIB: Final = 1024
"""Of pages; they are read once."""

Place = tuple[Any, ...]
"""Where a row stands in the order of its table: its primary key."""

_log = logging.getLogger(__name__)


class Patrol:
    """Rounds over one open file, for its only writer; ``every_s`` of 0 makes none.

    ``at_once``: the first round does not wait, because there was no time to check all at opening.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        every_s: float = EVERY_S,
        at_once: bool = False,
        step_s: float = STEP_S,
    ) -> None:
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        self._db = connection
        self._every_s = every_s
        self._step_s = step_s
        self._todo: list[str] = []  # the tables of this round; the first is being looked at
        self._last: Place | None = None  # of those that were looked at
        self._passed = self._passed_before = NOTHING
        self._whole_s = monotonic()
        self._due_s = (self._whole_s + (0.0 if at_once else every_s)) if every_s else None
        self.recounted = 0
        """How often what was added up was off, and a count in one go was not."""

    @property
    def due_s(self) -> float | None:
        """When the next step is due, by ``time.monotonic``; None: never."""
        return self._due_s

    @property
    def age_s(self) -> float:
        """How long ago all rows had been looked at, or the file had been opened."""
        return monotonic() - self._whole_s

    # --- what the writer changes between two steps ---

    def begin(self) -> None:
        """Note that a group begins."""
        self._passed_before = self._passed

    def abandon(self) -> None:
        """Forget what the group has changed."""
        self._passed = self._passed_before

    def is_behind(self, table: str, place: Place) -> bool:
        """Say whether the place was passed, so that a change there is to be counted."""
        return self._last is not None and self._todo[0] == table and place <= self._last

    def count(self, more: Totals, less: Totals = NOTHING) -> None:
        """Count a change behind the place that was reached."""
        rows, checksums, size = (
            n + m - k for n, m, k in zip(self._passed, more, less, strict=True)
        )
        self._passed = rows, checksums, size

    def behind(self, table: str) -> tuple[str, Place] | None:
        """Return a condition for the rows that were passed, and its values, if there are any."""
        if self._last is None or self._todo[0] != table:
            return None
        columns, marks = _places(table)
        return f"({columns}) <= ({marks})", self._last

    # --- a step ---

    def step(self, totals: Mapping[str, Totals]) -> bool:
        """Look at some more rows; say whether the round is over.  It begins one if there is none.

        ``totals`` are what there is by the writer's count.

        Raises:
            CorruptStoreError: something is not what was written.
            sqlite3.Error, UnicodeDecodeError: it cannot be read.
        """
        begun_s = monotonic()
        self._due_s = begun_s + AGAIN_S
        self._db.execute("PRAGMA shrink_memory")  # what it has read once, says nothing of the file
        self._db.execute("BEGIN")
        try:
            if schema.Meta.read(self._db).totals != totals:
                return False  # a commit whose outcome is not known, or another's: the writer tells
            over = self._look(begun_s + self._step_s, totals)
        finally:
            self._db.execute("ROLLBACK")
        ended_s = monotonic()
        if over:
            self._whole_s = ended_s
        self._due_s = ended_s + (self._every_s if over else REST * (ended_s - begun_s))
        return over

    def _look(self, end_s: float, totals: Mapping[str, Totals]) -> bool:
        if not self._todo:
            self._todo = list(schema.PLACES)
        while self._todo:
            if not self._pass(self._todo[0], end_s):
                return False
            self._compare(self._todo[0], totals)
            del self._todo[0]
            self._last, self._passed = None, NOTHING
        return True

    def _pass(self, table: str, end_s: float) -> bool:
        """Go on in a table until its end, or that of the time; say whether it is the table's."""
        columns, checksum, size = schema.CHECKSUMS[table]
        names, marks = _places(table)
        at = [columns.split(", ").index(name) for name in schema.PLACES[table]]
        beyond = "TRUE" if self._last is None else f"({names}) > ({marks})"
        rows = self._db.execute(
            f"SELECT {columns}, checksum, {size} FROM {table} WHERE {beyond} ORDER BY {names}",
            self._last or (),
        )
        for *row, found, length in rows:
            place = tuple([row[column] for column in at])
            if not _is_whole(checksum, row, found):
                raise CorruptStoreError(f"a row of {table} is not what was written: {place}")
            if self._last is not None and place <= self._last:
                raise CorruptStoreError(f"rows of {table} are out of order: {self._last}, {place}")
            self._last = place
            self.count((1, found, length))
            if monotonic() >= end_s:
                return False
        return True

    def _compare(self, table: str, totals: Mapping[str, Totals]) -> None:
        if self._passed == totals[table]:
            return
        if (counted := schema.totals_of(self._db, table)) != totals[table]:
            text = f"rows of {table} are lost: rows, sum, bytes are {counted}, not {totals[table]}"
            raise CorruptStoreError(text)
        self.recounted += 1
        _log.warning("rows of %s: %s were passed, of %s", table, self._passed, counted)


def _places(table: str) -> tuple[str, str]:
    names = schema.PLACES[table]
    return ", ".join(names), ", ".join("?" * len(names))


def _is_whole(checksum: Any, row: list[Any], found: object) -> bool:
    try:
        return bool(checksum(*row) == found)
    except (TypeError, ValueError):  # of a damaged row a column may be of any type
        return False
