"""How user code of the twins is typed: checked by `mypy --strict`, and never run.

`tests/replication/test_typing.py` runs the check. A line says what a type checker has to know; a
line with an ignore says what it has to refuse.
"""

from __future__ import annotations

from typing import assert_type

from crdt import LWWMap, ORSet, PNCounter
from replication import (
    Agent,
    BlockingAgent,
    BlockingBatch,
    BlockingBounded,
    BlockingWatch,
    ChangeEvent,
    Version,
)
from transactional import (
    BlockingGrant,
    BlockingIterator,
    BlockingStore,
    Booking,
    Commit,
    Interval,
    KeyValue,
    RecordedEvent,
    open_sync,
)


def of_an_agent(twin: BlockingAgent, token: Version) -> None:
    assert_type(twin.counter("n"), PNCounter)
    assert_type(twin.document("m", LWWMap), LWWMap)
    assert_type(twin.map("m")["tags", ORSet], ORSet)
    assert_type(twin.read("s", ORSet, at_least=token, timeout_s=1.0), ORSet)
    assert_type(twin.replicated(token, 2), int)
    assert_type(twin.bounded("b"), BlockingBounded)
    assert_type(twin.lag(), dict[str, int])
    assert_type(twin.batch(), BlockingBatch)
    assert_type(twin.batch(lambda: 1), int)
    assert_type(twin.call(lambda: 1), int)
    assert_type(twin.watch("x"), BlockingWatch)
    assert_type(twin.watch("x").take(1.0), ChangeEvent | None)
    twin.durable(token, timeout_s=1.0)
    twin.bounded("b").decrement(1, timeout_s=1.0)

    def named(agent: Agent) -> str:
        return agent.id

    assert_type(twin.batch(named), str)
    twin.replicated(token)  # type: ignore[call-arg]
    twin.durable(timeout_s="1")  # type: ignore[arg-type]


def of_a_store(slot: Interval) -> None:
    with open_sync("memory:") as store:
        assert_type(store, BlockingStore)
        assert_type(store.get("k"), KeyValue | None)
        assert_type(store.commit([], []), Commit)
        assert_type(store.lock("a", owner="x").acquire(wait_s=0), BlockingGrant)
        assert_type(store.event_log().read("s"), BlockingIterator[RecordedEvent])
        assert_type(store.reservations().book("r", slot, holder="h"), Booking)
        assert_type(store.transact(lambda t: t.get("k"))[0], bytes | None)
        with store.lock("a", owner="x").held() as grant:
            assert_type(grant, BlockingGrant)
        store.get(1)  # type: ignore[arg-type]
