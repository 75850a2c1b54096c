"""Every type against its laws, and against the oracle over random histories."""

import pytest

import crdt
from crdt.kernel.kind import KINDS
from crdt.testing import laws, run_histories
from crdt.testing.operation import MENUS
from tests.scale import rounds, seeds

TYPES = [getattr(crdt, name) for name in sorted(KINDS) if name in {*MENUS, "ORMap"}]


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_the_laws_hold(kind):
    """Merge commutes, associates, is idempotent; deltas, states and bytes say the same."""
    for seed in seeds(2):
        laws(kind, examples=30, seed=seed)()


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_histories_converge_on_what_visibility_demands(kind):
    """Histories of three replicas and 40 operations end equal, on the oracle's value, [crdt 10]."""
    count = rounds(6000)
    for seed in seeds(3):
        print(f"run_histories({kind.__name__}, seed={seed * 1_000_000}, count={count // 3})")
        statistics = run_histories(kind, seed * 1_000_000, count // 3)
        assert statistics["chunks"] > statistics["histories"]
        assert statistics["truncated"] > statistics["histories"]
