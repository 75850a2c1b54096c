"""The operators' door of an agent, over HTTP: what can be seen, orders, and a stream of changes.

Theory of operation. Whoever runs an agent looks into it and gives it orders without becoming a
member: a member would be gossiped about, would carry events across a partition, and each of its
lives would stay in every vector. So a `GET` of an endpoint shows something, `POST /orders` has the
agent itself write, cut or heal, and `GET /changes` streams what changes, one JSON line each. What
there is to see and to execute is the agent's to say (`Handlers`; `agent.admin` holds them).

Two tokens derived from the cluster secret open the door, neither of which reveals the secret: the
page token shows sizes and lags (for scrapers; readers on this machine need none), the order token
shows values and gives orders. Without a secret only this machine may ask. A web page may never: its
browser names it in `Origin`, and a name that was rebound to loopback is not a loopback name.
"""

from __future__ import annotations

import asyncio
import hmac
import json
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
from replication.options import is_loopback, order_token, page_token
from replication.transport.base import joined_address, split_address

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Mapping

ORDER_BYTES_MAX = 256 * 1024
FOLLOWERS_MAX = 16
ANSWER_S = 2.0
"""An order that ran out of time is answered with how far it came; the client waits for that."""
ERRORS: dict[type[ReplicationError], HTTPStatus] = {
    NotYetError: HTTPStatus.GATEWAY_TIMEOUT,
    ClosedError: HTTPStatus.SERVICE_UNAVAILABLE,  # still reading its journal, or closing
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a GET shows. `private` ones hold values: they need the order token."""

    content_type: str
    render: Callable[[Mapping[str, str]], str]
    private: bool = False


class Handlers(Protocol):
    """The port: what an agent offers its operators."""

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
        self._order_tokens = [order_token((key,)) for key in keys]
        self._followers = 0

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Put these routes beside those of the peers."""
        for path in self._endpoints:
            router.add_get(path, self._show)
        router.add_post("/orders", self._order)
        router.add_get("/changes", self._changes)

    async def _show(self, request: web.Request) -> web.Response:
        endpoint = self._endpoints[request.path]
        if not (self._commands(request) if endpoint.private else self._reads(request)):
            return web.Response(status=HTTPStatus.FORBIDDEN)
        try:
            text = endpoint.render(request.query)
        except ReplicationError as error:
            return _refused(error)
        return web.Response(text=text, content_type=endpoint.content_type)

    async def _order(self, request: web.Request) -> web.Response:
        if not self._commands(request):
            return web.Response(status=HTTPStatus.FORBIDDEN)
        if request.content_type != "application/json":
            return web.Response(status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
        if not 0 <= (request.content_length or -1) <= ORDER_BYTES_MAX:
            return web.Response(status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        try:
            order = json.loads(await request.read())
            if not isinstance(order, dict):
                raise OrderRefusedError("an order is a JSON object")
            return web.json_response(await self._handlers.execute(order))
        except ValueError as error:
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
            stream = web.StreamResponse(headers={"Content-Type": "application/jsonl"})
            await stream.prepare(request)
            async for change in changes:  # bounded and conflating: a slow reader costs nothing
                await stream.write(json.dumps(change, default=str).encode() + b"\n")
            return stream
        finally:
            self._followers -= 1

    def _reads(self, request: web.Request) -> bool:
        local = is_loopback(request.remote or "")
        return local or _shows(request, self._page_tokens + self._order_tokens)

    def _commands(self, request: web.Request) -> bool:
        if "Origin" in request.headers:
            return False
        if self._order_tokens:
            return _shows(request, self._order_tokens)
        return is_loopback(request.remote or "") and is_loopback(request.url.host or "")


def _shows(request: web.Request, tokens: list[str]) -> bool:
    shown = request.headers.get("Authorization", "").encode()
    return any(hmac.compare_digest(shown, f"Bearer {token}".encode()) for token in tokens)


def _refused(error: ReplicationError) -> web.Response:
    status = ERRORS.get(type(error), HTTPStatus.BAD_REQUEST)
    facts: dict[str, str | int] = {"code": error.code, "text": str(error), "hint": error.hint}
    if isinstance(error, NotYetError):
        facts |= {"reached": error.reached, "wanted": error.wanted, "in_memory": error.in_memory}
    return web.json_response({"error": facts}, status=status)


# ------------------------------------------------------------------------------ the other side


@dataclass(frozen=True, slots=True)
class AdminClient:
    """An operator: asks one agent, and gives it orders.

    Args:
        address: where the agent listens.
        keys: of the cluster secret; () without one.
        timeout_s: of each question; an order may take it for itself, and `ANSWER_S` more to answer.
            Between two changes there is none at all.
        tls: for an agent that listens with TLS; None is plain HTTP.
    """

    address: str
    keys: tuple[bytes, ...] = field(default=(), repr=False)
    timeout_s: float = 10.0
    tls: ssl.SSLContext | None = None

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
        text = await self._ask("POST", "/orders", timeout_s, json={"verb": verb, **order})
        return json.loads(text)

    async def changes(self, prefix: str) -> AsyncIterator[Any]:
        """Changes as they come, until the agent stops. Errors as of `get`."""
        timeout = aiohttp.ClientTimeout(connect=self.timeout_s)
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers(), timeout=timeout) as session,
                session.get(
                    self._url("/changes"), params={"prefix": prefix}, ssl=self.tls or True
                ) as response,
            ):
                self._check(response, "")
                async for line in response.content:
                    yield json.loads(line)
        except (aiohttp.ClientError, OSError) as error:
            raise PeerUnreachableError(f"{self.address}: {type(error).__name__}") from error

    async def _ask(self, method: str, path: str, timeout_s: float, **options: Any) -> str:
        try:
            async with (
                asyncio.timeout(timeout_s),
                aiohttp.ClientSession(headers=self._headers()) as session,
                session.request(
                    method, self._url(path), ssl=self.tls or True, **options
                ) as response,
            ):
                text = await response.text()
                self._check(response, text)
                return text
        except ReplicationError:  # a NotYetError of the agent is a TimeoutError, too
            raise
        except TimeoutError as error:
            raise NoAnswerError(f"no answer of {self.address} within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise PeerUnreachableError(
                f"{self.address}: {type(error).__name__}", hint="is an agent listening there?"
            ) from error

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {order_token(self.keys)}"} if self.keys else {}

    def _url(self, path: str) -> str:
        host, port, _ = split_address(self.address)
        scheme = "https" if self.tls is not None else "http"
        return f"{scheme}://{joined_address(host, port)}{path}"

    def _check(self, response: aiohttp.ClientResponse, text: str) -> None:
        if response.status == HTTPStatus.OK:
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
