"""What all waits for so many copies want together, and what is looked at to know who lacks it."""

from __future__ import annotations

from replication.protocol.waits import Wait, _Group


class Looked(dict[str, int]):
    """A vector that counts how often it is looked into."""

    looks = 0

    def get(self, origin: str, default: int = 0) -> int:  # type: ignore[override]
        Looked.looks += 1
        return super().get(origin, default)


def test_many_members_and_origins_are_gone_through_once():
    """Counterexample: each answer made a look at every origin of every member, millions."""
    members, origins = 50, 2000
    wanted = {f"o{number}": 1 for number in range(origins)}
    known = {f"m{number}": Looked(wanted) for number in range(members)}
    known["m7"].clear()
    group = _Group()
    wait = Wait(wanted, None)
    group.add(wait)
    Looked.looks = 0
    assert {m for m, has in known.items() if group.lacking(m, has)} == {"m7"}
    assert Looked.looks == members * origins
    Looked.looks = 0
    for _ in range(10):
        assert {m for m, has in known.items() if not group.has(m, has, wanted)} == {"m7"}
        assert Looked.looks <= 2 * origins
        Looked.looks = 0
    known["m7"].update(wanted)
    assert all(group.has(m, has, wanted) for m, has in known.items())


def test_a_later_wait_adds_what_it_wants_and_an_ended_one_takes_it_away():
    """What one of them wants is judged by itself, whatever the others want beyond it."""
    known = {"a": 5, "b": 1}
    group = _Group()
    first, second = Wait({"a": 5}, None), Wait({"a": 9, "b": 1, "c": 2}, None)
    group.add(first)
    assert group.lacking("m", known) == set()
    group.add(second)
    assert group.lacking("m", known) == {"a", "c"}
    assert group.has("m", known, first.wanted)
    assert not group.has("m", known, second.wanted)
    known["c"] = 2
    assert group.lacking("m", known) == {"a"}
    group.remove(second)
    group.refresh([])
    assert group.wanted == {"a": 5}
    assert group.lacking("m", known) == set()
