"""An event's bytes and its place in the chain, without a store."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from transactional import InvalidRequestError, NewEvent, Origin
from transactional.events.event import (
    GENESIS,
    chained,
    chained_commit,
    content_hash,
    decode_batch,
    digest_of,
    encoded,
    new_batch,
    recorded,
    shape_hash,
)

AT = datetime(2025, 1, 1, tzinfo=UTC)
BY = Origin("ann", "op", "cause", "talk")


def batch(*data):
    events = [encoded(NewEvent("T", each)) for each in data]
    return new_batch("s", events, version=3, position=7, at=AT, origin=BY, before=GENESIS)


def test_a_batch_survives_its_text():
    """Equal batches give equal text, and the text gives the batch back."""
    made = batch({"a": 1}, [1.5, None, "ß"], True)
    assert decode_batch(json.loads(made.text())) == made
    assert made.last_version == 5
    events = list(recorded(json.loads(made.text()), {}))
    assert [(e.version, e.position) for e in events] == [(3, 7), (4, 8), (5, 9)]
    assert [e.data for e in events] == [{"a": 1}, [1.5, None, "ß"], True]
    assert events[0].origin == BY
    assert events[0].id == "s@3"


def test_the_chain_holds_each_part_of_an_event():
    """Whatever is altered, the hash is another one; erasing the data keeps it."""
    (row,) = batch(1).rows
    place = ("s", 3, 7, AT, BY)
    assert chained(GENESIS, place, row) == row.hash
    for other in (
        replace(row, type="U"),
        replace(row, schema=2),
        replace(row, data="2"),
        replace(row, salt="x"),
    ):
        assert chained(GENESIS, place, other) != row.hash
    for number in range(5):
        moved = list(place)
        moved[number] = ("t", 4, 8, AT.replace(year=2026), Origin())[number]
        assert chained(GENESIS, tuple(moved), row) != row.hash
    assert chained("1" * 64, place, row) != row.hash
    erased = replace(row, data="null", salt="", digest=digest_of(row.salt, row.data))
    assert chained(GENESIS, place, erased) == row.hash


def test_equal_data_has_different_digests():
    """The salt is random, so nobody finds out by trying what an erased event said."""
    one, other = batch("yes", "yes").rows
    assert one.salt != other.salt
    assert digest_of(one.salt, one.data) != digest_of(other.salt, other.data)


def test_a_commits_hash_depends_on_the_one_before():
    """The chain of commits is one chain."""
    made = ("s", 3, 7, batch(1).rows[-1].hash)
    assert chained_commit(GENESIS, [made]) == chained_commit(GENESIS, [made])
    assert chained_commit(GENESIS, [made]) != chained_commit("1" * 64, [made])
    assert chained_commit(GENESIS, [made]) != chained_commit(GENESIS, [made, made])


def test_what_a_repeat_must_have_in_common():
    """Types, schemas and data, not salts and places; the shape leaves out the data."""
    one = encoded(NewEvent("T", 1))
    assert content_hash([encoded(NewEvent("T", 1))]) == content_hash([one])
    for event in (NewEvent("U", 1), NewEvent("T", 1, schema=2), NewEvent("T")):
        assert content_hash([encoded(event)]) != content_hash([one])
        same_shape = (event.type, event.schema) == ("T", 1)
        assert (shape_hash([encoded(event)]) == shape_hash([one])) is same_shape
    assert shape_hash([one, one]) != shape_hash([one])


def test_data_is_hashed_as_it_will_be_read():
    """Keys become strings before the hash is made; what is not JSON is refused."""
    assert encoded(NewEvent("T", {1: [2]})).data == '{"1":[2]}'
    for data in ({1, 2}, float("inf"), "\ud800"):
        with pytest.raises(InvalidRequestError):
            encoded(NewEvent("T", data))


def test_erased_data_is_not_upcast():
    """An upcaster is never handed what is not there."""
    made = batch({"n": 1})
    bare = replace(made, rows=(replace(made.rows[0], data="null", salt="", digest="d"),))
    upcasters = {"T": [lambda data: data | {"m": 2}]}
    (event,) = recorded(json.loads(made.text()), upcasters)
    assert (event.data, event.schema) == ({"n": 1, "m": 2}, 2)
    (event,) = recorded(json.loads(bare.text()), upcasters)
    assert (event.data, event.schema, event.erased) == (None, 1, True)
