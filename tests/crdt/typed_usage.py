"""What type checkers make of views: read by mypy and pyright, never run (see test_typing)."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, assert_type
from uuid import UUID

from crdt import (
    Codec,
    CodedType,
    GCounter,
    Kernel,
    LWWMap,
    LWWRegister,
    MaxRegister,
    MVRegister,
    ORMap,
    ORSet,
    PNCounter,
)
from replication import Agent


@dataclass
class Order:
    total: int


def views_alone() -> None:
    status = LWWRegister[str]("a")
    status.set("paid")
    assert_type(status.value, str | None)
    status.set(1)  # type: ignore[arg-type]
    assert_type(LWWRegister.of(Order)("a").value, Order | None)
    assert_type(LWWRegister("a").value, Any | None)
    assert_type(MVRegister[int]("a").values, tuple[int, ...])
    assert_type(MaxRegister[int]("a").value, int | None)
    prices = LWWMap[str, int]("a")
    prices["x"] = 1
    prices |= {"y": 2}
    prices.update({"z": 3}, w=4)
    assert_type(prices["x"], int)
    assert_type(prices.get("x"), int | None)
    assert_type(prices.value, dict[str, int])
    prices["x"] = "one"  # type: ignore[assignment]
    prices[1] = 1  # type: ignore[index]
    tags = ORSet[str]("a")
    tags |= {"x"}
    tags -= {"x"}
    tags &= {"x"}
    tags ^= {"x"}
    assert_type(tags.value, frozenset[str])
    tags.add(1)  # type: ignore[arg-type]
    hits = PNCounter("a")
    hits += 1
    hits -= 1
    assert_type(hits, PNCounter)
    assert_type(hits.value, int)
    print(f"{hits:>3}", hits + 1, 2.5 * hits, hits < 3, int(hits))
    grows = GCounter("a")
    grows += 1


def documents_of_a_kernel(kernel: Kernel, m: ORMap) -> None:
    assert_type(kernel.document("d", PNCounter), PNCounter)
    assert_type(kernel.document("d", LWWMap[str, int]), LWWMap[str, int])
    assert_type(kernel.document("d", LWWMap), LWWMap[Any, Any])
    assert_type(kernel.document("d", LWWMap.of(Order)), LWWMap[Any, Order])
    assert_type(kernel.document("d", LWWMap.of(Order, keys=UUID)), LWWMap[UUID, Order])
    assert_type(m["tags", ORSet[str]], ORSet[str])
    assert_type(m["tags", ORSet], ORSet[Any])
    assert_type(m.child("price", LWWRegister.of(Decimal)), LWWRegister[Decimal])
    m["n", PNCounter] += 1
    m["tags", ORSet[str]] |= {"x"}


def documents_of_an_agent(agent: Agent, codec: Codec[Order]) -> None:
    orders = agent.document("orders", LWWMap[str, str])
    assert_type(orders, LWWMap[str, str])
    assert_type(agent.document("d", LWWRegister[int]).value, int | None)
    assert_type(agent.document("d", LWWMap.of(codec)), LWWMap[Any, Order])
    assert_type(agent.register("title"), LWWRegister[Any])
    assert_type(agent.register("price", Decimal), LWWRegister[Decimal])
    assert_type(agent.register("order", codec).value, Order | None)
    assert_type(agent.counter("n"), PNCounter)
    assert_type(agent.orset("s"), ORSet[Any])
    assert_type(LWWRegister.of(codec), CodedType[LWWRegister[Order]])
    hits = agent.counter("n")
    hits += 1
