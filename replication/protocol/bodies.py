"""What each message looks like as plain lists, and back: the numbered table of kinds.

Theory of operation. Parse, don't validate: every shape, type and size is checked here, field by
field, so behind `BY_NUMBER` there is no `Any`. Fields are positional; trailing ones belong to a
later release and are ignored. Nothing here knows how lists become bytes (`wire` does).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from replication.errors import FrameTooLargeError, MalformedFrameError
from replication.protocol.messages import (
    INCARNATION_MAX,
    Ack,
    ChunkGiven,
    ChunkWanted,
    Digest,
    Leave,
    MemberClaim,
    Message,
    Probe,
    Probed,
    Push,
    Refused,
    Status,
    Sync,
    Synced,
    Tier,
)

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

ORIGINS_MAX = 10_000
COUNT_MAX = (1 << 63) - 1
NAME_BYTES_MAX = 256


def _members(claims: tuple[MemberClaim, ...]) -> list[list[Any]]:
    return [[c.replica, c.address, c.incarnation, int(c.status)] for c in claims]


def _digest(digest: Digest) -> list[Any]:
    rest = [digest.rest] if digest.rest else []
    return [digest.hash, int(digest.tier), dict(digest.vector), *rest]


def need(value: object, kind: type[T]) -> T:
    """The value, which has to be of exactly this type."""
    if type(value) is not kind:
        raise MalformedFrameError(f"a {kind.__name__} was expected, not {type(value).__name__}")
    return value


def natural(value: object) -> int:
    """A count."""
    number = need(value, int)
    if not 0 <= number <= COUNT_MAX:
        raise MalformedFrameError("a count is negative or beyond 63 bits")
    return number


def name(value: object) -> str:
    """An id or an address."""
    text = need(value, str)
    if len(text) > NAME_BYTES_MAX:
        raise MalformedFrameError(f"a name is longer than {NAME_BYTES_MAX} characters")
    return text


def _parse_vector(value: object) -> dict[str, int]:
    if len(need(value, dict)) > ORIGINS_MAX:
        raise FrameTooLargeError(f"a vector has at most {ORIGINS_MAX} origins")
    return {name(k): natural(v) for k, v in need(value, dict).items()}


def _parse_members(value: object) -> tuple[MemberClaim, ...]:
    claims = []
    for claim in need(value, list):
        replica, address, incarnation, status = row(claim, 4)
        try:
            known = Status(natural(status))
        except ValueError:
            continue  # a status of a later release says nothing to this one
        if natural(incarnation) > INCARNATION_MAX:
            continue  # nobody lives so long; and its subject could not refute it
        claims.append(MemberClaim(name(replica), name(address), natural(incarnation), known))
    return tuple(claims)


def _parse_digest(value: object) -> Digest:
    digest, tier, vector = row(value, 3)
    if natural(tier) > max(Tier):
        raise MalformedFrameError(f"unknown digest tier {tier!r}")
    fields = need(value, list)
    rest = need(fields[3], bytes) if tier == Tier.CURRENT and len(fields) > 3 else b""
    return Digest(need(digest, bytes), Tier(tier), _parse_vector(vector), rest)


def row(value: object, length: int) -> list[Any]:
    """The first `length` fields; trailing ones belong to a later release."""
    fields = need(value, list)
    if len(fields) < length:
        raise MalformedFrameError(f"{length} fields were expected, {len(fields)} came")
    return fields[:length]


def _parse_synced(body: object) -> Synced:
    digest, delta, more, reset, members = row(body, 5)
    return Synced(
        _parse_digest(digest),
        need(delta, bytes),
        need(more, bool),
        need(reset, bool),
        _parse_members(members),
    )


def _parse_sync(body: object) -> Sync:
    digest, members, delta = row(body, 3)
    return Sync(_parse_digest(digest), _parse_members(members), need(delta, bytes))


def _parse_push(body: object) -> Push:
    delta, told = row(body, 2)
    return Push(need(delta, bytes), tuple(natural(t) for t in need(told, list)))


def _parse_probe(body: object) -> Probe:
    target, members = row(body, 2)
    return Probe(name(target), _parse_members(members))


def _parse_probed(body: object) -> Probed:
    reached, members = row(body, 2)
    return Probed(need(reached, bool), _parse_members(members))


def _parse_wanted(body: object) -> ChunkWanted:
    set_id, index = row(body, 2)
    return ChunkWanted(need(set_id, bytes), natural(index))


def _parse_given(body: object) -> ChunkGiven:
    set_id, index, total, data = row(body, 4)
    return ChunkGiven(need(set_id, bytes), natural(index), natural(total), need(data, bytes))


def _parse_refused(body: object) -> Refused:
    status, code, text = row(body, 3)
    return Refused(natural(status), name(code), need(text, str))


# The numbered table of kinds: a number, once given, is never reused.
_TABLE: tuple[tuple[int, type, Callable[[Any], list[Any]], Callable[[object], Message]], ...] = (
    (1, Sync, lambda m: [_digest(m.digest), _members(m.members), m.delta], _parse_sync),
    (
        2,
        Synced,
        lambda m: [_digest(m.digest), m.delta, m.more, m.reset, _members(m.members)],
        _parse_synced,
    ),
    (3, Push, lambda m: [m.delta, list(m.told)], _parse_push),
    (4, Ack, lambda m: [dict(m.vector)], lambda b: Ack(_parse_vector(row(b, 1)[0]))),
    (5, Probe, lambda m: [m.target, _members(m.members)], _parse_probe),
    (6, Probed, lambda m: [m.reached, _members(m.members)], _parse_probed),
    (7, ChunkWanted, lambda m: [m.set_id, m.index], _parse_wanted),
    (
        8,
        ChunkGiven,
        lambda m: [m.set_id, m.index, m.total, m.data],
        _parse_given,
    ),
    (9, Leave, lambda m: [_members(m.members)], lambda b: Leave(_parse_members(row(b, 1)[0]))),
    (10, Refused, lambda m: [m.status, m.code, m.text], _parse_refused),
)
BY_TYPE = {kind: (number, render) for number, kind, render, _ in _TABLE}
BY_NUMBER = {number: parse for number, _, _, parse in _TABLE}
