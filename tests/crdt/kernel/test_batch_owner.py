"""A batch belongs to who opened it: for anybody else it is rolled back, and its block says so."""

import gc
import weakref

import pytest

from crdt import (
    BatchInterruptedError,
    BatchOpenError,
    BoundedCounter,
    DWFlag,
    EWFlag,
    GCounter,
    GSet,
    Kernel,
    LWWMap,
    LWWRegister,
    MaxRegister,
    MinRegister,
    MVRegister,
    ORMap,
    ORSet,
    PNCounter,
    ResettableCounter,
    RWSet,
    explain,
)


class Owner:
    """Somebody who may be suspended inside of a block."""


class Stage:
    """A kernel, and who runs at the moment."""

    def __init__(self) -> None:
        self.kernel = Kernel("a")
        self.ann, self.bob = Owner(), Owner()
        self.now: Owner = self.ann
        self.kernel.current_owner = lambda: self.now
        self.tags = self.kernel.document("tags", ORSet)

    def half(self):
        """What `ann` wrote in a batch that she holds open; close it to end her block."""
        with self.kernel.batch():
            self.tags.add("half")
            yield
            self.tags.add("rest")
            yield


@pytest.fixture
def stage() -> Stage:
    return Stage()


WRITES = {
    BoundedCounter.at_least(0): lambda view: view.increment(1),
    DWFlag: lambda view: view.enable(),
    EWFlag: lambda view: view.enable(),
    GCounter: lambda view: view.increment(1),
    GSet: lambda view: view.add("x"),
    LWWMap: lambda view: view.put("x", 1),
    LWWRegister: lambda view: view.set(1),
    MVRegister: lambda view: view.set(1),
    MaxRegister: lambda view: view.set(1),
    MinRegister: lambda view: view.set(1),
    ORMap: lambda view: view["x", ORSet].add("x"),
    ORSet: lambda view: view.add("x"),
    PNCounter: lambda view: view.increment(1),
    RWSet: lambda view: view.add("x"),
    ResettableCounter: lambda view: view.increment(1),
}

LOOKS = {
    "value": lambda view: view.value,
    "repr": repr,
    "bool": bool,
    "len": lambda view: len(view) if hasattr(view, "__len__") else None,
    "iter": lambda view: list(view) if hasattr(view, "__iter__") else None,
    "in": lambda view: "x" in view if hasattr(view, "__contains__") else None,
    "get": lambda view: view.get("x") if hasattr(view, "get") else None,
    "equal": lambda view: view == {"x": 1},
    "stats": lambda view: view.stats(),
    "is_set": lambda view: getattr(view, "is_set", None),
    "rights": lambda view: view.rights() if hasattr(view, "rights") else None,
    "explain": lambda view: explain(view.kernel, "doc"),
}


@pytest.mark.parametrize("kind", WRITES, ids=lambda kind: kind.type_name)
@pytest.mark.parametrize("how", LOOKS)
def test_nobody_else_sees_half_of_a_batch_whatever_they_look_at(stage, kind, how):
    """Every type, every way of looking: the same answer as before the batch."""
    view = stage.kernel.document("doc", kind)
    before = LOOKS[how](view)

    def half():
        with stage.kernel.batch():
            WRITES[kind](view)
            yield

    body = half()
    next(body)
    stage.now = stage.bob
    assert LOOKS[how](view) == before
    stage.kernel.admit()  # not every type has every way of looking
    assert not stage.kernel.in_batch
    stage.kernel._check()
    stage.now = stage.ann
    with pytest.raises(BatchInterruptedError):
        next(body)


@pytest.mark.parametrize("kind", WRITES, ids=lambda kind: kind.type_name)
def test_a_write_of_somebody_else_builds_on_what_was_committed(stage, kind):
    """It must not count on from a total, or kill a row, that is rolled back under it."""
    alone = Kernel("a").document("doc", kind)
    WRITES[kind](alone)
    view = stage.kernel.document("doc", kind)

    def half():
        with stage.kernel.batch():
            WRITES[kind](view)
            yield

    body = half()
    next(body)
    stage.now = stage.bob
    WRITES[kind](view)
    assert view.value == alone.value
    assert stage.kernel.vector == {"a": 1}
    stage.kernel._check()


def test_the_owner_learns_at_its_next_write_and_again_at_the_end(stage):
    """The write changes nothing, and the error that it raised leaves the block as it is."""
    body = stage.half()
    next(body)
    stage.now = stage.bob
    stage.tags.add("bob's")
    stage.now = stage.ann
    with pytest.raises(BatchInterruptedError, match="rolled back") as caught:
        next(body)
    assert not any("rolled back" in note for note in caught.value.__notes__)
    assert "agent.batch(write)" in caught.value.hint
    assert stage.tags.value == {"bob's"}
    stage.tags.add("later")  # outside of the block she writes as ever
    assert stage.kernel.vector == {"a": 2}


def test_the_bodys_own_error_is_the_one_that_is_seen_with_a_note(stage):
    """What went wrong in the block is what its author must hear of first."""
    body = stage.half()
    next(body)
    stage.now = stage.bob
    assert stage.tags.value == set()
    stage.now = stage.ann
    with pytest.raises(KeyError) as caught:
        body.throw(KeyError("mine"))
    assert "rolled back" in caught.value.__notes__[0]


def test_a_nested_batch_of_the_owner_belongs_to_the_outer_one(stage):
    """One owner, one batch; somebody else's is another one."""
    with stage.kernel.batch() as outer:
        with stage.tags.batch():
            stage.tags.add("inner")
        assert stage.kernel.in_batch
    assert outer.delta.ranges == (("a", 1, 1),)
    body = stage.half()
    next(body)
    stage.now = stage.bob
    with stage.kernel.batch() as mine:
        stage.tags.add("mine")
    assert mine.delta.ranges == (("a", 2, 2),)
    assert stage.tags.value == {"inner", "mine"}


def test_an_interrupted_owner_can_open_no_batch_before_it_left_the_block(stage):
    """What it believes to be nested would be a batch of its own."""
    refused = []

    def body():
        with stage.kernel.batch():
            stage.tags.add("half")
            yield
            try:
                with stage.kernel.batch():
                    stage.tags.add("nested")
            except BatchInterruptedError as error:
                refused.append(error)

    block = body()
    next(block)
    stage.now = stage.bob
    len(stage.tags)
    stage.now = stage.ann
    with pytest.raises(BatchInterruptedError):
        next(block)
    assert refused
    assert stage.tags.value == set()


def test_a_block_that_somebody_else_ends_is_rolled_back(stage):
    """The end of a block is a use like any other."""
    body = stage.half()
    next(body)
    stage.now = stage.bob
    body.close()
    stage.now = stage.ann
    assert stage.tags.value == set()
    stage.tags.add("on")


def test_a_block_that_ends_where_nobody_may_touch_the_state_belongs_to_nobody(stage):
    """As when a suspended body is collected in another thread: left alone, then rolled back."""
    body = stage.half()
    next(body)

    def nobody():
        raise LookupError("not here")

    allowed, stage.kernel.current_owner = stage.kernel.current_owner, nobody
    body.close()
    assert stage.kernel.in_batch
    stage.kernel.current_owner = allowed
    assert stage.tags.value == set()
    assert not stage.kernel.in_batch
    stage.tags.add("on")
    assert stage.kernel.vector == {"a": 1}


def test_a_body_that_is_never_resumed_is_not_kept_alive(stage):
    """The writer lets go of the owner of an interrupted batch, and of the batch with it."""
    body = stage.half()
    next(body)
    stage.now = stage.bob
    stage.tags.add("bob's")
    gone = weakref.ref(stage.ann)
    body.close()
    del body
    stage.ann = None
    gc.collect()
    assert gone() is None
    assert stage.kernel.writer.interrupted is None
    stage.tags.add("more")


@pytest.mark.parametrize("mine", [True, False], ids=["own", "somebody's"])
def test_foreign_events_wait_for_the_owners_batch_and_for_no_other(stage, mine):
    """Inside of one's own batch they are refused; somebody else's is rolled back for them."""
    news = Kernel("b").document("tags", ORSet).add("news")
    body = stage.half()
    next(body)
    if mine:
        with pytest.raises(BatchOpenError):
            stage.kernel.apply(news)
        assert set(stage.tags) == {"half"}
    else:
        stage.now = stage.bob
        stage.kernel.apply(news)
        assert set(stage.tags) == {"news"}
    body.close()
    stage.kernel._check()


def test_who_may_not_come_at_all_makes_no_document(stage):
    """To make a view is to change tables: `current_owner` is asked."""

    def nobody():
        raise LookupError("not here")

    stage.kernel.current_owner = nobody
    nested = stage.kernel.writer.state.live
    for make in (
        lambda: stage.kernel.document("fresh", ORSet),
        lambda: list(stage.tags),
        lambda: stage.tags.value,
        stage.tags.clear,
    ):
        with pytest.raises(LookupError):
            make()
    assert ("fresh", "ORSet") not in nested._known
