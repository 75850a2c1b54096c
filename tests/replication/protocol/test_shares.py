"""Each name has a share of whatever is remembered: it fills its own, and nobody else's."""

from __future__ import annotations

import pytest

from crdt import Delta, Kernel, ORSet, Run
from replication import AccessPolicy, Agent, Config, Simulation
from replication.agent.admin import exposition
from replication.errors import BusyError, FrameTooLargeError, ReplayedFrameError
from replication.protocol.digest import full
from replication.protocol.exchanges import Opened
from replication.protocol.intake import (
    DOOMED_PER_NAME_MAX,
    ORIGINS_PER_NAME_MAX,
    QUARANTINED_PER_NAME_MAX,
    Intake,
    Outcome,
)
from replication.protocol.keyring import Keyring
from replication.protocol.messages import Ack, Push, Refused, Sync
from replication.protocol.peers import PEERS_PER_NAME_MAX, REPORTED_PER_NAME_MAX, Behind
from replication.protocol.shares import Shares
from replication.protocol.wire import BOOTS_PER_NAME_MAX, Asker, Envelope, Wire
from tests.replication.stranger import Stranger

FLOOD = 300


def test_at_its_share_a_name_loses_its_own_oldest_and_at_the_end_of_all_who_has_most():
    """It is a dict otherwise."""
    table: Shares[str, int] = Shares(3, 6)
    for number in range(5):
        table[f"eve~{number}"] = number
    table["eve~4"] = 44
    assert dict(table) == {"eve~2": 2, "eve~3": 3, "eve~4": 44}
    for name in ("ada", "bob", "cyd", "dan"):
        table[f"{name}~1"] = 1
    assert set(table) == {"eve~3", "eve~4", "ada~1", "bob~1", "cyd~1", "dan~1"}
    del table["eve~3"]
    assert (table.of("eve"), table.of("ada"), table.of("zoe"), len(table)) == (1, 1, 0, 5)
    assert table.setdefault("ada~1", 7) == 1


def test_nobody_pushes_the_window_of_another_out():
    """Counterexample: 4 096 boots of a leaf, and a recorded frame of its hub was taken again."""
    hub_key, leaf_key = b"a shared secret", b"a key of the leaf"

    def wire(keys: Keyring, boot: bytes) -> Wire:
        return Wire(cluster="c", namespace="n", keys=keys, boot=boot, config=Config())

    hub = wire(Keyring((hub_key,), principals={"leaf": (leaf_key,)}), b"the hub.")
    boss = wire(Keyring((hub_key,)), b"the boss")
    challenge = hub.freshness.current
    recorded = boss.seal("boss~1", Sync(full({})), challenge=challenge)
    hub.open(recorded)
    leaf = Keyring(own=(leaf_key,))
    for number in range(5000):
        sender = wire(leaf, number.to_bytes(8, "big"))
        hub.open(sender.seal("leaf~1", Sync(full({})), challenge=challenge))
    with pytest.raises(ReplayedFrameError):
        hub.open(recorded)
    assert len(hub._windows) == 1 + BOOTS_PER_NAME_MAX


def test_what_is_remembered_of_a_peer_is_bounded_by_its_name():
    """Counterexample: each id that a leaf greeted with stayed a record for ever."""
    sim = Simulation(["ada", "bob"], 41)
    sim.run(10)
    replica = sim.replica("ada")
    known, belief = dict(replica.peers.known(sim.replica("bob").id)), replica.id
    for number in range(FLOOD):
        stranger = Stranger(sim, f"eve~{number}")
        stranger.ask("ada", Sync(full({belief: 1, **{f"x{number}.{n}~1": 9 for n in range(40)}})))
    assert replica.peers.peers.of("eve") == PEERS_PER_NAME_MAX
    assert replica.identity._boots.of("eve") == BOOTS_PER_NAME_MAX
    assert dict(replica.peers.known(sim.replica("bob").id)) == known
    assert len(replica.behind._reports) <= REPORTED_PER_NAME_MAX
    assert sim.settle(30)


def test_whoever_reports_events_that_nobody_wrote_drops_his_own_reports_only():
    """The lag that an honest agent told of is still there."""
    behind = Behind()
    behind.heard({"ada~1": 7}, {}, 1.0, "bob~1")
    for number in range(2 * REPORTED_PER_NAME_MAX):
        behind.heard({f"x{number}~1": 9}, {}, 2.0, f"eve~{number % 7}")
    lag = behind.lag({}, 11.0)
    assert lag["ada~1"] == (7, 10.0)
    assert len(lag) == REPORTED_PER_NAME_MAX + 1


def test_an_agent_has_so_many_origins_and_the_others_have_theirs():
    """Refused is what is new of that name; it goes on under the ids that it has."""
    sim = Simulation(["ada"], 42)
    stranger = Stranger(sim, "eve~0")
    for start in range(0, ORIGINS_PER_NAME_MAX, 500):
        runs = tuple(Run(f"eve~{n}", 1, 1, ()) for n in range(start, start + 500))
        assert isinstance(stranger.ask("ada", Push(Delta(runs).encode())), Ack)
    one_more = stranger.ask("ada", Push(Delta((Run("eve~more", 1, 1, ()),)).encode()))
    assert isinstance(one_more, Refused)
    assert one_more.code == FrameTooLargeError.code
    for origin, first in (("bob~1", 1), ("eve~7", 2)):
        told = stranger.ask("ada", Push(Delta((Run(origin, first, first, ()),)).encode()))
        assert isinstance(told, Ack)
    assert sim["ada"].vector["bob~1"] == 1


def test_a_name_fills_its_share_of_the_quarantine_and_of_what_is_doomed(monkeypatch):
    """The next poison, and the next early removal, of somebody else is held as ever."""
    kernel = Kernel("ada~1")
    intake = Intake(kernel, AccessPolicy(), Config().delta_bytes_max)

    def poison(origin: str) -> Outcome:
        def apply(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr(Kernel, "apply", apply)
            added = Kernel(origin).document("set", ORSet).add(1)
            return intake.take(added.encode(), "bob~1").outcome

    for number in range(FLOOD):
        poison(f"eve~{number}")
    assert len(intake.quarantine) == QUARANTINED_PER_NAME_MAX
    assert poison("cyd~1") is Outcome.POISON
    assert "cyd~1" in intake.quarantine

    def early(origin: str, first: int, last: int) -> Outcome | None:
        row = (1, None, "", 0, None, (("ghost~1", first, last),))
        return intake.take(Delta((Run(origin, 1, 1, (row,)),)).encode(), "bob~1").outcome

    assert early("mal~1", 1, DOOMED_PER_NAME_MAX) is Outcome.NEW
    with pytest.raises(BusyError):
        early("mal~2", DOOMED_PER_NAME_MAX + 1, DOOMED_PER_NAME_MAX + 1)
    assert early("dan~1", DOOMED_PER_NAME_MAX + 1, 2 * DOOMED_PER_NAME_MAX) is Outcome.NEW


async def test_labels_of_metrics_are_a_closed_set():
    """Counterexample: a made-up refusal, or a made-up origin, was a time series for ever."""
    async with Agent("ada") as ada:
        replica = ada._runtime.replica
        before = None
        for number in range(FLOOD):
            refusal = Refused(400, f'code"{{}}\n{number}', "text")
            opened = Opened("h:1", "eve~1", Push(b""), 1, 0.0, {})
            replica._refused(
                opened, Envelope("eve~1", b"a boot", Asker(), 1, refusal), refusal, 0.0
            )
            replica.behind.heard({f"x{number}~1": 10**9}, {}, 0.0, f"eve{number}~1")
            lines = [line.rpartition(" ")[0] for line in exposition(ada).splitlines()]
            before = before or lines
        assert lines == before
        assert 'code="other"' in exposition(ada)
        assert 'convoca_lag_events{agent="ada",origin="other"} 1e+09' in exposition(ada)
