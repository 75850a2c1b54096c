"""What an agent's author may pass: names, secrets, addresses, tokens derived from a secret."""

from __future__ import annotations

import pytest

from replication import ConfigError, SecretRequiredError
from replication.addresses import is_loopback
from replication.credentials import keys_of, page_token
from replication.options import check_reach, checked_name, keyring_of

SECRET = "a secret of this test"


@pytest.mark.parametrize("name", ["", "a b", "a~1", "a/b", "x" * 65])
def test_a_name_that_could_not_be_part_of_an_id_is_refused(name):
    """An id is `name~incarnation`, and travels in paths and labels."""
    with pytest.raises(ConfigError):
        checked_name(name)


def test_the_first_of_several_secrets_seals():
    """While a secret is rotated, two are accepted."""
    assert keys_of(None) == ()
    assert keys_of(SECRET) == (SECRET.encode(),)
    assert keys_of(["new secret", b"old secret"]) == (b"new secret", b"old secret")


@pytest.mark.parametrize("secret", ["", "short", [], ["long enough", "short"]])
def test_a_secret_that_guards_nothing_is_refused(secret):
    """Each of them has its least length."""
    with pytest.raises(ConfigError):
        keys_of(secret)


def test_an_own_key_and_a_secret_exclude_each_other():
    """Who holds the secret could speak for everybody; an own key is for those who may not."""
    with pytest.raises(ConfigError):
        keyring_of(SECRET, "a key of its own", None)
    with pytest.raises(ConfigError):
        keyring_of(None, "a key of its own", {"leaf": "another key"})


def test_the_page_token_does_not_reveal_the_secret():
    """A scraper may hold it; without a secret there is none."""
    assert SECRET not in page_token(keys_of(SECRET))
    assert page_token(()) == ""


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_loopback_is_what_never_leaves_this_machine(host, local):
    """A name counts only if it is the one that cannot be rebound."""
    assert is_loopback(host) is local


def test_who_can_be_reached_from_elsewhere_needs_a_secret_and_a_name():
    """Listening everywhere is refused until somebody says where peers dial."""
    none, some = keyring_of(None, None, None), keyring_of(SECRET, None, None)
    check_reach("127.0.0.1", "", none)
    check_reach("", "", none)
    check_reach("0.0.0.0", "agent.example", some)  # noqa: S104 - not bound to
    for listen, address in (("10.0.0.1", ""), ("127.0.0.1", "agent.example")):
        with pytest.raises(SecretRequiredError):
            check_reach(listen, address, none)
    with pytest.raises(ConfigError):
        check_reach("0.0.0.0", "", some)  # noqa: S104 - not bound to
