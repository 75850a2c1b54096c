"""The page: a team as a person sees it, in a browser, while it works.

    team      what one agent sees of its team, and what of it a page may order    (asks peers)
    decisions what the store holds: bookings, sagas, queues                       (reads only)
    picture   both as one document that a browser can draw, and what differs      (pure)
    server    the door: who may look, who may order, and the stream of pictures   (aiohttp)
    static    the page itself: HTML, CSS and JavaScript of our own, no build step

`open_page` is what a member with `ui=True` calls; a demo that knows more of its network than an
agent does brings its own `Replicas`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from convoca.page.picture import Link, Picture, Refused, Replica, Replicas, text_of
from convoca.page.server import Page
from convoca.page.team import TeamReplicas

if TYPE_CHECKING:
    from replication import Agent
    from transactional import Store

__all__ = [
    "Link",
    "Page",
    "Picture",
    "Refused",
    "Replica",
    "Replicas",
    "TeamReplicas",
    "open_page",
    "text_of",
]


class HasStore(Protocol):
    """A store that may be out of reach."""

    @property
    def store(self) -> Store:
        """The store; UnavailableError while there is none."""


async def open_page(agent: Agent, late: HasStore | None, ui: bool | str) -> Page:  # noqa: FBT001 - as `ui=` is given
    """Serve the page of an agent that runs, with its store if it has one; the caller closes it.

    Args:
        agent: whose observations are shown.
        late: gives the store, as soon as that is open.
        ui: `HOST:PORT` to serve at; True: loopback, a free port.

    Raises:
        PageError: the address is not loopback, or cannot be used. Nothing is served.
    """
    page = Page(
        agent.name,
        replicas=TeamReplicas(agent),
        store=None if late is None else lambda: late.store,
        listen="127.0.0.1:0" if ui is True else str(ui),
        guarded=agent.has_secret,
    )
    return await page.start()
