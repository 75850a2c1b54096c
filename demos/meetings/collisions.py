"""Makes some talks collide, so that a run shows what a conflict is and how it ends.

A conference that was printed has no conflicts left. Here talks of one organizer are made to want
the slot of a talk of another one: same room, same time, same length. One of the two gets it; the
other is refused, told by whom and what is free, and takes what is free (`elsewhere`). Which talks
collide is a matter of the seed; nothing but the wish of the one that was moved is changed.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from demos.meetings.programme import Programme, Talk


def shares(programme: Programme, names: Sequence[str]) -> dict[str, list[Talk]]:
    """Each track goes whole to one organizer: the largest first, to who has the least so far."""
    tracks: dict[str, list[Talk]] = {}
    for talk in programme.talks:
        tracks.setdefault(talk.track, []).append(talk)
    share: dict[str, list[Talk]] = {name: [] for name in names}
    for track in sorted(tracks, key=lambda name: (-len(tracks[name]), name)):
        least = min(names, key=lambda name: len(share[name]))
        share[least] += tracks[track]
    return share


def made_to_collide(
    programme: Programme, share: Mapping[str, Sequence[Talk]], pairs: int, dice: random.Random
) -> Programme:
    """The programme with `pairs` pairs of talks that want one slot, fewer if there are not as many.

    The two of a pair belong to different organizers, are equally long, and name each other as
    `rival`. No talk is in two pairs.
    """
    organizer = {talk.id: name for name, talks in share.items() for talk in talks}
    changed: dict[str, Talk] = {}
    movers = list(programme.talks)
    dice.shuffle(movers)
    for mover in movers:
        if len(changed) >= 2 * pairs:
            break
        seats = [
            talk
            for talk in programme.talks
            if organizer[talk.id] != organizer[mover.id]
            and talk.end - talk.start == mover.end - mover.start
            and talk.id not in changed
        ]
        if mover.id not in changed and seats:
            seat = dice.choice(seats)
            changed[seat.id] = replace(seat, rival=mover.id)
            changed[mover.id] = replace(
                mover, room=seat.room, start=seat.start, end=seat.end, rival=seat.id
            )
    talks = tuple(changed.get(talk.id, talk) for talk in programme.talks)
    return replace(programme, talks=talks)


class Claims:
    """Which slots of a room the programme wants: a talk that has to move leaves those to others."""

    def __init__(self, talks: Iterable[Talk]) -> None:
        self._wanted: dict[str, list[Talk]] = defaultdict(list)
        for talk in talks:
            self._wanted[talk.room].append(talk)

    def taken_until(self, talk: Talk, start: datetime, end: datetime) -> datetime | None:
        """When those who want something of that time are done; None: `talk` and its rival alone do.

        O(talks of the room).
        """
        return max(
            (
                other.end
                for other in self._wanted[talk.room]
                if other.id not in {talk.id, talk.rival} and other.start < end and start < other.end
            ),
            default=None,
        )
