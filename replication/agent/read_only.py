"""Documents that the rules do not let this agent write: they read as always, and refuse mutators.

Theory of operation. A view writes through the `writer` of the kernel that it was attached to, and
so do the children that it hands out. A read-only view is attached to a stand-in whose writer has
every reading attribute of the real one and refuses the ways of writing. A check in the kernel's own
writer would be shorter, but every write of every replica would pay for it, inside a batch too.

So what peers would refuse at their merge (and what would stop this agent's origin there for good)
is refused before it happens, with a typed error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from replication.errors import ForbiddenWriteError

if TYPE_CHECKING:
    from crdt import DocumentType, Kernel

D = TypeVar("D")


class _ReadOnlyWriter:
    """The writing half of a kernel, without the writing."""

    def __init__(self, writer: Any, why: str) -> None:
        self._writer = writer
        self._why = why

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def _refuse(self, *_: object, **__: object) -> None:
        raise ForbiddenWriteError(self._why)

    put = write = stamp = _refuse


class _ReadOnlyKernel:
    """A kernel for views that may only read."""

    def __init__(self, kernel: Kernel, why: str) -> None:
        self._kernel = kernel
        self.writer = _ReadOnlyWriter(kernel.writer, why)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernel, name)


class _ReadOnlyType:
    """A document type whose views may only read."""

    def __init__(self, kind: Any, why: str) -> None:
        self.type_name: str = kind.type_name
        self._kind = kind
        self._why = why

    def attach(self, kernel: Kernel, container: Any) -> Any:
        """The view, on a stand-in of the kernel."""
        return self._kind.attach(_ReadOnlyKernel(kernel, self._why), container)


def read_only_view(kernel: Kernel, name: str, kind: type[D] | DocumentType[D], why: str) -> D:
    """The document (name, kind), to be read only; its mutators raise ForbiddenWriteError."""
    view: D = kernel.document(name, _ReadOnlyType(kind, why))
    return view
