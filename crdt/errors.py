"""What can go wrong with values that merge, one class per reason.

Every error says what happened to the state: unless its text says otherwise, nothing was changed.
Each class carries the data of its case as attributes, a stable `code` for programs and a `hint`
for people. Refusals of a user's argument are also the built-in a caller would expect (TypeError,
ValueError, KeyError), so that ordinary Python code around a replica needs no special cases.
"""

from __future__ import annotations

from typing import ClassVar, Final


class ConvocaError(Exception):
    """Root of all that convoca raises on purpose: in `crdt`, `replication`, `transactional`.

    Every class says three things, so that a program need not read the text:

    `code`   a word that stays the same across releases, and is used once in a package
    `state`  what became of the state, one of `STATES`
    `hint`   what to do next, for a person; the case may have a better one than its class
    """

    code: ClassVar[str] = "convoca"
    state: str = "unchanged"
    hint: str = "see docs/errors.md"
    out_of_reach: ClassVar[bool] = False
    """Nobody could be asked: the same call may succeed later, as it is."""

    @property
    def exit_status(self) -> int:
        """That of a command which ends by this error: 1 refused, 3 to 5 as docs/errors.md says."""
        return {"unknown": 4, "stands": 5}.get(self.state, 3 if self.out_of_reach else 1)


STATES: Final = {
    "unchanged": "nothing was changed, written or started by the call",
    "stands": "what was done before stands; only the wait for more of it ended",
    "unknown": "it may have happened, or happen yet; the hint says how to find out",
}


class CRDTError(ConvocaError):
    """Root of everything this package raises on purpose.

    `hint` is that of the class, unless the case has a better one.
    """

    code: ClassVar[str] = "crdt"
    hint: str = "the message says what was refused"

    def __init__(self, *args: object, hint: str = "") -> None:
        super().__init__(*args)
        self.advise(hint or self.hint)

    def advise(self, hint: str) -> None:
        """Let `hint` be this one; a traceback says it, too."""
        self.hint = hint
        self.__notes__ = [f"hint: {hint}"]


class InvariantError(CRDTError, AssertionError):
    """A promise of this package about its own state is broken: a bug here, please report it."""

    code = "invariant"
    hint = "keep the bytes of the replica and the seed that led here"


def require(condition: object, text: str) -> None:
    """Assert an invariant, also under `python -O`."""
    if not condition:
        raise InvariantError(text)


class InvalidValueError(CRDTError):
    """A value, element or key that cannot be stored. Nothing was changed.

    `where` says which part of what was to be written: `orders[42].note`.
    """

    code = "invalid_value"
    hint = "storable: None, bool, int, float, str, bytes, aware datetime, tuple, list, dict"
    where: str = ""
    placed: bool = False  # whether `where` begins with a document

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text}, at {self.where}" if self.where else text


class InvalidValueTypeError(InvalidValueError, TypeError):
    """The type is not storable (subclasses are refused too: they would not come back)."""


class InvalidValueRangeError(InvalidValueError, ValueError):
    """The type is right, this value of it is not: NaN as a key, a lone surrogate, too deep."""


class InvalidArgumentError(InvalidValueTypeError):
    """An argument of a type or range that the method does not take. Nothing was changed."""

    code = "invalid_argument"
    hint = "the message says what is taken"


class CodecError(InvalidValueError, ValueError):
    """A codec could not convert a value. At a write nothing was changed; a read changes nothing."""

    code = "codec"
    hint = "the document read without its codec shows what is stored"

    def __init__(self, text: str, codec: str, cause: Exception) -> None:
        super().__init__(f"{text} as {codec}: {type(cause).__name__}: {cause!s:.200}")
        self.codec = codec


class InvalidAmountError(CRDTError, ValueError):
    """An amount that this counter does not take, such as a negative increment of a GCounter."""

    code = "invalid_amount"
    hint = "an int of at most 1,024 bytes; >= 0 where a counter only grows (a PNCounter goes down)"


class InvalidAmountTypeError(InvalidAmountError, TypeError):
    """An amount that is not an int; True is refused as well."""


class InvalidReplicaError(CRDTError, ValueError):
    """A replica id that is empty, too long or not text."""

    code = "invalid_replica"
    hint = "a replica id is a non-empty str of at most 256 bytes, unique per life"


class DecodeError(CRDTError, ValueError):
    """Bytes that are not what they should be. Nothing was changed."""

    code = "decode"
    hint = "the bytes are damaged, cut or of another kind; ask the sender again"


class UnknownVersionError(DecodeError):
    """Bytes of a wire version that this release does not read."""

    code = "unknown_version"
    hint = "upgrade the older side"

    def __init__(self, version: int, known: int) -> None:
        super().__init__(f"wire version {version} is unknown; this release reads {known}")
        self.version = version
        self.known = known


class SharedKernelError(CRDTError, TypeError):
    """`merge` or `apply` on a view whose kernel holds other documents too. Nothing was changed."""

    code = "shared_kernel"
    hint = (
        "only kernels merge: use kernel.merge / kernel.apply, gossip, or import_value(other.value)"
    )


class TypeMismatchError(CRDTError, TypeError):
    """What comes in is of another type, or of another bound. Nothing was changed."""

    code = "type_mismatch"
    hint = "both sides are of the same type, and of the same bound: BoundedCounter(minimum=...)"


class OperatorRefusedError(CRDTError, TypeError):
    """An operator or an assignment that this type cannot mean. Nothing was changed.

    Without the refusal Python would compute a plain value and give it the view's name: the document
    would stay as it was, and nobody would be told. `hint` says what to write instead.
    """

    code = "operator_refused"
    hint = "the message says what to write instead"

    def __init__(self, operator: str, type_name: str, hint: str) -> None:
        self.hint = hint
        super().__init__(f"{type_name} has no `{operator}`; nothing was changed: {hint}")
        self.operator = operator
        self.type_name = type_name


class DeletionRefusedError(CRDTError, TypeError):
    """A deletion by prefix would forget rights that are spent. Nothing was changed."""

    code = "deletion_refused"
    hint = "a BoundedCounter is never deleted: keep it under a prefix of its own"

    def __init__(self, documents: tuple[str, ...]) -> None:
        super().__init__(f"BoundedCounters are among them: {', '.join(documents)}; {self.hint}")
        self.documents = documents


class UncopyableError(CRDTError, TypeError):
    """copy, deepcopy or pickle of a live type: two copies would write under one identity."""

    code = "uncopyable"
    hint = "use fork(new_id), or to_bytes() and from_bytes(data, replica=new_id)"


class ClockError(CRDTError, ValueError):
    """The `clock` of a replica gave no time in milliseconds. Nothing was changed."""

    code = "clock"
    hint = "clock= returns milliseconds since 1970 as an int: a millionth of time.time_ns"


class SeqsExhaustedError(CRDTError, ValueError):
    """The numbers of this replica's events are used up, or more was asked for than there are.

    Nothing was changed.
    """

    code = "seqs_exhausted"
    hint = "go on under a new id: kernel.reincarnate(new_id)"


class IdentityReusedError(CRDTError):
    """Somebody else wrote under this replica's id in another life. Nothing was changed."""

    code = "identity_reused"
    hint = "an id is for one life: start with a fresh id and merge the old state into it"

    def __init__(self, replica: str, seq: int, last: int) -> None:
        super().__init__(
            f"{replica!r} is told of its own event {seq}, but its last one is {last}; "
            "nothing was merged"
        )
        self.replica = replica
        self.seq = seq
        self.last = last


class DoubleSpentDotError(CRDTError):
    """One dot stands for two different entries. Nothing was changed."""

    code = "double_spent_dot"
    hint = "two processes wrote under one replica id; give one of them a new id"

    def __init__(self, replica: str, seq: int) -> None:
        super().__init__(f"dot ({replica!r}, {seq}) names two different entries; nothing changed")
        self.replica = replica
        self.seq = seq


class BelowFloorError(CRDTError):
    """The removal records a peer would need are gone. Nothing was changed."""

    code = "below_floor"
    hint = "send chunks() instead: the whole live state says what was removed"

    def __init__(self, origin: str, floor: int, asked: int) -> None:
        super().__init__(
            f"events of {origin!r} from {asked + 1} on: records up to {floor} are gone"
        )
        self.origin = origin
        self.floor = floor
        self.asked = asked


class DoomedFullError(CRDTError):
    """Too many removals whose adds are still unknown here. Nothing was changed."""

    code = "doomed_full"
    hint = "ask for the events of the missing origins first, then apply this delta again"

    def __init__(self, missing: frozenset[str], doomed_max: int) -> None:
        super().__init__(
            f"more than {doomed_max} unseen dots are doomed; missing: {sorted(missing)}"
        )
        self.missing = missing
        self.doomed_max = doomed_max


class ChunksAsideFullError(CRDTError):
    """An incomplete chunk set that alone takes more memory than all of them may.

    The chunk was not kept; the state and the chunks kept before are what they were.
    """

    code = "chunks_aside_full"
    hint = "raise kernel.chunks_aside_bytes_max, or ask for deltas instead of chunks"

    def __init__(self, set_id: bytes, size: int, bytes_max: int) -> None:
        super().__init__(
            f"chunk set {set_id.hex()} takes {size} bytes before it is complete, allowed are "
            f"{bytes_max}; the chunk was not kept"
        )
        self.set_id = set_id
        self.size = size
        self.bytes_max = bytes_max


class BatchTooLargeError(CRDTError, ValueError):
    """A batch over its limit. It was rolled back: no dot was spent."""

    code = "batch_too_large"
    hint = "split the work into several batches"

    def __init__(self, size: int, bytes_max: int) -> None:
        super().__init__(f"the batch takes {size} bytes, allowed are {bytes_max}; rolled back")
        self.size = size
        self.bytes_max = bytes_max


class ValueTooLargeError(BatchTooLargeError):
    """One value that takes more than may travel at once. Nothing was changed: no dot was spent.

    It is a BatchTooLargeError, because a write outside of a batch is a batch of one.
    """

    code = "value_too_large"
    hint = "store large things elsewhere and share where they are, or spread them over several keys"

    def __init__(self, size: int, bytes_max: int) -> None:
        super().__init__(size, bytes_max)
        self.args = (
            f"this value takes {size} bytes, allowed are {bytes_max}; nothing was changed",
        )


class BodyTooLargeError(CRDTError, ValueError):
    """What would leave in one piece is more than anybody takes in. The state is as it was."""

    code = "body_too_large"
    hint = "ask delta_since with bytes_max, or send chunks() of a few MiB"

    def __init__(self, size: int, bytes_max: int) -> None:
        super().__init__(f"{size} bytes in one piece, allowed are {bytes_max}")
        self.size = size
        self.bytes_max = bytes_max


class BatchOpenError(CRDTError):
    """While a local batch is open nothing comes in and nothing of the state leaves.

    What is in it may yet be rolled back, and its dots be used again. Nothing was changed.
    """

    code = "batch_open"
    hint = "leave the `with batch()` block first"


class BatchInterruptedError(CRDTError):
    """A batch was held open while somebody else came to the state. All of it was rolled back."""

    code = "batch_interrupted"
    hint = (
        "a batch is over before anybody else runs: wait first (await, yield), then write all of it "
        "at once, best in a plain function: agent.batch(write)"
    )

    def __init__(
        self,
        what: str = (
            "this batch was held over a suspension, and others came to the state: "
            "its writes were rolled back, nobody has seen them"
        ),
    ) -> None:
        super().__init__(what)


class OpIdReusedError(CRDTError, ValueError):
    """An operation id came back with another amount. Nothing was changed."""

    code = "op_id_reused"
    hint = "an op_id names one operation: use a new id for another amount"

    def __init__(self, op_id: str, expected: int, actual: int) -> None:
        super().__init__(f"op_id {op_id!r} counted {expected}, now it says {actual}")
        self.op_id = op_id
        self.expected = expected
        self.actual = actual


class InsufficientRightsError(CRDTError):
    """This replica does not hold the rights for the decrement. Nothing was changed."""

    code = "insufficient_rights"
    hint = "ask a replica that holds rights for a transfer"

    def __init__(self, wanted: int, local: int) -> None:
        super().__init__(f"wanted {wanted}, this replica holds rights for {local}")
        self.wanted = wanted
        self.local = local


class AmbiguousNameError(CRDTError, KeyError):
    """A name of an ORMap holds children of several types. Nothing was changed."""

    code = "ambiguous_name"
    hint = "say which one: the_map[name, Type], or the_map['name:Type']"

    def __init__(self, name: str, types: tuple[str, ...]) -> None:
        super().__init__(f"{name!r} holds {' and '.join(types)}")
        self.name = name
        self.types = types

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownChildError(CRDTError, KeyError):
    """No child of that name is alive in an ORMap. Nothing was changed."""

    code = "unknown_child"
    hint = "the_map[name, Type] gives a child that comes alive when it is written to"

    def __init__(self, key: object) -> None:
        super().__init__(f"no child {key!r} is alive; {self.hint}")
        self.key = key

    def __str__(self) -> str:
        return str(self.args[0])
