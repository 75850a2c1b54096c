"""One value that many may set, each knowing what it replaces: the optimistic store.

A register is a key that holds a JSON value and says who set it and when.  ``set`` with
``expected`` is a compare-and-swap on the revision, ``update`` the loop around it.  The time is the
authority's, read before the commit: never later than the commit itself and, where the replaced
revision is compared, later than what is replaced.

There is no ``op_id`` to repeat a set by: the time is part of what is written, so a repeat would be
another operation.  ``expected`` makes it harmless: of two equal sets one meets a conflict.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from transactional import rules
from transactional.errors import InvalidRequestError
from transactional.retry import DEFAULT_RETRY, Decision, Retry, check_guards, propose
from transactional.values import ANY, Expected, Put, Revision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from transactional.errors import ConflictError
    from transactional.store import Store
    from transactional.values import Compare, KeyValue

Json = Any
"""What json.dumps takes: None, bool, int, float, str, list, dict with str keys."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A register's value, its revision (0: never set), and who set it when (UTC)."""

    value: Json
    revision: int
    modified_at: datetime | None
    modified_by: str | None


UNSET: Final = Registered(None, 0, None, None)


class Register:
    """The register under ``key``; ``by`` is written beside each value that this object sets."""

    def __init__(self, store: Store, key: str, *, by: str) -> None:
        rules.check_key(key)
        self._store = store
        self._key = key
        self._by = by

    async def get(self) -> Registered:
        """Return the present value; linearizable."""
        return _load(await self._store.get(self._key))

    async def set(
        self,
        value: Json,
        *,
        expected: int | Expected = ANY,
        compares: Iterable[Compare] = (),
        fence: Iterable[Compare] = (),
    ) -> Registered:
        """Set the value if the revision is ``expected`` (0: never set, ANY: whatever is there).

        ``compares``, and the ``fence`` of a lock's grant, hold in the same commit or refuse it.

        Raises:
            ConflictError: the revision is another one, or a compare did not hold; nothing was
                written.
            InvalidRequestError: the value is not JSON, or ``expected`` is of streams alone; nothing
                was written.
        """
        if isinstance(expected, Expected) and expected is not ANY:
            raise InvalidRequestError("a register is expected at a revision, or to be ANY")
        now = await self._store.now()
        rests_on: list[Compare] = [*compares, *fence]
        if not isinstance(expected, Expected):
            rests_on.append(Revision(self._key, expected))
        put = Put(self._key, _dump(value, self._by, now))
        commit = await self._store.commit(rests_on, [put])
        return Registered(value, commit.revision, now, self._by)

    async def update(
        self,
        fn: Callable[[Json], Json],
        *,
        retry: Retry = DEFAULT_RETRY,
        compares: Iterable[Compare] = (),
        fence: Iterable[Compare] = (),
    ) -> Registered:
        """Set the value to ``fn(present value)``, atomically; ``fn`` may run several times.

        ``compares``, and the ``fence`` of a lock's grant, hold in the same commit, or ConflictError
        is raised at once: deciding anew would not help.  Other errors: see ``retry.propose``.
        """
        guards = (*compares, *fence)

        async def decide(conflict: ConflictError | None) -> Decision[tuple[Json, datetime]]:
            check_guards(conflict, guards)
            old = await self.get()
            now = await self._store.now()
            value = fn(old.value)
            put = Put(self._key, _dump(value, self._by, now))
            rests_on = [Revision(self._key, old.revision), *guards]
            return Decision((value, now), rests_on, [put])

        (value, now), commit = await propose(self._store, decide, retry=retry)
        return Registered(value, commit.revision, now, self._by)


def _dump(value: Json, by: str, at: datetime) -> bytes:
    try:
        doc = {"value": value, "by": by, "at": at.isoformat()}
        return json.dumps(doc, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"a register's value is JSON: {error}") from error


def _load(found: KeyValue | None) -> Registered:
    if found is None:
        return UNSET
    try:
        doc = json.loads(found.value)
        at = datetime.fromisoformat(doc["at"])
        return Registered(doc["value"], found.revision, at, str(doc["by"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequestError(f"{found.key!r} does not hold a register") from error
