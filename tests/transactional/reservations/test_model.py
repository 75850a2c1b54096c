"""Reservations against a model that is nothing but a list: Hypothesis looks for a difference."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from tests.scale import rounds
from tests.transactional.conftest import HandClock
from transactional import (
    BookingConflict,
    BookingEndedError,
    HoldExpired,
    Interval,
    Reservations,
    Resource,
)
from transactional.stores.memory import MemoryStore

MIDNIGHT = datetime(2025, 2, 2, tzinfo=UTC)
STEP = timedelta(minutes=30)
RULES = {
    "plain": Resource(),
    "pair": Resource(capacity=2),
    "kitchen": Resource(before=STEP, after=STEP),
}


@dataclass(frozen=True)
class Entry:
    """What the model knows of a live booking; times in steps around midnight."""

    id: str
    room: str
    first: int
    last: int
    expires_s: float | None

    def covers(self, step: int) -> bool:
        wide = 1 if self.room == "kitchen" else 0
        return self.first - wide <= step < self.last + wide


class SortedList:
    """The model: a list of entries, asked by counting, step by step."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.now_s = 0.0

    def alive(self, entry: Entry) -> bool:
        return entry.expires_s is None or entry.expires_s > self.now_s

    def fits(self, wanted: Entry) -> bool:
        others = [
            e
            for e in self.entries.values()
            if e.room == wanted.room and e.id != wanted.id and self.alive(e)
        ]
        steps = [step for step in range(-60, 60) if wanted.covers(step)]
        return all(
            sum(e.covers(step) for e in others) < RULES[wanted.room].capacity for step in steps
        )

    def enter(self, entry: Entry) -> None:
        """Put it in; lapsed entries in its way are stolen."""
        for other in list(self.entries.values()):
            shares = any(entry.covers(s) and other.covers(s) for s in range(-60, 60))
            if other.room == entry.room and shares and not self.alive(other):
                del self.entries[other.id]
        self.entries[entry.id] = entry


def interval(first: int, last: int) -> Interval:
    return Interval(MIDNIGHT + first * STEP, MIDNIGHT + last * STEP)


class ReservationMachine(RuleBasedStateMachine):
    tokens = Bundle("tokens")  # Booking values, fresh and outdated ones
    places = st.tuples(st.sampled_from(sorted(RULES)), st.integers(-12, 12), st.integers(1, 10))

    @initialize()
    def open(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.hands = HandClock()
        self.store = MemoryStore(clock=self.hands.clock())
        self.rooms = Reservations(self.store)
        self.model = SortedList()
        for name, rules in RULES.items():
            self.run(self.rooms.define(name, rules))

    def run(self, work):
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.run(self.store.close())
            self.loop.close()

    @rule(target=tokens, place=places, ttl_s=st.sampled_from([None, 4.5, 49.5]))
    def enter(self, place, ttl_s):
        """Hold or book; it is refused exactly when the model has no room."""
        room, first, steps = place
        expires_s = None if ttl_s is None else self.model.now_s + ttl_s
        wanted = Entry("", room, first, first + steps, expires_s)
        work = (
            self.rooms.book(room, interval(first, first + steps), holder="x")
            if ttl_s is None
            else self.rooms.hold(room, interval(first, first + steps), holder="x", ttl_s=ttl_s)
        )
        try:
            made = self.run(work)
        except BookingConflict as conflict:
            assert not self.model.fits(wanted)
            for slot in conflict.free:
                first = (slot.start - MIDNIGHT) // STEP
                assert self.model.fits(replace(wanted, first=first, last=first + steps))
            return multiple()
        assert self.model.fits(wanted)
        self.model.enter(replace(wanted, id=made.id))
        return made

    @rule(target=tokens, token=tokens)
    def confirm(self, token):
        entry = self.model.entries.get(token.id)
        try:
            made = self.run(self.rooms.confirm(token))
        except HoldExpired:
            assert entry is None or not self.model.alive(entry)
            return multiple()
        except BookingEndedError:
            assert entry is None
            return multiple()
        assert entry is not None
        assert self.model.alive(entry)
        self.model.entries[token.id] = replace(entry, expires_s=None)
        return made

    @rule(token=tokens, ttl_s=st.sampled_from([2.5, 29.5]))
    def extend(self, token, ttl_s):
        entry = self.model.entries.get(token.id)
        try:
            self.run(self.rooms.extend(token, ttl_s=ttl_s))
        except BookingEndedError:
            assert entry is None or not self.model.alive(entry)
            return
        assert entry is not None
        if entry.expires_s is not None:
            assert self.model.alive(entry)
            later = replace(entry, expires_s=self.model.now_s + ttl_s)
            self.model.entries[token.id] = later

    @rule(token=consumes(tokens), release=st.booleans())
    def give_back(self, token, release):
        entry = self.model.entries.get(token.id)
        held = entry is not None and entry.expires_s is not None
        expected = entry is not None and self.model.alive(entry) and (held or not release)
        work = self.rooms.release(token) if release else self.rooms.cancel(token)
        assert self.run(work) is expected
        if expected:
            del self.model.entries[token.id]

    @rule(target=tokens, token=tokens, place=places)
    def move(self, token, place):
        room, first, steps = place
        entry = self.model.entries.get(token.id)
        work = self.rooms.move(token, interval(first, first + steps), resource=room)
        try:
            made = self.run(work)
        except BookingEndedError:
            assert entry is None or not self.model.alive(entry)
            return multiple()
        except BookingConflict:
            assert entry is not None
            moved = replace(entry, room=room, first=first, last=first + steps)
            assert not self.model.fits(moved)
            return multiple()
        assert entry is not None
        moved = replace(entry, room=room, first=first, last=first + steps)
        assert self.model.fits(moved)
        del self.model.entries[token.id]
        self.model.enter(moved)
        return made

    @rule(seconds=st.sampled_from([1, 4, 20]))
    def tick(self, seconds):
        """Whole seconds, while holds last halves: the store's time runs ahead by microseconds."""
        self.hands.forward(seconds)
        self.model.now_s += seconds

    @invariant()
    def the_agenda_is_the_list(self):
        if not hasattr(self, "model"):
            return
        for room in RULES:
            agenda = self.run(self.rooms.agenda(room))
            listed = sorted(
                (interval(e.first, e.last), e.id)
                for e in self.model.entries.values()
                if e.room == room and self.model.alive(e)
            )
            assert [(b.interval, b.id) for b in agenda] == listed, room


def test_reservations_against_a_list():
    """[transactional 48] Every answer and agenda is what a plain list would have said.

    With stolen holds, moves between rooms, buffers, a capacity of two and outdated tokens.
    """
    run_state_machine_as_test(
        ReservationMachine,
        settings=settings(
            max_examples=rounds(2000, 100),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
