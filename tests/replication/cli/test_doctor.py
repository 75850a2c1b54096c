"""`doctor`: what it finds in the answers of a cluster, and in a journal."""

from __future__ import annotations

import pytest

from replication import Agent
from replication.agent.admin import status as page_of
from replication.cli.copies import of_journal
from replication.cli.doctor import LOOP_LAG_S, disagreements, findings_of


def status(name: str = "ada", **changed: object) -> dict:
    """What a healthy agent says of itself."""
    return {
        "name": name,
        "counts": {},
        "state": {"skewed_stamps": 0},
        "read_only": False,
        "quarantine": {},
        "differing": {},
        "cut": [],
        "members": [{"id": "bob~1", "status": "alive"}],
        "loop_lag_s": 0.0,
        "vector": {"ada~1": 3},
        "digest": "00",
    } | changed


def test_nothing_is_found_in_health():
    """No finding is good news."""
    assert list(findings_of(status())) == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"read_only": True}, "read-only"),
        ({"quarantine": {"bob~1": "2-2: cannot be joined"}}, "event of bob~1: 2-2: cannot"),
        (
            {"differing": {"bob~1": {"blocks": 1, "contradicted": ["leaf~1:7"]}}},
            "leaf~1:7 is another entry here than at bob~1",
        ),
        (
            {"differing": {"bob~1": {"blocks": 1, "contradicted": []}}},
            "heard the same as bob~1 and holds something else",
        ),
        ({"cut": ["bob"]}, "cut off from bob"),
        ({"members": [{"id": "bob~1", "status": "dead"}]}, "bob~1 is dead"),
        ({"counts": {"refused:unauthenticated": 3}}, "refused 3 frames as unauthenticated"),
        ({"state": {"skewed_stamps": 2}}, "2 stamps are over 60 s ahead"),
        ({"loop_lag_s": LOOP_LAG_S + 1}, "its event loop was held"),
    ],
)
def test_each_ailment_is_named_with_whom_it_ails(changed, says):
    """One line per finding, beginning with the agent."""
    (found,) = findings_of(status(**changed))
    assert found.startswith("ada: ")
    assert says in found


def test_equal_vectors_with_unequal_states_are_a_fault():
    """Agents that differ in their vectors are merely behind, and not reported."""
    behind = status("cyd", vector={"ada~1": 2}, digest="02")
    assert list(disagreements([status(), status("bob"), behind])) == []
    (found,) = disagreements([status(), status("bob", digest="01"), behind])
    assert "ada, bob" in found


async def test_an_open_batch_is_no_disagreement():
    """While one is open an agent has no digest to show, and what it may roll back is no event."""
    async with Agent("ada") as ada:
        ada.counter("n").increment()
        told, before = page_of(ada), ada.version()
        with ada.batch():
            ada.counter("n").increment()
            inside = page_of(ada)
            assert ada.version() == before
        assert (inside["digest"], inside["vector"]) == ("", told["vector"])
        assert list(disagreements([told, inside])) == []
        assert page_of(ada)["digest"] not in {"", told["digest"]}


async def test_a_journal_is_read_as_a_start_would_read_it(tmp_path):
    """The identity and the sizes of one that adds up."""
    async with Agent("ada", journal=tmp_path / "ada.db") as ada:
        ada.orset("tags").add("x")
        await ada.durable()
        written_by = ada.id
    report = of_journal(tmp_path / "ada.db")
    assert (report["id"], report["continuous"], report["entries"]) == (written_by, True, 1)
    assert report["verdict"] == "adds up"
