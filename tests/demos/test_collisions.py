"""Which talks are made to collide, and where the one that lost may go."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import transactional
from demos.meetings.collisions import Claims, made_to_collide, shares
from demos.meetings.programme import Programme, Talk
from demos.meetings.scheduling import Scheduling
from replication import Agent

NINE = datetime(2025, 2, 1, 9, tzinfo=UTC)
HOUR = timedelta(hours=1)


def talk(name: str, *, track: str = "a", hour: float = 0, hours: float = 1) -> Talk:
    start = NINE + hour * HOUR
    return Talk(name, f"room {track}", start, start + hours * HOUR, track, name, ())


def programme() -> Programme:
    """Two tracks in a room each: hours of an hour, and one of two."""
    talks = [talk(f"{track}{n}", track=track, hour=n) for track in "ab" for n in range(8)]
    return Programme((*talks, talk("long", hour=9, hours=2)), ())


def test_a_pair_is_of_two_organizers_and_of_one_length() -> None:
    """The one wants the other's slot, each names its rival, and all other talks stay."""
    before = programme()
    share = shares(before, ["ada", "bob"])
    after = made_to_collide(before, share, 3, random.Random(7))
    organizer = {talk.id: name for name, talks in share.items() for talk in talks}
    assert len(after.pairs) == 3
    for one, two in after.pairs:
        assert (one.room, one.start, one.end) == (two.room, two.start, two.end)
        assert organizer[one.id] != organizer[two.id]
        assert (one.rival, two.rival) == (two.id, one.id)
    pairs = {talk.id for pair in after.pairs for talk in pair}
    assert len(pairs) == 6
    assert [t for t in after.talks if t.id not in pairs] == [
        t for t in before.talks if t.id not in pairs
    ]
    assert after == made_to_collide(before, share, 3, random.Random(7))


def test_there_are_as_many_pairs_as_there_can_be() -> None:
    """More than the talks allow is no error, and one organizer alone has no rival."""
    share = shares(programme(), ["ada", "bob"])
    assert len(made_to_collide(programme(), share, 100, random.Random(1)).pairs) == 8
    alone = shares(programme(), ["ada"])
    assert made_to_collide(programme(), alone, 5, random.Random(1)).pairs == ()


def a_pair() -> tuple[Talk, Talk]:
    """Two talks that want the first hour of a room."""
    seat, loser = talk("1"), talk("2")
    return seat, Talk(*[getattr(loser, name) for name in loser.__slots__[:-1]], rival="1")


def test_a_talk_that_moves_leaves_alone_what_others_want() -> None:
    """Told is when the last of those is done who want some of it; its rival and it do not count."""
    seat, loser = a_pair()
    claims = Claims([seat, loser, talk("3", hour=1), talk("4", track="b", hour=2)])

    def until(hour: float) -> datetime | None:
        return claims.taken_until(loser, NINE + hour * HOUR, NINE + (hour + 1) * HOUR)

    assert [until(0), until(0.5), until(1), until(2)] == [
        None,
        NINE + 2 * HOUR,
        NINE + 2 * HOUR,
        None,
    ]


async def test_a_talk_finds_a_time_in_a_room_that_few_have_booked_yet() -> None:
    """The first free time of an empty room is another talk's: what is behind it is looked at."""
    seat, loser = a_pair()
    others = [talk(f"other {n}", hour=n) for n in range(1, 9)]
    async with transactional.open("memory:") as store:
        rooms = transactional.Reservations(store)
        await rooms.book(seat.room, transactional.Interval(seat.start, seat.end), holder="ada")
        work = Scheduling(
            name="bob",
            store=store,
            rooms=rooms,
            log=transactional.EventLog(store),
            agent=Agent("bob"),
            talks={},
            claims=Claims([seat, loser, *others]),
            dice=random.Random(1),
        )
        nine_hours = NINE + 9 * HOUR
        assert await work.elsewhere(loser) == [
            nine_hours.isoformat(),
            (nine_hours + HOUR).isoformat(),
        ]
