"""The page over the store of a demo: what it decided, while it decides it.

For demos whose replicas are not what is looked at. Nobody follows, nothing is read.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import transactional
from demos.stage import StageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Callable

LOOPBACK = "127.0.0.1:0"


def add_option(parser: argparse.ArgumentParser) -> None:
    """`--ui` and `--ui HOST:PORT`."""
    parser.add_argument(
        "--ui",
        nargs="?",
        const=LOOPBACK,
        default="",
        metavar="HOST:PORT",
        help="serve a page of what the store holds, on loopback, while it runs",
    )


@asynccontextmanager
async def page_of_store(
    title: str, url: str, listen: str, remark: Callable[[str], None]
) -> AsyncIterator[None]:
    """Serve the page for the length of an `async with`, if `listen` is not empty.

    Raises:
        StageError: it cannot be served there.
    """
    if not listen:
        yield
        return
    from convoca import PageError  # noqa: PLC0415 - a demo that is not shown needs no face
    from convoca.page import Page  # noqa: PLC0415 - as above

    try:
        async with (
            transactional.open(url) as store,
            Page(title, store=lambda: store, listen=listen) as page,
        ):
            remark(f"page: {page.url}")
            yield
    except PageError as error:
        raise StageError(str(error), error.hint) from error
