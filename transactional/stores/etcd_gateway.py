"""etcd's JSON gateway: several endpoints, health, failover, and what an error means for a write.

Theory of operation
-------------------
A cluster answers through any of its members.  One endpoint is used as long as it answers; one that
fails is put behind the others for a while, longer each time.  What is asked of an endpoint that
could not be connected was not sent, so the next one is asked, for reads and writes alike.  What
failed later may have been done: a read (and whatever else is the same twice as once) goes to the
next endpoint, a write is ``Lost`` and never repeated here.

Words on the wire: 64-bit numbers are strings, bytes base64, and what is zero, empty or false is
left out.  An error is ``{"error": …, "code": …}`` with gRPC's code; most of them tell that nothing
was done (``_DEFINITE``), and the rest, a time-out above all, that nobody knows.  A stream is one
JSON object a line, ``{"result": …}``; it is silent while there is no news, so whether its member
still hears of any is asked apart (``EtcdStore``, health of watches).

Source: etcd v3 API reference; ``api/v3rpc/rpctypes/error.go`` for the errors.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import time
from contextlib import asynccontextmanager
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from transactional.errors import (
    AccessDeniedError,
    InvalidRequestError,
    StoreClosedError,
    StoreFullError,
    TooManyRequestsError,
    UnavailableError,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

    from transactional.errors import TransactionalError

Document = dict[str, Any]

CONNECT_S: Final = 1.0
"""How long a connection may take; after that nothing was sent."""
ATTEMPT_S: Final = 2.0
"""How long one endpoint is waited for with what may be asked of the next one, too."""
BACK_OFF_S: Final = 0.5
"""How long an endpoint that failed is put behind the others; twice as long each time."""
BACK_OFF_S_MAX: Final = 16.0
PIECE_BYTES: Final = 1 << 20
"""A larger body is sent piece by piece, so that it does not hold up the loop."""
PAUSE_S: Final = 0.05
"""Pause before all endpoints are asked again."""
ANSWER_BYTES_MAX: Final = 64 << 20
"""Largest answer, and largest line of a stream."""
CONNECTIONS_MAX: Final = 128
"""Requests of one client that are on their way at once; more of them wait."""
WAITING_MAX: Final = 16_384
"""Most requests that wait or are on their way; one more is refused."""


class Lost(Exception):  # noqa: N818 no error of ours: the store says what it means
    """A request was sent and its answer did not come: nobody knows whether it was done."""


class Rejected(Exception):  # noqa: N818 the same
    """etcd refused the request in words that only its sender can judge; nothing was done."""

    def __init__(self, words: str, code: int) -> None:
        super().__init__(words)
        self.words = words
        self.code = code


_DEFINITE: Final = (
    "raft proposal dropped",
    "etcdserver: no leader",
    "etcdserver: not capable",
    "etcdserver: unhealthy cluster",
    "auth: revision in header is old",
    "etcdserver: revision of auth store is old",
    "grpc: the client connection is closing",
)
"""Beginnings of errors after which nothing was done and the next endpoint may be asked.  The last
one is a member's that is told to end: its gateway has no connection left to send the request by
(gRPC says otherwise of what it had sent: the transport is closing)."""
_NO_TOKEN: Final = ("etcdserver: invalid auth token",)
_GRPC_INVALID, _GRPC_FORBIDDEN, _GRPC_FULL = 3, 7, 8
_GRPC_NOT_FOUND, _GRPC_PRECONDITION, _GRPC_RANGE, _GRPC_UNAUTHENTICATED = 5, 9, 11, 16


class _NoToken(AccessDeniedError):  # noqa: N818
    """etcd does not know the token (any more); a new one may be had for the password."""


class _Unsent(Exception):  # noqa: N818
    """Nothing was done there; another endpoint may be asked."""


class Endpoint:
    """One member's address and how it fared."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.failures = 0
        self.bad_until_s = 0.0

    def failed(self, now_s: float) -> None:
        """Put it behind the others for a while."""
        self.failures += 1
        pause_s = min(BACK_OFF_S_MAX, BACK_OFF_S * 2 ** min(self.failures - 1, 10))
        self.bad_until_s = now_s + pause_s

    def answered(self) -> None:
        """It is as good as any."""
        self.failures = 0
        self.bad_until_s = 0.0


class Gateway:
    """The connections of one client to one cluster; belongs to the event loop that made it."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        user: tuple[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        request_s: float,
    ) -> None:
        self.endpoints = [Endpoint(url) for url in urls]
        random.shuffle(self.endpoints)  # clients spread over the members
        self.request_s = request_s
        self._user = user
        self._token: str | None = None
        self._tls = tls
        connector = aiohttp.TCPConnector(limit=0, ssl=tls if tls is not None else True)
        plain = {"Accept-Encoding": "identity"}
        self._session = aiohttp.ClientSession(connector=connector, headers=plain)
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)
        self._waiting = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.failovers = 0
        """How often another endpoint was asked because one failed."""

    # --- asking ---

    async def ask(self, path: str, body: str, *, repeatable: bool) -> Document:
        """Post a request to the cluster and return the answer.

        Raises:
            Lost: it may have been done, and it is not ``repeatable``.
            Rejected: etcd says why not, and it is the sender's to judge.
            UnavailableError, RefusedError: nothing was done, or asking again is harmless.
        """
        if self._waiting >= WAITING_MAX:
            raise TooManyRequestsError(f"{WAITING_MAX} requests are waiting already")
        self._waiting += 1
        self._idle.clear()
        try:
            async with self._slots:
                return await self._ask(path, body, repeatable=repeatable)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._idle.set()

    async def drain(self) -> None:
        """Wait until all that was asked is answered."""
        await self._idle.wait()

    async def _ask(  # noqa: C901 each way that an answer fails means something else
        self, path: str, body: str, *, repeatable: bool
    ) -> Document:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self.request_s
        # Each endpoint can be asked in time, though the others do not answer.
        others = len(self.endpoints) - 1
        attempt_s = min(ATTEMPT_S, self.request_s / (others + 2)) if others else self.request_s
        reason = "no endpoint"
        renewed = False
        data = body.encode()
        while True:
            sent = False
            for endpoint in self.order():
                left_s = deadline_s - loop.time()
                if left_s <= 0:
                    break
                wait_s = min(left_s, attempt_s) if repeatable else left_s
                try:
                    answer = await self._post(endpoint, path, data, wait_s)
                except _Unsent as error:
                    reason = str(error)
                except Lost as error:
                    if not repeatable:
                        self._failed(endpoint)
                        raise
                    sent = True
                    reason = str(error)
                except _NoToken:
                    if renewed or self._user is None:
                        raise
                    renewed = True  # a token lives for minutes; the password for longer
                    await self.authenticate()
                    sent = True
                    break
                else:
                    endpoint.answered()
                    return answer
                self._failed(endpoint)
            if not sent or loop.time() >= deadline_s:
                raise UnavailableError(reason)
            await asyncio.sleep(PAUSE_S)

    def order(self) -> list[Endpoint]:
        """Return the endpoints in the order in which they are asked; callable from any thread."""
        now_s = time.monotonic()
        return sorted(self.endpoints, key=lambda e: e.bad_until_s if e.bad_until_s > now_s else 0.0)

    def _failed(self, endpoint: Endpoint) -> None:
        self.failovers += 1
        endpoint.failed(time.monotonic())
        if endpoint is self.endpoints[0]:  # the next one is the first choice from now on
            self.endpoints.append(self.endpoints.pop(0))

    def distrust(self, endpoint: Endpoint) -> None:
        """Put an endpoint behind the others: its member does not keep up."""
        self._failed(endpoint)

    async def _post(self, endpoint: Endpoint, path: str, data: bytes, wait_s: float) -> Document:
        headers = {"Authorization": self._token} if self._token is not None else {}
        timeout = aiohttp.ClientTimeout(total=wait_s, connect=CONNECT_S)
        where = endpoint.url
        try:
            async with self._session.post(
                f"{where}/v3{path}",
                data=data if len(data) <= PIECE_BYTES else io.BytesIO(data),
                headers=headers,
                timeout=timeout,
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise _Unsent(f"no etcd at {where}: {words(error)}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Lost(f"the answer of {where} was lost: {words(error)}") from error
        except RuntimeError as error:  # aiohttp's session is closed
            raise StoreClosedError("the store is closed") from error
        try:
            doc = json.loads(answer)
        except ValueError as error:
            raise Lost(f"the answer of {where} is not JSON: {response.status}") from error
        if not isinstance(doc, dict):
            raise Lost(f"the answer of {where} is no object")
        if response.status == 200 and "error" not in doc:
            return doc
        raise self._judged(doc, where)

    def _judged(  # noqa: PLR0911 one for each kind
        self, doc: Document, where: str
    ) -> Exception:
        """Return what an error of etcd's means."""
        error = doc.get("error")
        said = str(error if isinstance(error, str) else doc.get("message", error))
        code = doc.get("code")
        if said.startswith(_NO_TOKEN) or code == _GRPC_UNAUTHENTICATED:
            return _NoToken(f"{where}: {said}")
        if said.startswith(_DEFINITE):
            return _Unsent(f"{where}: {said}")
        if "too many requests" in said:
            return TooManyRequestsError(f"{where}: {said}")
        if code == _GRPC_FORBIDDEN:
            return AccessDeniedError(f"{where}: {said}")
        if "larger than max" in said:
            return Rejected(said, _GRPC_INVALID)
        if code == _GRPC_FULL or "space exceeded" in said:
            return StoreFullError(f"{where}: {said}")
        if "user name is empty" in said or "authentication failed" in said:
            return AccessDeniedError(f"{where}: {said}")
        if code in {_GRPC_NOT_FOUND, _GRPC_RANGE, _GRPC_INVALID, _GRPC_PRECONDITION}:
            return Rejected(said, int(str(code)))
        return Lost(f"{where}: {said}")

    async def authenticate(self) -> None:
        """Get a token for the user of the URL; nothing without one.

        Raises:
            AccessDeniedError: etcd does not take the password.
        """
        if self._user is None:
            return
        name, password = self._user
        self._token = None
        body = json.dumps({"name": name, "password": password})
        try:
            doc = await self._ask_alone("/auth/authenticate", body)
        except Rejected as error:
            raise AccessDeniedError(
                f"etcd does not take the user {name!r}: {error.words}"
            ) from None
        self._token = str(doc.get("token", ""))

    async def _ask_alone(self, path: str, body: str) -> Document:
        """Ask without renewing the token, which is what is asked for."""
        reason = "no endpoint"
        for endpoint in self.order():
            try:
                return await self._post(endpoint, path, body.encode(), ATTEMPT_S)
            except (_Unsent, Lost) as error:
                reason = str(error)
                self._failed(endpoint)
        raise UnavailableError(reason)

    async def ask_one(self, endpoint: Endpoint, path: str, body: str, wait_s: float) -> Document:
        """Ask one endpoint only, what is the same twice as once; errors as ``ask``."""
        try:
            return await self._post(endpoint, path, body.encode(), wait_s)
        except (_Unsent, Lost) as error:
            raise UnavailableError(str(error)) from error

    async def text(self, endpoint: Endpoint, path: str) -> str:
        """Return a page that is not of the API: ``/version``, ``/metrics``.

        Raises:
            UnavailableError: it is not there.
        """
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_S, connect=CONNECT_S)
        try:
            async with self._session.get(f"{endpoint.url}{path}", timeout=timeout) as response:
                page = await response.text()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise UnavailableError(f"no {path} at {endpoint.url}: {words(error)}") from error
        if response.status != 200:
            raise UnavailableError(f"no {path} at {endpoint.url}: {response.status}")
        return page

    # --- streams ---

    @asynccontextmanager
    async def stream(
        self, endpoint: Endpoint, path: str, body: str
    ) -> AsyncGenerator[tuple[AsyncIterator[Document], Callable[[], None]], None]:
        """Open a stream; yield its results, and a function that cuts it.

        Raises:
            UnavailableError: the connection cannot be made, or broke.
        """
        headers = {"Authorization": self._token} if self._token is not None else {}
        timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_connect=CONNECT_S)
        try:
            # A member that stands still takes the connection, and says nothing.
            async with asyncio.timeout(ATTEMPT_S):
                response = await self._session.post(
                    f"{endpoint.url}/v3{path}", data=body.encode(), headers=headers, timeout=timeout
                )
            try:
                yield self._lines(endpoint, response), response.close
            finally:
                response.close()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError(f"the stream of {endpoint.url}: {words(error)}") from error
        except RuntimeError as error:  # aiohttp's session is closed
            raise StoreClosedError("the store is closed") from error

    async def _lines(
        self, endpoint: Endpoint, response: aiohttp.ClientResponse
    ) -> AsyncGenerator[Document, None]:
        rest = bytearray()
        async for chunk in response.content.iter_any():
            seen = len(rest)
            rest += chunk
            while (end := rest.find(b"\n", seen)) >= 0:
                line = bytes(rest[:end])
                del rest[: end + 1]
                seen = 0
                if not line.strip():
                    continue
                doc = json.loads(line)
                if "error" in doc or "result" not in doc:
                    found = doc.get("error", doc)
                    found = found if isinstance(found, dict) else doc
                    error = self._judged(
                        {"error": found.get("message"), "code": found.get("grpc_code")},
                        endpoint.url,
                    )
                    if isinstance(error, _NoToken) and self._user is not None:
                        raise UnavailableError(str(error))  # the next call gets a new one
                    raise _of_stream(error)
                yield doc["result"]
            if len(rest) > ANSWER_BYTES_MAX:
                raise UnavailableError(f"a line of {endpoint.url} is longer than it may be")

    # --- without the event loop ---

    def post_blocking(self, path: str, body: str) -> Document:
        """Post what is the same twice as once over a connection of its own, from any thread.

        Raises:
            UnavailableError: no endpoint answered.
        """
        reason = "no endpoint"
        for endpoint in self.order():
            scheme, _, address = endpoint.url.partition("://")
            connection: HTTPConnection
            if scheme == "https":
                connection = HTTPSConnection(address, timeout=ATTEMPT_S, context=self._tls)
            else:
                connection = HTTPConnection(address, timeout=ATTEMPT_S)
            headers = {"Authorization": self._token} if self._token is not None else {}
            try:
                connection.request("POST", f"/v3{path}", body.encode(), headers)
                response = connection.getresponse()
                doc = json.loads(response.read())
                if response.status == 200 and isinstance(doc, dict):
                    return doc
                reason = f"{endpoint.url}: {response.status}"
            except (OSError, HTTPException, ValueError) as error:
                reason = f"{endpoint.url}: {words(error)}"
            finally:
                connection.close()
        raise UnavailableError(reason)

    async def close(self) -> None:
        """Hang up."""
        await self._session.close()


def _of_stream(error: Exception) -> TransactionalError:
    if isinstance(error, AccessDeniedError | UnavailableError):
        return error
    if isinstance(error, Rejected) and error.code == _GRPC_INVALID:
        return InvalidRequestError(error.words)
    return UnavailableError(str(error))


def words(error: BaseException) -> str:
    """Say what happened; some exceptions have no text."""
    return str(error) or type(error).__name__
