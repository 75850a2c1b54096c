"""What was altered, cut off or erased: the chain tells, and holds."""

from __future__ import annotations

import json
import random

import pytest

from tests.scale import seeds
from tests.transactional.events.samples import added
from transactional import (
    Delete,
    EventLog,
    NewEvent,
    Put,
    Reducer,
)


@pytest.mark.parametrize("seed", seeds(3))
async def test_one_tampered_event_is_named(store, seed):
    """[transactional 30] Whatever is altered in whichever copy, `verify` names that event."""
    print(f"replay: CONVOCA_SEED={seed}")
    dice = random.Random(seed)
    log = EventLog(store)
    for number in range(12):
        await log.append_many({"a": added(number, 7), f"b{number % 3}": added(1)}, actor="ann")
    assert await log.verify() == ()
    pages = list((await store.scan(log.layout.at())).items.values())
    entry = dice.choice(pages)
    clean = json.loads(entry.value)
    batch = dice.randrange(len(clean["batches"]))
    row = dice.randrange(len(clean["batches"][batch]["events"]))
    for field, value in ((0, "Removed"), (1, 2), (2, 8_000_000)):
        data = json.loads(entry.value)
        data["batches"][batch]["events"][row][field] = value
        await store.commit([], [Put(entry.key, json.dumps(data).encode())])
        findings = await log.verify()
        victim = data["batches"][batch]
        named = {(f.stream, f.version) for f in findings}
        assert named == {(victim["stream"], victim["version"] + row)}
        assert any("altered" in f.problem for f in findings)
    await store.commit([], [Put(entry.key, entry.value)])
    assert await log.verify() == ()
    # The other copy, the one that is read by stream:
    target = await store.get(log.layout.stream("a", 3))
    data = json.loads(target.value)
    data["events"][1][2] = -1
    await store.commit([], [Put(target.key, json.dumps(data).encode())])
    (finding,) = await log.verify()
    assert (finding.stream, finding.version) == ("a", 4)


async def test_a_log_that_was_cut_short_is_noticed(store):
    """Removing the last commit leaves a head that points behind the end."""
    log = EventLog(store)
    for number in range(4):
        await log.append("s", added(number))
    for junk in (b'{"hash":"","batches":[]}', b"\xff", b'{"batches":[{"stream":1}]}'):
        await store.commit([], [Put(log.layout.at(4), junk)])
        assert "the commit cannot be read" in [finding.problem for finding in await log.verify()]
    await store.commit([], [Delete(log.layout.at(4)), Delete(log.layout.stream("s", 4))])
    (finding,) = await log.verify()
    assert "end should be at 4" in finding.problem


async def test_erased_data_is_gone_and_the_chain_holds(store):
    """Data, salt and snapshots go; envelope, order and hashes stay; a repeat is recognised."""
    log = EventLog(store)
    keep = Reducer("list", list, lambda names, event: [*names, event.data], snapshot_every=1)
    for name in ("ann", "bob", "cid"):
        await log.append("people", [NewEvent("Joined", name)], op_id=f"join {name}", actor="desk")
    assert (await log.state("people", keep)).state == ["ann", "bob", "cid"]
    assert await log.erase("people", versions={2}) == 1
    assert await log.erase("people", versions={2}) == 0
    assert (await log.state("people", keep)).state == ["ann", None, "cid"]
    erased = [event async for event in log.read("people")][1]
    assert (erased.erased, erased.data, erased.origin.actor) == (True, None, "desk")
    assert await log.verify() == ()
    after = await store.scan("log/")
    assert not [key for key, item in after.items.items() if b'"bob"' in item.value]
    assert (await log.append("people", [NewEvent("Joined", "bob")], op_id="join bob")).repeated
