"""What this replica saw replaced: a bounded history of entries that died, for people who ask why.

The state of a kernel forgets what was overwritten or removed, and must. Whoever asks what a value
was before (`crdt.explain`) is answered from here: for each entry that died its place, what was
written, and the event that killed it. It is one replica's own recollection: no part of the state,
of a digest or of any message, not persisted, and off unless asked for (`Kernel.keep_replaced`).

    by document    at most DOCUMENT_VALUES_MAX, so that a busy one does not push out the others
    all together   at most `bytes_max`; the oldest of the document that rested longest go first
    one change     at most CHANGE_VALUES_MAX are taken from it, its newest: a removal of 70,000
                   entries costs what a thousand cost, and a look at where the others were

What goes leaves a mark (`ran_out`). An entry whose death came before it did - its writer, or a
peer, left it out because it was dead - is noted as never seen, where the event that killed it says
where it was. How a state that came as a whole came about is not told at all (`begins_late`).

An entry is noted when its change is complete; whatever is rolled back was never here.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

from crdt.kernel.live import entries_of, holds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from crdt.kernel.change import Mark, Touched
    from crdt.kernel.codec import Step
    from crdt.kernel.delta import Fields
    from crdt.kernel.kind import Path
    from crdt.kernel.live import Container, Entry, Row

DOCUMENT_VALUES_MAX = 100
CHANGE_VALUES_MAX = 1000
CHANGE_DOTS_MAX = 4000
"""Killed dots of one change whose killers are looked up; of others it is left open."""
DOCUMENTS_MAX = 10_000
"""Documents of which something is known; of the one that rested longest all is forgotten."""
ROW_BYTES = 300
"""What a row takes beside its value, measured generously."""
RANGE_DOTS_MAX = 64
"""A wider range of killed dots is not gone through dot by dot."""

_CONTAINER_OF, _ROW_OF = itemgetter(0), itemgetter(2)  # of a mark

# (path, step, entry, killer, bytes). An int instead of the entry: that dot was never seen here.
# The killer is a dot, 0 if it is not known.
Gone = tuple["Path", "Step", "Entry | int", int, int]


class _Document:
    __slots__ = ("ran_out", "rows")

    def __init__(self) -> None:
        self.rows: deque[Gone] = deque()
        self.ran_out = False


class Replaced:
    """The history of one kernel. `begins_late`: there was a state before it, or one came whole."""

    __slots__ = ("_bases", "_bytes", "_bytes_max", "_documents", "begins_late", "overflowed")

    def __init__(self, bases: Mapping[str, int], bytes_max: int, *, begins_late: bool) -> None:
        self._bases = bases  # of origins, as the live table has them
        self._bytes_max = bytes_max
        self._bytes = 0
        self._documents: OrderedDict[str, _Document] = OrderedDict()  # rested longest first
        self.begins_late = begins_late
        self.overflowed = False  # whole documents were forgotten, with the marks of what ran out

    @property
    def bytes_held(self) -> int:
        """What it takes, at most `bytes_max`."""
        return self._bytes

    def rows(self, name: str) -> Sequence[Gone]:
        """What is kept of the documents of a name, the oldest first."""
        document = self._documents.get(name)
        return () if document is None else document.rows

    def ran_out(self, name: str) -> bool:
        """Whether something older of that name is known to have been forgotten."""
        document = self._documents.get(name)
        return document is not None and document.ran_out

    # ------------------------------------------------------------------------------ noting

    def note(self, path: Path, step: Step, entry: Entry | int, by: int) -> None:
        """An entry died. O(1) amortised."""
        size = ROW_BYTES
        for part in (step,) if isinstance(entry, int) else (step, entry[2]):
            if type(part) is str:
                size += len(part) if part.isascii() else 4 * len(part)
            elif type(part) is bytes:
                size += len(part)
            elif type(part) is tuple:
                size += len(part[0])
        name = path[0]
        documents = self._documents
        document = documents.get(name)
        if document is None:
            document = documents[name] = _Document()
            if len(documents) > DOCUMENTS_MAX:
                self._forget(next(iter(documents)))
        else:
            documents.move_to_end(name)
        document.rows.append((path, step, entry, by, size))
        self._bytes += size
        if len(document.rows) > DOCUMENT_VALUES_MAX:
            self._drop_oldest(document)
        while self._bytes > self._bytes_max:
            rested = next(iter(documents))
            self._drop_oldest(documents[rested])
            if not documents[rested].rows:
                self._forget(rested)

    def _drop_oldest(self, document: _Document) -> None:
        self._bytes -= document.rows.popleft()[4]
        document.ran_out = True

    def _forget(self, name: str) -> None:
        self._bytes -= sum(row[4] for row in self._documents.pop(name).rows)
        self.overflowed = True

    def wrote(self, base: int, events: Sequence[Fields], undo: Sequence[Mark]) -> None:
        """Own events happened; these rows are as they were before. O(events + rows)."""
        if len(undo) == 1 == len(events):  # as nearly always
            container, step, row = undo[0]
            for entry in (row,) if type(row) is tuple else _died(container, step, row):
                self.note(container.path, step, entry, base + events[0][0])
            return
        first, last = base + events[0][0], base + events[-1][0]
        # What a batch wrote and replaced itself was never seen outside of it.
        own = range(first, last + 1)
        if first == last:
            self._take(undo, (), lambda _: first, own)
            return
        killers: dict[int, int] = {}
        for event in reversed(events):
            for dot in _dots(self._bases, event):
                killers[dot] = base + event[0]
            if len(killers) > CHANGE_DOTS_MAX:
                break
        self._take(undo, (), lambda dot: killers.get(dot, 0), own)

    def heard(
        self,
        killings: Sequence[tuple[int, Fields]],
        touched: Touched,
        is_news: Callable[[int], bool],
    ) -> None:
        """Events of others happened: (dot, event) of those that killed, the oldest first.

        `is_news` tells of a dot whether nothing was known of it before them. O(events + rows).
        """
        killers: dict[int, int] = {}
        for by, event in reversed(killings):  # the first that killed a dot has the last word
            for dot in _dots(self._bases, event):
                killers[dot] = by
            if len(killers) > CHANGE_DOTS_MAX:
                break
        only = killings[0][0] if len(killings) == 1 else 0
        taken = self._take(
            touched.marks, _whole(touched), lambda dot: killers.get(dot, only), range(0)
        )
        places = {by: event[1:3] for by, event in killings}
        if taken is None:  # what was not looked at may have been alive
            return
        for dot, by in killers.items():
            path, step = places[by]
            if path is not None and dot not in taken and is_news(dot):
                self.note(path, step, dot, by)

    def joined(self, touched: Touched) -> None:
        """A state came as a whole; of what died by it nobody says who killed it. O(rows)."""
        self.begins_late = True
        self._take(touched.marks, _whole(touched), lambda _: 0, range(0))

    def _take(
        self,
        marks: Sequence[Mark],
        whole: Sequence[tuple[Container, dict[Step, Row]]],
        killer_of: Callable[[int], int],
        without: range,
    ) -> set[int] | None:
        """Note what died of these rows, the newest first; its dots, None if that was too much."""
        found: list[tuple[Path, Step, Entry, int]] = []
        taken: set[int] = set()

        def look(container: Container, step: Step, row: Row | None) -> None:
            for entry in _died(container, step, row):
                dot = entry[0]
                if dot not in taken and dot not in without:
                    taken.add(dot)
                    found.append((container.path, step, entry, killer_of(dot)))

        left = len(marks)
        while left and len(found) < CHANGE_VALUES_MAX:
            left -= 1
            look(*marks[left])
        cut = _with_deaths(marks[:left], taken, without)
        for container, rows in reversed(whole):
            room = max(0, CHANGE_VALUES_MAX - len(found))
            for step in islice(reversed(rows), room):
                look(container, step, rows[step])
            if len(rows) > room:
                cut.add(container)
        for gone in reversed(found):
            self.note(*gone)
        self._mark_cut(cut)
        return None if cut else taken

    def _mark_cut(self, cut: Iterable[Container]) -> None:
        for container in cut:
            document = self._documents.get(container.path[0])
            if document is None:
                self.overflowed = True
            else:
                document.ran_out = True


def _with_deaths(marks: Sequence[Mark], taken: set[int], without: range) -> set[Container]:
    """Where something else died. A look at one row of each place tells, at C speed, mostly."""

    def tells(mark: Mark) -> bool:
        dots = [entry[0] for entry in _died(*mark)]
        return any(dot not in taken and dot not in without for dot in dots)

    rows = list(filter(_ROW_OF, marks))
    told = dict(zip(map(_CONTAINER_OF, rows), rows, strict=True))
    cut = {container for container, mark in told.items() if tells(mark)}
    if len(cut) < len(told):
        cut.update(mark[0] for mark in rows if mark[0] not in cut and tells(mark))
    return cut


def _died(container: Container, step: Step, row: Row | None) -> Iterable[Entry]:
    """The entries of a row, as it was, that are dead now."""
    if row is None:
        return ()
    now = container.rows.get(step)
    if now is row:
        return ()
    if type(row) is tuple:
        return () if holds(now, row[0]) else (row,)
    return [entry for entry in entries_of(row) if not holds(now, entry[0])]


def _whole(touched: Touched) -> list[tuple[Container, dict[Step, Row]]]:
    """The containers that lost all their rows at once, and these."""
    return [(container, rows) for _, container, rows in touched.gone]


def _dots(bases: Mapping[str, int], event: Fields) -> Iterator[int]:
    """The dots that an event killed; not those of wide ranges, nor too many."""
    kills = event[5]
    for origin, first, last in kills[-CHANGE_DOTS_MAX:]:
        base = bases.get(origin)
        if base is not None and last - first < RANGE_DOTS_MAX:
            yield from range(base + first, base + last + 1)
