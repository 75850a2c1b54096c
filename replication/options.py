"""What an agent's author may pass, checked before anything is started."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from replication.addresses import is_loopback
from replication.credentials import keys_of
from replication.errors import ConfigError, SecretRequiredError
from replication.protocol import AccessPolicy, Keyring
from replication.version import Version

if TYPE_CHECKING:
    from collections.abc import Mapping

    from replication.credentials import Secret

NAME_LENGTH_MAX = 64
TEXT_LENGTH_MAX = 256


def checked_name(name: object) -> str:
    """The name itself.

    Raises:
        ConfigError: it could not be part of a replica id.
    """
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= NAME_LENGTH_MAX
        or not all(c.isalnum() or c in "-_." for c in name)
    ):
        raise ConfigError(
            f"{name!r:.80} is not an agent's name: 1 to 64 letters, digits, '-', '_' or '.'"
        )
    return name


def checked_text(what: str, text: object, *, empty: bool = False) -> None:
    """Refuse what is not text.

    Raises:
        ConfigError: it is not, is empty and may not be, or is longer than a frame's fields.
    """
    if not isinstance(text, str) or len(text) > TEXT_LENGTH_MAX or not (text or empty):
        raise ConfigError(
            f"{what} is text of at most {TEXT_LENGTH_MAX} characters, not {text!r:.80}"
        )


def checked_kind(what: str, value: object, kind: type) -> None:
    """Raise ConfigError if an option, when given, is not of its type."""
    if value is not None and not isinstance(value, kind):
        raise ConfigError(f"{what} is a {kind.__name__}, not {value!r:.80}")


def checked_timeout(timeout_s: object) -> float | None:
    """The limit of a wait, in seconds; None for none.

    Raises:
        ConfigError: it is not a number of at least 0.
    """
    if timeout_s is None:
        return None
    if isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool) and timeout_s >= 0:
        return timeout_s
    raise ConfigError(
        f"timeout_s is a number of seconds, not {timeout_s!r}", hint="None waits without limit"
    )


def checked_count(count: object) -> int:
    """How many agents to wait for.

    Raises:
        ConfigError: it is not a whole number of at least 0.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise ConfigError(f"n is a number of agents, not {count!r}", hint="n=1")
    return count


def checked_token(token: object) -> Version:
    """A token to wait for.

    Raises:
        ConfigError: it is not a Version.
    """
    if not isinstance(token, Version):
        raise ConfigError(
            f"a token is a Version, not {type(token).__name__}",
            hint="`version()` gives one, and Version.decode reads what its encode() wrote",
        )
    return token


def check_leaves(rules: AccessPolicy, keys: Keyring) -> None:
    """Refuse rules under which an agent with an own key would be believed about others.

    Raises:
        ConfigError: nothing was started.
    """
    if not (keys.own or keys.principals):
        return
    if rules.relays is None:
        raise ConfigError(
            "an own key proves one name, and without `relays` every agent speaks for all",
            hint="AccessPolicy(relays={...}) with the agents that hold the secret, on every agent",
        )
    both = sorted(set(rules.relays) & set(keys.principals))
    if both:
        raise ConfigError(
            f"{', '.join(both)}: an agent with an own key is a leaf, and no relay",
            hint="a relay holds the cluster's secret; or leave it out of `relays`",
        )


def keyring_of(
    secret: Secret | None, key: Secret | None, principals: Mapping[str, Secret] | None
) -> Keyring:
    """The keys of an agent.

    Raises:
        ConfigError: one is too short to guard anything, or secret and own key are both given.
    """
    if key is not None and (secret is not None or principals):
        raise ConfigError(
            "an agent with its own key holds no secret of others",
            hint="give `key` to leaves, `secret` and `principals` to their hubs",
        )
    named = {checked_name(name): keys_of(own) for name, own in (principals or {}).items()}
    return Keyring(keys_of(secret), keys_of(key), named)


def check_reach(listen: str, address: str, keys: Keyring) -> None:
    """Who may reach an agent, and by which name, is thought of before it starts.

    Args:
        listen: host at which it listens, "" for none.
        address: host at which peers dial it, if that is another one.
        keys: those that its frames are sealed with.

    Raises:
        SecretRequiredError: it can be reached from off this machine, and has no secret.
        ConfigError: it listens everywhere, and no address says where peers find it.
    """
    for host in filter(None, (listen, address)):
        if not is_loopback(host) and not keys:
            raise SecretRequiredError(f"being reached at {host} needs a cluster secret")
    if listen and not address and _is_anywhere(listen):
        raise ConfigError(
            f"{listen} is every address of this machine, and none that peers could dial",
            hint="give address=HOST:PORT, under which peers reach this agent",
        )


def _is_anywhere(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False
