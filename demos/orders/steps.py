"""`process_order`: the saga of one order, and the two kinds of stock that it takes from.

    step      kind           action                             compensation
    reserve   compensatable  take the pieces out of the stock   put them back
    charge    compensatable  the bank takes the money           the bank gives it back
    ship      pivot          the carrier takes the parcel       - (the carrier knows whether it has)
    complete  retriable      say so                             -

Each step may be repeated, by a coordinator that fell and came back: the bank and the carrier are
handed the step's idempotency key, and a stock keeps a note per order, written together with what
it notes. Chairs and their notes are changed in one commit of the store; mugs and theirs in one
batch of the coordinator's replica, which counts once it is on its disk.

What happens to an order is an event in the stream `order/ID`. Its status is a register of (version
in that stream, status) in the replica, so that the later event wins wherever it is read; fulfilment
and customer service read it lazily.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from crdt import BoundedCounter, MaxRegister
from demos.orders import outside
from demos.orders.plan import CHAIR, MUG, Order
from transactional import (
    NewEvent,
    Outcome,
    Retry,
    Saga,
    Step,
    StepContext,
    StepKind,
    StepRefused,
    transact,
)

if TYPE_CHECKING:
    from replication import Agent
    from transactional import EventLog, Store, Transaction

NAME = "process_order"
AGAIN = Retry(base_s=0.05, cap_s=0.5, attempts_max=6, deadline_s=60.0)
CRASHES_MAX = 20
"""Attempts of a step that may be lost with their coordinator: it is killed all the time here."""
DEADLINE_S = 120.0
HELD, REFUSED, RELEASED = "held", "refused", "released"


def stock_key(item: str) -> str:
    """Where the store, or a replica, says how much there is."""
    return f"stock/{item}"


def note_key(order: str) -> str:
    """Where it is noted what the stock did for an order."""
    return f"note/{order}"


def stream_of(order: str) -> str:
    """The stream of what happened to an order."""
    return f"order/{order}"


def status_of(order: str) -> str:
    """The document that says where an order is."""
    return f"order/{order}"


class Stock(Protocol):
    """Pieces of one item. Both acts may be repeated, and are done once per order."""

    async def reserve(self, order: Order) -> bool:
        """Take the pieces of an order; False if there are too few, now and whenever asked again."""

    async def release(self, order: Order) -> None:
        """Put them back, if they were taken."""


@dataclass(frozen=True, slots=True)
class Decided:
    """Stock that lies in the store: one commit compares how much there is and takes the pieces."""

    store: Store

    async def reserve(self, order: Order) -> bool:
        """Take them, if there are enough and it was not decided before."""

        async def decide(seen: Transaction) -> bool:
            note = await seen.get(note_key(order.id))
            if note is not None:
                return note.decode() != REFUSED
            left = int(await seen.get(stock_key(order.item)) or 0)
            held = left >= order.pieces
            seen.put(note_key(order.id), (HELD if held else REFUSED).encode())
            if held:
                seen.put(stock_key(order.item), str(left - order.pieces).encode())
            return held

        held, _ = await transact(self.store, decide)
        return held

    async def release(self, order: Order) -> None:
        """Put them back, if they are held."""

        async def decide(seen: Transaction) -> None:
            if await seen.get(note_key(order.id)) == HELD.encode():
                left = int(await seen.get(stock_key(order.item)) or 0)
                seen.put(stock_key(order.item), str(left + order.pieces).encode())
                seen.put(note_key(order.id), RELEASED.encode())

        await transact(self.store, decide)


@dataclass(frozen=True, slots=True)
class Shared:
    """Stock in shares: what this agent has the rights to, it takes without asking anybody."""

    agent: Agent

    async def reserve(self, order: Order) -> bool:
        """Take them out of our share; the note and the taking are one batch."""
        note = self.agent.register(note_key(order.id), str)
        if note.value is None:
            share = self.agent.kernel.document(stock_key(order.item), BoundedCounter.at_least(0))
            held = share.rights() >= order.pieces
            with self.agent.batch():
                if held:
                    share.decrement(order.pieces)
                note.set(HELD if held else REFUSED)
        await self.agent.durable()
        return note.value != REFUSED

    async def release(self, order: Order) -> None:
        """Put them back into our share, if they are held."""
        note = self.agent.register(note_key(order.id), str)
        if note.value == HELD:
            share = self.agent.kernel.document(stock_key(order.item), BoundedCounter.at_least(0))
            with self.agent.batch():
                share.increment(order.pieces)
                note.set(RELEASED)
        await self.agent.durable()


@dataclass(slots=True)
class Processing:
    """The steps; what they need is handed in."""

    agent: Agent
    store: Store
    log: EventLog
    world_port: int
    stocks: dict[str, Stock]

    @classmethod
    def of(cls, agent: Agent, store: Store, log: EventLog, world_port: int) -> Processing:
        """With both kinds of stock."""
        return cls(agent, store, log, world_port, {CHAIR: Decided(store), MUG: Shared(agent)})

    def definition(self) -> Saga:
        """The saga."""

        def step(name: str, action: Any, undo: Any = None, **more: Any) -> Step:
            return Step(name, action, undo, retry=AGAIN, crashes_max=CRASHES_MAX, **more)

        return Saga(
            NAME,
            (
                step("reserve", self.reserve, self.release),
                step("charge", self.charge, self.refund),
                step("ship", self.ship, kind=StepKind.PIVOT, probe=self.has_shipped),
                step("complete", self.complete, kind=StepKind.RETRIABLE),
            ),
            deadline_s=DEADLINE_S,
        )

    async def _say(self, step: StepContext, what: str) -> None:
        """Write down what happened, once, and where the order is now; on disk when this returns."""
        order = step.input["id"]
        appended = await self.log.append(
            stream_of(order), [NewEvent(what)], op_id=f"{step.saga_id}/{what}", actor=step.step
        )
        version = appended.versions[stream_of(order)]
        self.agent.document(status_of(order), MaxRegister).set((version, what))
        await self.agent.durable()

    # -- reserve

    async def reserve(self, step: StepContext) -> None:
        """Take the pieces; the warehouse may fail before, or after."""
        order = Order(**step.input)
        fails = step.attempt == 1
        if fails and order.trouble == "reserve before":
            raise ConnectionError("the warehouse does not answer")
        held = await self.stocks[order.item].reserve(order)
        if fails and order.trouble == "reserve after":
            raise ConnectionError("the warehouse did it, and its answer was lost")
        if not held:
            await self._say(step, "out of stock")
            raise StepRefused(f"{order.pieces} of {order.item}: there are too few")
        await self._say(step, "reserved")

    async def release(self, step: StepContext) -> None:
        """Put the pieces back."""
        order = Order(**step.input)
        await self.stocks[order.item].release(order)
        await self._say(step, "cancelled")

    # -- charge

    async def charge(self, step: StepContext) -> None:
        """Have the bank move the money."""
        await self._outside(step, "charge", f"{step.saga_id}/charge")
        await self._say(step, "paid")

    async def refund(self, step: StepContext) -> None:
        """Have it moved back, if it was moved: the bank is asked first, and knows."""
        key = {"key": f"{step.saga_id}/charge", "order": step.input["id"]}
        found = (await outside.ask(self.world_port, "find", **key))["found"]
        if found is not None and "done" in found:
            await self._outside(step, "refund", f"{step.saga_id}/refund")
            await self._say(step, "refunded")

    # -- ship

    async def ship(self, step: StepContext) -> None:
        """Give the parcel to the carrier: from here on there is only forward."""
        await self._outside(step, "ship", f"{step.saga_id}/ship")
        await self._say(step, "shipped")

    async def has_shipped(self, step: StepContext) -> Outcome:
        """Whether the carrier took it, after an attempt of which that is not known."""
        key = {"key": f"{step.saga_id}/ship", "order": step.input["id"]}
        found = (await outside.ask(self.world_port, "find", **key))["found"]
        return Outcome(found is not None and "done" in found)

    async def complete(self, step: StepContext) -> None:
        """The order is done."""
        await self._say(step, "completed")

    async def _outside(self, step: StepContext, do: str, key: str) -> None:
        order = Order(**step.input)
        answer = await outside.ask(
            self.world_port,
            do,
            key=key,
            order=order.id,
            customer=order.customer,
            amount=order.price,
        )
        if "refused" in answer:
            raise StepRefused(answer["refused"])
