"""A version vector: for every replica, how many of its events were seen, without gaps.

`{"a": 3, "b": 1}` says: a's events 1..3 and b's event 1, nothing else. Vectors form a lattice
under the pointwise maximum, which makes "who knows more" a comparison (Fidge 1988, Mattern 1989;
the digest of Scuttlebutt, van Renesse et al. 2008). Missing replicas count as 0, and zeros are
not stored, so that equal knowledge is equal vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class VersionVector(Mapping[str, int]):
    """Immutable mapping of replica id to the highest contiguous seq seen (absent means 0).

    `<=` is the lattice order: a <= b when b has seen all that a has. It is partial: two vectors
    may be neither <= nor >=, and then their owners wrote concurrently.
    """

    __slots__ = ("_seqs",)

    def __init__(self, seqs: Mapping[str, int] | None = None) -> None:
        self._seqs = {replica: seq for replica, seq in (seqs or {}).items() if seq > 0}

    def __getitem__(self, replica: str) -> int:
        return self._seqs[replica]

    def __iter__(self) -> Iterator[str]:
        return iter(self._seqs)

    def __len__(self) -> int:
        return len(self._seqs)

    def __le__(self, other: Mapping[str, int]) -> bool:
        return all(seq <= other.get(replica, 0) for replica, seq in self._seqs.items())

    def __ge__(self, other: Mapping[str, int]) -> bool:
        return all(seq <= self._seqs.get(replica, 0) for replica, seq in other.items())

    def __lt__(self, other: Mapping[str, int]) -> bool:
        return self <= other and not self >= other

    def __gt__(self, other: Mapping[str, int]) -> bool:
        return self >= other and not self <= other

    def __hash__(self) -> int:
        return hash(frozenset(self._seqs.items()))

    def __or__(self, other: Mapping[str, int]) -> VersionVector:
        """The join: what both together have seen. O(replicas)."""
        joined = dict(self._seqs)
        for replica, seq in other.items():
            if seq > joined.get(replica, 0):
                joined[replica] = seq
        return VersionVector(joined)

    def __and__(self, other: Mapping[str, int]) -> VersionVector:
        """The meet: what each of the two has seen; over all members, the stable cut."""
        return VersionVector(
            {replica: min(seq, other.get(replica, 0)) for replica, seq in self._seqs.items()}
        )

    def __repr__(self) -> str:
        inner = ", ".join(f"{replica}:{seq}" for replica, seq in sorted(self._seqs.items()))
        return f"VersionVector({inner})"
