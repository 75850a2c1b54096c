"""`doctor`: does it add up? Of one journal on disk, or of a whole running cluster.

Theory of operation. A journal is read as a start would read it, and left as it is (`copies`). A
cluster is asked agent by agent, starting from one address: every member that says it is alive is
asked for its status too, and the answers are compared. A finding names what is wrong and what to
do; no finding is good news. Problems raise, so that a script sees them as exit code 1.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from replication.cli.commands import secret_of
from replication.credentials import keys_of, tls_contexts
from replication.errors import (
    ConfigError,
    NoAnswerError,
    OrderRefusedError,
    PeerUnreachableError,
    UnhealthyError,
)
from replication.transport import AdminClient

if TYPE_CHECKING:
    import argparse
    import ssl
    from collections.abc import Iterator

LOOP_LAG_S = 0.5
MEMBERS_ASKED_MAX = 100
COUNTED = {
    f"refused:{code}": f"refused {{}} frames as {code}"
    for code in (
        "unauthenticated",
        "wrong_cluster",
        "version",
        "identity_conflict",
        "history_conflict",
    )
} | {
    "journal:kept-out": "{} origins of its journal did not add up at its start, see its log",
    "fault": "{} frames made it fail, see its log (a fault of this package; nothing was lost)",
}
"""Counts that should be none -> what they mean."""


async def _doctor(options: argparse.Namespace) -> dict[str, object]:
    """Findings about a journal that is not open, or about an agent and everybody it knows."""
    if options.journal is not None:
        from replication.cli import copies  # noqa: PLC0415 - whoever asks an agent needs no journal

        return copies.of_journal(options.journal)
    if not options.peer:
        raise ConfigError("nothing to look at", hint="doctor JOURNAL, or doctor --peer HOST:PORT")
    keys = keys_of(secret_of(options))
    _, tls = tls_contexts(options.tls_cert, options.tls_key, options.tls_ca)
    return await of_cluster(options.peer, keys, options.timeout, tls, options.answered)


async def of_cluster(
    address: str,
    keys: tuple[bytes, ...],
    timeout_s: float,
    tls: ssl.SSLContext | None = None,
    answered: list[str] | None = None,
) -> dict[str, object]:
    """What one agent, and everyone it knows to be alive, say of themselves.

    The addresses of the others are hearsay. They are asked for a page and nothing else, with the
    caller's TLS, and only if they prove the secret first; nothing that is sent opens another door.

    Raises:
        PeerUnreachableError: `address` itself does not answer.
        UnhealthyError: with every finding, if there is any.
    """

    def client(at: str) -> AdminClient:
        return AdminClient(at, keys, timeout_s, tls, answered=answered)

    first = json.loads(await client(address).get("/status"))
    statuses, findings = [first], []
    alive = [m for m in first["members"] if m["status"] in {"alive", "suspect"} and m["address"]]
    for member in alive[:MEMBERS_ASKED_MAX]:
        try:
            text = await client(member["address"]).get("/status")
            statuses.append(json.loads(text))
        except (PeerUnreachableError, NoAnswerError, OrderRefusedError, ConfigError) as error:
            findings.append(f"{member['id']}: does not answer: {error}")
    for status in statuses:
        findings += findings_of(status)
    findings += disagreements(statuses)
    if findings:
        raise UnhealthyError("; ".join(findings))
    return {
        "asked": len(statuses),
        "entries": first["state"]["entries"],
        "origins": first["state"]["origins"],
        "verdict": "healthy",
    }


def findings_of(status: dict[str, Any]) -> Iterator[str]:
    """What is wrong with one agent, by its own `/status`."""
    who, counts, state = status["name"], status["counts"], status["state"]
    if status["read_only"]:
        yield f"{who}: its journal fails, it is read-only (disk full?)"
    for origin, why in status["quarantine"].items():
        yield f"{who}: stopped before an event of {origin}: {why}"
    yield from _differences(status)
    for peer in status["cut"]:
        yield f"{who}: cut off from {peer} by an operator (`heal`)"
    for member in status["members"]:
        if member["status"] in {"suspect", "dead"}:
            yield f"{who}: {member['id']} is {member['status']} (gone for good? `retire` it)"
    for kind, what in COUNTED.items():
        if counts.get(kind):
            yield f"{who}: {what.format(counts[kind])}"
    if state["skewed_stamps"]:
        yield f"{who}: {state['skewed_stamps']} stamps are over 60 s ahead (a wall clock is wrong)"
    if status["loop_lag_s"] > LOOP_LAG_S:
        yield f"{who}: its event loop was held for {status['loop_lag_s']} s"


def _differences(status: dict[str, Any]) -> Iterator[str]:
    """Peers that heard the same as an agent and hold something else, by its own comparison."""
    for peer, found in status["differing"].items():
        dots, who = ", ".join(found["contradicted"]), status["name"]
        if dots:
            yield f"{who}: {dots} is another entry here than at {peer} (told twice, or damaged)"
        else:
            yield f"{who}: heard the same as {peer} and holds something else"


def disagreements(statuses: list[dict[str, Any]]) -> Iterator[str]:
    """Agents whose states differ though they have seen the same events."""
    states: dict[str, dict[str, str]] = {}
    for status in statuses:
        vector = json.dumps(status["vector"], sort_keys=True)
        if status["digest"]:  # else a batch is open there
            states.setdefault(vector, {}).setdefault(status["digest"], status["name"])
    for digests in states.values():
        if len(digests) > 1:
            yield f"equal vectors and different states: {', '.join(sorted(digests.values()))}"


VERBS = {"doctor": _doctor}
