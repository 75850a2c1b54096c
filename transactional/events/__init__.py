"""The event log: what happened, in streams, in one order, appended and never changed.

The question: who did what when, and can anybody still alter the answer?  Invariants of the wing:

* one total order: positions have no gaps, and `at` grows along them (`append`: each append compares
  the log's head, and appends that wait together share a commit);
* an answer about the past is for ever (`reader.position_at` closes the time that was asked about);
* no event is altered unseen (`event`: hash chain; `audit` verifies it, and erases without breaking
  it);
* effects of a consumer group happen once (`subscription`: effect and checkpoint are one commit).

    log                              `EventLog`: the front, all of it in one object
    audit | state | subscription     what is made of events
    append                           how they get in
    reader                           how they are read
    layout                           where they lie in the store
    event                            what one is, its bytes and its hash
"""

from transactional.events.append import NO_STREAM, STREAM_EXISTS, Appended, WrongVersionError
from transactional.events.audit import Finding
from transactional.events.event import NewEvent, Origin, RecordedEvent
from transactional.events.layout import Head
from transactional.events.log import EventLog
from transactional.events.state import Position, Reducer, StateAt
from transactional.events.subscription import Delivery, Parked

__all__ = [
    "NO_STREAM",
    "STREAM_EXISTS",
    "Appended",
    "Delivery",
    "EventLog",
    "Finding",
    "Head",
    "NewEvent",
    "Origin",
    "Parked",
    "Position",
    "RecordedEvent",
    "Reducer",
    "StateAt",
    "WrongVersionError",
]
