"""What a caller of an agent can wait for: durable here, durable elsewhere, seen here.

Theory of operation. A write happened when its mutator returned; a wait changes nothing but what its
caller knows. Conditions are asked after every commit, none of them polls, and each wait that runs
out of time says how far things had got.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from replication.errors import NotYetError
from replication.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from replication.agent.driver import Driver
    from replication.protocol.replica import Replica


async def durable(
    driver: Driver, replica: Replica, token: Version, timeout_s: float | None
) -> None:
    """Until the events of a token are on this disk; JournalFailedError, NotYetError."""
    if not await driver.until(lambda: token <= Version(replica.durable), timeout_s):
        raise NotYetError("durable", reached=0, wanted=1)


async def spread(
    driver: Driver,
    replica: Replica,
    token: Version,
    *,
    wanted: Callable[[], int],
    what: str,
    timeout_s: float | None,
) -> int:
    """Until so many others have the events of a token on their disks; how many have."""
    replica.scheduler.hurry(time.monotonic())

    def reached() -> int:
        return replica.acknowledgements.holders(token.vector)

    if not await driver.until(lambda: reached() >= wanted(), timeout_s):
        raise NotYetError(what, reached=reached(), wanted=wanted())
    return reached()


async def seen(driver: Driver, replica: Replica, token: Version, timeout_s: float | None) -> None:
    """Until the events of another's token are here."""
    replica.scheduler.hurry(time.monotonic())

    def lacks() -> dict[str, int]:
        return token.beyond(Version(replica.kernel.vector))

    if not await driver.until(lambda: not lacks(), timeout_s):
        raise NotYetError("seen", reached=0, wanted=1, missing=lacks())
