"""The causal kernel: one flat store `path -> {dot: entry}` and one causal context.

Every type in this package is a view on a kernel: a rule for what a mutation writes and which dots
it kills, and a rule for how live entries read as a value. What a kernel promises:

* State is a join semilattice (Shapiro et al. 2011): merging in any order, any number of times,
  gives the same state. Two kernels that applied the same events have equal canonical bytes.
* A removal leaves nothing in the state but a covered dot (Bieniusa et al. 2012); beside the state a
  record of it is kept for peers that lag (`record`), until they have it.
* Every mutation consumes a dot, removals included, so that the applied vector alone is a digest:
  once whole answers were applied, equal vectors mean equal states. (A removal without a dot leaves
  two replicas with equal vectors and different states for ever, and no vector exchange sees it.)
  Where a cut answer, or a liar, leaves them apart all the same, `state_digest` tells (`blocks`).
* One door: local mutations go through the writer (`writer`); everything else comes in through
  `apply`, `merge` and `apply_chunk`, checked first and then applied in full.

A kernel is pure: it never asks for the time, rolls no dice, does no I/O. It is not thread-safe.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from crdt.errors import (
    DeletionRefusedError,
    IdentityReusedError,
    InvalidArgumentError,
    InvalidValueRangeError,
    TypeMismatchError,
    UncopyableError,
    require,
)
from crdt.kernel import blocks as hashed
from crdt.kernel.change import type_of
from crdt.kernel.chunk import Chunk
from crdt.kernel.codec import element_of
from crdt.kernel.context import VersionVector, check_replica, check_vector, context_of
from crdt.kernel.delta import Delta
from crdt.kernel.doomed import BLOCK_BITS
from crdt.kernel.join import apply_delta, merge_state
from crdt.kernel.kind import below, check_document_type, kind_of
from crdt.kernel.live import entries_of
from crdt.kernel.replaced import Replaced
from crdt.kernel.since import can_tell, delta_since, documents_since
from crdt.kernel.snapshot import from_bytes, to_bytes
from crdt.kernel.state import RECORD_BYTES, State
from crdt.kernel.transfer import canonical_bytes, cut, take
from crdt.kernel.writer import Batch, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from crdt.kernel.blocks import Block
    from crdt.kernel.change import Change
    from crdt.kernel.chunk import ChunkSet
    from crdt.kernel.context import CausalContext, Dot, Range, Seen
    from crdt.kernel.hlc import HLC
    from crdt.kernel.kind import Path
    from crdt.kernel.live import Container

View_co = TypeVar("View_co", covariant=True)
Document = TypeVar("Document")
Thing = TypeVar("Thing")

_DELTA_HINT = "Delta.decode(data) makes a delta of bytes"
_CHUNK_HINT = "Chunk.decode(data) makes a chunk of bytes; apply the chunks of a ChunkSet one by one"
_KERNEL_HINT = "Kernel.from_bytes(data, replica=new_id) makes a kernel of bytes; view.kernel is one"


def _instance(given: object, wanted: type[Thing], hint: str) -> Thing:
    if not isinstance(given, wanted):
        text = f"wanted a {wanted.__name__}, not a {type(given).__name__}"
        raise InvalidArgumentError(text, hint=hint)
    return given


def _callable(name: str, given: Thing) -> Thing:
    if given is not None and not callable(given):
        raise InvalidArgumentError(f"{name} is a function or None, not {given!r:.80}")
    return given


def _bytes(bytes_max: object) -> int:
    if type(bytes_max) is not int or bytes_max < 1:
        raise InvalidArgumentError(f"bytes_max is an int of at least 1, not {bytes_max!r:.80}")
    return bytes_max


def _bytes_or_none(bytes_max: object) -> int | None:
    return None if bytes_max is None else _bytes(bytes_max)


def _range(dots: Range) -> Range:
    if type(dots) is not tuple or tuple(map(type, dots)) != (str, int, int):
        raise InvalidArgumentError(f"a range is (replica id, first, last), not {dots!r:.80}")
    return dots


class DocumentType(Protocol[View_co]):
    """What `Kernel.document` accepts: a view class, or a parametrised one."""

    @property
    def type_name(self) -> str:
        """The type's part of a path."""

    def attach(self, kernel: Kernel, container: Container) -> View_co:
        """A view on a container of a kernel."""


class Kernel:
    """A replica's whole state; its documents are views on it.

    `replica` is used as given and must be unique per life. `clock` returns milliseconds and is
    passed by the caller; without one the hybrid clock is a Lamport clock (see `hlc`; do not
    mix the two in one document).
    """

    __slots__ = ("_state", "_writer")

    def __init__(self, replica: str, *, clock: Callable[[], int] | None = None) -> None:
        self._state = State(check_replica(replica), _callable("clock", clock))
        self._writer = Writer(self._state)

    @property
    def writer(self) -> Writer:
        """The writing half, for the views."""
        return self._writer

    # ---------------------------------------------------------------------------- knowledge

    @property
    def replica(self) -> str:
        """The id under which this kernel writes."""
        return self._state.replica

    @property
    def clock(self) -> HLC:
        """The hybrid clock; `kernel.clock.skewed` counts stamps too far ahead to follow."""
        return self._state.clock

    @property
    def vector(self) -> VersionVector:
        """The applied vector: the digest to show to peers. O(what changed since the last look).

        While a batch is open it is the one before: what may be rolled back is known to nobody.
        """
        vector = self._state.applied.vector
        if self._writer.open_batch is None:
            return vector
        return vector.replaced({self.replica: self._writer.published()})

    @property
    def context(self) -> CausalContext:
        """A snapshot of all dots seen; the `seen=` of a later mutation. O(origins).

        While a batch is open it is the one before it, like `vector`.
        """
        context = self._state.context.copy()
        if self._writer.open_batch is not None:
            context.take_back(self.replica, self._writer.published())
        return context

    @property
    def entries(self) -> int:
        """Live entries. O(origins)."""
        return self._state.live.count()

    @property
    def records_bytes(self) -> int:
        """What removal records take. O(origins)."""
        return RECORD_BYTES * sum(log.kills.slots for log in self._state.live.logs)

    def stats(self) -> dict[str, int]:
        """What the kernel holds: entries, origins, cloud, doomed, chunks, records, encodings.

        O(origins).
        """
        state = self._state
        return {
            "entries": self.entries,
            "containers": len(state.live.containers),
            "origins": len(state.context.seqs.keys() | state.context.clouds.keys()),
            "cloud": len(state.context.cloud),
            "doomed": len(state.doomed),
            "chunks_aside": sum(len(came.chunks) for came in state.chunk_sets.values()),
            "chunks_aside_bytes": sum(came.memory_bytes for came in state.chunk_sets.values()),
            "chunks_forgotten": state.chunks_forgotten,
            "records": sum(log.kills.ranges for log in state.live.logs),
            "records_bytes": self.records_bytes,
            "skewed_stamps": state.clock.skewed,
            "replaced_bytes": 0 if state.replaced is None else state.replaced.bytes_held,
            "encodings_bytes": state.live.encodings.bytes_held,
            "encodings_made": state.live.encodings.made,
            "encodings_given": state.live.encodings.given,
        }

    # ---------------------------------------------------------------------------- documents

    def document(self, name: str, kind: type[Document] | DocumentType[Document]) -> Document:
        """The view of (name, type); the same name with another type is another document."""
        path = below((), name, check_document_type(kind))
        self._writer.admit()
        wanted = cast("DocumentType[Document]", kind)  # a class is one, too
        return wanted.attach(self, self._state.live.container(path))

    def documents(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        """(name, type) of the documents that hold live state, in order; of names under a prefix."""
        for path in self._roots(prefix):
            yield path[0], type_of(path[1])

    def _roots(self, prefix: str) -> list[Path]:
        if type(prefix) is not str:
            raise InvalidArgumentError(f"a prefix of names is text, not {prefix!r:.80}")
        containers = self._state.live.containers
        return sorted(path for path in containers if len(path) == 2 and path[0].startswith(prefix))

    def delete(self, prefix: str, *, seen: Seen | None = None) -> Delta:
        """Reset every document whose name starts with `prefix`: one event, so all or nothing.

        An observed reset, as of a child of an ORMap: what others write concurrently survives, and
        only that; with `seen`, so does what it does not cover. O(documents + entries that go).

        Raises:
            DeletionRefusedError: a BoundedCounter is among them; nothing was changed.
            InvalidValueRangeError: an empty prefix, which every name has; nothing was changed.
        """
        roots = self._roots(prefix)
        if not prefix:
            raise InvalidValueRangeError("an empty prefix would delete every document")
        if bounded := [path[0] for path in roots if kind_of(path).name == "BoundedCounter"]:
            raise DeletionRefusedError(tuple(bounded))
        context = None if seen is None else context_of(seen)
        places = [
            (container, step)
            for path in roots
            for container in self._state.live.containers[path].subtree()
            for step in container.rows
        ]
        return self._writer.write(self._writer.observed(places, context))

    def rows(self, name: str, kind: type[Document] | DocumentType[Document]) -> int:
        """How many rows a document has: elements, keys, or 1 for what has none. O(1)."""
        found = self._state.live.containers.get(below((), name, check_document_type(kind)))
        return 0 if found is None else len(found.rows)

    def authors(
        self, name: str, kind: type[Document] | DocumentType[Document]
    ) -> Iterator[tuple[Any, str]]:
        """(element or key, id of the replica that wrote it) of a document's rows. O(rows).

        A row that several wrote at the same time comes once for each.
        """
        live = self._state.live
        found = live.containers.get(below((), name, check_document_type(kind)))
        for step, row in list(found.rows.items()) if found is not None else ():
            for entry in entries_of(row):
                yield element_of(step), live.dot(entry[0]).replica

    def documents_since(self, vector: Mapping[str, int]) -> tuple[set[tuple[str, Any]], bool]:
        """(name, type) of the documents that changed after a vector; whether these are all.

        Emptied ones are among them. They are not all if history that old is given up (`floor`), or
        if nothing tells any longer where something removed was. O(changes since).
        """
        self._writer.refuse_inside_batch()
        places, complete = documents_since(self._state, check_vector(vector))
        return {(path[0], type_of(path[1])) for path in places}, complete

    def documents_at(self, dots: Range) -> set[str | None]:
        """The documents of live entries among some dots; None stands for dots never seen. O(range).

        So a caller may judge a removal, which names dots, by the documents that it touches.
        """
        origin, first, last = _range(dots)
        live = self._state.live
        found: set[str | None] = set()
        log = live.history(origin)
        for seq, container, step in log.slots(first, last):
            if live.entry(container, step, log.base + seq) is not None:
                found.add(container.path[0])
        if any(self._state.context.missing(origin, first, last)):
            found.add(None)
        return found

    def places_at(self, dots: Range) -> list[tuple[int, str]]:
        """(seq, document) of each live entry among some dots of one origin, ascending. O(range)."""
        origin, first, last = _range(dots)
        live = self._state.live
        log = live.history(origin)
        return [
            (seq, container.path[0])
            for seq, container, step in log.slots(first, last)
            if live.entry(container, step, log.base + seq) is not None
        ]

    # ------------------------------------------------------------------------------- writes

    def batch(self, bytes_max: int | None = None) -> Batch:
        """Group mutations: `with kernel.batch() as batch: ...`, then `batch.delta`.

        Values read inside show what the batch wrote. Nothing of it leaves before its end: `vector`
        and `context` show what was before, and whatever would hand out the state (`merge` on either
        side, deltas, chunks, bytes, digests, forks) raises BatchOpenError.

        They take a contiguous run of dots and leave as one delta at the end of the outermost block.
        An exception, or more than `bytes_max` bytes (default `kernel.batch_bytes_max`), rolls back
        everything, as does what would weigh more than twice that where it is taken in (see
        `Delta.decode`); mutators inside return an empty delta, because nothing has left yet.
        """
        return Batch(self._writer, _bytes_or_none(bytes_max))

    @property
    def in_batch(self) -> bool:
        """Whether a batch is open: the state holds what may yet be rolled back."""
        return self._writer.open_batch is not None

    def void(self, last_seq: int) -> Delta:
        """Cover own numbers up to last_seq that will never be used (leased before a crash)."""
        return self._writer.void(last_seq)

    @property
    def on_delta(self) -> Callable[[Delta, Change], None] | None:
        """Called once per local mutation or outermost batch, before the mutator returns.

        The state is complete by then: the callback may read, write, or replace itself; if it
        raises, the mutator raises and the mutation stands.
        """
        return self._writer.on_delta

    @on_delta.setter
    def on_delta(self, callback: Callable[[Delta, Change], None] | None) -> None:
        self._writer.on_delta = _callable("on_delta", callback)

    @property
    def before_write(self) -> Callable[[], None] | None:
        """Called before each local mutation or outermost batch; raising refuses it."""
        return self._writer.before_write

    @before_write.setter
    def before_write(self, callback: Callable[[], None] | None) -> None:
        self._writer.before_write = _callable("before_write", callback)

    @property
    def current_owner(self) -> Callable[[], object] | None:
        """Tells who runs now, where that may change while a batch is open: tasks, for instance.

        It returns one object per owner, which can be referred to weakly, and raises at those who
        may not come to this kernel at all. A batch belongs to who opened it, and is rolled back
        before somebody else reads or writes; its owner gets BatchInterruptedError.
        """
        return self._writer.current_owner

    @current_owner.setter
    def current_owner(self, callback: Callable[[], object] | None) -> None:
        self._writer.current_owner = callback

    @property
    def on_batch(self) -> Callable[[], None] | None:
        """Called when an outermost batch begins, so that its end can be seen to (`interrupt`)."""
        return self._writer.on_batch

    @on_batch.setter
    def on_batch(self, callback: Callable[[], None] | None) -> None:
        self._writer.on_batch = callback

    def keep_replaced(self, bytes_max: int) -> None:
        """From now on remember what is seen replaced, for `explain`, in so many bytes of memory.

        It begins anew with each call, and is no part of the state: not of copies, nor of bytes.
        """
        bytes_max = _bytes(bytes_max)
        live = self._state.live
        known = bool(self._state.context.seqs or self._state.context.clouds)
        self._state.replaced = Replaced(live.bases, bytes_max, begins_late=known)

    def admit(self) -> None:
        """Roll back an open batch that is not of who runs now: see `current_owner`."""
        self._writer.admit()

    def interrupt(self) -> None:
        """Roll back an open batch, whosever it is: it was held for too long."""
        self._writer.interrupt()

    @property
    def batch_bytes_max(self) -> int | None:
        """The limit of a single mutation, and of a batch that brings none of its own."""
        return self._writer.bytes_max

    @batch_bytes_max.setter
    def batch_bytes_max(self, bytes_max: int | None) -> None:
        self._writer.bytes_max = _bytes_or_none(bytes_max)

    @property
    def chunks_aside_bytes_max(self) -> int:
        """The memory that incomplete chunk sets may take together; at it the oldest set goes.

        Nothing of the state is lost with it: its chunks are merely to be asked for again
        (`stats()["chunks_forgotten"]` counts them). A lower limit holds from the next chunk on.
        """
        return self._state.chunks_aside_bytes_max

    @chunks_aside_bytes_max.setter
    def chunks_aside_bytes_max(self, bytes_max: int) -> None:
        self._state.chunks_aside_bytes_max = _bytes(bytes_max)

    # -------------------------------------------------------------------------------- joins

    def apply(self, delta: Delta) -> Change:
        """Take in events of others: in any order, any number of times, in full or not at all.

        Raises:
            IdentityReusedError: it holds own events that this life never made.
            DoubleSpentDotError: it contradicts a live entry.
            DoomedFullError: it removes too many dots that are still unknown here.
            DecodeError: made by hand, it holds what no replica would accept as bytes.
            ClockError: the clock of this replica gives no time in milliseconds.
        """
        self._writer.refuse_inside_batch()
        delta = _instance(delta, Delta, _DELTA_HINT).admitted()
        self._state.read_clock()
        return apply_delta(self._state, delta, own=False)

    def replay(self, delta: Delta) -> Change:
        """`apply` for a journal of this very life being read back: own events are welcome."""
        self._writer.refuse_inside_batch()
        delta = _instance(delta, Delta, _DELTA_HINT).admitted()
        self._state.read_clock()
        change = apply_delta(self._state, delta, own=True)
        self._writer.resume()
        return change

    def merge(self, other: Kernel) -> Change:
        """Join with the full state of another kernel. O(both)."""
        self._writer.refuse_inside_batch()
        _instance(other, Kernel, _KERNEL_HINT)
        other._writer.refuse_inside_batch()
        self._state.read_clock()
        return merge_state(self._state, other._state)

    def delta_since(
        self, vector: Mapping[str, int], *, bytes_max: int | None = None, pieces: bool = False
    ) -> Delta:
        """The events that a replica with this vector lacks, oldest first per origin. O(answer).

        `bytes_max` cuts it between batches; at least one batch is given. What is asked again, and
        did not change, is not encoded again; with `pieces` an origin may have several runs, as they
        were encoded for readers who stand elsewhere.

        Raises:
            BelowFloorError: removal records it would need are gone; use `chunks`.
        """
        self._writer.refuse_inside_batch()
        limit = _bytes_or_none(bytes_max)
        return delta_since(self._state, check_vector(vector), limit, pieces=pieces)

    def can_tell(self, vector: Mapping[str, int]) -> bool:
        """Whether `delta_since` would answer that vector, and not raise. O(origins)."""
        self._writer.refuse_inside_batch()
        return can_tell(self._state, check_vector(vector))

    def chunks(self, bytes_max: int) -> ChunkSet:
        """The state as chunks of about `bytes_max` bytes before compression. O(n)."""
        self._writer.refuse_inside_batch()
        chunks = cut(self._state, _bytes(bytes_max))
        self._state.know_set(chunks.id)
        return chunks

    def apply_chunk(self, chunk: Chunk, contradicted: set[Dot] | None = None) -> Change:
        """Keep one chunk aside; the last of its set joins all of them. Raises like `apply`.

        With a set for `contradicted`, a dot that is alive here as another entry is no error: what
        is here stays, the rest is joined, and the dot is put there to be reported.

        Also raises ChunksAsideFullError if the set would take more than `chunks_aside_bytes_max`.
        """
        self._writer.refuse_inside_batch()
        self._state.read_clock()
        return take(self._state, _instance(chunk, Chunk, _CHUNK_HINT), contradicted)

    # ------------------------------------------------------------------------------ the state

    def hash_blocks(self, blocks_max: int = 1 << 40) -> bool:
        """Bring the hashes behind `state_digest` up to date, so many blocks of 1 024 seqs at most.

        Whether they are now: if not, go on when there is time. O(blocks hashed + origins); False
        while a batch is open.
        """
        return not self.in_batch and hashed.refresh(self._state, blocks_max)

    @property
    def state_digest(self) -> bytes:
        """16 bytes: of kernels with equal vectors they are equal iff the states are.

        b"" means that there is none now: hashes are out of date (`hash_blocks`), or something was
        seen beyond the applied vector, so that vectors do not tell who should be equal. O(origins).
        """
        return b"" if self.in_batch else hashed.digest(self._state)

    def block_hashes(self) -> dict[Block, bytes]:
        """(origin, block) -> hash, of blocks that hold something, in order. O(blocks)."""
        self._writer.refuse_inside_batch()
        return hashed.hashes(self._state)

    def block_chunks(self, blocks: Iterable[Block], bytes_max: int) -> ChunkSet:
        """These blocks as a set of chunks: whoever heard the same and joins it is mended by it.

        What this kernel knows to be dead dies there; nothing comes alive by it, and no vector
        rises. O(entries in the blocks).
        """
        self._writer.refuse_inside_batch()
        return hashed.cut_blocks(self._state, blocks, _bytes(bytes_max))

    def share_doomed(self, owner_of: Callable[[str], str], share_max: int) -> None:
        """Let the removals of one owner doom so many unseen dots at most; more are refused.

        `owner_of` says whose an origin is. What is doomed already stays.
        """
        self._state.owner_of = owner_of
        self._state.doomed_share_max = min(share_max, self._state.doomed_max)

    def drop_records(self, upto: Mapping[str, int] | None = None) -> None:
        """Forget removal records up to these seqs (default: all); raises the floors."""
        self._writer.refuse_inside_batch()
        self._state.drop_records(self.vector if upto is None else check_vector(upto))

    # ---------------------------------------------------------------------------- identity

    def fork(self, replica: str) -> Kernel:
        """An independent copy that writes under another id. O(n)."""
        self._writer.refuse_inside_batch()
        twin = Kernel(replica, clock=self._state.now_ms)
        mine, theirs = self._state, twin._state  # our own class
        if mine.context.last_seq(replica):
            raise IdentityReusedError(replica, mine.context.last_seq(replica), 0)
        theirs.live = mine.live.copy()
        theirs.live.base(replica)
        theirs.applied = mine.applied.copy()
        theirs.context = theirs.applied if mine.context is mine.applied else mine.context.copy()
        theirs.doomed, theirs.doomed_max = mine.doomed.copy(), mine.doomed_max
        theirs.doomed_share_max, theirs.owner_of = mine.doomed_share_max, mine.owner_of
        theirs.live.dirty.update(dot >> BLOCK_BITS for dot in mine.doomed)
        theirs.known_sets = list(mine.known_sets)
        theirs.records, theirs.records_max = mine.records, mine.records_max
        theirs.chunks_aside_bytes_max = mine.chunks_aside_bytes_max
        theirs.chunk_sets = {key: came.copy() for key, came in mine.chunk_sets.items()}
        theirs.clock.observe(mine.clock.last)
        twin._writer.resume()
        return twin

    def reincarnate(self, replica: str) -> None:
        """Go on under a new id, in place: views stay valid, the next own dot is (replica, 1).

        What was written before stays, as events of a foreign origin.
        """
        self._writer.refuse_inside_batch()
        if self._state.context.last_seq(check_replica(replica)):
            raise IdentityReusedError(replica, self._state.context.last_seq(replica), 0)
        self._state.replica = replica
        self._writer.resume()

    def to_bytes(self, *, records: bool = True, only: str = "") -> bytes:
        """Everything, for a restart: clock, floors and, unless told otherwise, records. O(n).

        `only` is the type of the one document in here, for `from_bytes` to check.
        """
        self._writer.refuse_inside_batch()
        return to_bytes(self._state, records=records, only=only)

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        *,
        replica: str,
        clock: Callable[[], int] | None = None,
        only: str = "",
    ) -> Kernel:
        """The kernel of such bytes, writing as `replica`: the same life's id, or a fresh one.

        Raises:
            DecodeError: not the bytes of a kernel.
            IdentityReusedError: the bytes of another life that knows events of this id.
            TypeMismatchError: of something other than one document of the type `only`, if given.
        """
        kernel = cls(replica, clock=clock)
        kernel._state.read_clock()
        found = from_bytes(kernel._state, data)
        roots = {path for path in kernel._state.live.containers if len(path) == 2}
        if only and (found not in {"", only} or not roots <= {("", only)}):
            held = found or " and ".join(sorted({path[1] for path in roots}))
            raise TypeMismatchError(f"the bytes of a {held}, wanted those of a {only}")
        kernel._writer.resume()
        return kernel

    def canonical_bytes(self) -> bytes:
        """Live entries, context and doomed dots: equal iff the states are equal. O(n)."""
        self._writer.refuse_inside_batch()
        return canonical_bytes(self._state)

    def digest(self) -> bytes:
        """16 bytes that stand for `canonical_bytes`. O(n)."""
        return blake2b(self.canonical_bytes(), digest_size=16).digest()

    def __copy__(self) -> Kernel:
        raise UncopyableError("a copy would write under the same identity")

    def __deepcopy__(self, memo: object) -> Kernel:
        raise UncopyableError("a copy would write under the same identity")

    def __reduce_ex__(self, protocol: object) -> str:
        raise UncopyableError("a pickle would come back under the same identity")

    def __repr__(self) -> str:
        return f"Kernel({self.replica!r}, entries={self.entries}, vector={self.vector!r})"

    def _check(self) -> None:
        """Assert every invariant; the simulator calls this after each step. O(n)."""
        self._state._check()  # noqa: SLF001  # the checks of one room call each other
        wrong = hashed.disagreements(self._state)
        require(not wrong, f"hashes out of date, said to be fresh: {wrong}")
        own = self._state.applied.seqs.get(self.replica, 0)
        require(self._writer.last == own, f"last own seq {self._writer.last}, applied {own}")
