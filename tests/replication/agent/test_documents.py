"""An agent's documents by the beginning of their names."""

from __future__ import annotations

from decimal import Decimal

import pytest

from crdt import (
    CodecError,
    DeletionRefusedError,
    InvalidValueError,
    LWWMap,
    LWWRegister,
    ORSet,
    PNCounter,
)
from replication import AccessPolicy, Agent, ForbiddenWriteError
from replication.agent import BlockingAgent

RULES = AccessPolicy(writers={"run/ada/": {"ada"}, "": {"ada", "bob"}})


async def test_documents_below_a_prefix_are_deleted_for_good(tmp_path):
    """Listed, deleted in one event, and gone after a restart; a watch hears of it at once."""
    async with Agent("ada", listen="", journal=tmp_path / "ada.db") as agent:
        agent.orset("run/1/tags").add("x")
        agent.counter("run/1/n").increment(2)
        agent.counter("run/2/n").increment(3)
        assert agent.documents("run/1/") == [("run/1/n", PNCounter), ("run/1/tags", ORSet)]
        assert len(agent.documents()) == 3
        await agent.durable()
        watch = agent.watch("run/")
        assert agent.delete("run/1/") == 2
        event = await anext(watch)
        assert {document.name for document in event.documents} == {"run/1/n", "run/1/tags"}
        assert agent.delete("run/1/") == 0
        await agent.durable()
    async with Agent("ada", listen="", journal=tmp_path / "ada.db") as again:
        assert again.documents() == [("run/2/n", PNCounter)]
        assert again.counter("run/2/n") == 3


async def test_a_deletion_that_is_refused_changes_nothing():
    """By the rules, by a bounded quantity, by an empty prefix."""
    async with Agent("bob", listen="", rules=RULES) as agent:
        agent.counter("run/bob/n").increment(1)
        agent.kernel.document("run/ada/n", PNCounter).increment(1)
        agent.bounded("held/seats").increment(1)
        agent.counter("held/n").increment(1)
        before = agent.digest()
        for prefix, why in (
            ("run/", ForbiddenWriteError),
            ("held/", DeletionRefusedError),
        ):
            with pytest.raises(why):
                agent.delete(prefix)
        assert agent.digest() == before
        assert agent.delete("run/bob/") == 1
    async with Agent("ada", listen="") as agent:
        agent.counter("n").increment(1)
        with pytest.raises(InvalidValueError):
            agent.delete("")
        assert agent.counter("n") == 1


def test_the_twin_lists_and_deletes_too():
    """In the agent's thread."""
    with BlockingAgent("ada", listen="") as agent:
        agent.counter("run/n").increment(2)
        assert agent.documents("run/") == [("run/n", PNCounter)]
        assert agent.delete("run/") == 1
        assert agent.documents() == []


async def test_documents_convert_values_by_a_codec(tmp_path):
    """Registers by a type, any document by `of`, also where the rules let it be read only."""
    async with Agent("ada", listen="", journal=tmp_path / "ada.db") as agent:
        agent.register("price", Decimal).set(Decimal("1.5"))
        prices = agent.document("prices", LWWMap.of(Decimal))
        prices |= {"x": Decimal(2)}
        with pytest.raises(CodecError):
            prices["y"] = "3"
        await agent.durable()
    async with Agent("ada", listen="", journal=tmp_path / "ada.db") as again:
        assert again.register("price", Decimal) == Decimal("1.5")
        assert again.register("price") == "1.5"
        assert again.document("prices", LWWMap.of(Decimal)) == {"x": Decimal(2)}
    async with Agent("bob", listen="", rules=RULES) as bob:
        bob.kernel.document("run/ada/price", LWWRegister.of(Decimal)).set(Decimal(1))
        price = bob.register("run/ada/price", Decimal)
        assert price.value == Decimal(1)
        with pytest.raises(ForbiddenWriteError):
            price.set(Decimal(2))


def test_the_twin_converts_values_by_a_codec():
    """In the agent's thread."""
    with BlockingAgent("ada", listen="") as agent:
        agent.register("price", Decimal).set(Decimal("1.5"))
        assert agent.register("price", Decimal).value == Decimal("1.5")
        prices = agent.document("prices", LWWMap.of(Decimal))
        prices["x"] = Decimal(2)
        assert prices.value == {"x": Decimal(2)}
        assert agent.document("prices", LWWMap[str, str]) == {"x": "2"}
