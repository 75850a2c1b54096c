"""The live table: path -> {dot: entry}, for the dots that are alive, and the log of each origin.

A live entry is found in two ways, and both must agree: by its place, and by its dot.

By place there are two levels, because that is how it is used: a container per path of a document
(or of a child in an ORMap) and in it one row per step. A row is an entry `(dot, stamp, value)`;
only where concurrent writes meet is it a dict `{dot: entry}`, which is replaced and never changed,
so that a reader may hold on to what it saw.

Removing is forgetting: a row without entries is deleted, a container without rows and children
leaves the table, and nothing stands in for either - no tombstone (Bieniusa et al. 2012). A
container object lives on only while a view points to it, so that views never go stale.

By dot there is the log of each origin: its history as far as it can still be retold. It answers
"which events of this origin come after seq n?" in time proportional to the answer. Three parallel
columns (seq, container, step), ascending by seq, name the place of every entry. A slot is never
removed when its entry dies: it is *stale*, readers look the entry up and see that it is gone, and
when half of the slots are stale the columns are rewritten. Events that arrive out of order wait in
`late` and are sorted in at the next rewrite, so that a shuffled history costs n log n and not n
squared.

Whoever takes an entry out of a row marks the block of its dot in `dirty` (`blocks`), and forgets
what was encoded with it (`encodings`); nobody marks what is new, for that is known by its number.

Kills are different: they are kept because a peer may still need them (`record`), they are a cache,
and dropping the oldest raises `floor`: below it nobody can be told what was removed.

Invariants (`_check`): a container is in `containers` iff it has rows or children; every live dot is
in exactly one row and has exactly one slot in the log of its origin; seqs ascend strictly; every
key of `kills` is above `floor`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from operator import itemgetter
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from crdt.errors import require
from crdt.kernel.codec import Step, Stored
from crdt.kernel.context import Dot, Range
from crdt.kernel.doomed import BLOCK_BITS
from crdt.kernel.encodings import Encodings
from crdt.kernel.limits import SEQ_BITS, SEQ_MAX
from crdt.kernel.record import Records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from crdt.kernel.kind import Path

Entry = tuple[int, int, Stored]  # dot, stamp, value
Row = Entry | dict[int, Entry]
STAMP_OF = itemgetter(1)  # of an entry
VALUE_OF = itemgetter(2)
Slot = tuple[int, "Container", Step]  # of a log: (seq, where its entry was written)

_NO_RECORDS: Final = Records()  # shared, and never filled
_SLACK = 64  # stale or late slots that never trigger a rewrite


class Container:
    """The rows below one path, and the containers nested in it."""

    __slots__ = ("__weakref__", "children", "parent", "path", "plain", "rows", "total")

    def __init__(self, path: Path, parent: Container | None) -> None:
        self.path = path
        self.parent = parent
        self.rows: dict[Step, Row] = {}
        self.children: dict[tuple[str, str], Container] = {}
        self.total: int | None = None  # of a counter's entries, once asked for; None: count anew
        self.plain = True  # known to hold single entries of scalars only; False: look again

    def count(self, step: Step, amount: Stored, sign: int) -> None:
        """An entry came (1) or went (-1): keep the total, where one amount is one increment."""
        if type(step) is int and type(amount) is int and self.total is not None:
            self.total += sign * amount
        else:
            self.total = None

    def is_plain(self) -> bool:
        """Whether each row is one entry, step and value being stored as they are shown.

        Then rows are read as columns. O(1) as long as nothing was joined since it was true.
        """
        if not self.plain:
            rows = self.rows
            self.plain = (
                tuple not in set(map(type, rows))
                and dict not in set(map(type, rows.values()))
                and tuple not in set(map(type, map(VALUE_OF, rows.values())))
            )
        return self.plain

    def subtree(self) -> Iterator[Container]:
        """This container and everything nested in it."""
        yield self
        for child in list(self.children.values()):
            yield from child.subtree()


def entries_of(row: Row | None) -> Iterable[Entry]:
    """The concurrent entries of a row; most rows have one."""
    if row is None:
        return ()
    return (row,) if type(row) is tuple else row.values()  # type: ignore[union-attr]  # a dict


def holds(present: object, dot: int) -> bool:
    """Whether a row (one entry, or a dict of concurrent ones) holds this dot."""
    if type(present) is tuple:
        return bool(present[0] == dot)
    return present is not None and dot in present  # type: ignore[operator]  # then it is a dict


class OriginLog:
    """Where the entries of one origin are. `base` is the origin's part of its dots."""

    __slots__ = (
        "base",
        "batches",
        "containers",
        "floor",
        "kills",
        "late",
        "seqs",
        "stale",
        "steps",
    )

    def __init__(self, base: int) -> None:
        self.base = base
        self.seqs: array[int] = array("Q")
        self.containers: list[Container] = []
        self.steps: list[Step] = []
        self.late: dict[int, tuple[Container, Step]] = {}
        self.stale = 0
        self.kills = _NO_RECORDS  # until there are some: most origins of a long life have none
        self.floor = 0
        self.batches: list[tuple[int, int]] = []

    # ------------------------------------------------------------------------------ entries

    def place(self, seq: int, container: Container, step: Step) -> None:
        """Remember where the entry of an event lives. O(1) amortised."""
        seqs = self.seqs
        if not seqs or seq > seqs[-1]:
            seqs.append(seq)
            self.containers.append(container)
            self.steps.append(step)
            return
        self.late[seq] = (container, step)
        if len(self.late) > _SLACK + len(seqs):
            self.rewrite()

    def extend(self, seqs: Iterable[int], containers: list[Container], steps: list[Step]) -> None:
        """`place` for columns that ascend and lie above everything known."""
        self.seqs.extend(seqs)
        self.containers += containers
        self.steps += steps

    def find(self, seq: int) -> tuple[Container, Step] | None:
        """The place of an event's entry, dead or alive, or None. O(log n)."""
        index = bisect_left(self.seqs, seq)
        if index < len(self.seqs) and self.seqs[index] == seq:
            return self.containers[index], self.steps[index]
        return self.late.get(seq)

    def slots(self, first: int, last: int) -> Iterator[Slot]:
        """The slots of first..last, ascending, stale ones included. O(answer) amortised."""
        self.sort_in()
        return self._slots(first, last)

    def sort_in(self) -> None:
        """Sort the late slots in, if they are more than a few. O(1) amortised."""
        if len(self.late) > _SLACK:
            self.rewrite()

    def next_seq(self, after: int) -> int | None:
        """The first slot above a seq, stale or not. O(log n) amortised."""
        self.sort_in()
        index = bisect_right(self.seqs, after)
        above = [seq for seq in self.late if seq > after]
        return min([*above, *self.seqs[index : index + 1]], default=None)

    def _slots(self, first: int, last: int) -> Iterator[Slot]:
        low, high = bisect_left(self.seqs, first), bisect_right(self.seqs, last)
        inside = zip(
            self.seqs[low:high], self.containers[low:high], self.steps[low:high], strict=True
        )
        if not self.late:
            return inside
        late = [(seq, *place) for seq, place in self.late.items() if first <= seq <= last]
        return iter(sorted([*inside, *late], key=_seq_of)) if late else inside

    def entry_died(self) -> None:
        """Count a stale slot, and rewrite when half of them are. O(1) amortised."""
        self.stale += 1
        self.tidy()

    def tidy(self) -> None:
        """Rewrite if half of the slots are stale. Entries that die together are counted first."""
        if self.stale > _SLACK + (len(self.seqs) + len(self.late)) // 2:
            self.rewrite()

    def rewrite(self) -> None:
        """Sort the late slots in and leave the stale ones out. O(n log n)."""
        self.hold(
            [
                slot
                for slot in self._slots(0, 1 << 63)
                if holds(slot[1].rows.get(slot[2]), self.base + slot[0])
            ]
        )

    def hold(self, alive: list[Slot]) -> None:
        """Let these be its slots, which ascend and are alive. O(n)."""
        self.seqs = array("Q", [slot[0] for slot in alive])
        self.containers = [slot[1] for slot in alive]
        self.steps = [slot[2] for slot in alive]
        self.late = {}
        self.stale = 0

    def forget_after(self, seq: int) -> None:
        """Undo every event above seq: their slots and their kills."""
        index = bisect_right(self.seqs, seq)
        del self.seqs[index:], self.containers[index:], self.steps[index:]
        self.kills.forget_after(seq)

    def live_count(self) -> int:
        """How many dots of this origin are live. O(1)."""
        return len(self.seqs) + len(self.late) - self.stale

    # -------------------------------------------------------------------------------- kills

    def record(self, seq: int, kills: tuple[Range, ...]) -> None:
        """Remember what an event killed, unless that part of history is given up already."""
        if seq > self.floor:
            self.records_to_fill().add(seq, kills)

    def records_to_fill(self) -> Records:
        """The records of this origin, its own from now on. O(1)."""
        if self.kills is _NO_RECORDS:
            self.kills = Records()
        return self.kills

    def drop_records(self, upto: int) -> None:
        """Give up the kills of events up to a seq; raises the floor if there were any."""
        self.floor = max(self.floor, self.kills.drop(upto))
        self.batches = [batch for batch in self.batches if batch[1] > self.floor]

    # ------------------------------------------------------------------------------ batches

    def mark_batch(self, first: int, last: int) -> None:
        """Remember that these events belong together."""
        batches = self.batches
        if not batches or batches[-1][1] < first:
            batches.append((first, last))
        elif (first, last) not in self.batches_between(first, last):
            insort(batches, (first, last))

    def batches_between(self, first: int, last: int) -> tuple[tuple[int, int], ...]:
        """The batches that lie in first..last."""
        low = bisect_left(self.batches, (first, 0))
        high = bisect_right(self.batches, (last, last))
        return tuple(batch for batch in self.batches[low:high] if batch[1] <= last)

    def batch_around(self, seq: int) -> tuple[int, int] | None:
        """The batch that holds this event and one after it."""
        index = bisect_right(self.batches, (seq, 1 << 63)) - 1
        if index >= 0 and self.batches[index][1] > seq:
            return self.batches[index]
        return None


def _seq_of(slot: Slot) -> int:
    return slot[0]


class LiveTable:
    """All live entries of one kernel, findable by path and by dot."""

    __slots__ = ("_known", "bases", "containers", "dirty", "encodings", "logs", "names")

    def __init__(self) -> None:
        self.names: list[str] = []  # index -> replica id
        self.bases: dict[str, int] = {}  # replica id -> index << SEQ_BITS
        self.logs: list[OriginLog] = []
        self.containers: dict[Path, Container] = {}
        self.dirty: set[int] = set()  # dots >> BLOCK_BITS of what died since it was hashed
        self.encodings = Encodings()
        self._known: WeakValueDictionary[Path, Container] = WeakValueDictionary()

    # --------------------------------------------------------------------------------- dots

    def base(self, replica: str) -> int:
        """What to add to a seq of this replica to get its dot; a new replica gets an index."""
        base = self.bases.get(replica)
        if base is None:
            base = self.bases[replica] = len(self.names) << SEQ_BITS
            self.names.append(replica)
            self.logs.append(OriginLog(base))
        return base

    def log(self, replica: str) -> OriginLog:
        """The log of an origin, to be written; made if there is none."""
        return self.logs[self.base(replica) >> SEQ_BITS]

    def history(self, replica: str) -> OriginLog:
        """The log of an origin, to be read; an empty one, not kept, where nothing is retold.

        An origin may be known without a log: after a restart, one whose every entry is dead. That
        it was heard stands in the context, and in the context alone.
        """
        base = self.bases.get(replica)
        return OriginLog(0) if base is None else self.logs[base >> SEQ_BITS]

    def dot(self, packed: int) -> Dot:
        """The dot in the form that others understand."""
        return Dot(self.names[packed >> SEQ_BITS], packed & SEQ_MAX)

    def order(self, entry: Entry) -> tuple[int, str, int]:
        """By (stamp, replica, seq): the order in which the last speaks; values never count."""
        return entry[1], self.names[entry[0] >> SEQ_BITS], entry[0] & SEQ_MAX

    def latest(self, row: Row) -> Entry:
        """The entry of a row that speaks."""
        if type(row) is tuple:
            return row
        return max(row.values(), key=self.order)  # type: ignore[union-attr]  # a dict

    # --------------------------------------------------------------------------- containers

    def container(self, path: Path) -> Container:
        """The one container of a path, made if there is none."""
        found = self.containers.get(path) or self._known.get(path)
        if found is None:
            parent = self.container(path[:-2]) if len(path) > 2 else None
            found = self._known[path] = Container(path, parent)
        return found

    def enlist(self, container: Container) -> None:
        """A container gets its first row or child."""
        self.containers[container.path] = container
        parent = container.parent
        if parent is not None:
            if not parent.rows and not parent.children:
                self.enlist(parent)
            parent.children[container.path[-2], container.path[-1]] = container

    def retire(self, container: Container) -> None:
        """A container lost its last row or child: nothing of it remains."""
        if container.rows or container.children:
            return
        del self.containers[container.path]
        parent = container.parent
        if parent is not None:
            del parent.children[container.path[-2], container.path[-1]]
            self.retire(parent)

    # ------------------------------------------------------------------------------ entries

    def insert(self, container: Container, step: Step, entry: Entry) -> None:
        """Add an entry beside whatever is there. Its place in the log is the caller's duty."""
        rows = container.rows
        present = rows.get(step)
        container.plain = False
        if container.total is not None:
            container.count(step, entry[2], 1)
        if present is None:
            if not rows:
                self.enlist(container)
            rows[step] = entry
        elif type(present) is tuple:
            rows[step] = {present[0]: present, entry[0]: entry}
        else:
            rows[step] = {**present, entry[0]: entry}  # type: ignore[dict-item]  # a dict

    def kill(self, container: Container, step: Step, dot: int) -> None:
        """Remove one live entry; the caller knows that it is there."""
        self.take_out(container, step, dot)
        self.outdate(dot)
        self.logs[dot >> SEQ_BITS].entry_died()

    def take_out(self, container: Container, step: Step, dot: int) -> None:
        """Take an entry that is there out of its row; the rest of `kill` is the caller's duty."""
        rows = container.rows
        present = rows[step]
        if container.total is not None:
            gone = self.entry(container, step, dot)
            container.count(step, gone[2] if gone is not None else None, -1)
        if type(present) is tuple:
            del rows[step]
            if not rows:
                self.retire(container)
        else:
            rest = {key: entry for key, entry in present.items() if key != dot}  # type: ignore[union-attr]  # a dict
            rows[step] = next(iter(rest.values())) if len(rest) == 1 else rest

    def outdate(self, dot: int) -> None:
        """An entry leaves its row: what was made of it before is out of date. O(log pieces)."""
        self.dirty.add(dot >> BLOCK_BITS)
        if self.encodings.starts:
            self.encodings.forget(dot, dot)

    def put_back(self, container: Container, step: Step, row: Row | None) -> None:
        """Make a row what it was before; the logs are the caller's duty."""
        rows = container.rows
        container.total, container.plain = None, False
        if row is not None:
            if not rows:
                self.enlist(container)
            rows[step] = row
        elif step in rows:
            del rows[step]
            if not rows:
                self.retire(container)

    def go_back(self, before: Sequence[tuple[Container, Step, Row | None]]) -> None:
        """Make rows what they were, the first of these last, whatever happened meanwhile. O(n).

        For a change that broke off anywhere, also between a row and its log: what follows from the
        rows is worked out from them. Stale slots and late ones go.
        """
        for container, step, row in reversed(before):
            container.total, container.plain = None, False
            if row is None:
                container.rows.pop(step, None)
            else:
                container.rows[step] = row
        for container, _, _ in before:
            self._settle(container)
        alive: list[list[Slot]] = [[] for _ in self.logs]
        for container in self.containers.values():
            for step, row in container.rows.items():
                for entry in entries_of(row):
                    alive[entry[0] >> SEQ_BITS].append((entry[0] & SEQ_MAX, container, step))
        for log, slots in zip(self.logs, alive, strict=True):
            log.hold(sorted(slots, key=_seq_of))

    def _settle(self, container: Container | None) -> None:
        """Be in the table, with those above, if there is anything in it; else be in none."""
        while container is not None:
            path, parent = container.path, container.parent
            children = {} if parent is None else parent.children
            if container.rows or container.children:
                self.containers[path] = children[path[-2], path[-1]] = container
            else:
                self.containers.pop(path, None)
                children.pop((path[-2], path[-1]), None)
            container = parent

    def find(self, dot: int) -> tuple[Container, Step] | None:
        """Where a dot is alive, or None. O(log n)."""
        place = self.logs[dot >> SEQ_BITS].find(dot & SEQ_MAX)
        if place is not None and holds(place[0].rows.get(place[1]), dot):
            return place
        return None

    def entry(self, container: Container, step: Step, dot: int) -> Entry | None:
        """The entry of a dot at a place, or None if it is not alive there."""
        present = container.rows.get(step)
        if type(present) is tuple:
            return present if present[0] == dot else None
        return present.get(dot) if present is not None else None  # type: ignore[union-attr]

    def as_ranges(self, dots: Iterable[int]) -> tuple[Range, ...]:
        """Dots as the fewest ranges, ordered by origin and seq."""
        by_origin: dict[str, list[int]] = {}
        for dot in dots:
            by_origin.setdefault(self.names[dot >> SEQ_BITS], []).append(dot & SEQ_MAX)
        ranges: list[Range] = []
        for origin in sorted(by_origin):
            first = last = -1
            for seq in sorted(by_origin[origin]):
                if seq == last + 1:
                    last = seq
                    continue
                if last > 0:
                    ranges.append((origin, first, last))
                first = last = seq
            ranges.append((origin, first, last))
        return tuple(ranges)

    def count(self) -> int:
        """Live entries. O(origins)."""
        return sum(log.live_count() for log in self.logs)

    def copy(self) -> LiveTable:
        """An independent table with the same content and the same indices. O(n)."""
        twin = LiveTable()
        for name in self.names:
            twin.base(name)
        for path, container in self.containers.items():
            copied = twin.container(path)
            if container.rows:
                twin.enlist(copied)
                copied.rows.update(container.rows)
                copied.plain = container.plain
        for mine, log in zip(twin.logs, self.logs, strict=True):
            mine.seqs = log.seqs[:]
            mine.containers = [twin.container(container.path) for container in log.containers]
            mine.steps = log.steps[:]
            mine.late = {
                seq: (twin.container(container.path), step)
                for seq, (container, step) in log.late.items()
            }
            mine.stale, mine.floor = log.stale, log.floor
            mine.kills = log.kills.copy() if log.kills else _NO_RECORDS
            mine.batches = list(log.batches)
        return twin

    def _check(self) -> None:
        """Assert the invariants of this module."""
        dots: dict[int, tuple[Path, Step]] = {}
        for path, container in self.containers.items():
            require(container.rows or container.children, f"empty container {path}")
            require(self._known.get(path) is container, f"two containers at {path}")
            claimed, container.plain = container.plain, False
            require(container.is_plain() or not claimed, f"not as plain as it says: {path}")
            for step, row in container.rows.items():
                require(type(row) is tuple or len(row) > 1, "a dict where one entry would do")
                for entry in entries_of(row):
                    require(entry[0] not in dots, f"{self.dot(entry[0])} lives twice")
                    dots[entry[0]] = (path, step)
        for log in self.logs:
            alive = [
                log.base + seq
                for seq, container, step in log.slots(0, SEQ_MAX)
                if holds(container.rows.get(step), log.base + seq)
            ]
            require(len(alive) == log.live_count(), "stale slots miscounted")
            for dot in alive:
                require(dots.pop(dot, None) is not None, "a slot without its entry")
            oldest = next(log.kills.between(0, SEQ_MAX), (SEQ_MAX + 1, ()))[0]
            require(oldest > log.floor, "a record below the floor")
            log.kills._check()  # noqa: SLF001  # as above
        require(not dots, "live entries without a slot")
