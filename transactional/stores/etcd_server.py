"""What is known of an etcd cluster before a store is on it: its address, what it is seen to keep.

A promise is read from the server.  Its members are counted.  Each is asked for its version, since
some have defects that are worked round, and for how often it has called fsync, before and after an
entry of the log that all members write: with ``--unsafe-no-fsync`` the number stands still.  What a
member does not show is not promised: without its metrics a store is not called durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from transactional.errors import (
    InvalidRequestError,
    TransactionalError,
    UnavailableError,
    UnknownSchemeError,
)
from transactional.stores import etcd_txn as e
from transactional.stores.etcd_gateway import ATTEMPT_S, Endpoint, Gateway, Rejected, words
from transactional.stores.retention import Retention

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transactional.stores.etcd_txn import Document

REQUEST_S: Final = 5.0
"""How long an answer is waited for; after that a commit's outcome is unknown."""
TXN_OPERATIONS: Final = 128
"""What etcd's ``max-txn-ops`` is unless somebody set it."""
RESERVED: Final = 10
"""How many of these a commit may need for itself."""
REQUEST_BYTES_MAX: Final = 1_572_864
"""What etcd's ``max-request-bytes`` is unless somebody set it."""
WEAK: Final = ("fsync",)
"""Settings of a server that are refused unless the URL's ``weak=`` names them."""
FIXED: Final = {(3, 4): 42, (3, 5): 28, (3, 6): 9}
"""The first patch of each line whose linearizable reads are."""
_OPTIONS: Final = ("ca", "cert", "key", "request_bytes_max", "request_s", "weak")
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}(/[A-Za-z0-9._-]{1,64})*")


def reads_are_linearizable(version: str) -> bool:
    """Say whether a version of etcd is free of the known defects of its reads."""
    numbers = [int(part) for part in re.findall(r"\d+", version)[:3]]
    if len(numbers) < 3:
        return False
    line = (numbers[0], numbers[1])
    return numbers[2] >= FIXED[line] if line in FIXED else line > max(FIXED)


def version_to_move_to(version: str) -> str:
    """Return the first version of the same line, or of the next, that is free of them."""
    numbers = [int(part) for part in re.findall(r"\d+", version)[:2]]
    line = max([known for known in FIXED if [*known] <= numbers], default=min(FIXED))
    return f"{line[0]}.{line[1]}.{FIXED[line]}"


# --- what the URL says ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Address:
    """``etcd://[USER:PASSWORD@]HOST:PORT[,HOST:PORT…][/NAME][?OPTION=…]``; ``etcds`` for TLS."""

    urls: tuple[str, ...]
    name: str = "convoca"
    user: tuple[str, str] | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    weak: frozenset[str] = frozenset()
    request_s: float = REQUEST_S
    request_bytes_max: int = REQUEST_BYTES_MAX
    retention: Retention = field(default_factory=Retention)

    @classmethod
    def parse(cls, url: str, tls: ssl.SSLContext | None = None) -> Address:
        """Return what a URL says; no error repeats it, since it may hold a password.

        Raises:
            UnknownSchemeError: it names no hosts.
            InvalidRequestError: an option is unknown or out of its bounds.
        """
        try:
            parts = urlsplit(url)
        except ValueError:
            raise UnknownSchemeError("the URL names no hosts") from None
        who, _, hosts = parts.netloc.rpartition("@")
        user, _, password = who.partition(":")
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        tls = tls or _tls_of(parts.scheme, options)
        scheme = "https" if tls is not None else "http"
        urls = [f"{scheme}://{_host(host)}" for host in hosts.split(",")]
        name = unquote(parts.path).strip("/") or "convoca"
        if not _NAME.fullmatch(name):
            raise InvalidRequestError("a store's name is made of letters, digits, . _ - and /")
        weak = frozenset(filter(None, options.pop("weak", "").split(",")))
        if not weak <= {*WEAK}:
            raise InvalidRequestError(f"weak= takes {', '.join(WEAK)}")
        request_s = _number(options, "request_s", REQUEST_S, 0.1, 600)
        bytes_max = int(_number(options, "request_bytes_max", REQUEST_BYTES_MAX, 65_536, 1 << 30))
        if beyond := [name for name in options if name.startswith("history_")]:
            raise InvalidRequestError(
                f"{', '.join(beyond)}: the past is etcd's; see its compaction"
            )
        retention = Retention().but(Retention.parse(options, besides=_OPTIONS))
        return cls(
            tuple(dict.fromkeys(urls)), name, (unquote(user), unquote(password)) if user else None,
            tls, weak, request_s, bytes_max, retention,
        )  # fmt: skip


def _host(text: str) -> str:
    try:
        parts = urlsplit(f"//{text}")
        if parts.hostname and parts.path == "" and parts.port != 0:
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            return f"{host}:{parts.port or 2379}"
    except ValueError:
        pass
    raise UnknownSchemeError("the URL names no host and port")


def _number(options: dict[str, str], name: str, default: float, least: float, most: float) -> float:
    try:
        given = float(options.pop(name, default))
    except ValueError:
        raise InvalidRequestError(f"the URL's option {name} is a number") from None
    if not least <= given <= most:
        raise InvalidRequestError(f"{name} is {least:g} to {most:g}, not {given:g}")
    return given


def _tls_of(scheme: str, options: dict[str, str]) -> ssl.SSLContext | None:
    files = {name: options.pop(name, None) for name in ("ca", "cert", "key")}
    if scheme != "etcds":
        if any(files.values()):
            raise InvalidRequestError("ca=, cert= and key= are for etcds://")
        return None
    try:
        context = ssl.create_default_context(cafile=files["ca"])
        if files["cert"]:
            context.load_cert_chain(files["cert"], files["key"])
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequestError(f"ca=, cert= or key=: {words(error)}") from error
    return context


# --- what is found out about the server ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facts:
    """What the members said of themselves when the store was opened."""

    members: int
    versions: Mapping[str, str]
    """By the URL of each endpoint that answered."""
    syncs: Mapping[str, bool | None]
    """Whether it calls fsync, by the URL; None: it does not show its metrics."""
    operations_max: int

    @property
    def fresh_reads(self) -> bool:
        """Whether every member is known to be of a version without the known defects."""
        known = len(self.versions) >= self.members
        return known and all(map(reads_are_linearizable, self.versions.values()))

    @property
    def durable(self) -> bool:
        """Whether every member is seen to call fsync."""
        seen = [sync for sync in self.syncs.values() if sync]
        return len(seen) == len(self.syncs) >= self.members

    def advice(self) -> list[str]:
        """Return what an operator should know."""
        found = [
            f"{url} is etcd {version}, whose linearizable reads may be old: reads go through the"
            f" log of all members; move to {version_to_move_to(version)} or later"
            for url, version in self.versions.items()
            if not reads_are_linearizable(version)
        ]
        if len(self.versions) < self.members:
            found.append(
                f"{len(self.versions)} of {self.members} members were asked for their version;"
                " name all in the URL"
            )
        if self.members < 3:
            found.append(f"{self.members} member(s): the loss of one is not survived; use 3 or 5")
        elif self.members % 2 == 0:
            found.append(f"{self.members} members survive no more losses than {self.members - 1}")
        for url, syncs in self.syncs.items():
            if syncs is None:
                found.append(f"{url} does not show its metrics: it is not known to be durable")
            elif not syncs:
                found.append(f"{url} does not call fsync: what it acknowledges may be lost")
        return found


_FSYNCS: Final = re.compile(r"^etcd_disk_wal_fsync_duration_seconds_count (\S+)$", re.MULTILINE)
_syncs: dict[tuple[str, str, str], bool | None] = {}
"""What was seen before, by endpoint, member and term: the metrics of etcd are 150 kB."""


async def look(gateway: Gateway, layout: e.Layout) -> Facts:
    """Ask every endpoint who it is; see ``Facts``."""
    listed = await gateway.ask("/cluster/member/list", "{}", repeatable=True)
    voters = [m for m in listed.get("members", []) if not m.get("isLearner")]

    async def status(endpoint: Endpoint) -> Document:
        try:
            return await gateway.ask_one(endpoint, "/maintenance/status", "{}", ATTEMPT_S)
        except (TransactionalError, Rejected):
            return {}

    stati = await asyncio.gather(*map(status, gateway.endpoints))
    up = [(e_, doc) for e_, doc in zip(gateway.endpoints, stati, strict=True) if doc]
    versions = {endpoint.url: str(doc.get("version", "")) for endpoint, doc in up}
    keys = {
        endpoint.url: (endpoint.url, doc["header"]["member_id"], doc["header"]["raft_term"])
        for endpoint, doc in up
    }
    unseen = [endpoint for endpoint, _ in up if keys[endpoint.url] not in _syncs]
    if unseen:
        before = await asyncio.gather(*[_fsyncs(gateway, endpoint) for endpoint in unseen])
        nothing = e.Txn(success=[e.delete(layout.nothing)]).body()
        await gateway.ask("/kv/txn", nothing, repeatable=True)  # every member logs it
        for endpoint, first in zip(unseen, before, strict=True):
            grew = None if first is None else await _grew(gateway, endpoint, first)
            _syncs[keys[endpoint.url]] = grew
    many = e.Txn(compares=[e.is_absent(layout.nothing)] * (TXN_OPERATIONS + RESERVED))
    operations = TXN_OPERATIONS
    with contextlib.suppress(Rejected):
        await gateway.ask("/kv/txn", many.body(), repeatable=True)
        operations += RESERVED
    return Facts(len(voters), versions, {url: _syncs[key] for url, key in keys.items()}, operations)


async def _fsyncs(gateway: Gateway, endpoint: Endpoint) -> float | None:
    try:
        found = _FSYNCS.search(await gateway.text(endpoint, "/metrics"))
    except UnavailableError:
        return None
    return float(found[1]) if found else None


async def _grew(gateway: Gateway, endpoint: Endpoint, first: float) -> bool:
    """Say whether a member called fsync for an entry of the log; it has a second to do so."""
    for _ in range(10):
        now = await _fsyncs(gateway, endpoint)
        if now is not None and now > first:
            return True
        await asyncio.sleep(0.1)
    return False
