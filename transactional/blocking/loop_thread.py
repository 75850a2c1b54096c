"""An event loop in a thread of its own, for callers that have none.

Theory of operation. Asynchronous objects belong to one loop. A `LoopThread` gives them one, and
carries every call there: `call` a plain function, `wait` a coroutine. The caller blocks, nobody
else does, and what was raised there is raised here.

    caller --- call(f, x) ---> queue of the loop ---> f(x) ---+
    caller <------------------ result or error ---------------+

What must not happen, and what does instead:

* A call out of the loop's own thread (a callback, code given to `call`) would wait for itself:
  refused.
* After a fork the thread is gone: every call in the child is refused, before any lock is taken.
* A close ends every call that is still waiting with the error that says so; a caller that gives up
  (Ctrl-C) cancels what it waited for.
* A process that ends without a close is closed at its end, and told. That is done before Python
  forbids its thread pools new work, which is earlier than `atexit`; threads that have called, and
  that the interpreter would wait for anyway, are waited for first.

A *facade* is made of `called`, `awaited` and `iterated`: methods with the signature of the original
that carry the call for `_inner` over `_carrier`. So no signature is written down twice.

Each caller's coroutines run in one `contextvars` context, that of its thread: what an asynchronous
library keeps per task is kept per thread here.

This module is the same text in `replication` and in `transactional`, which know nothing of each
other; a test holds the two together.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread  # its own end is registered on import; ours has to come after it
import contextlib
import contextvars
import functools
import logging
import os
import threading
import traceback
import warnings
import weakref
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")

STOP_S_MAX = 30.0
"""How long a close waits for the thread to end after its last coroutine."""

logger = logging.getLogger(__name__.partition(".")[0])


@dataclass(frozen=True, slots=True)
class Refusals:
    """Makers of the errors by which calls are refused; each gets the name of what was called."""

    closed: Callable[[str], Exception]
    reentrant: Callable[[str], Exception]
    forked: Callable[[str], Exception]


class CarrierProtocol(Protocol):
    """Where a facade's calls go."""

    def call(self, action: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a plain function in the loop's thread."""

    def wait(
        self, action: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a coroutine function in the loop's thread, to its end."""

    def post(self, action: Callable[[], object]) -> None:
        """Let a function run in the loop's thread, some time; nothing if that has ended."""


class LoopThread:
    """A running loop; `name` is that of the thread, and of what lives there in errors and warnings.

    `last` is what a close awaits first; it must end by itself.
    """

    def __init__(
        self,
        name: str,
        refusals: Refusals,
        last: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self.name = name
        self._refusals = refusals
        self._last = last
        self._pid = os.getpid()
        self._of_thread = threading.local()
        self._callers: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._pending: set[Future[Any]] = set()
        self._closing = threading.Lock()
        self._ended = False
        self._loop: asyncio.AbstractEventLoop
        self._over: asyncio.Event
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._live, args=(ready,), name=name, daemon=True)
        self._thread.start()
        ready.result()
        _running.add(self)

    # ------------------------------------------------------------------------------ the thread

    def _live(self, ready: Future[None]) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._until_over(ready))
        except BaseException:
            logger.exception("loop-ended")  # of what ran there, not of a call: those have futures
        finally:
            self._ended = True
            _running.discard(self)
            for future in [ready, *self._pending]:
                with contextlib.suppress(concurrent.futures.InvalidStateError):
                    future.set_exception(self._refusals.closed(self.name))

    async def _until_over(self, ready: Future[None]) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        ready.set_result(None)
        await self._over.wait()

    # ------------------------------------------------------------------------------ calls

    def check(self) -> None:
        """Raise if a call is not possible from here and now; nothing was done."""
        if self._pid != os.getpid():
            raise self._refusals.forked(self.name)
        if threading.get_ident() == self._thread.ident:
            raise self._refusals.reentrant(self.name)
        if self._ended:
            raise self._refusals.closed(self.name)

    @property
    def forked(self) -> bool:
        """Whether this is a copy of it, in a forked child."""
        return self._pid != os.getpid()

    def call(self, action: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a plain function in the loop's thread; what it raises is raised here.

        Raises:
            what `Refusals` make: closed, called out of the loop's own thread, forked.
        """
        future = self.future()

        def run() -> None:
            with contextlib.suppress(concurrent.futures.InvalidStateError):
                settle(future, functools.partial(action, *args, **kwargs))

        self._submit(run)
        result: T = future.result()
        return result

    def wait(
        self, action: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a coroutine function in the loop's thread, to its end. Raises as `call` does."""
        future = self.future()
        context = self._context()
        task: asyncio.Task[Callable[[], T]] | None = None

        def begin() -> None:
            nonlocal task
            try:
                work = _kept_from_the_loop(action(*args, **kwargs))
                task = self._loop.create_task(work, context=context)
            except BaseException as error:  # noqa: BLE001 - the caller's, like any other
                future.set_exception(error)
            else:
                task.add_done_callback(over)

        def over(task: asyncio.Task[Callable[[], T]]) -> None:
            def outcome() -> T:
                return task.result()()

            with contextlib.suppress(concurrent.futures.InvalidStateError):
                if task.cancelled() and self._over.is_set():
                    future.set_exception(self._refusals.closed(self.name))
                else:
                    settle(future, outcome)

        self._submit(begin)
        try:
            result: T = future.result()
        except BaseException:
            if not future.done():  # the caller gave up, by Ctrl-C for instance
                self.post(lambda: task is not None and task.cancel())
            raise
        return result

    def future(self) -> Future[Any]:
        """One that a close fails; refused, as a call, if none is possible from here and now."""
        self.check()
        self._context()
        future: Future[Any] = Future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        return future

    def _submit(self, action: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError as error:
            raise self._refusals.closed(self.name) from error

    def post(self, action: Callable[[], object]) -> None:
        """Let a function run in the loop's thread, some time; nothing if that has ended."""
        if not self.forked:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(action)

    def _context(self) -> contextvars.Context:
        """That of the calling thread, which is known as a caller from then on."""
        context: contextvars.Context | None = getattr(self._of_thread, "context", None)
        if context is None:
            context = self._of_thread.context = contextvars.copy_context()
            self._callers.add(threading.current_thread())
        return context

    # ------------------------------------------------------------------------------ the end

    def close(self) -> None:
        """Await `last`, cancel the rest, end the thread; a second caller waits for the first."""
        if self._pid != os.getpid() or threading.get_ident() == self._thread.ident:
            self.check()
        with self._closing:
            if self._ended:
                return
            try:
                self.wait(self._last)
            finally:
                self.post(self._over.set)
                self._thread.join(STOP_S_MAX)

    def close_unasked(self) -> None:
        """The process ends: say so, wait for those who may still call, and close."""
        try:
            text = f"{self.name} was not closed: it is now, at the end of the process"
            logger.warning("closed-at-exit", extra={"facts": {"name": self.name}})
            warnings.warn(text, ResourceWarning, stacklevel=1)
        finally:
            pools: Any = getattr(concurrent.futures.thread, "_threads_queues", ())
            for caller in set(self._callers) - {threading.main_thread()}:
                if (
                    not caller.daemon and caller not in pools
                ):  # a pool's thread never ends by itself
                    caller.join()
            self.close()


def settle(future: Future[Any], action: Callable[[], object]) -> None:
    """Give a future what a function returns or raises."""
    try:
        result = action()
    except BaseException as error:  # noqa: BLE001 - for the caller, and not for the loop, to see
        future.set_exception(error)
    else:
        future.set_result(result)


async def _kept_from_the_loop(work: Coroutine[Any, Any, T]) -> Callable[[], T]:
    """The result, or what ends a process, as a function: raised in a task it would end the loop."""
    try:
        result = await work
    except (SystemExit, KeyboardInterrupt) as error:
        ending = error

        def end() -> T:
            raise ending

        return end
    return lambda: result


_running: set[LoopThread] = set()


def _close_all() -> None:
    for thread in list(_running):
        if not thread.forked:
            try:
                thread.close_unasked()
            except Exception:  # noqa: BLE001 - a warning made an error, or what could not be closed
                traceback.print_exc()


# CPython's own thread pools end by this hook, in the reverse order of registration; at `atexit`
# they are dead, and nothing can be written any more. Where it is missing, later is the best we can.
getattr(threading, "_register_atexit", atexit.register)(_close_all)


# ------------------------------------------------------------------------------------ facades


def called(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """The facade's method for a plain one; it is looked up where it runs."""
    run = _looked_up(method)

    @functools.wraps(method)
    def forward(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = self._carrier.call(run, self._inner, *args, **kwargs)
        return result

    return forward


def awaited(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], T]:
    """The facade's method for one that is awaited."""
    run = _looked_up(method)

    @functools.wraps(method)
    def forward(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = self._carrier.wait(run, self._inner, *args, **kwargs)
        return result

    return forward


def iterated(
    method: Callable[Concatenate[Any, P], AsyncIterator[T]],
) -> Callable[Concatenate[Any, P], BlockingIterator[T]]:
    """The facade's method for one that gives an asynchronous iterator."""
    run = _looked_up(method)

    @functools.wraps(method)
    def forward(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> BlockingIterator[T]:
        return BlockingIterator(
            self._carrier, self._carrier.call(run, self._inner, *args, **kwargs)
        )

    return forward


def _looked_up(method: Callable[..., Any]) -> Callable[..., Any]:
    name = method.__name__

    def run(inner: object, /, *args: Any, **kwargs: Any) -> Any:
        return getattr(inner, name)(*args, **kwargs)

    return run


class BlockingIterator(Generic[T]):
    """An asynchronous iterator that a `for` loop reads; `take` waits for so long and no longer."""

    def __init__(self, carrier: CarrierProtocol, items: AsyncIterator[T]) -> None:
        self._carrier = carrier
        self._items = items
        self._next: asyncio.Task[tuple[T, ...]] | None = None  # goes on if a caller gives up

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        """The next item, however long that takes."""
        if found := self._carrier.wait(self._taken, None):
            return found[0]
        raise StopIteration

    def take(self, timeout_s: float | None = None) -> T | None:
        """The next item; None at the end.

        Raises:
            TimeoutError: none came in time; nothing is lost by that.
        """
        found = self._carrier.wait(self._taken, timeout_s)
        return found[0] if found else None

    async def _taken(self, timeout_s: float | None) -> tuple[T, ...]:
        async with asyncio.timeout(timeout_s):
            while True:
                if self._next is None:
                    self._next = asyncio.ensure_future(self._one())
                task = self._next
                await asyncio.wait({task})
                if task is self._next:  # else another thread has it
                    self._next = None
                    return () if task.cancelled() else task.result()

    def left(self) -> T | None:
        """What came for somebody who had given up, once the loop has ended; None if nothing did."""
        task, self._next = self._next, None
        found = task.result() if task is not None and task.done() and not task.cancelled() else ()
        return found[0] if found else None

    async def _one(self) -> tuple[T, ...]:
        try:
            return (await anext(self._items),)
        except StopAsyncIteration:
            return ()

    def close(self) -> None:
        """End it; who waits for an item is told that there is none. A second call does nothing."""
        self._carrier.wait(self._closed)

    async def _closed(self) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait({self._next})
        if (end := getattr(self._items, "aclose", None)) is not None:
            await end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._next is not None:
            self._carrier.post(self._next.cancel)
