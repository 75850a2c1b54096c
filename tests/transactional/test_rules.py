"""What a commit's content is remembered by."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from transactional import rules
from transactional.values import Absent, Delete, Put, ValueIs

if TYPE_CHECKING:
    import pytest

LONG = bytes(rules.SHORT_BYTES + 1)


def test_a_fingerprint_tells_contents_apart_and_is_equal_for_equal_ones() -> None:
    """Short and long values, one byte, the side that they stand on, and what looks like a hash."""
    hashed = hashlib.blake2b(LONG, digest_size=32).digest()
    contents = [
        ((), (), ()),
        ((), (Put("k", LONG),), ()),
        ((), (Put("k", LONG + b"\0"),), ()),
        ((), (Put("k", LONG[:-1] + b"\1"),), ()),
        ((), (Put("k", LONG[:-1]),), ()),
        ((), (Put("k", hashed),), ()),
        ((), (Put("k", repr(("hash", hashed)).encode()),), ()),
        ((), (), (Put("k", LONG),)),
        ((ValueIs("k", LONG),), (), ()),
        ((Absent("k"),), (Delete("k"),), ()),
    ]
    found = [rules.fingerprint(*content) for content in contents]
    assert len(set(found)) == len(contents)
    assert found == [rules.fingerprint(*content) for content in contents]


def test_the_largest_commit_is_gone_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counterexample: the literal of 4 MiB of control characters is 16 MiB, 91 ms on the loop."""
    sizes, blake2b = list[int](), hashlib.blake2b

    def counted(data: bytes, **options: int) -> object:
        sizes.append(len(data))
        return blake2b(data, **options)

    monkeypatch.setattr(rules.hashlib, "blake2b", counted)
    rules.fingerprint((), (Put("k", bytes(4 << 20)),), ())
    assert sum(sizes) < (4 << 20) + 1000
