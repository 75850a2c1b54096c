"""The live table and the log of each origin: an entry is found by its place and by its dot."""

from crdt.kernel.live import LiveTable, entries_of, holds

PATH = ("tags", "ORSet")
CHILD = ("box", "ORMap", "tags", "ORSet")


def filled(table, path, steps):
    """A container of entries of origin a, seqs 1, 2, 3, ..."""
    container = table.container(path)
    for seq, step in enumerate(steps, 1):
        table.insert(container, step, (table.base("a") + seq, 0, None))
        table.log("a").place(seq, container, step)
    return container


def test_an_entry_is_found_by_its_dot_until_it_dies():
    """`find` believes the row and not the log: a stale slot points to nothing."""
    table = LiveTable()
    container = filled(table, PATH, ["x", "y"])
    dot = table.base("a") + 1
    assert table.find(dot) == (container, "x")
    table.kill(container, "x", dot)
    assert table.find(dot) is None
    assert table.log("a").find(1) == (container, "x")
    assert table.count() == 1
    table._check()


def test_concurrent_entries_share_a_row_that_is_replaced_and_never_changed():
    """A reader that holds on to a row keeps what it saw."""
    table = LiveTable()
    container = filled(table, PATH, ["x", "x", "x"])
    seen = container.rows["x"]
    table.kill(container, "x", table.base("a") + 2)
    assert len(entries_of(seen)) == 3
    assert len(entries_of(container.rows["x"])) == 2
    table.kill(container, "x", table.base("a") + 1)
    assert holds(container.rows["x"], table.base("a") + 3)
    assert type(container.rows["x"]) is tuple
    table._check()


def test_a_container_leaves_the_table_with_its_last_row_and_takes_its_parents_along():
    """No tombstone stands in for it; a view that holds it finds it again."""
    table = LiveTable()
    container = filled(table, CHILD, ["x"])
    assert set(table.containers) == {CHILD, CHILD[:2]}
    table.kill(container, "x", table.base("a") + 1)
    assert not table.containers
    assert table.container(CHILD) is container


def test_a_log_sorts_late_events_in_and_leaves_stale_ones_out():
    """Slots come ascending in whatever order they were placed; a rewrite forgets the dead."""
    table = LiveTable()
    container, log = table.container(PATH), table.log("a")
    for seq in (4, 2, 3, 1):
        table.insert(container, f"k{seq}", (table.base("a") + seq, 0, None))
        log.place(seq, container, f"k{seq}")
    assert [slot[0] for slot in log.slots(2, 4)] == [2, 3, 4]
    table.kill(container, "k3", table.base("a") + 3)
    log.rewrite()
    assert [slot[0] for slot in log.slots(0, 9)] == [1, 2, 4]
    assert (log.stale, log.late) == (0, {})
    table._check()


def test_records_and_batches_are_told_by_range_and_dropped_from_below():
    """Dropping records raises the floor to the last that went; what is above it stays."""
    log = LiveTable().log("a")
    for seq in (5, 2, 9):
        log.record(seq, (("b", seq, seq),))
    log.mark_batch(8, 9)
    log.mark_batch(1, 2)
    assert [seq for seq, _ in log.kills.between(2, 9)] == [5, 9]
    assert log.batches_between(1, 9) == ((1, 2), (8, 9))
    assert log.batch_around(8) == (8, 9)
    assert log.batch_around(9) is None
    log.drop_records(6)
    assert (log.floor, log.kills.ranges, log.batches) == (5, 1, [(8, 9)])
    log.record(4, (("b", 4, 4),))
    assert list(log.kills.between(0, 99)) == [(9, (("b", 9, 9),))]


def test_dots_become_the_fewest_ranges():
    """Ordered by origin and seq, whatever order they came in."""
    table = LiveTable()
    a, b = table.base("b"), table.base("a")
    assert table.as_ranges([a + 3, b + 7, a + 1, a + 2]) == (("a", 7, 7), ("b", 1, 3))
