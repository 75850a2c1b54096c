"""Snapshots only save reading: one that does not fit is ignored."""

from __future__ import annotations

import json

from tests.transactional.events.samples import added
from transactional import (
    EventLog,
    Put,
    Reducer,
)


async def _snapshot(log: EventLog, store) -> dict:
    return json.loads((await store.get(log.layout.snapshot("s", "total"))).value)


async def test_snapshots_that_do_not_fit_are_ignored(store):
    """[transactional 29] Stale, of another schema, corrupt, ahead or of another past: ignored."""
    log = EventLog(store)
    counted = Reducer("total", lambda: 0, lambda t, e: t + e.data, snapshot_every=5)
    await log.append("s", added(*range(10)))
    assert not (await log.state("s", counted)).from_snapshot
    assert await log.state("s", counted) == (await log.state("s", counted))
    assert (await log.state("s", counted)).from_snapshot
    good = await _snapshot(log, store)
    assert (good["version"], good["state"]) == (10, 45)

    await log.append("s", added(100))
    stale = await log.state("s", counted)
    assert (stale.state, stale.from_snapshot) == (145, True)  # old, and a good beginning
    assert (await log.state("s", counted, at=4)).state == 6  # ahead of what is asked for
    newer = Reducer("total", lambda: 0, lambda t, e: t + 2 * e.data, schema=2, snapshot_every=99)
    assert (await log.state("s", newer)).state == 290

    def forged(**changes) -> bytes:
        from transactional.events.state import _digest

        body = {k: v for k, v in (good | changes).items() if k != "digest"}
        return json.dumps(body | {"digest": _digest(body)}).encode()

    key = log.layout.snapshot("s", "total")
    for value in (
        b"\xff not json",
        b"{}",
        json.dumps(good | {"state": 46}).encode(),  # its digest tells
        forged(version=500, position=500),  # ahead of the stream
        forged(state=7, hash="0" * 64),  # grown from another past
    ):
        await store.commit([], [Put(key, value)])
        found = await log.state("s", counted)
        assert (found.state, found.from_snapshot) == (145, False), value
