"""The join: how events and states of others come in.

For a delta, event by event (Almeida, Shoker, Baquero 2018, section 6, with kills made explicit):

    its kills are honoured - always, also if its own dot was seen: a dot may have come with a state,
    without the record of its removals; its entry is taken unless its dot was seen before or is
    doomed; then the context grows by the event's own dot and never by the killed ones.

For a piece of state - a span says which entries of origin o in first..last are alive, and covers
exactly these dots:

    in both              keep
    mine only            it is dead there: remove
    theirs only          take, unless my context as it was before covers it, or it is doomed

Both check first and change afterwards: whatever is refused leaves no trace.

The work is done over columns wherever a span brings only news; row by row where histories meet.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING

from crdt.errors import DoomedFullError, DoubleSpentDotError, IdentityReusedError
from crdt.kernel.change import UNCHANGED, Change, Touched
from crdt.kernel.codec import Step, order_of
from crdt.kernel.context import Dot, Swept
from crdt.kernel.delta import Delta, Fields, Run, columns_of
from crdt.kernel.doomed import BLOCK_BITS, BLOCKS_MAX
from crdt.kernel.limits import SEQ_BITS
from crdt.kernel.live import STAMP_OF, VALUE_OF, holds
from crdt.kernel.wire import Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from crdt.kernel.context import Range
    from crdt.kernel.kind import Path
    from crdt.kernel.live import Container, Entry, Row
    from crdt.kernel.replaced import Replaced
    from crdt.kernel.state import State


# -------------------------------------------------------------------------------------- deltas


def apply_delta(state: State, delta: Delta, *, own: bool) -> Change:
    """Take a delta in. O(its size) when it brings only news; atomic. `own` welcomes own dots."""
    runs = delta.runs if len(delta.runs) == 1 else _connected(delta.runs)
    if not own:
        refuse_own(state, [(run.origin, run.first, run.last) for run in runs])
    heard = {} if state.replaced is None else _heard(state, runs)
    _refuse_conflicts(state, runs)
    touched, before = Touched(state.live), state.moment([run.origin for run in runs])
    try:
        for run in runs:
            _apply_run(state, run, touched)
    except BaseException:  # also what nobody foresaw: the vector must not claim a part
        before.go_back(touched)
        raise
    before.over()
    if state.replaced is not None:
        _note_replaced(state, state.replaced, runs, touched, heard)
    return touched.change()


def _heard(state: State, runs: Iterable[Run]) -> dict[str, tuple[int, int]]:
    """The last seqs applied, and seen, of the origins of some runs."""
    applied, context = state.applied.seqs, state.context
    return {run.origin: (applied.get(run.origin, 0), context.last_seq(run.origin)) for run in runs}


def _note_replaced(
    state: State,
    replaced: Replaced,
    runs: Iterable[Run],
    touched: Touched,
    heard: dict[str, tuple[int, int]],
) -> None:
    """Remember what these events killed; `heard`: the last seqs applied, and seen, before them."""
    live, seen = state.live, state.context
    killings = [
        (live.bases[run.origin] + event[0], event)
        for run in runs
        if run.span is None
        for event in run.rows
        if event[5] and event[0] > heard[run.origin][0]
    ]

    def is_news(dot: int) -> bool:
        origin, seq = live.dot(dot)
        return seq > (heard[origin][1] if origin in heard else seen.last_seq(origin))

    if killings:
        replaced.heard(killings, touched, is_news)


def _connected(runs: Sequence[Run]) -> Sequence[Run]:
    """Runs that continue one another as one: many small deltas cost what one large delta does."""
    pieces: list[list[Run]] = []
    end, origin = 0, None
    for run in runs:
        if run.first == end and run.origin == origin:
            pieces[-1].append(run)
        else:
            pieces.append([run])
        end, origin = run.last + 1, run.origin
    return [piece[0] if len(piece) == 1 else _one_run(piece) for piece in pieces]


def _one_run(piece: list[Run]) -> Run:
    origin, first, last = piece[0].origin, piece[0].first, piece[-1].last
    batches = tuple(chain.from_iterable([run.batches for run in piece]))
    spans = [run.span for run in piece if run.span is not None]
    rows: tuple[Fields, ...] | Span
    if len(spans) == len(piece):
        columns = zip(*[span[3:] for span in spans], strict=True)
        rows = Span(origin, first, last, *(list(chain.from_iterable(each)) for each in columns))
    else:
        rows = tuple(chain.from_iterable([run.rows for run in piece]))
    return Run(origin, first, last, rows, batches, admitted=True)


def refuse_own(state: State, ranges: Iterable[Range]) -> None:
    """Raise if a range tells this replica about own events it never made."""
    for origin, _, seq in ranges:
        if origin == state.replica:
            last = state.applied.seqs.get(origin, 0)
            if seq > last:
                raise IdentityReusedError(origin, seq, last)


def _refuse_conflicts(state: State, runs: Sequence[Run]) -> None:
    unseen, blocks, least = 0, 0, state.room_to_doom("")
    for run in runs:
        news = run.first > state.context.last_seq(run.origin)
        if news and run.span is not None:
            continue  # nothing here that it could contradict, and it kills nothing
        if state.doomed_share_max is not None and run.span is None:
            room = state.room_to_doom(state.owner_of(run.origin))
            least = min(least[0], room[0]), min(least[1], room[1])
        for event in run.rows:
            for _, first, last in event[5]:
                unseen += last - first + 1
                blocks += (last >> BLOCK_BITS) - (first >> BLOCK_BITS) + 1
            if not news and event[1] is not None and state.context.covers(run.origin, event[0]):
                _note_other_entry(state, run.origin, event, None)
    if unseen > least[0] or blocks > least[1]:
        _refuse_doom(state, runs)


def _note_other_entry(
    state: State, origin: str, event: Fields, contradicted: set[Dot] | None
) -> None:
    """Note, or else raise, that a dot which is alive here stands for something else there."""
    seq, path, its_step, stamp, value, _ = event
    base = state.live.bases.get(origin)
    place = None if base is None else state.live.find(base + seq)
    if base is None or place is None:
        return
    dot, (container, step) = base + seq, place
    if container.path == path and step == its_step:
        mine = state.live.entry(container, step, dot)
        if mine is None or (mine[1] == stamp and order_of(mine[2]) == order_of(value)):
            return
    if contradicted is None:
        raise DoubleSpentDotError(origin, seq)
    contradicted.add(Dot(origin, seq))


def _refuse_doom(state: State, runs: Sequence[Run]) -> None:
    """Raise if the dots that would be doomed, each counted once, do not fit."""
    seen, swept = state.context.copy(), dict[str, Swept]()
    dots, blocks, missing = Counter[str](), Counter[str](), set[str]()
    for run in runs:
        seen.add_range(run.origin, run.first, run.last)
        owner = state.owner_of(run.origin)
        for event in run.rows:
            for origin, first, last in event[5]:
                for begin, end in swept.setdefault(origin, Swept()).rest(first, last):
                    for low, high in seen.missing(origin, begin, end):
                        fresh = high - low + 1 - _doomed_in(state, origin, low, high)
                        if fresh:
                            dots[owner] += fresh
                            blocks[owner] += (high >> BLOCK_BITS) - (low >> BLOCK_BITS) + 1
                            missing.add(origin)
    for owner in dots:
        room = state.room_to_doom(owner)
        if dots[owner] > room[0] or blocks[owner] > room[1]:
            raise DoomedFullError(frozenset(missing), state.doomed_share_max or state.doomed_max)
    if dots.total() > state.doomed_max - len(state.doomed):
        raise DoomedFullError(frozenset(missing), state.doomed_max)


def _doomed_in(state: State, origin: str, first: int, last: int) -> int:
    base = state.live.bases.get(origin)
    if base is None or not state.doomed:
        return 0
    ranges = state.doomed.ranges(base >> SEQ_BITS, first, last)
    return sum(high - low + 1 for low, high in ranges)


def _apply_run(state: State, run: Run, touched: Touched) -> None:
    live, origin = state.live, run.origin
    base = live.base(origin)
    log = live.logs[base >> SEQ_BITS]
    reached = state.applied.seqs.get(origin, 0)
    taken = _entries_to_take(state, run, base)
    state.apply_range(origin, run.first, run.last)
    for first, last in run.batches:
        log.mark_batch(first, last)
        if first <= reached:
            live.encodings.forget(base + first, base + last)
    columns = columns_of(run) if taken is None else None
    if columns is not None and not any(columns[1]):
        _take_columns(state, columns[0], touched)
        _observe(state, columns[0].stamps)
        return
    kill, mark, insert, place = state.kill, touched.mark, live.insert, log.place
    stamps: list[int] = []
    owner = state.owner_of(origin)
    last_path: Path | None = None
    container: Container | None = None
    for seq, path, step, stamp, value, kills in run.rows:
        if seq <= reached:
            continue  # applied in full before
        if kills:
            for killed in kills:
                kill(*killed, touched, owner)
            state.record(origin, seq, kills)
        if path is None or (taken is not None and seq not in taken):
            continue
        if path is not last_path or container is None:
            container, last_path = live.container(path), path
        mark(container, step)
        insert(container, step, (base + seq, stamp, value))
        place(seq, container, step)
        stamps.append(stamp)
    _observe(state, stamps)


def _entries_to_take(state: State, run: Run, base: int) -> set[int] | None:
    """The events whose entries are news by the context as it was before; None: all of them."""
    if run.first > state.context.last_seq(run.origin) and not state.doomed:
        return None
    covers, doomed = state.context.covers, state.doomed
    return {
        event[0]
        for event in run.rows
        if not covers(run.origin, event[0]) and base + event[0] not in doomed
    }


# --------------------------------------------------------------------------------------- spans


def refuse_spans(
    state: State, spans: Iterable[Span], contradicted: set[Dot] | None = None
) -> list[Span]:
    """Raise if a span contradicts what is alive here, else say which differ from it.

    With a set for `contradicted`, such dots are put there instead: what is here will stay.
    """
    differ = []
    for span in spans:
        if span.first > state.context.last_seq(span.origin):
            differ.append(span)
        elif not _same(span, span_of(state, span.origin, span.first, span.last)):
            differ.append(span)
            for columns in zip(*span[3:], strict=True):
                _note_other_entry(state, span.origin, (*columns, ()), contradicted)
    return differ


def _same(one: Span, other: Span) -> bool:
    """Whether two spans say the same, where 1, True and 1.0 are three values, and 0.0, -0.0 two."""
    if one != other:
        return False
    types = list(map(type, one.values))
    if types != list(map(type, other.values)):
        return False
    return float not in types or list(map(repr, one.values)) == list(map(repr, other.values))


def join_span(state: State, span: Span, touched: Touched) -> None:
    """Join the piece of state that a span is; the context grows by exactly its dots."""
    if span.first > state.context.last_seq(span.origin) and not state.doomed:
        _take_columns(state, span, touched)
    else:
        _join_rows(state, span, touched)
    _observe(state, span.stamps)
    state.cover_range(span.origin, span.first, span.last)


def _observe(state: State, stamps: Iterable[int]) -> None:
    """The clock follows the latest stamp that is not too far ahead."""
    top = max(stamps, default=0)
    if top and not state.observe(top):
        for earlier in sorted(set(stamps) - {top}, reverse=True):
            if state.observe(earlier):
                return


def _take_columns(state: State, span: Span, touched: Touched) -> None:
    """Everything in the span is new here: whole columns at once, container by container."""
    live = state.live
    base, log = live.base(span.origin), live.log(span.origin)
    seqs = span.seqs
    dense = bool(seqs) and seqs[-1] - seqs[0] + 1 == len(seqs)
    dots = range(base + seqs[0], base + seqs[-1] + 1) if dense else [base + seq for seq in seqs]
    entries: list[Entry] = list(zip(dots, span.stamps, span.values, strict=True))
    containers: list[Container] = []
    start, one_path = 0, span.paths.count(span.paths[0]) == len(entries) if entries else False
    while start < len(entries):
        path = span.paths[start]
        stop = len(entries) if one_path else start + 1
        # `is`, not `==`: the paths of a span come out of one table, of the sender or of our own
        # containers, so equal ones are one object, and comparing tuples per entry would cost more
        # than taking it. An equal path that is another object only ends the stretch early.
        while stop < len(entries) and span.paths[stop] is path:
            stop += 1
        container = live.container(path)
        steps = span.steps[start:stop]
        _take_rows(state, container, steps, entries[start:stop], touched)
        containers += [container] * (stop - start)
        start = stop
    if log.seqs and seqs and seqs[0] <= log.seqs[-1]:
        for seq, container, step in zip(seqs, containers, span.steps, strict=True):
            log.place(seq, container, step)
    else:
        log.extend(seqs, containers, span.steps)


def _take_rows(
    state: State, container: Container, steps: list[Step], entries: list[Entry], touched: Touched
) -> None:
    rows = container.rows
    container.total, container.plain = None, False
    if not rows or rows.keys().isdisjoint(steps):
        if not rows:
            state.live.enlist(container)
        before = len(rows)
        touched.mark_new(container, steps)
        rows.update(zip(steps, entries, strict=True))
        if len(rows) == before + len(steps):
            return
        touched.new.pop()
        for step in set(steps):  # some meet among themselves: back, and one by one
            del rows[step]
        if not rows:
            state.live.retire(container)
    for step, entry in zip(steps, entries, strict=True):
        touched.mark(container, step)
        state.live.insert(container, step, entry)


def _join_rows(state: State, span: Span, touched: Touched) -> None:
    live, origin = state.live, span.origin
    base, log = live.base(origin), live.log(origin)
    theirs = set(span.seqs)
    for seq, container, step in list(log.slots(span.first, span.last)):
        if seq not in theirs and holds(container.rows.get(step), base + seq):
            touched.mark(container, step)
            live.kill(container, step, base + seq)
    covers = state.context.covers
    for seq, path, step, stamp, value in zip(*span[3:], strict=True):
        dot = base + seq
        if dot not in state.doomed and not covers(origin, seq):
            container = live.container(path)
            touched.mark(container, step)
            live.insert(container, step, (dot, stamp, value))
            log.place(seq, container, step)


def refuse_doomed(state: State, doomed: Sequence[Range], covered: Iterable[Range]) -> None:
    """Raise if more dots would be doomed than may be, once these ranges are covered."""
    dots = state.doomed_max - len(state.doomed)
    blocks = BLOCKS_MAX - state.doomed.blocks
    if (
        sum(last - first + 1 for _, first, last in doomed) <= dots
        and sum((last >> BLOCK_BITS) - (first >> BLOCK_BITS) + 1 for _, first, last in doomed)
        <= blocks
    ):
        return
    seen = state.context.copy()
    for known in covered:
        seen.add_range(*known)
    missing: Counter[str] = Counter()
    for origin, first, last in doomed:
        for low, high in seen.missing(origin, first, last):
            missing[origin] += high - low + 1
            blocks -= (high >> BLOCK_BITS) - (low >> BLOCK_BITS) + 1
    if missing.total() > dots or blocks < 0:
        raise DoomedFullError(frozenset(missing), state.doomed_max)


def join_doomed(state: State, doomed: Iterable[Range], touched: Touched) -> None:
    """Dots that others know to be dead die here as well."""
    for origin, first, last in doomed:
        state.kill(origin, first, last, touched)


def spans_of(state: State) -> list[Span]:
    """The whole live state as spans, one per maximal range of the context, in canonical order."""
    return [span_of(state, *known) for known in state.context.ranges()]


def span_of(state: State, origin: str, first: int, last: int) -> Span:
    """The live entries of an origin in first..last as columns. O(answer)."""
    live, log = state.live, state.live.history(origin)
    if log.stale == 0 and not log.late and first == 1 and last >= (log.seqs or [0])[-1]:
        seqs, containers, steps = log.seqs.tolist(), log.containers, list(log.steps)
        rows, paths = _rows_at(containers, steps)
        if {tuple}.issuperset(map(type, rows)):
            stamps, values = list(map(STAMP_OF, rows)), list(map(VALUE_OF, rows))
            return Span(origin, first, last, seqs, paths, steps, stamps, values)
    span = Span(origin, first, last, [], [], [], [], [])
    for seq, container, step in log.slots(first, last):
        entry = live.entry(container, step, log.base + seq)
        if entry is not None:
            span.seqs.append(seq)
            span.paths.append(container.path)
            span.steps.append(step)
            span.stamps.append(entry[1])
            span.values.append(entry[2])
    return span


def _rows_at(containers: list[Container], steps: list[Step]) -> tuple[list[Row], list[Path]]:
    """The rows at these places, and their paths; whole containers at a time where that is so."""
    if not containers or containers.count(containers[0]) < len(containers):
        rows = [place.rows[step] for place, step in zip(containers, steps, strict=True)]
        return rows, [place.path for place in containers]
    only = containers[0]
    if (
        len(only.rows) == len(steps) and list(only.rows) == steps
    ):  # one origin wrote all of it, in this order: no look-ups
        rows = list(only.rows.values())
    else:
        rows = list(map(only.rows.__getitem__, steps))
    return rows, [only.path] * len(steps)


def doomed_ranges(state: State) -> tuple[Range, ...]:
    """The doomed dots as ranges in canonical order. O(blocks)."""
    names, doomed = state.live.names, state.doomed
    by_name = sorted((names[index], index) for index in doomed.origins())
    return tuple((name, *found) for name, index in by_name for found in doomed.ranges(index))


def merge_state(mine: State, theirs: State) -> Change:
    """The full join of two states. O(both), at the speed of columns where there is no conflict."""
    refuse_own(mine, [(mine.replica, 1, theirs.context.last_seq(mine.replica))])
    spans = spans_of(theirs)
    differ = refuse_spans(mine, spans)
    refuse_doomed(mine, doomed_ranges(theirs), theirs.context.ranges())
    if not differ and not theirs.doomed and theirs.context <= mine.applied:
        return UNCHANGED
    touched, before = Touched(mine.live), mine.moment()
    try:
        _adopt_history(mine, theirs)
        mine.split_contexts()
        for span in spans:
            join_span(mine, span, touched)
        join_doomed(mine, doomed_ranges(theirs), touched)
        for known in theirs.applied.ranges():
            mine.apply_range(*known)
        mine.unite_contexts()
    except BaseException:
        before.go_back(touched)
        raise
    before.over()
    if mine.replaced is not None:
        mine.replaced.joined(touched)
    return touched.change()


def _adopt_history(mine: State, theirs: State) -> None:
    """Take over their removal records where ours end; where theirs are gone, raise the floor.

    Events beyond a gap count as well: as soon as the gap closes here, peers ask us for them.
    """
    for origin, begin, end in theirs.applied.ranges():
        log, their_log = mine.live.log(origin), theirs.live.history(origin)
        for first, last in mine.applied.missing(origin, begin, end):
            if their_log.floor >= first:
                log.drop_records(their_log.floor)
                log.floor = max(log.floor, their_log.floor)
            after = max(first - 1, log.floor)
            for seq, kills in their_log.kills.between(after, last):
                mine.record(origin, seq, kills)
            for batch in their_log.batches_between(after + 1, last):
                log.mark_batch(*batch)
