"""The synchronous twin: store and recipes for threads and code without a loop.

The question: how does a thread wait for what lives in an event loop, without a deadlock, a lost
error or a thread that is left behind?  An event loop runs in a thread of its own, and every call is
carried there; each method is made from the original, signature and all.

    with transactional.open_sync("sqlite:rooms.db") as store:
        store.compare_and_swap("door", b"open", expected=0)
        with store.lock("turing", owner="ann").held() as grant:
            store.commit([*grant.fence], [Put("rooms/turing", b"...")])

Any number of threads may share a store and its recipes.  What is one task to the original is one
thread here: a lock is held by the thread that acquired it.

    store           `open_sync` and `BlockingStore`, which makes the recipes
    recipes         register, lock, event log, sagas, reservations
    loop_thread     an event loop in a thread, and the calls that are carried to it
"""

from transactional.blocking.loop_thread import BlockingIterator
from transactional.blocking.recipes import (
    BlockingDelivery,
    BlockingEventLog,
    BlockingGrant,
    BlockingJob,
    BlockingLock,
    BlockingLost,
    BlockingRegister,
    BlockingReservations,
    BlockingSagas,
    BlockingWorkQueue,
)
from transactional.blocking.store import BlockingStore, BlockingTransaction, open_sync

__all__ = [
    "BlockingDelivery",
    "BlockingEventLog",
    "BlockingGrant",
    "BlockingIterator",
    "BlockingJob",
    "BlockingLock",
    "BlockingLost",
    "BlockingRegister",
    "BlockingReservations",
    "BlockingSagas",
    "BlockingStore",
    "BlockingTransaction",
    "BlockingWorkQueue",
    "open_sync",
]
