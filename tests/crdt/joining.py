"""What every scenario asserts besides its own point: the join is a join, and bytes come back."""

from itertools import permutations

from crdt import Kernel


def joined(*replicas):
    """The value of all replicas together; equal in every order, repeated, and through bytes."""
    states, values = set(), []
    for number, order in enumerate(permutations(replicas)):
        if number == 24:
            break  # four replicas in all orders are enough
        result = order[0].fork(f"join{number}")
        for other in order[1:]:
            before = other.canonical_bytes()
            result.merge(other)
            result.merge(other)
            assert other.canonical_bytes() == before
        result.merge(result.fork("itself"))
        result.kernel._check()
        states.add(result.canonical_bytes())
        values.append(result.value)
        again = Kernel.from_bytes(result.to_bytes(), replica=result.replica)
        assert again.canonical_bytes() == result.canonical_bytes()
        again._check()
    assert len(states) == 1
    assert all(value == values[0] for value in values)
    return values[0]


def live_bytes(replica):
    """The canonical bytes without the context: what the entries alone take."""
    state = replica.kernel._state
    return sorted(
        (container.path, repr(step), repr(row))
        for container in state.live.containers.values()
        for step, row in container.rows.items()
    )
