"""The operators' door of an agent, over HTTP: what can be seen, orders, and a stream of changes.

Theory of operation. Whoever runs an agent looks into it and gives it orders without becoming a
member: a member would be gossiped about, would carry events across a partition, and each of its
lives would stay in every vector. So a `GET` of an endpoint shows something, `POST /orders` has the
agent itself write, cut or heal, and `GET /changes` streams what changes, one JSON line each. What
there is to see and to execute is the agent's to say (`Handlers`; `agent.admin` holds them). Its
other side is `admin_client`.

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

import hmac
import json
import logging
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from replication.addresses import is_loopback
from replication.credentials import page_token
from replication.errors import ClosedError, NotYetError, OrderRefusedError, ReplicationError
from replication.transport.challenge import (
    AGENT,
    NONCE_CHARACTERS_MAX,
    ORDER,
    Challenges,
    Proven,
    hash_of,
    target_of,
)

if TYPE_CHECKING:
    from replication.transport.base import Handlers

ORDER_BYTES_MAX = 256 * 1024
FOLLOWERS_MAX = 16
LOG_LINES_PER_S = 20
ORDERED = ("verb", "name", "peer", "copies")
"""What a log says of an order; its value is nobody's business."""
logger = logging.getLogger("replication.orders")
ERRORS: dict[type[ReplicationError], HTTPStatus] = {
    NotYetError: HTTPStatus.GATEWAY_TIMEOUT,
    ClosedError: HTTPStatus.SERVICE_UNAVAILABLE,  # still reading its journal, or closing
}


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
    facts: dict[str, str | int] = {
        "code": error.code,
        "text": str(error),
        "hint": error.hint,
        "state": error.state,
    }
    if isinstance(error, NotYetError):
        facts |= {"reached": error.reached, "wanted": error.wanted, "in_memory": error.in_memory}
    return web.json_response({"error": facts}, status=status)
