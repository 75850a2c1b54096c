"""More than thirty other faults, one statement each: what the tests of the kernel have to catch.

Most of them are out of sight of the kit, which judges types by what they show: a limit that is off
by one, a form of bytes that should be refused, a record that an answer lacks only after a restart.
So each names the test that fails under it, or the type by whose histories the kit finds it.

`killed` plants one in a copy and runs that test there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.crdt.testing.mutants import ROOT, SECONDS_MAX, Mutant, hunt, plant

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class KernelMutant:
    """One fault; `killer` is a test (path::name, below tests/crdt) or the type to be fuzzed."""

    name: str
    killer: str
    old: str
    new: str

    @property
    def by_kit(self) -> bool:
        """Whether the kit finds it at default settings."""
        return "::" not in self.killer


KERNEL_MUTANTS: tuple[KernelMutant, ...] = (
    # The sixteen that outsiders found no test for.
    KernelMutant(
        "a batch that came with a state is forgotten to be one",
        "kernel/test_join.py::test_a_batch_that_came_with_a_whole_state_leaves_whole",
        "            for batch in their_log.batches_between(after + 1, last):\n"
        "                log.mark_batch(*batch)",
        "            del after",
    ),
    KernelMutant(
        "what a merged state had applied beyond a gap does not count as applied",
        "kernel/test_join.py::test_a_gap_that_a_merge_left_closes_with_one_event",
        "        for known in theirs.applied.ranges():\n            mine.apply_range(*known)",
        "        for origin, seq in theirs.applied.seqs.items():\n"
        "            mine.apply_range(origin, 1, seq)",
    ),
    KernelMutant(
        "the clock does not follow deltas",
        "kernel/test_join.py::test_a_clock_follows_the_deltas_that_it_applies",
        "        stamps.append(stamp)\n    _observe(state, stamps)",
        "        stamps.append(stamp)",
    ),
    KernelMutant(
        "a piece of a delta is a batch no longer",
        "kernel/test_delta.py::test_a_piece_of_a_delta_is_still_a_batch_where_it_arrives",
        "    kept = tuple(mark for mark in run.batches if first <= mark[0] and mark[1] <= last)",
        "    kept = tuple(mark for mark in run.batches if first < mark[0] and mark[1] < last)",
    ),
    KernelMutant(
        "an event may kill itself",
        "kernel/test_delta.py::test_an_event_kills_only_what_came_before_it",
        "        if killer == origin and high >= seq:",
        "        if killer == origin and high > seq:",
    ),
    KernelMutant(
        "kills weigh nothing",
        "kernel/test_writer.py::test_what_a_mutation_kills_counts_toward_its_limit",
        "    size = EVENT_BYTES + KILL_BYTES * len(kills)",
        "    size = EVENT_BYTES + 24 * bool(kills)",
    ),
    KernelMutant(
        "each entry of a batch has a stamp of its own",
        "kernel/test_writer.py::test_all_entries_of_a_batch_have_one_stamp",
        "        if batch is not None:\n            batch.stamp = stamp\n",
        "",
    ),
    KernelMutant(
        "a snapshot without records forgets its floor",
        "kernel/test_kernel.py::test_a_snapshot_without_records_says_from_where_on_it_can_tell",
        "        floor = log.floor if records else max(log.floor, log.kills.copy().drop(SEQ_MAX))",
        "        floor = log.floor",
    ),
    KernelMutant(
        "a restart goes on below the stamps that were reserved",
        "kernel/test_kernel.py::test_a_restart_writes_beyond_every_stamp_that_was_reserved",
        "    state.clock.last = max(last, ceiling, state.clock.last)",
        "    state.clock.last = max(last, state.clock.last)",
    ),
    KernelMutant(
        "a plain scalar is taken in packed form",
        "kernel/test_codec.py::test_a_plain_scalar_has_no_packed_form",
        '            raise DecodeError("a plain scalar in packed form")',
        "            pass",
    ),
    KernelMutant(
        "a stamp at the very end of the allowance is not followed",
        "kernel/test_hlc.py::test_a_clock_follows_just_as_far_as_it_is_allowed_to",
        "            if ahead > self.skew_ms_max:",
        "            if ahead >= self.skew_ms_max:",
    ),
    KernelMutant(
        "a set whose removes win counts them",
        "test_shared_rows.py::test_a_set_whose_removes_win_counts_only_what_is_in_it",
        "sum(map(self._holds, ",
        "len(list(",
    ),
    KernelMutant(
        "of equal numbers of two types the one shows that came first",
        "test_shared_rows.py::test_equal_numbers_of_two_types_are_one_value_everywhere",
        "    return _RANKS[type(value)], keys, order_of(stored)",
        "    return _RANKS[type(value)], keys",
    ),
    KernelMutant(
        "whatever set is joined, all that are kept aside are forgotten",
        "kernel/test_transfer.py::test_a_set_kept_aside_survives_the_joining_of_another",
        "    return bool(came.any.vector) and came.any.vector <= state.applied.seqs",
        "    return bool(came.chunks)",
    ),
    KernelMutant(
        "an empty replica learns of own events that others know to be dead",
        "kernel/test_transfer.py::"
        "test_chunks_that_know_of_the_death_of_own_events_speak_of_a_life_not_lived",
        "    refuse_own(state, doomed)\n",
        "",
    ),
    KernelMutant(
        "an instant keeps the fold of the place where it was written",
        "kernel/test_codec.py::test_an_instant_does_not_remember_that_its_hour_came_twice",
        "        return value.astimezone(UTC).replace(fold=0)",
        "        return value.astimezone(UTC)",
    ),
    # And those of ours.
    KernelMutant(
        "a copied cloud does not know its end",
        "kernel/test_context.py::test_a_copy_knows_how_far_its_cloud_reaches",
        "        twin.top = self.top\n",
        "",
    ),
    KernelMutant(
        "the end of a cloud is what came last",
        "kernel/test_context.py::test_a_copy_knows_how_far_its_cloud_reaches",
        "        self.top = max(self.top, last)",
        "        self.top = last",
    ),
    KernelMutant(
        "the meet of two vectors is their join",
        "kernel/test_context.py::test_vectors_and_contexts_are_values_with_an_order",
        "        return self.replaced({r: other.get(r, 0) for r in self.above(other)})",
        "        return self | other",
    ),
    KernelMutant(
        "an answer is cut inside of a batch",
        "kernel/test_kernel.py::test_an_answer_is_never_cut_inside_of_a_batch",
        "    batch = log.batch_around(seq - 1) or log.batch_around(seq) or (seq, seq)",
        "    batch = (seq, seq)",
    ),
    KernelMutant(
        "an answer is told below the floor",
        "ORSet",
        "        if asked < log.floor:",
        "        if asked < log.floor - 1:",
    ),
    KernelMutant(
        "the first of the records that a peer lacks is not told",
        "ORSet",
        "            begin = max(0, (after - stretch.first) // stretch.gap + 1)",
        "            begin = max(0, (after - stretch.first) // stretch.gap + 2)",
    ),
    KernelMutant(
        "dropping records does not raise the floor as far as it should",
        "ORSet",
        "        self.floor = max(self.floor, self.kills.drop(upto))",
        "        self.floor = max(self.floor, self.kills.drop(upto) - 1)",
    ),
    KernelMutant(
        "what came in chunks is retold as if nothing had died in it",
        "ORSet",
        "            log.drop_records(seq)\n            log.floor = max(log.floor, seq)\n",
        "",
    ),
    KernelMutant(
        "chunks that contradict each other about their set stay together",
        "kernel/test_transfer.py::test_a_set_is_known_by_what_it_covers_too",
        "(came.any.count, came.any.vector) != (chunk.count, chunk.vector)",
        "came.any.count != chunk.count",
    ),
    KernelMutant(
        "two vectors over one content go by one set",
        "kernel/test_transfer.py::test_a_set_is_known_by_what_it_covers_too",
        'b"".join(digests) + claim',
        'b"".join(digests)',
    ),
    KernelMutant(
        "a stamp is given twice",
        "kernel/test_hlc.py::test_no_stamp_is_given_twice",
        "        if stamp <= self.last:\n",
        "        if stamp < self.last:\n",
    ),
    KernelMutant(
        "a fork's clock begins anew",
        "kernel/test_kernel.py::test_a_fork_writes_later_than_all_that_it_took_over",
        "        theirs.clock.observe(mine.clock.last)\n",
        "",
    ),
    KernelMutant(
        "batches do not survive a restart",
        "kernel/test_kernel.py::test_batches_are_batches_after_a_restart",
        "            log.mark_batch(first, last)\n        _load_stretches",
        "            pass\n        _load_stretches",
    ),
    KernelMutant(
        "chunks kept aside are lost in a restart",
        "kernel/test_transfer.py::test_chunks_kept_aside_outlive_a_restart",
        "    sets = [[set_id, *sorted(came.chunks)] for set_id, came in state.chunk_sets.items()]",
        "    sets = []",
    ),
    KernelMutant(
        "with a stamp from the far future, none of its delta is followed",
        "kernel/test_join.py::test_one_stamp_from_the_far_future_does_not_hide_the_others",
        "            if state.observe(earlier):\n                return",
        "            return",
    ),
    KernelMutant(
        "what was encoded is given though less is left of it",
        "kernel/test_encodings.py::test_what_changed_is_encoded_anew",
        "        if self.encodings.starts:\n",
        "        if not self.encodings.starts:\n",
    ),
    KernelMutant(
        "a compressed body may be followed by anything",
        "kernel/test_codec.py::test_nothing_may_follow_a_compressed_body",
        "    if not inflater.eof or inflater.unused_data:",
        "    if not inflater.eof:",
    ),
    KernelMutant(
        "a rolled back batch leaves its slots in the logs of others",
        "ORSet",
        "        for log in logs:\n            log.rewrite()\n",
        "",
    ),
    KernelMutant(
        "a total that was read once is kept when columns come",
        "test_shared_rows.py::test_a_sum_that_was_read_is_read_anew_when_a_state_comes",
        "    container.total, container.plain = None, False\n    if not rows or",
        "    if not rows or",
    ),
)


def killed(mutant: KernelMutant, folder: Path) -> str:
    """Plant a fault in a copy and run what has to notice it; what noticed, or "" if nothing."""
    if mutant.by_kit:
        catch = hunt(Mutant(mutant.name, mutant.killer, mutant.old, mutant.new), folder)
        return catch.check
    plant(Mutant(mutant.name, "", mutant.old, mutant.new), folder)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    quietly = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, *quietly, f"tests/crdt/{mutant.killer}"],
        cwd=folder,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=20 * SECONDS_MAX,
        check=False,
    )
    if run.returncode not in {0, 1}:
        raise AssertionError(f"{mutant.name}: {run.stdout}{run.stderr}")
    return "test" if run.returncode == 1 else ""
