"""What a booking is: its record, its life, where it lies in the store, and how it is refused.

A booking's life, every line one commit on one revision; what is not listed is refused with
`BookingEndedError` or has no effect::

    state        event                               becomes
    -----------  ----------------------------------  ---------------------------------------------
    (free)       hold                                HELD until `expires_at`
    (free)       book                                CONFIRMED
    HELD         extend, before `expires_at`         HELD until later
    HELD         confirm, before `expires_at`        CONFIRMED
    HELD         release or cancel, before that too  RELEASED
    HELD         steal, from `expires_at` on         EXPIRED, `taken_by` whoever needed the time
    HELD         confirm or extend, too late         HELD still; refused with `HoldExpired`
    CONFIRMED    confirm                             CONFIRMED, nothing is written
    CONFIRMED    cancel                              CANCELLED
    any live     move, before `expires_at`           as it was, elsewhere; MOVED in the old place

ReservationLayout, `R` being the resource's name, quoted::

    reservation/rules/R            capacity and buffers
    reservation/of/R/day/D/ID      the live booking ID, once for each UTC day D that it occupies
    reservation/of/R/ended/ID      how the booking ended: expired, released, cancelled or moved
    reservation/made/REQUEST       what one request first made: its kind, and the bookings with
                                   their places, from where an id is followed to where it is now
    reservation/swept/WHAT         how far the present round has come that takes away old ends

A request for one booking gives it the request's name as id, one for several the name and a number
(`NAME.0`, `NAME.1`).  The name follows from the idempotency_key, if there is one, so that a repeat
meets the first request.  All rules lie under one prefix, so that one compare speaks for them all.

The copies of a booking that spans days are always written together, so the one of the first day
speaks for all: its revision is the token on which confirm, extend, release, move and steal race.
An expired hold stays where it is until somebody wants its time: it needs no sweeper, for it blocks
nobody, and it can still be counted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from transactional.errors import InvalidTimeError, NotNowError
from transactional.reservations.interval import Interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transactional.values import KeyValue

DAYS_MAX: Final = 60
"""Longest booking in days, buffers included: each is a key, and a commit has a limit of keys."""
_LONGEST: Final = timedelta(days=DAYS_MAX - 1)


class BookingState(Enum):
    """Where a booking is in its life; the first two are live, the others are ends."""

    HELD = "held"
    CONFIRMED = "confirmed"
    EXPIRED = "expired"
    RELEASED = "released"
    CANCELLED = "cancelled"
    MOVED = "moved"


@dataclass(frozen=True, slots=True)
class Resource:
    """The rules of one resource: how many bookings may overlap, and the time each one needs around.

    `before` and `after` (set-up, cleaning) belong to the booking: it *occupies* its interval plus
    both, and no more than `capacity` bookings occupy an instant.  Rules apply to later bookings.
    """

    capacity: int = 1
    before: timedelta = timedelta(0)
    after: timedelta = timedelta(0)

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise InvalidTimeError(f"capacity is at least 1, got {self.capacity}")
        if min(self.before, self.after) < timedelta(0):
            raise InvalidTimeError("a buffer is not negative")


@dataclass(frozen=True, slots=True)
class Booking:
    """One booking or hold as of `revision`, the commit that decided its present state.

    `expires_at` is set while it is HELD, `taken_by` (a holder) once somebody took an expired hold's
    time.  `note` is the holder's own text.  `before` and `after` are the buffers in force when it
    was placed.
    """

    id: str
    resource: str
    interval: Interval
    holder: str
    state: BookingState
    expires_at: datetime | None = None
    note: str = ""
    before: timedelta = timedelta(0)
    after: timedelta = timedelta(0)
    taken_by: str | None = None
    revision: int = 0

    @property
    def occupied(self) -> Interval:
        """The interval with its buffers: what must not be shared."""
        return self.interval.widened(self.before, self.after)

    @property
    def live(self) -> bool:
        """Whether it is held or confirmed: not at an end."""
        return self.state in (BookingState.HELD, BookingState.CONFIRMED)

    def lapsed(self, now: datetime) -> bool:
        """Whether it is a hold whose time is over at `now`."""
        return self.expires_at is not None and self.expires_at <= now

    def to_json(self) -> dict[str, Any]:
        """The booking in JSON's types; `from_json` reads it back (a saga's step result, say)."""
        return {"resource": self.resource, **_record(self), "revision": self.revision}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Booking:
        """The booking that `to_json` wrote."""
        return _booking(data, data["resource"])


@dataclass(frozen=True, slots=True)
class Wanted:
    """One part of `book_many`: this resource for this interval."""

    resource: str
    interval: Interval
    note: str = ""


# --- how it is refused ----------------------------------------------------------------------------


class BookingConflict(NotNowError):  # noqa: N818 reads as what it is where it is caught
    """The time is taken: nothing was written; the error says by whom, until when, what is free.

    `blockers` are the live bookings at the fullest instant, the first of them in `holder`,
    `booking_id`, `until` (its end) and `expires_at` (None: it is confirmed).  `free` are the next
    stretches of the wanted length.
    """

    code = "booking_conflict"
    hint = "take one of the free stretches, or try again at `retry_at`, when a hold expires"

    def __init__(
        self,
        resource: str,
        wanted: Interval,
        blockers: tuple[Booking, ...],
        free: tuple[Interval, ...],
    ) -> None:
        first = blockers[0]
        held = f", a hold that expires at {first.expires_at}" if first.expires_at else ""
        slots = ", ".join(map(str, free)) or "nothing within the days looked at"
        super().__init__(
            f"{resource!r} is taken in {wanted} by {first.holder!r} until {first.interval.end}"
            f" (booking {first.id}{held}); free: {slots}"
        )
        self.resource = resource
        self.wanted = wanted
        self.blockers = blockers
        self.free = free
        self.holder = first.holder
        self.booking_id = first.id
        self.until = first.interval.end
        self.expires_at = first.expires_at

    @property
    def retry_at(self) -> datetime | None:
        """When the first of the blocking holds expires; None if all blockers are confirmed."""
        return min((b.expires_at for b in self.blockers if b.expires_at), default=None)

    def details(self) -> dict[str, str | int | float]:
        """Return the first blocker and the free stretches."""
        return {
            "resource": self.resource,
            "wanted": str(self.wanted),
            "holder": self.holder,
            "booking_id": self.booking_id,
            "until": self.until.isoformat(),
            "expires_at": self.expires_at.isoformat() if self.expires_at else "",
            "free": " ".join(map(str, self.free)),
        }


class BookingEndedError(NotNowError):
    """The booking is not live: released, cancelled, or it never existed; nothing was written."""

    code = "booking_ended"
    hint = "hold the time anew"

    def __init__(self, booking: Booking, reason: str) -> None:
        super().__init__(f"booking {booking.id} of {booking.resource!r}: {reason}")
        self.booking = booking

    def details(self) -> dict[str, str | int | float]:
        """Return the booking's id and resource."""
        return {"booking_id": self.booking.id, "resource": self.booking.resource}


class HoldExpired(BookingEndedError):  # noqa: N818 as above
    """The hold's time is over, so it was not confirmed; `taken_by` has the time now, if anybody."""

    code = "hold_expired"
    hint = "hold the time anew, with a longer ttl_s or with extend() in between"

    def __init__(self, booking: Booking, taken_by: str | None) -> None:
        taken = f", the time was taken by {taken_by!r}" if taken_by else ""
        super().__init__(booking, f"the hold expired at {booking.expires_at}{taken}")
        self.taken_by = taken_by


# --- where it lies --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReservationLayout:
    """Key names under one namespace."""

    namespace: str = "reservation"

    @property
    def all_rules(self) -> str:
        """Prefix of the rules of all resources."""
        return f"{self.namespace}/rules/"

    def rules(self, resource: str) -> str:
        """Key of the resource's rules."""
        return f"{self.all_rules}{_quoted(resource)}"

    def live(self, resource: str) -> str:
        """Prefix of the resource's live bookings."""
        return f"{self._of(resource)}day/"

    def day(self, resource: str, day: date) -> str:
        """Prefix of the live bookings of one UTC day."""
        return _day_prefix(self.namespace, resource, day)

    def ended(self, resource: str, booking_id: str = "") -> str:
        """Key of how the booking ended; without an id the prefix of all."""
        return f"{self._of(resource)}ended/{booking_id}"

    def all(self) -> str:
        """Prefix of all bookings, live or ended."""
        return f"{self.namespace}/of/"

    def parts(self, key: str) -> tuple[str, str]:
        """The resource of a booking's key, and what kind of key it is: `day` or `ended`."""
        resource, what, *_ = key.removeprefix(self.all()).split("/")
        return unquote(resource), what

    def swept(self, what: str) -> str:
        """Key of how far a round over old keys has come."""
        return f"{self.namespace}/swept/{what}"

    def made(self, request: str = "") -> str:
        """Key of what a request first made; without a name the prefix of all."""
        return f"{self.namespace}/made/{request}"

    def copies(self, booking: Booking) -> list[str]:
        """Keys under which the live booking is filed; the first one carries the token."""
        return [
            f"{self.day(booking.resource, day)}{booking.id}" for day in days_of(booking.occupied)
        ]

    def _of(self, resource: str) -> str:
        return f"{self.all()}{_quoted(resource)}/"


@lru_cache(maxsize=8192)
def _day_prefix(namespace: str, resource: str, day: date) -> str:
    return f"{namespace}/of/{_quoted(resource)}/day/{day.isoformat()}/"


def days_of(occupied: Interval) -> tuple[date, ...]:
    """The UTC days that a booking occupies, checked against the limit.

    Raises:
        InvalidTimeError: there are more than `DAYS_MAX`.
    """
    if occupied.duration > _LONGEST:
        raise InvalidTimeError(f"{occupied} is longer than {DAYS_MAX - 1} days")
    return occupied.days()


@lru_cache(maxsize=4096)
def _quoted(resource: str) -> str:
    if not resource:
        raise InvalidTimeError("a resource has a name")
    return quote(resource, safe="")


# --- bytes ----------------------------------------------------------------------------------------


def encode(booking: Booking) -> bytes:
    """The record's bytes; equal bookings give equal bytes."""
    return json.dumps(_record(booking), separators=(",", ":"), ensure_ascii=False).encode()


def ids_of(request: str, parts: int) -> tuple[str, ...]:
    """The ids of the bookings that a request of so many parts makes."""
    return (request,) if parts == 1 else tuple(f"{request}.{n}" for n in range(parts))


def requests_of(booking_id: str) -> tuple[str, ...]:
    """The names of the requests that may have made a booking of this id."""
    request, dot, number = booking_id.rpartition(".")
    return (booking_id, request) if dot and request and number.isdecimal() else (booking_id,)


def encode_made(kind: str, bookings: Sequence[Booking]) -> bytes:
    """The bytes of what a request made; `kind` says how it asked (hold or book)."""
    made = {"kind": kind, "made": [booking.to_json() for booking in bookings]}
    return json.dumps(made, separators=(",", ":"), ensure_ascii=False).encode()


def decode_made(value: bytes) -> tuple[str, list[Booking]]:
    """The kind of a request, and the bookings as it first made them."""
    made = json.loads(value)
    return made["kind"], [_booking(record, "") for record in made["made"]]


def named_in_made(value: bytes) -> list[tuple[str, str]]:
    """The resources and ids of the bookings that a request first made; a part of `decode_made`."""
    return [(record["resource"], record["id"]) for record in json.loads(value)["made"]]


def encode_with_place(booking: Booking) -> bytes:
    """The record's bytes with the resource in them, for keys that do not say it."""
    return json.dumps(booking.to_json(), separators=(",", ":"), ensure_ascii=False).encode()


def decode(entry: KeyValue, resource: str = "") -> Booking:
    """The booking in a key, at the key's revision; `resource` is what the key's name says."""
    return _decoded(entry.value, resource, entry.revision)


def is_end(value: bytes) -> bool:
    """Whether the record under `ended` says how it ended, and not where it was moved."""
    return bool(json.loads(value)["state"] != BookingState.MOVED.value)


def encode_rules(rules: Resource) -> bytes:
    """The bytes of a resource's rules."""
    return json.dumps(
        {
            "capacity": rules.capacity,
            "before_s": rules.before.total_seconds(),
            "after_s": rules.after.total_seconds(),
        }
    ).encode()


def decode_rules(value: bytes) -> Resource:
    """The rules in a key's bytes."""
    data = json.loads(value)
    return Resource(
        capacity=data["capacity"],
        before=timedelta(seconds=data["before_s"]),
        after=timedelta(seconds=data["after_s"]),
    )


@lru_cache(maxsize=8192)
def _decoded(value: bytes, resource: str, revision: int) -> Booking:
    """Parse once: a busy day is read again for every booking that is made in it."""
    return replace(_booking(json.loads(value), resource), revision=revision)


def _record(booking: Booking) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": booking.id,
        "holder": booking.holder,
        "state": booking.state.value,
        "start": booking.interval.start.isoformat(),
        "end": booking.interval.end.isoformat(),
    }
    if booking.expires_at is not None:
        record["expires_at"] = booking.expires_at.isoformat()
    if booking.note:
        record["note"] = booking.note
    if booking.before:
        record["before_s"] = booking.before.total_seconds()
    if booking.after:
        record["after_s"] = booking.after.total_seconds()
    if booking.taken_by is not None:
        record["taken_by"] = booking.taken_by
    return record


def _booking(data: Mapping[str, Any], resource: str) -> Booking:
    expires_at = data.get("expires_at")
    return Booking(
        id=data["id"],
        resource=data.get("resource", resource),
        interval=Interval(_instant(data["start"]), _instant(data["end"])),
        holder=data["holder"],
        state=BookingState(data["state"]),
        expires_at=_instant(expires_at) if expires_at else None,
        note=data.get("note", ""),
        before=timedelta(seconds=data.get("before_s", 0)),
        after=timedelta(seconds=data.get("after_s", 0)),
        taken_by=data.get("taken_by"),
        revision=data.get("revision", 0),
    )


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
