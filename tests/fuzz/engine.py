"""Fuzzing by where a decoder stops: mutate what is kept, keep what stops somewhere new.

An input is worth keeping if the decoder ends at a place where none of the kept ones does: the lines
of our own code along which its refusal came, or that it was taken.  That is coverage of what a
hostile input can reach, without tracing.  The corpus of a target are small files in
`tests/fuzz/corpus/NAME`, in the repository; what a soak finds goes to `out/corpus/NAME`, and the
next one begins with it; a file that made a decoder fail in a way it must not is left there as
`failed-*`, and is to be moved to the repository with the mending.
"""

from __future__ import annotations

import hashlib
import random
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).resolve().parent / "corpus"
FOUND = ROOT / "out" / "corpus"
OURS = ("crdt", "replication", "transactional")
INPUT_BYTES_MAX = 4096
INTERESTING = (b"\x00", b"\xff", b"\x7f", b"\x80", b"\xdd\xff\xff\xff\xff", b"\xdf\x00\x10\x00\x00")
TOKENS = (b"{", b"[", b'"', b"\\", b"null", b"1e999", b"-1", b'"key"', b"\xed\xa0\x80")


@dataclass(frozen=True)
class Target:
    """A decoder: `run` is given bytes, and raises one of `refusals` or returns."""

    name: str
    run: Callable[[bytes], object]
    refusals: tuple[type[BaseException], ...]
    seeds: tuple[bytes, ...]


def corpus(target: Target) -> list[bytes]:
    """What is kept of a target: of the repository, of earlier soaks, and its seeds."""
    kept = dict.fromkeys(target.seeds)
    for folder in (CORPUS / target.name, FOUND / target.name):
        if folder.is_dir():
            kept |= dict.fromkeys(file.read_bytes() for file in sorted(folder.iterdir()))
    return list(kept)


def place(target: Target, data: bytes) -> str:
    """Where the decoder ends with an input; any error that is no refusal goes through."""
    try:
        target.run(data)
    except target.refusals as error:
        ours = [
            f"{Path(frame.filename).stem}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
            if any(f"/{name}/" in frame.filename for name in OURS)
        ]
        return " ".join([type(error).__name__, *ours[-3:]])
    return "taken"


def mutations(dice: random.Random, kept: list[bytes]) -> Iterator[bytes]:
    """Inputs without end, each a kept one with one to four changes."""
    while True:
        data = bytearray(dice.choice(kept))
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(data) + 1)
            match dice.randrange(8):
                case 0 if data:
                    data[at % len(data)] ^= 1 << dice.randrange(8)
                case 1 if data:
                    data[at % len(data)] = dice.randrange(256)
                case 2:
                    data[at:at] = dice.choice(INTERESTING + TOKENS)
                case 3:
                    del data[at : at + dice.randint(1, 8)]
                case 4:
                    data[at:at] = data[at : at + dice.randint(1, 32)]
                case 5:
                    other = dice.choice(kept)
                    data[at:] = other[dice.randrange(len(other) + 1) :]
                case 6:
                    data[at:at] = dice.choice(TOKENS) * dice.choice((1, 2, 100))
                case _:
                    data[at : at + 1] = dice.choice(INTERESTING)
        yield bytes(data[:INPUT_BYTES_MAX])


def fuzz(target: Target, seed: int, inputs: int, *, keep: bool) -> tuple[int, int]:
    """Try so many inputs; how many places are known at the start and at the end.

    Raises:
        AssertionError: an input made the decoder fail otherwise than by a refusal.
    """
    kept = corpus(target)
    known = {place(target, data) for data in kept}
    before = len(known)
    source = mutations(random.Random(seed), kept)
    for _ in range(inputs):
        data = next(source)
        try:
            where = place(target, data)
        except BaseException as error:
            path = save(target, data, "failed-")
            raise AssertionError(f"{target.name}: {type(error).__name__} by {path}") from error
        if where not in known:
            known.add(where)
            kept.append(data)
            if keep:
                save(target, data, "")
    return before, len(known)


def save(target: Target, data: bytes, kind: str) -> Path:
    """Keep an input for the next time."""
    folder = FOUND / target.name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    return path
