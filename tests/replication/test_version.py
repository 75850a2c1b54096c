"""Tokens: what covers what, how much is missing, and how they travel."""

from __future__ import annotations

import pytest

from replication import Version


def test_a_token_covers_another_if_it_has_every_event_of_it():
    """Origins that a token does not name stand at zero."""
    one, two = Version({"ada~1": 2}), Version({"ada~1": 2, "bob~1": 1})
    assert one <= two
    assert not two <= one
    assert Version({}) <= one
    assert Version({"cyd~1": 0}) <= one


def test_neither_of_two_concurrent_tokens_covers_the_other():
    """Order is partial: each has an event that the other lacks."""
    one, two = Version({"ada~1": 1}), Version({"bob~1": 1})
    assert not one <= two
    assert not two <= one


def test_what_goes_beyond_is_counted_by_origin():
    """Only what the other lacks, in events."""
    token = Version({"ada~1": 5, "bob~1": 1})
    assert token.beyond(Version({"ada~1": 3, "bob~1": 4})) == {"ada~1": 2}
    assert token.beyond(token) == {}


def test_a_token_comes_back_from_its_text():
    """Equal tokens have equal texts, however their origins were ordered."""
    token = Version({"bob~1": 1, "ada~1": 5})
    assert Version.decode(token.encode()) == token
    assert token.encode() == Version({"ada~1": 5, "bob~1": 1}).encode()


@pytest.mark.parametrize("text", ["", "[]", "1", '{"ada~1": "5"}', '{"ada~1": true}', "{"])
def test_a_text_that_is_not_a_token_is_refused(text):
    """Whoever passes one on learns it at once, and not from a wait that never ends."""
    with pytest.raises(ValueError, match=r"."):
        Version.decode(text)
