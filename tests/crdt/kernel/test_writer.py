"""The writer: `put` is `write` by hand, and a batch that fails never happened."""

import random

import pytest

from crdt import BatchTooLargeError, Kernel, LWWMap, ORSet
from tests.scale import seeds


def container_of(kernel):
    """The container of one set of a kernel."""
    return kernel.document("tags", ORSet)._place


@pytest.mark.parametrize("seed", seeds(10))
def test_a_put_is_a_write_over_all_that_lives_at_its_step(seed):
    """Same delta, same rows, same logs; overwritten and concurrent entries included."""
    dice, short, long = random.Random(seed), Kernel("a"), Kernel("a")
    peer = Kernel("b")
    for number in range(300):
        step = f"k{dice.randrange(20)}"
        if number % 7 == 0:
            news = peer.document("tags", ORSet).add(step)
            short.apply(news)
            long.apply(news)
        row = container_of(long).rows.get(step)
        one = short.writer.put(container_of(short), step, 0, None)
        place = container_of(long)
        victims = [] if row is None else [(place, step, row)]
        assert one == long.writer.write(victims, (place, step, 0, None))
    short._check()
    assert short.to_bytes() == long.to_bytes()


def test_all_entries_of_a_batch_have_one_stamp():
    """They are one write: nothing that is concurrent comes between two of them."""
    board = LWWMap("a")
    board.put("earlier", 0)
    with board.batch() as batch:
        for number in range(3):
            board.put(number, number)
    stamps = {event.stamp for event in batch.delta.runs[0].events}
    assert len(stamps) == 1
    assert board.put("later", 0).runs[0].events[0].stamp > max(stamps)


def test_what_a_mutation_kills_counts_toward_its_limit():
    """Clearing what many have written is one event, and as long as the list of its victims."""
    tags = ORSet("a")
    for number in range(40):
        other = ORSet(f"a-replica-whose-name-is-not-short-{number:02d}")
        other.add("x")
        tags.merge(other)
    tags.kernel.batch_bytes_max = 600
    before = tags.canonical_bytes()
    with pytest.raises(BatchTooLargeError):
        tags.clear()
    assert tags.canonical_bytes() == before
    tags.kernel.batch_bytes_max = None
    assert tags.clear()
    assert not tags


def test_a_batch_that_fails_puts_rows_logs_and_dots_back():
    """Byte for byte what it was; the dots are used again."""
    kernel = Kernel("a")
    tags = kernel.document("tags", ORSet)
    tags.add("kept")
    before = kernel.to_bytes()

    def fail():
        with kernel.batch():
            tags.add("kept")
            tags.remove("kept")
            tags.add("new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    kernel._check()
    assert kernel.to_bytes() == before
    assert tags.add("next").ranges == (("a", 2, 2),)
