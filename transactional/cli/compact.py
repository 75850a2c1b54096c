"""The command `compact`: take away at once what is otherwise taken away in passing.

First what the recipes keep no longer (ends of bookings, records of requests and op_ids, runs that
are over), then what the engine does not remember any more, and the file's free pages.  Of an
authority's file that is its own part: an order, for which the role needs ``operate = true``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from transactional.cli import command as cli
from transactional.events import EventLog
from transactional.reservations import Reservations
from transactional.sagas import Sagas
from transactional.store import Compactable

if TYPE_CHECKING:
    import argparse


def _compact_arguments(sub: argparse.ArgumentParser) -> None:
    for recipe in ("reservation", "saga", "log"):
        text = f"namespace of the recipe (default: {recipe})"
        sub.add_argument(f"--{recipe}", default=recipe, metavar="NAMESPACE", help=text)
    cli.add_store(sub)


async def _compact(options: argparse.Namespace) -> None:
    async with cli.opened(options) as store:
        gone = {
            "reservations": await Reservations(store, namespace=options.reservation).compact(),
            "sagas": await Sagas(store, [], namespace=options.saga).compact(),
            "event log": await EventLog(store, namespace=options.log).compact(),
        }
        if isinstance(store, Compactable):
            gone["engine"] = await store.compact()
    cli.show(options, [{"what": what, "removed": count} for what, count in gone.items()])


COMMANDS: Final[dict[str, cli.Command]] = {
    "compact": (_compact_arguments, _compact),
}
