"""The kit's acceptance: planted faults are caught by the shipped command, by default."""

from __future__ import annotations

import pytest

from tests.crdt.testing.kernel_mutants import KERNEL_MUTANTS, killed
from tests.crdt.testing.mutants import (
    MUTANTS,
    STEPS_MAX,
    AnchorError,
    Mutant,
    hunt,
    place_of,
    plant,
)
from tests.scale import rounds, seeds

# A sample of the faults that tests have to catch, another one each day; all of them under soak.
SAMPLE = [
    KERNEL_MUTANTS[(seeds(1)[0] + number) % len(KERNEL_MUTANTS)]
    for number in range(rounds(len(KERNEL_MUTANTS), 3))
]


@pytest.mark.processes
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_fault_is_caught_shrunk_and_replayed(mutant, tmp_path):
    """`python -m crdt.testing fuzz TYPE` on a faulty copy; what it wrote fails there, only there.

    What each took is printed by `python benchmarks/mutants.py`.
    """
    catch = hunt(mutant, tmp_path)
    assert catch.complaint, f"{mutant.name}: not caught"
    assert catch.steps <= STEPS_MAX, catch.diagram
    assert (catch.on_mutant, catch.on_real_code) == ("fails", "passes")


@pytest.mark.processes
@pytest.mark.parametrize("mutant", SAMPLE, ids=lambda mutant: mutant.name)
def test_a_fault_of_the_kernel_is_caught_by_the_test_that_is_for_it(mutant, tmp_path):
    """On a faulty copy that one test fails, or the kit complains."""
    assert killed(mutant, tmp_path), f"{mutant.name}: {mutant.killer} does not notice"


def test_there_are_sixteen_faults_and_more():
    """Those that the design names and some that came up since; no two the same."""
    assert len({mutant.new for mutant in MUTANTS}) == len(MUTANTS) >= 16
    assert len({mutant.old + mutant.new for mutant in KERNEL_MUTANTS}) == len(KERNEL_MUTANTS) >= 30


@pytest.mark.parametrize("mutant", [*MUTANTS, *KERNEL_MUTANTS], ids=lambda mutant: mutant.name)
def test_the_code_that_a_fault_changes_is_there_once(mutant):
    """Whoever rewrites the code learns here, in no time, that its faults are to be rewritten."""
    assert place_of(mutant.name, mutant.old).exists()


def test_a_fault_that_no_longer_fits_the_code_is_an_error(tmp_path):
    """A kernel that was rewritten under a mutant makes it fail loudly, not pass silently."""
    with pytest.raises(AnchorError, match="anchor not found once but nowhere"):
        plant(Mutant("nothing", "ORSet", "no such line", ""), tmp_path / "one")
    with pytest.raises(AnchorError, match=r"chunk\.py x"):
        plant(Mutant("anywhere", "ORSet", "def ", ""), tmp_path / "many")
