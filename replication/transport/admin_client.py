"""An operator of an agent: asks for its pages, gives it orders, and follows its changes.

The other side of `admin`, which says who may what. Nothing is sent to an agent that does not prove
the secret first, if there is one.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp

from replication.addresses import is_loopback, joined_address, split_address
from replication.errors import (
    ConfigError,
    NoAnswerError,
    NotYetError,
    OrderRefusedError,
    PeerUnreachableError,
    ReplicationError,
)
from replication.transport.challenge import (
    AGENT,
    ORDER,
    PAGE,
    PUBLIC,
    Asked,
    hash_of,
    secret_of,
    target_of,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping

ANSWER_S = 2.0
"""An order that ran out of time is answered with how far it came; the client waits for that."""
CLOSE_S = 1.0
CODE = re.compile("[a-z]+(_[a-z]+)*")
"""How long a client waits for the other end of TLS to agree that a connection is over."""


@asynccontextmanager
async def _session(**options: Any) -> AsyncIterator[aiohttp.ClientSession]:
    """A session that leaves no connection behind, within `CLOSE_S`.

    Whoever shows a page ends its connection, and aiohttp does not wait for one that is ended: under
    TLS that takes a round trip, and a verb's loop would be over before.
    """
    opened: list[socket.socket] = []

    def made(place: Any) -> socket.socket:
        family, kind, protocol, *_ = place
        opened.append(socket.socket(family, kind, protocol))
        return opened[-1]

    connector = aiohttp.TCPConnector(socket_factory=made)
    try:
        async with aiohttp.ClientSession(connector=connector, **options) as session:
            yield session
    finally:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + CLOSE_S
        while any(each.fileno() >= 0 for each in opened) and loop.time() < end_s:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.005)


def _words(error: Exception) -> str:
    """Why it failed: of a connection that was not made as the system says it, else the kind."""
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    return getattr(error, "strerror", None) or type(error).__name__


@dataclass(frozen=True, slots=True)
class AdminClient:
    """An operator: asks one agent, and gives it orders.

    Args:
        address: where the agent listens.
        keys: of the cluster secret; () without one.
        timeout_s: of each question; an order may take it for itself, and `ANSWER_S` more to answer.
            Between two changes there is none at all.
        tls: for an agent that listens with TLS; None is plain HTTP.
        insecure: values and orders may leave this machine in the clear.
    """

    address: str
    keys: tuple[bytes, ...] = field(default=(), repr=False)
    timeout_s: float = 10.0
    tls: ssl.SSLContext | None = None
    insecure: bool = False
    answered: list[str] | None = field(default=None, repr=False)
    """If given: the ids of the agents that answered are put here, each once."""

    async def get(self, path: str, **query: str) -> str:
        """What an endpoint shows.

        Raises:
            PeerUnreachableError: nobody answers there, or not an agent.
            OrderRefusedError: the agent answered why not.
            NoAnswerError: none in time.
        """
        return await self._ask("GET", path, self.timeout_s, params=query)

    async def order(self, verb: str, **order: Any) -> Any:
        """Have the agent do something; its answer.

        Raises:
            NotYetError: it did, and what it waited for did not come in time.
            ReplicationError: as of `get`; after NoAnswerError it may have been done, or not.
        """
        timeout_s = self.timeout_s + ANSWER_S
        body = json.dumps({"verb": verb, **order}).encode()
        return json.loads(await self._ask("POST", "/orders", timeout_s, body=body))

    async def shares_secret(self) -> bool | None:
        """Whether the agent holds one of these keys, or none as we do; None if it does not say.

        Nothing that is asked, or answered, helps to guess a secret.
        """
        nonce = secrets.token_hex(16)
        try:
            async with (
                asyncio.timeout(self.timeout_s),
                _session() as session,
                session.get(
                    self._url(f"/challenge?nonce={nonce}"), ssl=self.tls or True
                ) as response,
            ):
                doc = json.loads(await response.text())
        except (aiohttp.ClientError, OSError, ValueError):  # a TimeoutError is an OSError
            return None
        match doc:
            case {"challenge": str(challenge), "proofs": [*proofs]}:
                shown = [str(each) for each in proofs]
                return secret_of(self.keys, nonce, challenge, shown) is not None
            case {"error": {"code": OrderRefusedError.code}}:  # it has none
                return not self.keys
        return None

    async def changes(self, prefix: str) -> AsyncIterator[Any]:
        """Changes as they come, until the agent stops. Errors as of `get`."""
        timeout = aiohttp.ClientTimeout(connect=self.timeout_s)
        params = {"prefix": prefix}
        try:
            async with _session(timeout=timeout) as session:
                headers = await self._headers(session, "GET", "/changes", params, b"")
                async with session.get(
                    self._url("/changes"), params=params, headers=headers, ssl=self.tls or True
                ) as response:
                    self._check(response, "")
                    async for line in response.content:
                        yield json.loads(line)
        except (aiohttp.ClientError, OSError) as error:
            raise PeerUnreachableError(f"{self.address}: {_words(error)}") from error

    async def _ask(
        self,
        method: str,
        path: str,
        timeout_s: float,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> str:
        try:
            async with asyncio.timeout(timeout_s), _session() as session:
                headers = await self._headers(session, method, path, params or {}, body)
                async with session.request(
                    method,
                    self._url(path),
                    params=params,
                    headers=headers,
                    data=body or None,
                    ssl=self.tls or True,
                ) as response:
                    text = await response.text()
                    self._check(response, text)
                    return text
        except ReplicationError:  # a NotYetError of the agent is a TimeoutError, too
            raise
        except TimeoutError as error:
            text = f"no answer of {self.address} within {timeout_s:g} s"
            if method == "GET":  # which changes nothing, whether it was read or not
                raise PeerUnreachableError(text) from error
            raise NoAnswerError(text) from error
        except (aiohttp.ClientError, OSError) as error:
            raise PeerUnreachableError(
                f"{self.address}: {_words(error)}", hint="is an agent listening there?"
            ) from error

    async def _headers(
        self,
        session: aiohttp.ClientSession,
        method: str,
        path: str,
        params: Mapping[str, str],
        body: bytes,
    ) -> dict[str, str]:
        """What goes with a request: the proof that it is ours, once the agent has proven itself."""
        for value in params.values():
            if any("\ud800" <= c <= "\udfff" for c in value):  # a URL would be made without them
                raise ConfigError(f"{value!r} is not text", hint="is the locale one of UTF-8?")
        host, port, _ = split_address(self.address)
        headers = {"Host": joined_address(host, port)}
        if body:
            headers["Content-Type"] = "application/json"
        scope = PAGE if path in PUBLIC else ORDER
        if scope == ORDER and self.tls is None and not (self.insecure or is_loopback(host)):
            raise OrderRefusedError(
                f"{self.address} is asked without TLS: nothing was sent",
                hint="--tls-ca, or say --insecure",
            )
        if not self.keys:
            return headers
        nonce = secrets.token_hex(16)
        url = self._url(f"/challenge?nonce={nonce}")
        async with session.get(url, headers=headers, ssl=self.tls or True) as response:
            self._check(response, text := await response.text())
        try:
            doc = json.loads(text)
            challenge, shown = str(doc["challenge"]), [str(each) for each in doc["proofs"]]
        except (ValueError, KeyError, TypeError) as error:
            raise PeerUnreachableError(f"{self.address} is not an agent of ours") from error
        secret = secret_of(self.keys, nonce, challenge, shown)
        if secret is None:
            raise OrderRefusedError(
                f"{self.address} does not prove our secret: nothing was sent",
                hint="another cluster's agent, or an impostor; check --secret-file",
            )
        target = target_of(path, params.items())
        asked = Asked(scope, method, target, headers["Host"], hash_of(body), self.insecure)
        return headers | {"Authorization": asked.header(secret, challenge)}

    def _url(self, path: str) -> str:
        host, port, _ = split_address(self.address)
        scheme = "https" if self.tls is not None else "http"
        return f"{scheme}://{joined_address(host, port)}{path}"

    def _check(self, response: aiohttp.ClientResponse, text: str) -> None:
        if response.status == HTTPStatus.OK:
            who = response.headers.get(AGENT, "")
            if self.answered is not None and who and who not in self.answered:
                self.answered.append(who)
            return
        if response.status == HTTPStatus.FORBIDDEN:
            raise OrderRefusedError(
                f"{self.address} refuses us", hint="pass --secret-file with the cluster's secret"
            )
        try:
            facts = json.loads(text)["error"]
            reason, hint = str(facts["text"]), str(facts["hint"])
            if response.status == HTTPStatus.GATEWAY_TIMEOUT:
                reached, wanted, memory = (
                    int(facts[field]) for field in ("reached", "wanted", "in_memory")
                )
                raise NotYetError(reason, reached=reached, wanted=wanted, in_memory=memory)
        except (ValueError, KeyError, TypeError) as error:
            raise PeerUnreachableError(f"{self.address} answered {response.status}") from error
        code, state = str(facts.get("code", "")), str(facts.get("state", ""))
        raise OrderRefusedError(
            reason, hint=hint, code=code if CODE.fullmatch(code) else "", state=state
        )
