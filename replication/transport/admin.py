"""The operators' door of an agent, over HTTP: what can be seen, orders, and a stream of changes.

Theory of operation. Whoever runs an agent looks into it and gives it orders without becoming a
member: a member would be gossiped about, would carry events across a partition, and each of its
lives would stay in every vector. So a `GET` of an endpoint shows something, `POST /orders` has the
agent itself write, cut or heal, and `GET /changes` streams what changes, one JSON line each. What
there is to see and to execute is the agent's to say (`Handlers`; `agent.admin` holds them).

*Who may.* With a secret an operator proves that he holds it, by challenge and response
(`challenge`): nothing that he sends can be used again, or at another agent. Sizes and lags
(`/status`, `/metrics`) are shown to readers on this machine and, for scrapers, to whoever sends the
page token, which is derived from the secret and opens nothing else. Without a secret only this
machine may ask. What shows values or changes something travels off this machine by TLS only, unless
the operator says `insecure`. A web page may do nothing at all: a browser names it in `Origin`,
`Sec-Fetch-Site` or `Referer`, and a name that was rebound to loopback is not a loopback name.

*What remains of it.* Every order, and every proof that does not hold, is a line of the logger
`replication.orders`: who (a name of the secret, not the secret), what (verb and document, no
value), and from where; so many in a second, and then how many were left out.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

import aiohttp
from aiohttp import web

from replication.errors import (
    ClosedError,
    NoAnswerError,
    NotYetError,
    OrderRefusedError,
    PeerUnreachableError,
    ReplicationError,
)
from replication.options import is_loopback, page_token
from replication.transport.base import joined_address, split_address
from replication.transport.challenge import (
    NONCE_CHARACTERS_MAX,
    ORDER,
    PAGE,
    Asked,
    Challenges,
    Proven,
    hash_of,
    secret_of,
    target_of,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Mapping

AGENT = "Convoca-Agent"
"""The header of an answer that says which agent gave it; for those who may see the answer."""
ORDER_BYTES_MAX = 256 * 1024
FOLLOWERS_MAX = 16
ANSWER_S = 2.0
"""An order that ran out of time is answered with how far it came; the client waits for that."""
CLOSE_S = 1.0
"""How long a client waits for the other end of TLS to agree that a connection is over."""
LOG_LINES_PER_S = 20
PUBLIC = frozenset({"/status", "/metrics"})
"""Pages that show no values: the page token, or the scope of pages, is enough."""
ORDERED = ("verb", "name", "peer", "copies")
"""What a log says of an order; its value is nobody's business."""
logger = logging.getLogger("replication.orders")
ERRORS: dict[type[ReplicationError], HTTPStatus] = {
    NotYetError: HTTPStatus.GATEWAY_TIMEOUT,
    ClosedError: HTTPStatus.SERVICE_UNAVAILABLE,  # still reading its journal, or closing
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a GET shows. `private` ones hold values: they need a proof of an order."""

    content_type: str
    render: Callable[[Mapping[str, str]], str]
    private: bool = False


class Handlers(Protocol):
    """The port: what an agent offers its operators."""

    @property
    def id(self) -> str:
        """Who answers."""

    def endpoints(self) -> Mapping[str, Endpoint]:
        """Path -> what a GET of it shows."""

    async def execute(self, order: Mapping[str, Any]) -> Mapping[str, Any]:
        """Carry out an order.

        Raises:
            ReplicationError: it is refused, or did not come to its end in time.
        """

    def follow(self, prefix: str) -> AsyncIterator[Mapping[str, Any]]:
        """Changes of documents from now on, until the agent closes."""


class AdminServer:
    """Serves the operators of one agent."""

    def __init__(self, handlers: Handlers, keys: tuple[bytes, ...]) -> None:
        self._handlers = handlers
        self._endpoints = handlers.endpoints()
        self._page_tokens = [page_token((key,)) for key in keys]
        self._challenges = Challenges(keys, time.monotonic) if keys else None
        self._followers = 0
        self._log = BoundedLog(logger)

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Put these routes beside those of the peers."""
        for path in self._endpoints:
            router.add_get(path, self._show)
        router.add_post("/orders", self._order)
        router.add_get("/changes", self._changes)
        router.add_get("/challenge", self._challenge)

    async def _challenge(self, request: web.Request) -> web.Response:
        nonce = request.query.get("nonce", "")
        if _is_of_a_page(request) or not 0 < len(nonce) <= NONCE_CHARACTERS_MAX:
            return web.Response(status=HTTPStatus.FORBIDDEN)
        if self._challenges is None:
            return _refused(OrderRefusedError("this agent has no secret", hint="pass none"))
        challenge, proofs = self._challenges.give(nonce)
        return web.json_response({"challenge": challenge, "proofs": proofs})

    async def _show(self, request: web.Request) -> web.Response:
        endpoint = self._endpoints[request.path]
        if not (self._commands(request) if endpoint.private else self._reads(request)):
            return web.Response(status=HTTPStatus.FORBIDDEN)
        try:
            text = endpoint.render(request.query)
        except ReplicationError as error:
            return _refused(error)
        return web.Response(text=text, content_type=endpoint.content_type, headers=self._signed())

    async def _order(self, request: web.Request) -> web.Response:
        who = self._commands(request)
        if who is None:
            return web.Response(status=HTTPStatus.FORBIDDEN)
        if request.content_type != "application/json":
            return web.Response(status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        if not 0 <= (request.content_length or -1) <= ORDER_BYTES_MAX:
            return web.Response(status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        body = await request.read()
        if who.body_hash and who.body_hash != hash_of(body):
            self._log.line("proof-refused", who=who.operator, of="the body", at=request.remote)
            return web.Response(status=HTTPStatus.FORBIDDEN)
        return await self._carry_out(body, who=who.operator, at=request.remote)

    async def _carry_out(self, body: bytes, **facts: object) -> web.Response:
        try:
            order = json.loads(body)
            if not isinstance(order, dict):
                raise OrderRefusedError("an order is a JSON object")
            said = {word: str(order[word])[:100] for word in ORDERED if order.get(word)}
            self._log.line("order", **facts, **said)
            done = await self._handlers.execute(order)
            return web.json_response(done, headers=self._signed())
        except (ValueError, RecursionError) as error:
            return _refused(OrderRefusedError(f"not JSON, or out of range: {error}"))
        except ReplicationError as error:
            return _refused(error)

    async def _changes(self, request: web.Request) -> web.StreamResponse:
        if not self._commands(request):
            return web.Response(status=HTTPStatus.FORBIDDEN)
        if self._followers >= FOLLOWERS_MAX:
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, headers={"Retry-After": "1"})
        self._followers += 1
        try:
            changes = self._handlers.follow(request.query.get("prefix", ""))
            kind = {"Content-Type": "application/jsonl"}
            stream = web.StreamResponse(headers=kind | self._signed())
            await stream.prepare(request)
            async for change in changes:  # bounded and conflating: a slow reader costs nothing
                await stream.write(json.dumps(change, default=str).encode() + b"\n")
            return stream
        finally:
            self._followers -= 1

    def _signed(self) -> dict[str, str]:
        """The header by which an answer says whose it is."""
        return {AGENT: self._handlers.id}

    def _reads(self, request: web.Request) -> bool:
        """Whether who asks may see sizes and lags."""
        if _is_of_a_page(request):
            return False
        if self._shown(request) or self._proven(request) is not None:
            return True
        return _is_local(request)

    def _commands(self, request: web.Request) -> Proven | None:
        """Who may see values and give orders; None if nobody of those."""
        if _is_of_a_page(request):
            return None
        if self._challenges is None:
            return Proven("local", ORDER, "", insecure=True) if _is_local(request) else None
        proven = self._proven(request)
        if proven is None or proven.scope != ORDER:
            return None
        safe = request.secure or is_loopback(request.remote or "")
        if not (safe or proven.insecure):
            self._log.line("order-in-the-clear", who=proven.operator, at=request.remote)
            return None
        return proven

    def _proven(self, request: web.Request) -> Proven | None:
        shown = request.headers.get("Authorization", "")
        if self._challenges is None or not shown or self._shown(request):
            return None
        host = request.headers.get("Host", "")
        target = target_of(request.path, request.query.items())
        proven = self._challenges.judge(shown, request.method, target, host)
        if proven is None:
            self._log.line("proof-refused", of=request.path[:100], at=request.remote)
        return proven

    def _shown(self, request: web.Request) -> bool:
        """Whether it shows the page token."""
        shown = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        return any(
            hmac.compare_digest(shown, f"Bearer {token}".encode()) for token in self._page_tokens
        )


class BoundedLog:
    """Lines about who asks, so many a second; what is left out is counted and told."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._since_s = self._written = 0.0
        self._left_out = 0

    def line(self, event: str, **facts: object) -> None:
        """Write a line, if it is not one too many."""
        now_s = time.monotonic()
        if now_s - self._since_s >= 1.0:
            self._since_s, self._written = now_s, 0
        if self._written >= LOG_LINES_PER_S:
            self._left_out += 1
            return
        self._written += 1
        if self._left_out:
            facts["left_out"], self._left_out = self._left_out, 0
        self._logger.warning(event, extra={"facts": facts})


def _is_of_a_page(request: web.Request) -> bool:
    """Whether a browser asks for a page that is not the agent's own.

    A page's scripts are named in `Origin`; what it embeds carries none, and is told by the two
    others. An address that a person types comes from `none`.
    """
    headers = request.headers
    if "Origin" in headers or "Referer" in headers:
        return True
    return headers.get("Sec-Fetch-Site", "none") != "none"


def _is_local(request: web.Request) -> bool:
    """Whether this machine asks, for this machine: a name that was rebound is none of its names."""
    host = request.headers.get("Host", "")
    name, bracket, _ = host.partition("]")
    name = name.strip("[") if bracket else host.partition(":")[0]
    return is_loopback(request.remote or "") and is_loopback(name)


def _refused(error: ReplicationError) -> web.Response:
    status = ERRORS.get(type(error), HTTPStatus.BAD_REQUEST)
    facts: dict[str, str | int] = {"code": error.code, "text": str(error), "hint": error.hint}
    if isinstance(error, NotYetError):
        facts |= {"reached": error.reached, "wanted": error.wanted, "in_memory": error.in_memory}
    return web.json_response({"error": facts}, status=status)


# ------------------------------------------------------------------------------ the other side


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
            raise PeerUnreachableError(f"{self.address}: {type(error).__name__}") from error

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
                f"{self.address}: {type(error).__name__}", hint="is an agent listening there?"
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
        raise OrderRefusedError(reason, hint=hint)
