"""What must hold at the end of a run, judged from what the nodes said and what they hold. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from demos.closing import Check

if TYPE_CHECKING:
    from demos.gossip.story import Outcome

ROUNDS_MAX = 10
SHOWN = 3


def judge(outcome: Outcome) -> list[Check]:
    """Every check of a run."""
    return [
        *_equal(outcome),
        *_acknowledged(outcome),
        *_heals(outcome),
        _bytes(outcome),
    ]


def _equal(outcome: Outcome) -> list[Check]:
    digests = [look.digest for look in outcome.looks.values()]
    count, nodes = len(set(digests)), len(outcome.names)
    kinds = ", ".join(sorted({digest[:16] for digest in digests})[:SHOWN])
    others = nodes - 1
    knows = sum(look.members == others for look in outcome.looks.values())
    return [
        Check(
            "replicas equal by digest",
            f"{len(digests)} of {nodes}: {kinds}",
            count == 1 and len(digests) == nodes,
        ),
        Check(
            "everybody knows who lives, and no former life",
            f"{knows} of {nodes} know {others} others",
            knows == nodes,
        ),
    ]


def _acknowledged(outcome: Outcome) -> list[Check]:
    ledger = outcome.ledger
    lost: set[str] = set()
    invented: set[str] = set()
    for found in outcome.values.values():
        missing, extra = ledger.compare(found)
        lost.update(missing)
        invented.update(extra)
    return [
        Check(
            "nothing acknowledged is lost",
            f"{len(ledger.acked)} writes acknowledged; {_listed(lost, 'lost')}",
            bool(ledger.acked) and not lost,
        ),
        Check(
            "nothing counts twice, nothing is invented",
            f"{len(ledger.wrote)} writes made; {_listed(invented, 'besides')}",
            not invented,
        ),
    ]


def _listed(what: set[str], word: str) -> str:
    if not what:
        return f"0 {word}"
    more = f" and {len(what) - SHOWN} more" if len(what) > SHOWN else ""
    return f"{len(what)} {word}: {'; '.join(sorted(what)[:SHOWN])}{more}"


def _heals(outcome: Outcome) -> list[Check]:
    checks = []
    for heal in outcome.heals:
        name = f"{heal.what.strip()} at {heal.at_s:.0f} s: everybody has all"
        if heal.took_s is not None:
            rounds = heal.took_s / outcome.interval_s
            found = f"after {heal.took_s:.1f} s, {rounds:.1f} rounds of at most {ROUNDS_MAX}"
            checks.append(Check(name, found, rounds <= ROUNDS_MAX))
        elif heal.cut_again:
            checks.append(Check(name, "cut again before that", ok=True))
        else:
            checks.append(Check(name, "never", ok=False))
    return checks


def _bytes(outcome: Outcome) -> Check:
    """What was sent, beside what as many full states as deltas came would have weighed."""
    looks = outcome.looks.values()
    sent = sum(look.bytes_sent for look in looks) + outcome.sent_before
    deltas = sum(look.deltas for look in looks) + outcome.deltas_before
    state = max((look.state_bytes for look in looks), default=0)
    full = deltas * state
    return Check(
        "deltas weigh less than full states",
        f"{sent / 1024:.0f} KiB sent in all; {deltas} full states of {state / 1024:.1f} KiB"
        f" would be {full / 1024:.0f} KiB",
        sent < full,
    )
