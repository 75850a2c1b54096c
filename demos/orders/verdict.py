"""What must hold when all orders are over, recomputed from the plan and the ledgers. Pure."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from demos.closing import Check
from demos.orders.plan import BALANCE, CHAIR, CUSTOMERS, MUG, SHOP, STOCK
from demos.orders.story import statuses

if TYPE_CHECKING:
    from demos.orders.story import Outcome

DIGEST_SHOWN = 16


def judge(outcome: Outcome) -> list[Check]:
    """Every check of a run."""
    return [
        _ended(outcome),
        _chairs(outcome),
        _mugs(outcome),
        _money(outcome),
        *_outside(outcome),
        _status(outcome),
        _state_at(outcome),
        Check(
            "the log is whole",
            f"{sum(v for v, _ in outcome.last.values())} events; {len(outcome.findings)} altered",
            bool(outcome.last) and not outcome.findings,
        ),
    ]


def _ended(outcome: Outcome) -> Check:
    ends = Counter(outcome.ends.get(order.id, "never begun") for order in outcome.orders)
    done, undone = ends["completed"], ends["compensated"]
    rest = ", ".join(f"{count} {end}" for end, count in ends.items() if end not in _ENDS)
    total = len(outcome.orders)
    found = f"{done} + {undone} of {total}" + (f"; {rest}" if rest else "")
    held = done + undone == total and len(outcome.ends) == total and bool(done and undone)
    return Check("each order completed or compensated", found, held)


_ENDS = {"completed", "compensated"}


def _pieces(outcome: Outcome, item: str) -> int:
    """Pieces of the orders that were completed."""
    return sum(
        order.pieces
        for order in outcome.orders
        if order.item == item and outcome.ends.get(order.id) == "completed"
    )


def _chairs(outcome: Outcome) -> Check:
    sold, left = _pieces(outcome, CHAIR), outcome.chairs_left
    found = f"{sold} sold + {left} left of {STOCK[CHAIR]}"
    return Check("chairs (compare-and-swap)", found, sold + left == STOCK[CHAIR] and left >= 0)


def _mugs(outcome: Outcome) -> Check:
    sold, counter = _pieces(outcome, MUG), outcome.sold["sold"]
    left = {read["mugs"] for read in outcome.read.values()}
    lefts = " or ".join(map(str, sorted(left)))
    found = f"{sold} sold + {counter} over the counter + {lefts} left of {STOCK[MUG]}"
    whole = {sold + counter + each for each in left} == {STOCK[MUG]}
    return Check("mugs (bounded counter)", found, whole and min(left) >= 0)


def _money(outcome: Outcome) -> Check:
    balances = outcome.ledger["balances"]
    total = sum(balances.values())
    due = sum(o.price for o in outcome.orders if outcome.ends.get(o.id) == "completed")
    found = f"{total} in all accounts; the shop has {balances[SHOP]} for {due}"
    return Check(
        "money is conserved", found, total == BALANCE * CUSTOMERS and balances[SHOP] == due
    )


def _outside(outcome: Outcome) -> list[Check]:
    effects = [tuple(effect) for effect in outcome.ledger["effects"]]
    twice = [key for key, count in Counter(key for key, _, _ in effects).items() if count > 1]
    by_order: dict[str, Counter[str]] = {order.id: Counter() for order in outcome.orders}
    for _, what, order in effects:
        by_order[order][what] += 1
    repeats, wrong = outcome.ledger["repeats"], []
    for order, counts in by_order.items():
        if outcome.ends.get(order) == "completed":
            right = counts == Counter(charge=1, ship=1)
        else:
            right = counts["ship"] == 0 and counts["charge"] == counts["refund"]
        if not right:
            wrong.append(order)
    return [
        Check(
            "each outside effect at most once",
            f"{len(effects)} effects, {repeats} repeats known; {len(twice)} twice",
            bool(effects) and not twice,
        ),
        Check(
            "paid and shipped, or neither",
            f"{len(outcome.orders) - len(wrong)} of {len(outcome.orders)}"
            + (f"; not {', '.join(wrong[:3])}" if wrong else ""),
            not wrong,
        ),
    ]


def _status(outcome: Outcome) -> Check:
    """Of all replicas that read lazily, equal by digest and saying what the log says."""
    right = sum(statuses(read) == outcome.last for read in outcome.read.values())
    backwards = sum(read["backwards"] for read in outcome.read.values())
    reads = sum(read["reads"] for read in outcome.read.values())
    digests = ", ".join(digest[:DIGEST_SHOWN] for digest in sorted(outcome.digests))
    return Check(
        "statuses read lazily are the log's",
        f"{right} of {len(outcome.read)} readers: {digests}; {reads} reads, {backwards} backwards",
        right == len(outcome.read) and len(outcome.digests) == 1 and not backwards,
    )


def _state_at(outcome: Outcome) -> Check:
    same = sum(outcome.said_now[name] == then for name, then in outcome.seen_then.items())
    at = f"{outcome.at:%H:%M:%S.%f}"[:-3] if outcome.at else "never"
    under_way = sum(bool(then) for then in outcome.seen_then.values())
    return Check(
        "the state at T is what it was at T",
        f"{same} of {len(outcome.seen_then)} at {at}, {under_way} begun by then",
        bool(under_way) and same == len(outcome.seen_then) == len(outcome.orders),
    )
