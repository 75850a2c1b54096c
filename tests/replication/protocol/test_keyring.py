"""What each key proves, and to whom."""

from __future__ import annotations

import pytest

from replication.errors import AuthenticationError, DamagedFrameError
from replication.protocol.keyring import Keyring


def test_a_key_opens_what_it_sealed_and_names_its_holder():
    """Secret, own key and rotation of both, in every direction."""
    old, new, secret = b"the old own key", b"the new own key", b"the cluster secret"
    hub = Keyring((secret,), principals={"leaf": (new, old)})
    stale, fresh, stranger = Keyring(own=(old,)), Keyring(own=(new, old)), Keyring((b"nobody's!",))
    frame = b"what a frame says"
    assert hub.opened(frame + stale.trailer(frame)) == (frame, "leaf")
    assert hub.opened(frame + fresh.trailer(frame)) == (frame, "leaf")
    assert hub.opened(frame + hub.trailer(frame)) == (frame, "")
    assert fresh.opened(frame + hub.trailer(frame, "leaf")) == (frame, "")
    for ring, other in ((hub, stranger), (fresh, stranger), (stranger, hub), (fresh, hub)):
        with pytest.raises(AuthenticationError):
            ring.opened(frame + other.trailer(frame))
    with pytest.raises(AuthenticationError):
        hub.opened(b"")
    assert hub.proves("size 9", stale.proof("size 9"))
    assert not hub.proves("size 10", stale.proof("size 9"))


def test_without_keys_a_frame_carries_a_checksum_and_no_proof():
    """Damage is seen, and nothing else; a frame of somebody with a secret is no frame here."""
    bare, secret, frame = Keyring(), Keyring((b"the cluster secret",)), b"what a frame says"
    sealed = frame + bare.trailer(frame)
    assert len(sealed) == len(frame) + 4
    assert bare.opened(sealed) == (frame, "")
    for damaged in (sealed[:-1], sealed + b"x", b"W" + sealed[1:], frame, b"", b"abc"):
        with pytest.raises(DamagedFrameError):
            bare.opened(damaged)
    with pytest.raises(DamagedFrameError):
        bare.opened(frame + secret.trailer(frame))
    with pytest.raises(AuthenticationError):
        secret.opened(sealed)
