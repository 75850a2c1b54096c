"""Documents that live in an agent's thread, as other threads use them.

Theory of operation. A kernel is not thread-safe, and whatever hands out a part of it - a document,
a child of a map, an iterator, the kernel itself - hands out the danger. So an `AgentThread` carries
calls (`loop_thread`) and looks at what passes:

* what comes back and is *live* is wrapped in a `BlockingDocument`; an iterator is read to its end
  in the agent's thread, and the views of a mapping become views of a copy;
* what goes in and is wrapped is unwrapped; a document of another agent goes in as its value.

A `BlockingDocument` has the methods, properties and operators of what it stands for, whatever they
are: its class is made from the other class, once. It says that it is one (`__class__`), so that
`isinstance` and a reader of types are right about what it can do.

*A batch over several statements* (`with`) is a block in a thread that the agent does not live in.
Until it ends, the agent's thread serves that caller alone: it is inside of a plain batch of its own
and takes the caller's operations from a queue, so nobody else's write can join, and nobody, the
agent's own loop included, can see half of it. The others wait, for at most `BATCH_S_MAX`; then the
batch is rolled back and its owner told.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import queue
import threading
import time
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast

from crdt import HLC, Batch, Delta, Kernel
from crdt.errors import BatchOpenError
from replication.agent.loop_thread import LoopThread, Refusals, awaited, called, settle
from replication.agent.vitals import Vitals
from replication.errors import (
    BatchExpiredError,
    ClosedError,
    ForkedError,
    ReentrantCallError,
    ReplicationError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractContextManager
    from types import TracebackType


P = ParamSpec("P")
T = TypeVar("T")

BATCH_S_MAX = 5.0
"""How long a batch of several statements may hold up its agent; then it is rolled back."""

REFUSALS = Refusals(
    closed=lambda name: ClosedError(f"{name} is not running", hint="use it inside `with`"),
    reentrant=lambda name: ReentrantCallError(f"{name} is called out of its own thread"),
    forked=lambda name: ForkedError(f"{name} runs in another process, of which this is a fork"),
)


class AgentThread:
    """Carries calls to an agent's thread, and lets nothing that is live out of it."""

    def __init__(self, name: str, last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.thread = LoopThread(name, REFUSALS, last)
        self._of_thread = threading.local()  # its `hold`: the batch that it has open

    def call(self, action: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a plain function in the agent's thread."""
        run = functools.partial(self._wrapped, action, *self._inner(args), **self._named(kwargs))
        held = self._mine()
        return cast("T", held.call(run) if held is not None else self.thread.call(run))

    def wait(
        self, action: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a coroutine function in the agent's thread, to its end.

        Raises:
            BatchOpenError: this thread has a batch open, which holds up what it would wait for.
        """
        self._refuse_inside_batch()
        found = self.thread.wait(action, *self._inner(args), **self._named(kwargs))
        return cast("T", self.wrap(found))

    def post(self, action: Callable[[], object]) -> None:
        """Let a function run in the agent's thread, some time; nothing if that has ended."""
        self.thread.post(action)

    @property
    def in_batch(self) -> bool:
        """Whether the calling thread has a batch open."""
        return self._mine() is not None

    def hold(self, make: Callable[[], AbstractContextManager[object]]) -> tuple[_Hold, object]:
        """Begin to serve the calling thread alone, inside of a batch; and what that entered."""
        hold = _Hold(make, self.thread)
        self.thread.post(hold.serve)
        batch = hold.begun.result()
        self._of_thread.hold = hold
        return hold, batch

    def enter(self, make: Callable[[], AbstractContextManager[object]]) -> object:
        """Enter a batch inside of the one that the calling thread has open."""
        held = self._mine()
        assert held is not None
        return held.call(lambda: make().__enter__())

    def _mine(self) -> _Hold | None:
        hold: _Hold | None = getattr(self._of_thread, "hold", None)
        return hold if hold is not None and not hold.left else None

    def close(self) -> None:
        """Close the agent, end the thread. BatchOpenError as for any wait."""
        self._refuse_inside_batch()
        self.thread.close()

    def _refuse_inside_batch(self) -> None:
        if self._mine() is not None:
            raise BatchOpenError("this thread has a batch open, and a wait inside would not end")

    # ------------------------------------------------------------------------------ what passes

    def _wrapped(self, action: Callable[..., object], /, *args: Any, **kwargs: Any) -> object:
        return self.wrap(action(*args, **kwargs))

    def wrap(self, found: object) -> object:  # noqa: PLR0911 - a table
        """What the caller gets for a result. Runs in the agent's thread, or changes nothing."""
        match found:
            case Batch():
                return BlockingBatch(self, lambda: found)
            case Iterator():
                return iter([self.wrap(item) for item in found])
            case KeysView():
                return KeysView(_Copy((key, None) for key in found))
            case ValuesView():
                return ValuesView(_Copy((n, self.wrap(item)) for n, item in enumerate(found)))
            case ItemsView():
                return ItemsView(_Copy((key, self.wrap(item)) for key, item in found))
            case dict() | list() | set():
                return found.copy()
        kind: type = type(found)
        live = isinstance(found, LIVE) or hasattr(kind, "attach")
        return proxy_class(kind)(self, found) if live else found

    def _inner(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self._unwrapped(arg) for arg in args)

    def _named(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {name: self._unwrapped(arg) for name, arg in kwargs.items()}

    def _unwrapped(self, arg: Any) -> Any:
        if type(arg).__base__ is not BlockingDocument:
            return arg
        return arg._inner if arg._carrier is self else arg.value  # noqa: SLF001 - ours, by its class


LIVE = (Kernel, HLC, Vitals)
"""What is live besides documents, which are known by their `attach`."""


def _exact(key: object) -> object:
    """Keys that Python holds equal (1, True) and a document does not, told apart."""
    return (type(key), tuple(map(_exact, key)) if type(key) is tuple else key)


class _Copy(Mapping[Any, Any]):
    """The items of a mapping as they were."""

    def __init__(self, items: Iterator[tuple[Any, Any]]) -> None:
        self._items = {_exact(key): (key, item) for key, item in items}

    def __getitem__(self, key: object) -> Any:
        return self._items[_exact(key)][1]

    def __iter__(self) -> Iterator[Any]:
        return iter([key for key, _ in self._items.values()])

    def __len__(self) -> int:
        return len(self._items)


# ------------------------------------------------------------------------------------ documents


class BlockingDocument:
    """Stands for something in an agent's thread: every use of it happens there."""

    __slots__ = ("__weakref__", "_carrier", "_inner")

    def __init__(self, carrier: AgentThread, inner: object) -> None:
        self._carrier = carrier
        self._inner = inner

    def __repr__(self) -> str:
        return self._carrier.call(repr, self._inner)


NOT_CARRIED = frozenset({"__init__", "__new__", "__class_getitem__", "writer"})
"""What makes an object, and the one property that hands out a part which is not to be used."""


@functools.cache
def proxy_class(kind: type) -> type[BlockingDocument]:
    """The class of those that stand for objects of a class: all that it offers, carried."""
    offered: dict[str, object] = {
        "__slots__": (),
        "__doc__": kind.__doc__,
        "__module__": kind.__module__,
        "__class__": property(lambda _: kind),
    }
    for name in dir(kind):
        special = name.startswith(("__", "_repr_"))
        if name in NOT_CARRIED or (name.startswith("_") and not special):
            continue
        found = inspect.getattr_static(kind, name)
        if found is inspect.getattr_static(object, name, None) and found is not None:
            continue  # identity, as every object has it
        if found is None:
            offered[name] = None  # `__hash__`: it has none
        elif inspect.isfunction(found):
            offered[name] = _method(name, found)
        elif isinstance(found, property) or inspect.ismemberdescriptor(found):
            if not special:
                offered[name] = _property(name, found.__doc__)
        elif not special:
            offered[name] = getattr(kind, name)  # of the class: `type_name`, `from_bytes`
    return type(kind.__name__, (BlockingDocument,), offered)


def _method(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(original):
        return awaited(original)
    carried = called(original)
    if not name.startswith("__i") or name == "__iter__":
        return carried

    @functools.wraps(original)
    def in_place(self: Any, /, *args: Any) -> Any:
        """`+=` and its like: the name goes on meaning the document."""
        found = carried(self, *args)
        return self if getattr(found, "_inner", None) is self._inner else found

    return in_place


def _property(name: str, doc: str | None) -> property:
    read = operator.attrgetter(name)
    return property(lambda self: self._carrier.call(read, self._inner), doc=doc)


# ------------------------------------------------------------------------------------ batches


class _Hold:
    """An agent's thread that serves one caller alone, inside of a batch."""

    def __init__(
        self, batch: Callable[[], AbstractContextManager[object]], thread: LoopThread
    ) -> None:
        self.left = False  # whether its block was left
        self.begun: Future[object] = thread.future()
        self.over: Future[None] = thread.future()
        self._batch = batch
        self._calls: queue.SimpleQueue[
            tuple[Callable[[], Any] | BaseException | None, Future[Any]]
        ] = queue.SimpleQueue()
        self._lock = threading.Lock()  # between the owner's next call and the end of time
        self._ended = False

    def serve(self) -> None:
        """The agent's thread: until the owner ends it, or its time is over."""
        settle(self.over, self._serve)
        if not self.begun.done():
            settle(self.begun, self.over.result)
        with self._lock:
            self._ended = True
        while not self._calls.empty():  # one that came too late to be in the batch
            _, late = self._calls.get()
            late.set_exception(self.over.exception() or _RolledBackError("the block is over"))

    def _serve(self) -> None:
        try:
            with self._batch() as batch:
                self.begun.set_result(batch)
                until_s = time.monotonic() + BATCH_S_MAX
                while True:
                    action, future = self._next(until_s)
                    if action is None:
                        return
                    settle(future, action)
        except _RolledBackError:
            return

    def _next(self, until_s: float) -> tuple[Callable[[], Any] | None, Future[Any]]:
        try:
            call = self._calls.get(timeout=max(0.0, until_s - time.monotonic()))
        except queue.Empty:
            raise BatchExpiredError(BATCH_S_MAX) from None
        if isinstance(call[0], BaseException):
            raise call[0]
        return call[0], call[1]

    def call(self, action: Callable[[], T]) -> T:
        """The owner's thread: have a function run inside of the batch."""
        result: T = self._put(action).result()
        return result

    def _put(self, action: Callable[[], Any] | BaseException | None) -> Future[Any]:
        """Queue what to run, what to raise, or None for the end."""
        future: Future[Any] = Future()
        with self._lock:
            ended = self._ended
            if not ended:
                self._calls.put((action, future))
        if ended:
            self.over.result()
        return future

    def end(self, error: BaseException | None) -> None:
        """The owner's thread: commit, or roll back because of an error; raises what that raises."""
        self.left = True
        if error is None:
            self._put(None)
            self.over.result()
        else:
            with contextlib.suppress(BatchExpiredError, ClosedError):
                self._put(_RolledBackError("the block raised"))
            self.over.exception()  # the body's own error is the one to be seen


class _RolledBackError(ReplicationError):
    """The owner's block raised."""


class BlockingBatch:
    """A batch over the statements of a `with` block, of the thread that entered it."""

    def __init__(
        self, carrier: AgentThread, make: Callable[[], AbstractContextManager[object]]
    ) -> None:
        self._carrier = carrier
        self._make = make
        self._batch: Any = None
        self._hold: _Hold | None = None  # of the outermost block

    @property
    def delta(self) -> Delta:
        """What it wrote; empty until the outermost block is left."""
        return Delta() if self._batch is None else self._batch.delta

    def __enter__(self) -> Self:
        if not self._carrier.in_batch:
            self._hold, self._batch = self._carrier.hold(self._make)
        else:  # it belongs to that
            self._batch = self._carrier.enter(self._make)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._hold is not None:
            self._hold.end(error)
        else:
            self._carrier.call(self._batch.__exit__, kind, error, None)
