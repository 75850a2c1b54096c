"""What each key proves, and to whom."""

from __future__ import annotations

import pytest

from replication.errors import AuthenticationError
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
