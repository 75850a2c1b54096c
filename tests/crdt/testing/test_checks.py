"""What the kit says when a check complains: each kind of check, on a kernel that was made wrong."""

from __future__ import annotations

import sys

import pytest

from crdt import Kernel, ORSet
from crdt.errors import InvariantError, require
from crdt.kernel.change import UNCHANGED
from crdt.testing import (
    Choice,
    History,
    HistoryError,
    Operation,
    Plan,
    Step,
    fuzz,
    laws,
    plan,
    register,
    run_histories,
)
from crdt.testing.__main__ import main
from crdt.testing.histories import check_of
from crdt.testing.refusal import WAYS, refuse, relearn
from crdt.testing.scheduler import dice_of
from crdt.testing.shrinker import shrink_by

ADD = Step("write", 0, 1, 0, (Operation("add", ("x",)),), (False,))


def planned(*steps: Step) -> History:
    return History(ORSet, Plan("ORSet", 2, "mesh", (None, None), steps))


@pytest.mark.parametrize("way", range(WAYS))
def test_what_must_be_refused_is_refused_without_a_trace(way):
    """Damaged, misnamed, overwhelming, untimely: and afterwards the sound delta works."""
    writer, reader = ORSet("a"), ORSet("b")
    reader.add("mine")
    data = writer.add("x").encode()
    refuse(reader.kernel, data, way)
    assert reader == {"mine"}
    reader.merge(writer)
    assert reader == {"mine", "x"}


@pytest.mark.parametrize("way", range(WAYS))
def test_a_kernel_that_accepts_what_it_must_refuse_is_caught(way, monkeypatch):
    """An apply that never says no."""
    data = ORSet("a").add("x").encode()
    monkeypatch.setattr("crdt.kernel.delta.Delta.decode", lambda _data: ORSet("a").add("x"))
    monkeypatch.setattr(Kernel, "apply", lambda _kernel, _delta: UNCHANGED)
    with pytest.raises(InvariantError, match="has to be refused"):
        refuse(Kernel("b"), data, way)


def test_a_lost_disk_is_refused_its_old_life_and_learns_it_under_a_new_name(monkeypatch):
    """The very chunks that were refused work afterwards; a kernel that takes them is caught."""
    owner = ORSet("a")
    owner.add("x")
    whole = owner.kernel.chunks(60)
    assert relearn(whole, "a").digest() == owner.kernel.digest()
    monkeypatch.setattr(Kernel, "apply_chunk", lambda _kernel, _chunk: UNCHANGED)
    with pytest.raises(InvariantError, match="a life not lived"):
        relearn(whole, "a")


def test_a_refused_delta_is_drawn_where_it_was_refused(monkeypatch):
    """A history that ends at a refusal shows the delta's way; the sound one comes right after."""
    refused = Step("refused", 0, 1, 1)
    assert planned(ADD, refused).complaint() is None
    assert "delta 0, first refused" in planned(ADD, refused).diagram()
    monkeypatch.setattr(Kernel, "to_bytes", lambda kernel: str(id(object())) + kernel.replica)
    monkeypatch.setattr("crdt.testing.network.refuse", lambda *_: require(False, "left a trace"))
    run = planned(ADD, refused)
    assert "left a trace" in run.complaint()
    assert "here: InvariantError: left a trace" in run.diagram()


def test_the_newest_delta_overtakes_and_a_lost_disk_relearns():
    """Steps of histories: one delta passes another; a state is learned again from its chunks."""
    again = ADD._replace(operations=(Operation("add", ("y",)),))
    run = planned(ADD, again, Step("overtake", 1, 0), Step("relearn", 0, 1), Step("relearn", 1, 0))
    assert run.values[1] != run.values[0]
    assert run.statistics["overtake"] == run.statistics["relearn"] == 1  # b has no life to lose
    assert "a lost disk relearns this" in run.diagram()
    assert run.complaint() is None


def test_a_change_that_nobody_announced_is_a_broken_law(monkeypatch):
    """Laws and histories both say so, and by which element."""
    monkeypatch.setattr("crdt.kernel.join.Touched.change", lambda _touched: UNCHANGED)
    with pytest.raises(AssertionError, match=r"no event said that .* changed"):
        laws(ORSet, examples=3, seed=0)()
    outcome = fuzz(ORSet, examples=5, seed=0)
    assert outcome.check == "law"
    assert "no event said that" in outcome.complaint
    assert len(outcome.script.steps) <= 4


def test_every_complaint_names_its_check(monkeypatch):
    """Oracle, convergence, law, the type's own invariant, and what is none of them."""
    run = planned(ADD)
    monkeypatch.setattr(type(run), "oracle", [()])
    assert "has to show" in run.complaint()
    assert run.check == "oracle"
    run = planned(ADD)
    monkeypatch.setattr(type(run), "converged", False)
    assert run.complaint().startswith("replicas differ")
    assert run.check == "convergence"
    assert check_of(HistoryError("no event")) == "oracle"
    assert check_of(KeyError("x")) == "error"


def test_an_assertion_of_the_kernel_is_told_from_one_of_the_kit():
    """By the module that raised it, whatever helper it used."""
    kernel = Kernel("a")
    kernel.document("d", ORSet).add("x")
    kernel.writer.last = 7
    with pytest.raises(InvariantError) as caught:
        kernel._check()
    assert check_of(caught.value) == "invariant"
    with pytest.raises(InvariantError) as caught:
        relearn(ORSet("b").kernel.chunks(60), "a")
    assert check_of(caught.value) == "law"


def test_a_law_that_only_a_law_breaks_leaves_no_history_to_write_down(monkeypatch):
    """The outcome has a complaint and a replay line, no script, no drawing."""
    monkeypatch.setattr(
        sys.modules["crdt.testing.law"], "refuse", lambda *_: require(False, "left a trace")
    )
    outcome = fuzz(ORSet, examples=2, seed=0)
    assert (outcome.check, outcome.script, outcome.diagram(), outcome.svg()) == (
        "law",
        None,
        "",
        "",
    )
    assert "laws(ORSet, examples=1, seed=0)()" in outcome.replay
    with pytest.raises(ValueError, match="nothing to write"):
        outcome.regression_test()


def test_the_command_draws_what_it_found_and_writes_it_down(tmp_path, capsys):
    """Exit code 1, the kind of check, the picture, and a test file beside an SVG."""
    command = ["fuzz", "tests.crdt.testing.wrong_sets:UnionSet", "--out", str(tmp_path)]
    assert main(command) == 1
    printed = capsys.readouterr().out
    assert "noticed by: oracle" in printed
    assert "shrunk to 3 steps:" in printed
    assert {path.suffix for path in tmp_path.iterdir()} == {".py", ".svg"}
    (written,) = tmp_path.glob("*.py")
    assert "replay(UnionSet, PLAN)" in written.read_text(encoding="utf-8")


def test_a_place_that_cannot_be_written_costs_the_file_and_not_the_finding(tmp_path, capsys):
    """The history is printed all the same, and the error says why there is no file."""
    (tmp_path / "test_unionset_counterexample.py").mkdir()
    command = ["fuzz", "tests.crdt.testing.wrong_sets:UnionSet", "--out", str(tmp_path)]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "has to show set()" in printed.out
    assert "cannot be written" in printed.err


def test_the_command_says_when_there_was_no_oracle(capsys):
    """Nothing found without one means less, and the last line says so."""
    pytest.importorskip("pycrdt", exc_type=ImportError)
    command = ["fuzz", "tests.crdt.testing.third_party:YMapValues", "--examples", "3"]
    assert main(command) == 0
    assert "no oracle is registered" in capsys.readouterr().out


def test_the_command_reports_a_law_without_a_history(monkeypatch, tmp_path, capsys):
    """Nothing to draw or to write: the complaint and the line that replays it."""
    broken = lambda *_: require(False, "left a trace")  # noqa: E731
    monkeypatch.setattr(sys.modules["crdt.testing.law"], "refuse", broken)
    assert main(["fuzz", "ORSet", "--examples", "2", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert (
        "noticed by: law\nreplay: from crdt import ORSet; from crdt.testing import laws; "
        "laws(ORSet, examples=1, seed=0)()\n"
    ) in printed
    assert "shrunk" not in printed
    assert not list(tmp_path.iterdir())


class Recorder:
    """A type that publishes deltas and comes back from bytes: whatever was added, in order."""

    def __init__(self, replica, added=frozenset()):
        self.replica, self.value = replica, frozenset(added)

    def add(self, element):
        self.value |= {element}
        return frozenset({element})

    def apply(self, delta):
        self.value |= delta

    def merge(self, other):
        self.apply(other.value)

    def to_bytes(self):
        return repr(sorted(self.value)).encode()

    @classmethod
    def from_bytes(cls, data, *, replica):
        return cls(replica, eval(data))  # noqa: S307 - our own bytes


def test_a_type_with_deltas_and_bytes_is_sent_and_restarted_through_them():
    """What a plain class has beyond merge and value is used: deltas and restarts."""
    register(
        Recorder,
        Choice(1, "add", (lambda dice, size: dice.randrange(size),)),
        oracle=lambda visible: {each.args[0] for each in visible},
    )
    statistics = run_histories(Recorder, seed=0, count=20)
    assert statistics["restart"] > 0
    assert statistics["deliver"] > 0
    assert not statistics["refused"]


def test_a_class_that_nobody_registered_is_tested_by_a_function_that_changes_it():
    """`operate` makes a mutation, `copy` a copy; what breaks a law is told with its seed."""

    def add(dice, replica):
        replica.add(dice.randrange(4))

    def copied(replica, name):
        return type(replica)(name, replica.value)

    class Stubborn(Recorder):
        def merge(self, other):
            pass

    laws(Recorder, operate=add, copy=copied, examples=5)()
    with pytest.raises(AssertionError, match="merge does not commute") as caught:
        laws(Stubborn, operate=add, copy=copied, examples=5, seed=0)()
    assert caught.value.__notes__[-1].startswith("replay: laws(Stubborn, examples=1, seed=")


def test_a_history_of_nested_maps_is_shrunk_to_the_call_that_matters():
    """The plainest call of its kind, on the outermost map, with the names of types as they are."""
    script = plan("ORMap", dice_of(3), replicas=4)

    def removes_a_child(candidate: Plan) -> bool:
        return any(each.action == "remove_child" for s in candidate.steps for each in s.operations)

    small = shrink_by(script, removes_a_child)
    (step,) = small.steps
    (operation,) = step.operations
    assert (operation.action, operation.below, small.replicas) == ("remove_child", (), 2)
    assert str(step).startswith(f"{step.kind} {step.replica}<-{step.peer} #0 .remove_child(")


def test_what_is_lost_and_cut_is_drawn():
    """A delta that never arrives ends half-way; a link is cut, and heals."""
    cut = Step("cut", 0, 1)
    run = planned(ADD, Step("lose", 0, 1), cut, cut)
    assert run.complaint() is None
    for text in ("delta 0 lost", "cut", "link heals"):
        assert text in run.diagram()
        assert text in run.svg()
    assert repr(run).startswith("History(ORSet, Plan(")


def test_a_type_without_mutators_is_an_error_of_the_campaign():
    """It ends with what is missing, and with nothing to replay."""

    class Unknown(Recorder):
        pass

    outcome = fuzz(Unknown, examples=2)
    assert "knows no mutators" in outcome.complaint
    assert (outcome.check, outcome.script) == ("error", None)
