"""A dict that processes share: what a first attempt at shared state looks like.

The standard library serves it (`multiprocessing.managers`): each look and each assignment is one
call, and nothing stands between two of them. An actor of the rooms demo.
"""

from __future__ import annotations

import sys
from multiprocessing.managers import BaseManager, DictProxy
from pathlib import Path
from typing import TYPE_CHECKING, cast

from demos.stage import tell

if TYPE_CHECKING:
    from collections.abc import MutableMapping

ROOMS: dict[str, str] = {}


BaseManager.register("rooms", callable=lambda: ROOMS, proxytype=DictProxy)


def connect(port: int, key_file: Path) -> MutableMapping[str, str]:
    """The dict, as a client has it."""
    manager = BaseManager(("127.0.0.1", port), authkey=key_file.read_bytes())
    manager.connect()
    return cast("MutableMapping[str, str]", manager.rooms())  # type: ignore[attr-defined]


def main() -> int:
    """Entry of the process: serve until it is ended."""
    manager = BaseManager(("127.0.0.1", 0), authkey=Path(sys.argv[1]).read_bytes())
    server = manager.get_server()
    address = server.address
    assert isinstance(address, tuple)
    tell("ready", port=address[1])
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
