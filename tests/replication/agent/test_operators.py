"""Operators on an agent's documents: they write, journal and gossip like the mutators' names."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from crdt import InsufficientRightsError, LWWMap, OperatorRefusedError, ORSet, PNCounter
from replication import AccessPolicy, Agent, ForbiddenWriteError
from replication.agent import BlockingAgent


async def test_operators_write_and_come_back_from_the_journal(tmp_path):
    """On names, attributes and items of maps; what they wrote is durable like any write."""
    async with Agent("ada", listen="", journal=tmp_path / "ada.db") as agent:
        own = SimpleNamespace(hits=agent.counter("hits"), tags=agent.orset("tags"))
        own.hits += 3
        own.hits -= 1
        own.tags |= {"x", "y"}
        own.tags -= {"y"}
        the_map, conf = agent.map("m"), agent.document("conf", LWWMap)
        the_map["n", PNCounter] += 1
        the_map["n"] += 1
        conf["k"] = 1
        conf |= {"l": 2}
        with agent.batch():
            own.hits += 1
            the_map["s", ORSet] |= {"in a batch"}
        with pytest.raises(OperatorRefusedError):
            agent.map("m")["k"] = 1
        await agent.durable()
    async with Agent("ada", listen="", journal=tmp_path / "ada.db") as again:
        assert again.counter("hits") == 3
        assert again.orset("tags") == {"x"}
        assert again.map("m") == {"n": 2, "s": {"in a batch"}}
        assert again.document("conf", LWWMap) == {"k": 1, "l": 2}


async def test_operators_of_what_the_rules_keep_are_refused():
    """As the mutators are; nothing changes, and nothing is put in the view's place."""
    async with Agent("bob", listen="", rules=AccessPolicy(writers={"ada/": {"ada"}})) as agent:
        tags = agent.orset("ada/tags")
        with pytest.raises(ForbiddenWriteError):
            tags |= {"x"}
        count = agent.counter("ada/count")
        with pytest.raises(ForbiddenWriteError):
            count += 1
        assert (tags, count) == (set(), 0)


async def test_a_bounded_quantity_reads_like_a_number_and_is_never_rebound(tmp_path):
    """`+=` increments; `-=` names the awaited decrement, and all others are refused."""
    async with Agent("ada", listen="", journal=tmp_path / "ada.db") as agent:
        seats = alias = agent.bounded("seats", 1)
        seats += 4
        assert seats is alias
        assert seats == 5 == seats
        assert (seats - 1, 2 * seats, f"{seats:>3}", int(seats), seats > 4) == (
            4,
            10,
            "  5",
            5,
            True,
        )
        with pytest.raises(OperatorRefusedError, match="await quantity"):
            seats -= 1
        with pytest.raises(OperatorRefusedError):
            seats *= 2
        with pytest.raises(InsufficientRightsError):
            await seats.decrement(5)
        await seats.decrement(4)
        assert seats == 1


def test_the_twins_documents_take_the_same_operators(tmp_path):
    """In the agent's thread, and the name goes on meaning the document."""
    with BlockingAgent("ada", listen="", journal=tmp_path / "ada.db") as agent:
        hits, tags, seats = agent.counter("hits"), agent.orset("tags"), agent.bounded("seats")
        same = (hits, tags, seats)
        hits += 2
        hits -= 1
        tags |= {"x", "y"}
        tags &= {"x"}
        seats += 3
        seats -= 1
        assert all(each is was for each, was in zip((hits, tags, seats), same, strict=True))
        assert (agent.counter("hits"), agent.orset("tags"), agent.bounded("seats")) == (1, {"x"}, 2)
        the_map = agent.map("m")
        the_map["n", PNCounter] += 2
        the_map["n"] += 1
        the_map["s", ORSet] |= {1}
        assert the_map.value == {"n": 3, "s": {1}}
        assert (hits * 2, f"{hits:>3}", 7 - seats, tags - {"x"}) == (2, "  1", 5, set())
        with pytest.raises(OperatorRefusedError):
            hits *= 2
        with pytest.raises(OperatorRefusedError):
            the_map["n"] = 5
