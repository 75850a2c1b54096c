"""Reservations: many agents book the same rooms, and no two bookings ever share an instant.

Overlap is decided *inside* the commit: a booking lies under each UTC day that it occupies, whoever
wants a day compares it with what was read (`Unchanged`), and the commit fails if anything entered
or left in between.  Time is data on the authority's clock: confirm, extend, release, cancel, move
and steal all race on one revision, so a clock that is wrong never gives one time to two owners.

    reservations     `Reservations`: the front, and every change of one booking
    booking_queue    new bookings of a process that wait together: one commit
    schedule         days as they are read or remembered, and drafts of them: does one more fit?
    booking          the record, its life, where it lies in the store, how it is refused
    interval         half-open stretches of UTC time
"""

from transactional.reservations.booking import (
    Booking,
    BookingConflict,
    BookingEndedError,
    BookingState,
    HoldExpired,
    Resource,
    Wanted,
)
from transactional.reservations.interval import Interval
from transactional.reservations.reservations import Reservations

__all__ = [
    "Booking",
    "BookingConflict",
    "BookingEndedError",
    "BookingState",
    "HoldExpired",
    "Interval",
    "Reservations",
    "Resource",
    "Wanted",
]
