"""Schedules that may leave replicas apart under equal vectors, and what their blocks make of it.

Kernels exchange by vectors: whole answers, answers cut at a few bytes, chunk sets of which some
chunks are lost; they restart through their bytes, drop records, fork, and are lost for good between
two pieces of an answer. In between, hashes are made in slices. Then whoever is left gossips until
vectors are equal, and pairs whose digests differ mend one another, each from the other, once.

`divergence` plants one on purpose: a removal whose kills are left out on the way; an entry that one
replica lost, or holds in another form (flips); two events told under one number (equivocation).
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import permutations
from typing import TYPE_CHECKING

from crdt import BelowFloorError, Delta, Dot, Kernel, LWWMap, LWWRegister, ORSet, Run, RWSet
from crdt.kernel.live import entries_of

if TYPE_CHECKING:
    from crdt.kernel.blocks import Block

KINDS = (ORSet, RWSet, LWWMap, LWWRegister)
PLANTED = ("", "kills left out", "entry lost", "entry changed", "equivocation")
MENDABLE = {"", "kills left out", "entry lost"}


def write(kernel: Kernel, dice: random.Random) -> None:
    """One mutation of a small universe; now and then a leap into another block."""
    if dice.random() < 0.08:
        kernel.void(kernel.vector.get(kernel.replica, 0) + dice.randint(1, 1500))
        return
    kind, key = dice.choice(KINDS), dice.randrange(5)
    view = kernel.document("d", kind)
    drop = dice.random() < 0.4
    if kind in (ORSet, RWSet):
        (view.remove if drop else view.add)(key)
    elif kind is LWWMap:
        view.delete(key) if drop else view.put(key, dice.randrange(99))
    else:
        view.clear() if drop else view.set(dice.randrange(99))


def rolled_back(kernel: Kernel, dice: random.Random) -> None:
    """A batch that leaves no trace."""
    try:
        with kernel.batch():
            for _ in range(3):
                write_in_batch(kernel, dice)
            raise LookupError
    except LookupError:
        pass


def write_in_batch(kernel: Kernel, dice: random.Random) -> None:
    view = kernel.document("d", ORSet)
    (view.remove if dice.random() < 0.5 else view.add)(dice.randrange(5))


def learn(mine: Kernel, theirs: Kernel, dice: random.Random, *, cut: bool = False) -> None:
    """Ask by vector, perhaps for a piece; chunks, perhaps not all, where records are gone."""
    bytes_max = dice.choice((1, 80, 200)) if cut else None
    try:
        delta = theirs.delta_since(mine.vector, bytes_max=bytes_max)
    except BelowFloorError:
        chunks = list(theirs.chunks(dice.choice((60, 200, 10_000))).chunks)
        dice.shuffle(chunks)
        for chunk in chunks[: dice.randint(1, len(chunks))] if cut else chunks:
            mine.apply_chunk(type(chunk).decode(chunk.encode()), set())
        return
    mine.apply(Delta.decode(delta.encode()))


def differing(mine: Kernel, theirs: Kernel) -> list[Block]:
    """Blocks in which they differ, by their hashes."""
    here, there = mine.block_hashes(), theirs.block_hashes()
    keys = here.keys() | there.keys()
    return sorted(key for key in keys if here.get(key) != there.get(key))


def mend(mine: Kernel, theirs: Kernel, bytes_max: int) -> set[Dot]:
    """One try: the blocks that differ, as a set; the dots that are beyond mending."""
    contradicted: set[Dot] = set()
    for chunk in theirs.block_chunks(differing(mine, theirs), bytes_max).chunks:
        mine.apply_chunk(type(chunk).decode(chunk.encode()), contradicted)
    return contradicted


def without_kills(delta: Delta) -> Delta:
    """The delta, as if nothing in it had killed anything."""
    return Delta(
        tuple(
            Run(
                run.origin,
                run.first,
                run.last,
                tuple((*row[:5], ()) for row in run.rows if row[1] is not None),
                run.batches,
            )
            for run in delta.runs
        )
    )


class Schedule:
    """One history of a seed, run up to equal vectors."""

    def __init__(self, seed: int, planted: str = "") -> None:
        self.dice = random.Random(seed)
        self.lives = 0
        self.statistics: Counter[str] = Counter()
        self.kernels = [self._newcomer() for _ in range(self.dice.randint(3, 5))]
        for _ in range(self.dice.randint(15, 40)):
            self._step()
        self.planted: set[Dot] = set()
        if planted == "kills left out":
            self._leave_kills_out()
        if planted == "equivocation":
            self._equivocate()
        self.gossip()
        if planted.startswith("entry"):
            self.level()  # so that what differs afterwards is what was planted
            self._flip(change=planted == "entry changed")

    def _newcomer(self) -> Kernel:
        self.lives += 1
        return Kernel(f"r{self.lives:03d}")

    def _step(self) -> None:
        dice, kernels = self.dice, self.kernels
        one, other = dice.sample(range(len(kernels)), 2)
        mine, theirs = kernels[one], kernels[other]
        what = dice.choices(
            ("write", "ask", "cut", "restart", "drop", "fork", "lose", "hash", "rollback", "merge"),
            (40, 12, 14, 6, 4, 2, 3, 8, 2, 1),
        )[0]
        self.statistics[what] += 1
        if what == "write":
            write(mine, dice)
        elif what in {"ask", "cut"}:
            learn(mine, theirs, dice, cut=what == "cut")
        elif what == "restart":
            kernels[one] = Kernel.from_bytes(mine.to_bytes(), replica=mine.replica)
        elif what == "drop":
            mine.drop_records({name: dice.randint(0, seq) for name, seq in mine.vector.items()})
        elif what == "fork":
            self.lives += 1
            kernels[one] = mine.fork(f"r{self.lives:03d}")
        elif what == "lose":
            self._lose(one, other)
        elif what == "hash":
            mine.hash_blocks(dice.randint(1, 3))
        elif what == "rollback":
            rolled_back(mine, dice)
        else:
            mine.merge(theirs)

    def _lose(self, one: int, other: int) -> None:
        """Somebody tells another alone; that one begins an answer to a third; both are lost."""
        write(self.kernels[one], self.dice)
        learn(self.kernels[other], self.kernels[one], self.dice)
        self.kernels[one] = self._newcomer()
        learn(self.kernels[one], self.kernels[other], self.dice, cut=True)
        self.kernels[other] = self._newcomer()

    # ------------------------------------------------------------------------- plants

    def _leave_kills_out(self) -> None:
        """Somebody hears of removals as if they had removed nothing."""
        one, other = self.dice.sample(self.kernels, 2)
        learn(other, one, self.dice)
        for kind in (ORSet, LWWMap):
            one.document("planted", kind)
        one.document("planted", ORSet).add("x")
        learn(other, one, self.dice)
        delta = one.document("planted", ORSet).remove("x")
        other.apply(without_kills(delta))

    def _equivocate(self) -> None:
        """Somebody tells two replicas different things under one number."""
        one, other = self.dice.sample(self.kernels, 2)
        for told, value in ((one, "pay 1"), (other, "pay 1000")):
            liar = Kernel("liar")
            told.apply(liar.document("order", LWWRegister).set(value))
        self.planted = {Dot("liar", 1)}

    def _flip(self, *, change: bool) -> None:
        """An entry is lost, or becomes another one; what memory holds is hashed after a restart."""
        index = self.dice.randrange(len(self.kernels))
        kernel = self.kernels[index]
        kernel.document("planted", LWWRegister).set("x")
        for other in self.kernels:
            learn(other, kernel, self.dice)
        live = kernel._state.live
        found = [
            (container, step, entry)
            for container in live.containers.values()
            for step, row in container.rows.items()
            for entry in entries_of(row)
            if entry[1]  # a stamp, to be another one
        ]
        container, step, entry = self.dice.choice(found)
        live.kill(container, step, entry[0])
        if change:
            live.insert(container, step, (entry[0], entry[1] + 1, entry[2]))
            origin, seq = live.dot(entry[0])
            live.log(origin).rewrite()
            if live.log(origin).find(seq) is None:
                live.log(origin).place(seq, container, step)
            self.planted = {live.dot(entry[0])}
        self.kernels[index] = Kernel.from_bytes(kernel.to_bytes(), replica=kernel.replica)
        self.gossip()

    # ------------------------------------------------------------------------- the end

    def gossip(self) -> None:
        """Exchange by vectors until nobody lacks anything."""
        news = True
        while news:
            news = False
            for mine, theirs in permutations(self.kernels, 2):
                if not theirs.vector <= mine.vector:
                    learn(mine, theirs, self.dice)
                    news = True

    def level(self) -> None:
        """Join all states, so that nothing differs."""
        for mine, theirs in permutations(self.kernels, 2):
            mine.merge(theirs)
        for mine, theirs in permutations(self.kernels, 2):
            mine.merge(theirs)

    def hashed(self) -> None:
        """Hashes up to date, made in slices, and right."""
        for kernel in self.kernels:
            while not kernel.hash_blocks(2):
                pass
            kernel._check()

    def apart(self) -> bool:
        """Whether states differ; digests have to say the same."""
        self.hashed()
        apart = False
        for mine, theirs in permutations(self.kernels, 2):
            assert mine.vector == theirs.vector
            differ = mine.canonical_bytes() != theirs.canonical_bytes()
            if mine.state_digest and theirs.state_digest:
                assert differ == (mine.state_digest != theirs.state_digest)
                assert differ == bool(differing(mine, theirs))
                self.statistics["compared"] += 1
            apart = apart or differ
        return apart

    def mend(self) -> set[Dot]:
        """Each from each, once, by the blocks that differ; what is beyond mending."""
        contradicted: set[Dot] = set()
        for mine, theirs in permutations(self.kernels, 2):
            self.hashed()
            if mine.state_digest != theirs.state_digest:
                assert mine.state_digest
                assert theirs.state_digest
                contradicted |= mend(mine, theirs, self.dice.choice((60, 500, 100_000)))
                self.statistics["mended"] += 1
        return contradicted
