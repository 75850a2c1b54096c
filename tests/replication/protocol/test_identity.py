"""Which observations prove that two lives share an id, and what follows from them."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from crdt import GCounter, Kernel
from replication.config import Config
from replication.errors import ForbiddenError, IdentityConflictError
from replication.protocol.identity import RENEW_WAIT_S, Identity
from replication.protocol.membership import Membership


@pytest.fixture
def identity() -> Identity:
    members = Membership("ada~1", "h:1", 65536, Config(), 0.0)
    return Identity(Kernel("ada~1"), members, random.Random(1), Counter())


def test_a_frame_under_our_id_is_a_conflict(identity):
    """Whether its boot was before ours or after it: it names our challenge, so it runs now."""
    for boot in (b"boot-001", b"boot-two"):
        with pytest.raises(IdentityConflictError):
            identity.admit("ada~1", boot)


def test_a_peer_may_restart_and_its_former_boot_is_over(identity):
    """Whoever still speaks in it is late, or a clone, and is refused; the later boot goes on."""
    identity.admit("bob~1", b"boot-001")
    identity.admit("bob~1", b"boot-001")
    identity.admit("bob~1", b"boot-002")
    for _ in range(3):
        with pytest.raises(IdentityConflictError):
            identity.admit("bob~1", b"boot-001")
        identity.admit("bob~1", b"boot-002")
    identity.admit("bob~2", b"boot-001")


def test_a_boot_that_was_met_late_is_still_the_former_one(identity):
    """Counterexample: a frame that was held back over a restart made the running boot the clone."""
    identity.admit("bob~1", b"boot-002")
    with pytest.raises(IdentityConflictError):
        identity.admit("bob~1", b"boot-001")
    identity.admit("bob~1", b"boot-002")


@pytest.mark.parametrize(
    ("principal", "certified", "refused"),
    [
        ("", None, False),  # the cluster secret speaks for anybody
        ("bob", None, False),
        ("eve", None, True),
        ("", frozenset({"bob", "bob.example"}), False),
        ("", frozenset({"eve"}), True),
        ("bob", frozenset(), True),  # certificates are asked for, and none came
    ],
)
def test_a_sender_uses_the_name_that_its_key_and_certificate_speak_for(
    identity, principal, certified, refused
):
    """Both, where both are asked for."""
    if refused:
        with pytest.raises(ForbiddenError):
            identity.vouch("bob~1", principal, certified)
    else:
        identity.vouch("bob~1", principal, certified)


def test_a_peer_that_knows_more_of_us_than_we_do_outruns_us(identity):
    """The journal was rolled back."""
    identity.kernel.document("n", GCounter).increment()
    assert not identity.outrun({"ada~1": 1, "bob~1": 99})
    assert identity.outrun({"ada~1": 2})


def test_new_incarnations_are_taken_at_once_and_then_ever_more_rarely(identity):
    """Each costs every vector an origin; who claims the impossible is believed less and less."""
    times = [step * RENEW_WAIT_S / 2 for step in range(40)]
    taken = [now_s for now_s in times if identity.renew(now_s) is not None]
    assert taken == [0.0, 1.0, 3.0, 7.0, 15.0]
    assert identity.counts == {"re-incarnated": 5, "re-incarnation:too-soon": 35}
    assert identity.members.me.replica == identity.kernel.replica != "ada~1"
    assert identity.kernel.replica.startswith("ada~")
