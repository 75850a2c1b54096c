"""Many watches on one connection: what the watches of a client's process share.

The client says what it watches, by numbers of its own, and is told what happens, as JSON::

    client                                                authority
      |-- {"add": [[1, "lock/a/", 41], [2, "b/", null]]} -->  behind a revision, or the present
      |   <-- {"watch": 1, "at": 41} ---------------------|   it has begun, behind this revision
      |   <-- {"watch": 2, "at": 57} ---------------------|
      |   <-- {"watch": 2, "event": {...}} ---------------|   as `GET /v1/watch` tells it
      |   <-- {"watch": 3, "error": {...}} ---------------|   it was refused, or has ended
      |-- {"end": [2]} ---------------------------------->|   nothing more of it, please

Each watch is a task that follows the store.  They take turns at the connection, so one that has
much to tell holds up its neighbours on this connection, and nobody else.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from transactional import rules, wire
from transactional.errors import InvalidRequestError, TooManyRequestsError, TransactionalError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from transactional.store import Store

EACH_MAX: Final = 16_384
"""Most watches on one connection."""
ALL_MAX: Final = 131_072
"""Most watches on all such connections."""
COMMAND_BYTES_MAX: Final = 1 << 20
"""Longest message of a client: 256 prefixes of a kilobyte take less."""


_log = logging.getLogger(__name__)


class Watches:
    """The watches of one connection; ``send`` writes one message to it, and raises OSError."""

    taken = 0
    """Watches of all connections in this process."""

    def __init__(
        self,
        store: Store,
        send: Callable[[str], Awaitable[None]],
        check_read: Callable[[str], None],
    ) -> None:
        self._store = store
        self._send = send
        self._check_read = check_read
        self._turn = asyncio.Lock()
        self._running: dict[int, tuple[str, asyncio.Task[None]]] = {}

    def obey(self, command: str) -> None:
        """Begin and end watches.

        Raises:
            InvalidRequestError: the message is not one of ours.
        """
        try:
            doc = wire.document(json.loads(command))
            ends = [wire.whole(number) for number in wire.entries(doc.get("end", []))]
            adds = [wire.entries(each) for each in wire.entries(doc.get("add", []))]
            for number, prefix, after in adds:
                self._begin(
                    wire.whole(number),
                    wire.text(prefix),
                    wire.whole(after) if after is not None else None,
                )
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError("not a command for watches") from error
        for number in ends:
            if number in self._running:
                self._running.pop(number)[1].cancel()

    def _begin(self, number: int, prefix: str, after: int | None) -> None:
        if number in self._running:
            raise InvalidRequestError(f"watch {number} has begun already")
        task = asyncio.create_task(self._tell(number, prefix, after))
        self._running[number] = (prefix, task)
        Watches.taken += 1
        task.add_done_callback(self._ended)

    @staticmethod
    def _ended(task: asyncio.Task[None]) -> None:
        Watches.taken -= 1
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, OSError):  # else the connection is gone
            _log.error("a watch broke off", exc_info=error)

    async def _tell(self, number: int, prefix: str, after: int | None) -> None:
        try:
            if len(self._running) > EACH_MAX or Watches.taken > ALL_MAX:
                raise TooManyRequestsError(f"{len(self._running) - 1} watches are open here")
            rules.check_prefix(prefix)
            self._check_read(prefix)
            present = (await self._store.get_many([])).revision
            after = present if after is None else after
            rules.check_cursor(after, present)
            await self._say({"watch": number, "at": after})
            async with aclosing(self._store.watch(prefix, after=after)) as events:
                async for event in events:
                    self._check_read(prefix)
                    await self._say({"watch": number, "event": wire.dump_event(event)})
        except TransactionalError as error:
            await self._refuse(number, error)

    async def _refuse(self, number: int, error: TransactionalError) -> None:
        self._running.pop(number, None)
        await self._say({"watch": number, "error": wire.dump_error(error)})

    async def _say(self, doc: wire.Document) -> None:
        text = wire.encode(doc)
        async with self._turn:
            await self._send(text)

    async def look(self) -> None:
        """End the watches that may not be read any more."""
        for number, (prefix, task) in list(self._running.items()):
            try:
                self._check_read(prefix)
            except TransactionalError as error:
                task.cancel()
                await self._refuse(number, error)

    async def close(self) -> None:
        """End all of them."""
        tasks = [task for _, task in self._running.values()]
        self._running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
