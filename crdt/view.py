"""What every type has in common: it is a view on a container of a kernel.

`ORSet("a")` owns a private kernel and may merge; `kernel.document("tags", ORSet)` and the children
of an ORMap share theirs and may not, because a merge is a matter of whole kernels: their context
speaks about all documents at once. The same class serves both.

`View` is the one base of the types, so that owning, copying and showing are written once; a type
adds what its mutations kill and write, and how its live entries read as a value.

One rule of equality for all types: a view is equal to whatever its `value` is equal to, and two
views are equal if their values are, as Python compares them. So it has no hash, like any object
whose equal ones may change. (Whether two *states* are equal, `canonical_bytes` says.)

An operator that Python spells in place (`+=`, `|=`, ...) writes where the type can mean it, as one
batch, and gives the view back, so that it works on names, attributes and items alike. Where a type
cannot mean it, it is refused: Python would else compute a plain value and put it in the view's
place, and the write would be lost without a word.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

from crdt.errors import (
    CRDTError,
    InvalidValueError,
    InvalidValueTypeError,
    OperatorRefusedError,
    SharedKernelError,
    TypeMismatchError,
    UncopyableError,
)
from crdt.kernel import (
    KINDS,
    TYPES,
    CausalContext,
    Container,
    Delta,
    Kernel,
    Row,
    Seen,
    Step,
    context_of,
    element_of,
    entries_of,
    pack,
    thaw,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from crdt.codec import Codec
    from crdt.kernel import Batch, Change, Victim, Writer

_SHOWN_MAX = 500  # characters of a value in its repr


_IN_PLACE = {
    "iadd": "+=",
    "isub": "-=",
    "imul": "*=",
    "imatmul": "@=",
    "itruediv": "/=",
    "ifloordiv": "//=",
    "imod": "%=",
    "ipow": "**=",
    "ilshift": "<<=",
    "irshift": ">>=",
    "iand": "&=",
    "ixor": "^=",
    "ior": "|=",
}
Class = TypeVar("Class", bound=type)


def refusing_in_place(cls: Class) -> Class:
    """Refuse every operator in place until a subclass means it, with the class's `_instead`.

    Set from outside of the class, because a type checker shall go on reporting them.
    """

    def refusal(sign: str) -> Callable[[Any, object], Any]:
        def refuse(self: Any, operand: object) -> Any:  # noqa: ARG001  # whatever it is
            name = getattr(self, "type_name", type(self).__name__).partition(":")[0]
            raise OperatorRefusedError(sign, name, self._instead)  # of the class

        return refuse

    for name, sign in _IN_PLACE.items():
        refuse = refusal(sign)
        refuse.__name__ = f"__{name}__"
        refuse.__qualname__ = f"{cls.__name__}.{refuse.__name__}"
        setattr(cls, refuse.__name__, refuse)
    return cls


def plain(value: object) -> Any:
    """The value of a view; whatever else it is, itself. What operators compute with."""
    return value.value if isinstance(value, View) else value


@refusing_in_place
class View:
    """Base of all types. `replica` and `clock` are those of the private kernel (see `Kernel`)."""

    __slots__ = ("_codec", "_kernel", "_key_codec", "_owner", "_place", "_rows", "_writer")

    type_name: ClassVar[str] = ""
    _instead: ClassVar[str] = "call the mutator that says what is meant"  # of a refused operator
    _codec: Codec[Any] | None  # of values or elements, in the types that have `of`
    _key_codec: Codec[Any] | None  # of the keys of a map
    _place: Container  # `_container`, for who need not ask: the writer does, before it writes
    _kernel: Kernel
    _owner: bool
    _rows: dict[Step, Row]  # of the container, which keeps its dict for life
    _writer: Writer

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__name__ in KINDS:
            cls.type_name = cls.type_name or cls.__name__
            TYPES.put(cls)

    def __init__(self, replica: str, *, clock: Callable[[], int] | None = None) -> None:
        self._own(Kernel(replica, clock=clock), self.type_name)

    def _own(self, kernel: Kernel, type_name: str) -> Self:
        self._bind(kernel, kernel.document("", _Bare(type_name)))
        self._owner = True
        return self

    def _bind(self, kernel: Kernel, container: Container) -> None:
        self._kernel = kernel
        self._writer = kernel.writer
        self._place = container
        self._rows = container.rows
        self._owner = False
        self._codec = self._key_codec = None

    @classmethod
    def attach(cls, kernel: Kernel, container: Container) -> Self:
        """A view on a container of a kernel; `Kernel.document` calls it."""
        view = cls.__new__(cls)
        view._bind(kernel, container)  # noqa: SLF001  # an object of this class
        return view

    @property
    def _container(self) -> Container:
        """The container, free of what somebody else's open batch wrote (`Writer.admit`).

        Whoever reads asks for it once, first of all; who is in a hurry does the same by hand.
        """
        if self._writer.open_batch is not None:
            self._writer.admit()
        return self._place

    @property
    def _whole(self) -> Container:
        """The container, for who reads more than a row of it, which only its owner's thread may."""
        self._writer.admit()
        return self._place

    # ------------------------------------------------------------------------------ reading

    @property
    def value(self) -> Any:
        """The value as plain Python data, a snapshot."""
        raise NotImplementedError

    @property
    def replica(self) -> str:
        """The id under which this view writes."""
        return self._kernel.replica

    @property
    def kernel(self) -> Kernel:
        """The kernel that holds it."""
        return self._kernel

    @property
    def context(self) -> CausalContext:
        """What this replica has seen by now; hand it back as `seen=` after thinking."""
        return self._kernel.context

    def __eq__(self, other: object) -> bool:
        return bool(self.value == plain(other))

    __hash__: ClassVar[None]  # type: ignore[assignment]  # as for a list: what it equals may change

    def is_same(self, other: View) -> bool:
        """Whether both are views on one document of one kernel, and not only equal. O(1)."""
        return self._container is other._container

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def debug(self) -> str:
        """One line per live entry: path, step, dots, stamp, value. O(entries)."""
        live = self._writer.state.live
        lines = [f"{self!r}  vector={dict(sorted(self._kernel.vector.items()))}"]
        for container in self._whole.subtree():
            path = "/".join(container.path)
            for step, row in container.rows.items():
                for entry in entries_of(row):
                    stamp = f" @{entry[1]}" if entry[1] else ""
                    shown = f"{element_of(step)!r} -> {thaw(entry[2])!r}"
                    lines.append(f"  {path}  {shown}  {live.dot(entry[0])}{stamp}")
        return "\n".join(lines)

    def stats(self) -> dict[str, int]:
        """What it costs: rows, dots (live entries), cloud ranges, bytes. O(entries)."""
        rows = [item for place in self._whole.subtree() for item in place.rows.items()]
        entries = [[step, *entry] for step, row in rows for entry in entries_of(row)]
        return {
            "entries": len(rows),
            "dots": len(entries),
            "cloud": len(self._kernel.context.cloud),
            "bytes": len(pack([part for entry in entries for part in entry])),
        }

    def _shown(self) -> str:
        text = repr(self.value)
        return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}... {len(text)} characters"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown()})"

    def __rich__(self) -> str:
        shown = self._shown().replace("[", "\\[")
        return f"[bold]{type(self).__name__}[/bold] {shown} [dim]{self.replica}[/dim]"

    def _repr_html_(self) -> str:
        name, shown = type(self).__name__, escape(self._shown())
        return f"<code><b>{name}</b> {shown} <small>{escape(self.replica)}</small></code>"

    # ------------------------------------------------------------------------------ merging

    def merge(self, other: Self) -> Change:
        """Join with another replica of this type: see `Kernel.merge`.

        Raises:
            SharedKernelError: one of the two is a view on a kernel that holds more.
            TypeMismatchError: the other is of another type.
        """
        if type(other) is not type(self):
            raise TypeMismatchError(f"a {self.type_name} cannot merge a {type(other).__name__}")
        self._refuse_shared("merge")
        other._refuse_shared("merge")
        mine, theirs = self._place.path[-1], other._place.path[-1]
        if mine != theirs:
            raise TypeMismatchError(f"a {mine} cannot merge a {theirs}")
        return self._kernel.merge(other._kernel)

    def apply(self, delta: Delta) -> Change:
        """Take in a delta that another replica's mutator returned: see `Kernel.apply`.

        Raises:
            TypeMismatchError: it writes into a document of another type. (A removal alone names
                none: it says which events it takes back.)
        """
        self._refuse_shared("apply")
        if isinstance(delta, Delta):
            root = self._place.path
            for run in delta.runs:
                paths = run.span.paths if run.span is not None else [row[1] for row in run.rows]
                if odd := [path for path in paths if path is not None and path[:2] != root]:
                    raise TypeMismatchError(f"a delta of a {odd[0][1]}, wanted one of a {root[1]}")
        return self._kernel.apply(delta)

    def _refuse_shared(self, what: str) -> None:
        if not self._owner:
            raise SharedKernelError(
                f"{what} on {self._place.path[0]!r}: its kernel holds other documents too; "
                "use kernel.merge(), gossip, or import_value() to write its value anew"
            )

    def batch(self, bytes_max: int | None = None) -> Batch:
        """Group mutations into one delta: see `Kernel.batch`."""
        return self._kernel.batch(bytes_max)

    def import_value(self, value: Any) -> Delta:
        """Write plain data, as `value` of another document shows it, as new writes of this replica.

        What a view offers in place of `merge`: the data comes, its history does not, so that a
        second import of a counter counts twice. What has nothing to show does not come: removals,
        unset registers, flags that are off. One batch; atomic. O(size).
        """
        with self._kernel.batch() as batch:
            try:
                self._import(value)
            except (AttributeError, TypeError, ValueError) as error:
                if isinstance(error, CRDTError):
                    raise
                raise InvalidValueTypeError(
                    f"not the value of a {self.type_name}: {type(value).__name__}"
                ) from error
        return batch.delta

    def _import(self, value: Any) -> None:
        raise NotImplementedError

    # ------------------------------------------------------------------------------ copying

    def fork(self, replica: str) -> Self:
        """An independent copy that writes under another id. O(n)."""
        self._refuse_shared("fork")
        twin = type(self).__new__(type(self))._own(self._kernel.fork(replica), self.type_name)  # noqa: SLF001
        twin._codec, twin._key_codec = self._codec, self._key_codec  # noqa: SLF001  # as above
        return twin

    def to_bytes(self) -> bytes:
        """Everything, for a restart: see `Kernel.to_bytes`."""
        self._refuse_shared("to_bytes")
        return self._kernel.to_bytes(only=self._place.path[-1])

    @classmethod
    def from_bytes(
        cls, data: bytes, *, replica: str, clock: Callable[[], int] | None = None
    ) -> Self:
        """A replica from such bytes: the same life's id, or a fresh one.

        Raises:
            DecodeError: not the bytes of a replica.
            TypeMismatchError: of another type.
        """
        kernel = Kernel.from_bytes(data, replica=replica, clock=clock, only=cls.type_name)
        return cls.__new__(cls)._own(kernel, cls.type_name)  # noqa: SLF001

    def canonical_bytes(self) -> bytes:
        """Equal iff the states are equal: see `Kernel.canonical_bytes`."""
        self._refuse_shared("canonical_bytes")
        return self._kernel.canonical_bytes()

    def __copy__(self) -> Self:
        raise UncopyableError("a copy would write under the same identity")

    def __deepcopy__(self, memo: object) -> Self:
        raise UncopyableError("a copy would write under the same identity")

    def __reduce_ex__(self, protocol: object) -> str:
        raise UncopyableError("a pickle would come back under the same identity")

    # ----------------------------------------------------------------- for the types' mutators

    def _placed(self, error: InvalidValueError, key: str = "") -> InvalidValueError:
        """The refusal of a part of this document, saying which: `orders[42].note`."""
        if not error.placed:
            path = self._place.path
            error.where = f"{'.'.join(filter(None, path[::2])) or path[-1]}{key}{error.where}"
            error.placed = True
        return error

    def _victim(self, container: Container, step: Step, seen: Seen | None) -> Victim | None:
        """The part of a row that a mutation kills: all of it, or what the agent had seen."""
        victims = self._victims([(container, step)], seen)
        return victims[0] if victims else None

    def _victims(self, places: Iterable[tuple[Container, Step]], seen: Seen | None) -> list[Victim]:
        return self._writer.observed(places, None if seen is None else context_of(seen))

    def _reset(self, container: Container, seen: Seen | None) -> Delta:
        """Kill what was observed in a container and everything nested in it. O(rows)."""
        self._writer.admit()
        places = [(place, step) for place in container.subtree() for step in place.rows]
        return self._writer.write(self._victims(places, seen))

    def _replace(self, step: Step, stamp: int, value: Any, seen: Seen | None) -> Delta:
        """Write one entry in place of what was observed at its step."""
        if seen is None:
            return self._writer.put(self._place, step, stamp, value)
        victims = self._victims([(self._container, step)], seen)
        return self._writer.write(victims, (self._container, step, stamp, value))


V = TypeVar("V", bound=View)


class CodedType(Generic[V]):
    """The document type of views with codecs: what `LWWMap.of` and its like return.

    Give it where a type is wanted, as in `agent.document(name, LWWMap.of(Decimal))`; call it for a
    view that stands alone. The document is the same as without codecs.
    """

    __slots__ = ("_codec", "_key_codec", "_view")

    def __init__(
        self, view: type[V], codec: Codec[Any] | None, key_codec: Codec[Any] | None = None
    ) -> None:
        self._view = view
        self._codec = codec
        self._key_codec = key_codec

    @property
    def type_name(self) -> str:
        """The type's part of a path: that of the view."""
        return self._view.type_name

    @property
    def __name__(self) -> str:
        """That of the view class."""
        return self._view.__name__

    def attach(self, kernel: Kernel, container: Container) -> V:
        """A view on a container of a kernel; `Kernel.document` calls it."""
        return self._given(self._view.attach(kernel, container))

    def __call__(self, replica: str, *, clock: Callable[[], int] | None = None) -> V:
        """A view that stands alone, as by the class itself."""
        return self._given(self._view(replica, clock=clock))

    def from_bytes(self, data: bytes, *, replica: str, clock: Callable[[], int] | None = None) -> V:
        """`View.from_bytes`, with the codecs."""
        return self._given(self._view.from_bytes(data, replica=replica, clock=clock))

    def _given(self, view: V) -> V:
        view._codec, view._key_codec = self._codec, self._key_codec  # noqa: SLF001  # it is new
        return view

    def __repr__(self) -> str:
        named = [f"{codec!r}" for codec in (self._codec, self._key_codec) if codec is not None]
        return f"{self._view.__name__}.of({', '.join(named)})"


class _Bare:
    """A document type whose view is the container itself."""

    __slots__ = ("type_name",)

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name

    def attach(self, _kernel: Kernel, container: Container) -> Container:
        return container
