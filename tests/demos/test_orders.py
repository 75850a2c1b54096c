"""The orders demo as a user starts it: real kills, ledgers, exit status; and what judges it."""

from __future__ import annotations

import re
import subprocess
import sys
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import demos.orders
from demos.orders.outside import World
from demos.orders.plan import BALANCE, CHAIR, CUSTOMERS, MUG, SHOP, STOCK, kills_at, plan
from demos.orders.story import Outcome
from demos.orders.verdict import judge

ROOT = Path(__file__).resolve().parents[2]


def demo(*arguments: str) -> tuple[int, str, str]:
    """Run it; returns exit status, standard output, standard error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "demos", "orders", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "160", "PYTHONPATH": str(ROOT)},
    )
    return done.returncode, done.stdout, done.stderr


def rows_of(text: str) -> list[str]:
    """The names of the checks in the closing table, drawn or in the docstring."""
    return re.findall(r"^(?:│ |    )([^│\n]{35}) .*\b(?:ok|FAILED)", text, re.MULTILINE)


@pytest.mark.demo
@pytest.mark.processes
def test_every_order_ends_whoever_is_killed() -> None:
    """Every check holds; the table is the one of the module's text."""
    status, output, errors = demo("--orders", "24", "--kills", "3")
    assert status == 0, output + errors
    assert errors == ""
    assert output.count("SIGKILL to the coordinator") == 3
    assert output.endswith(
        "24 orders, the coordinator killed 3 times; all 9 checks hold (exit status 0)\n"
    ), output
    assert rows_of(output) == rows_of(demos.orders.__doc__ or "")


@pytest.mark.demo
@pytest.mark.processes
def test_a_world_that_does_things_twice_is_found() -> None:
    """Counterexample on purpose: the bank ignores the keys, and lost answers cost money."""
    status, output, _ = demo("--orders", "24", "--kills", "0", "--forgetful")
    assert status == 1
    assert re.search(r"each outside effect at most once .* [1-9]\d* twice +│ FAILED", output)
    assert output.endswith("a check FAILED (exit status 1)\n")


@pytest.mark.parametrize("words", [("--orders", "11"), ("--kills", "51"), ("--seed", "x")])
def test_what_makes_no_sense_is_one_line(words: tuple[str, str]) -> None:
    """Usage, exit status 2."""
    with pytest.raises(SystemExit) as caught:
        demos.orders.main(list(words))
    assert caught.value.code == 2


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_has_every_trouble_and_too_little_stock(seed: int) -> None:
    """Whatever the seed: something is refused, and the kills come in order."""
    orders = plan(60, seed)
    assert orders == plan(60, seed)
    assert len({order.trouble for order in orders}) == 9
    wanted = sum(order.pieces for order in orders if order.item == CHAIR)
    assert wanted > STOCK[CHAIR]
    kills = kills_at(6, 60, seed)
    assert kills == sorted(set(kills))
    assert len(kills) == 6


@pytest.mark.parametrize("do", ["charge", "refund", "ship"])
@pytest.mark.parametrize("when", ["before", "after", "refused", "never"])
def test_the_world_does_once_what_is_asked_for_under_a_key(do: str, when: str) -> None:
    """However often it is asked, and whether or not an answer was lost."""
    world = World({"1": f"{do} {when}"}, forgetful=False)
    request = {"do": do, "key": "k", "order": "1", "customer": "customer-1", "amount": 5}
    if do == "refund" and when == "refused":
        return  # nobody refuses to take money back
    answers = [world.ask(request) for _ in range(4)]
    assert (answers[0] is None) == (when in {"before", "after"})
    assert answers[1] == answers[2] == answers[3] != None  # noqa: E711 - all are answers
    assert len(world.effects) == (when != "refused")
    assert sum(world.balances.values()) == BALANCE * CUSTOMERS
    found = world.ask({"do": "find", "key": "k", "order": "1"})
    assert found == {"found": answers[1]}


# -- the verdict


def good() -> Outcome:
    """What a good run of 24 orders says: every third one was compensated."""
    found = Outcome(plan(24, 3))
    effects, shop = [], 0
    pieces = {CHAIR: 0, MUG: 0}
    for number, order in enumerate(found.orders):
        done = number % 3 > 0
        found.ends[order.id] = "completed" if done else "compensated"
        effects += [(f"{order.id}/charge", "charge", order.id)]
        effects += [(f"{order.id}/x", "ship" if done else "refund", order.id)]
        shop += order.price if done else 0
        pieces[order.item] += order.pieces if done else 0
        found.last[f"order/{order.id}"] = (4, "completed" if done else "cancelled")
        found.seen_then[f"order/{order.id}"] = "paid"
        found.said_now[f"order/{order.id}"] = "paid"
    found.at = datetime(2026, 1, 1, tzinfo=UTC)
    found.chairs_left = STOCK[CHAIR] - pieces[CHAIR]
    found.sold = {"sold": 5, "sent_away": 0}
    found.ledger = {
        "balances": {SHOP: shop, "customer-1": BALANCE * CUSTOMERS - shop},
        "effects": effects,
        "repeats": 0,
        "failures": 0,
    }
    read = {
        "statuses": {name: list(value) for name, value in found.last.items()},
        "mugs": STOCK[MUG] - pieces[MUG] - 5,
        "reads": 9,
        "backwards": 0,
    }
    found.read = {"fulfilment": read, "service": deepcopy(read)}
    found.digests = {"00"}
    return found


def test_a_good_run_holds() -> None:
    """Every check."""
    assert [check for check in judge(good()) if not check.ok] == []


def lost_order(o: Outcome) -> None:
    del o.ends["001"]


def stuck_order(o: Outcome) -> None:
    o.ends["001"] = "stuck"


def lost_chair(o: Outcome) -> None:
    o.chairs_left -= 1


def invented_mug(o: Outcome) -> None:
    o.read["service"]["mugs"] += 1


def lost_money(o: Outcome) -> None:
    o.ledger["balances"]["customer-1"] -= 1


def effect_twice(o: Outcome) -> None:
    o.ledger["effects"].append(o.ledger["effects"][0])


def never_shipped(o: Outcome) -> None:
    o.ledger["effects"] = [e for e in o.ledger["effects"] if e[1] != "ship"]


def old_status(o: Outcome) -> None:
    o.read["fulfilment"]["statuses"]["order/001"] = [1, "reserved"]


def unequal(o: Outcome) -> None:
    o.digests = {"00", "01"}


def backwards(o: Outcome) -> None:
    o.read["service"]["backwards"] = 1


def another_past(o: Outcome) -> None:
    o.said_now["order/001"] = "reserved"


def altered(o: Outcome) -> None:
    o.findings = ["position 3: altered"]


@pytest.mark.parametrize(
    "spoil",
    [
        lost_order, stuck_order, lost_chair, invented_mug, lost_money, effect_twice, never_shipped,
        old_status, unequal, backwards, another_past, altered,
    ],
)  # fmt: skip
def test_each_kind_of_fault_is_found(spoil: Any) -> None:
    """One thing is wrong, and a check says so."""
    found = good()
    spoil(found)
    assert [check for check in judge(found) if not check.ok]
