"""The feed of one subscriber: whole changes, bounded memory, honest about lagging."""

from __future__ import annotations

from types import SimpleNamespace

from replication.agent.watch import Feed


def change(*documents: tuple[str, set | None]) -> SimpleNamespace:
    return SimpleNamespace(
        documents=tuple(
            SimpleNamespace(name=name, type=set, keys=None if keys is None else frozenset(keys))
            for name, keys in documents
        )
    )


def drained(feed: Feed) -> list:
    return list(iter(feed.take, None))


def test_a_change_arrives_whole_and_only_its_watched_documents():
    """A batch is one event; documents outside of the prefix are left out of it."""
    feed = Feed("order/", 10)
    assert feed.offer(change(("order/1", {"a"}), ("order/2", None), ("stock", {"b"})), "local")
    assert not feed.offer(change(("stock", {"b"})), "local")
    (event,) = drained(feed)
    assert [d.name for d in event.documents] == ["order/1", "order/2"]
    assert not event.lagged


def test_a_slow_subscriber_gets_every_changed_key_in_bounded_memory():
    """[replication 13] conflated to the latest per key, `lagged` set, nothing forgotten."""
    feed = Feed("", 8)
    for number in range(1000):
        feed.offer(change(("set", {number % 10}), (f"d{number % 3}", None)), "remote")
        assert len(feed) <= 8
    events = drained(feed)
    assert events[0].lagged
    assert not events[-1].lagged
    keys = {d.name: d.keys for d in events[0].documents}
    assert keys["set"] == frozenset(range(10))
    assert keys["d0"] is None


def test_causes_that_were_folded_are_called_several():
    """A folded event does not claim one cause for changes that had two."""
    feed = Feed("", 2)
    for cause in ("local", "remote", "local", "remote"):
        feed.offer(change(("x", {1})), cause)
    assert feed.take().cause in {"several", "local"}
