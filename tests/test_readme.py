"""README.md, sentence by sentence: what it claims has a test, and what is tested stands there.

`CLAIMS` holds every sentence of its prose, code and tables left out. A sentence that is added to
the page and not here, or the other way round, fails; so does one whose test is gone. The table of
promises is held by tests/test_promises.py.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.compile(r"^```(\w*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
HERE = "tests/test_readme.py"
DOCS = "tests/test_docs.py::test_links_inside_the_repository_lead_somewhere"
DRAWN = (
    "tests/crdt/testing/test_tutorial.py"
    "::test_a_type_written_from_the_tutorial_is_caught_drawn_and_mended"
)
COMPARED = "no test: facts about others, with a date; docs/comparison.md has them one by one"

CLAIMS: dict[str, str] = {
    "Shared state for teams of agents, in Python": f"{HERE}::test_the_quickstart_runs_as_pasted",
    "Most of it is lazy: every agent holds a local replica, reads and writes never wait, and "
    "replicas gossip over HTTP until they are equal": "tests/simulation/test_histories.py"
    "::test_five_replicas_a_hundred_operations_never_diverge",
    "A little of it is eager: a room booked once, a task done by one worker, decided in a small "
    "linearizable store; you choose per operation": "tests/transactional/histories"
    "/test_histories.py::test_eight_processes_in_trouble_are_linearizable",
    "It prints in stock: 5 and booked": f"{HERE}::test_the_quickstart_runs_as_pasted",
    "Run it again: the journal and the store remember, and it prints in stock: 10 and taken by "
    "ann, free from 10:00": f"{HERE}::test_the_quickstart_runs_as_pasted",
    "Start it under other names on the same machine and they find each other; across machines, "
    "name one address in peers=, and share one store through convoca serve "
    "shop.db": "tests/test_tutorial.py::test_the_tutorial_works_as_printed",
    "The tutorial builds a team of three from an empty folder in ten "
    "minutes": "tests/test_tutorial.py::test_the_tutorial_works_as_printed",
    "Three rules": DOCS,
    "An agent lives in one event loop; from threads use its synchronous twin, convoca.join_sync "
    "(threads)": "tests/replication/agent/test_threads.py"
    "::test_whatever_changes_or_waits_is_refused_in_another_thread",
    "A batch of writes that travel as one is a with ann.batch(): without an await "
    "inside": "tests/replication/agent/test_batches.py"
    "::test_whoever_runs_while_a_block_is_suspended_sees_nothing_of_it",
    "A register is no presence: it keeps its value when its writer "
    "dies": "tests/replication/testing/test_kit.py"
    "::test_a_killed_agent_keeps_what_was_durable_and_nothing_else",
    "All replicas agreed in every test that you wrote, and what they agreed on was wrong: a "
    "removed item came back, everywhere": DRAWN,
    "Convergence does not see that; an oracle does": DRAWN,
    "What fails is shrunk to the steps that matter, and drawn (fuzzing)": DRAWN,
    "More of them, and what each pair of concurrent operations gives: "
    "semantics": "tests/crdt/test_semantics.py::test_the_tables_of_the_page_are_what_the_types_do",
    "Failure by failure: guarantees, consistency, security": DOCS,
    "What is not promised stands there, too": DOCS,
    "Two cores, everything on one machine, beside peers in the same run (make bench; whole tables, "
    "missed goals included, in benchmarks/results)": f"{HERE}"
    "::test_the_figures_are_those_that_were_measured",
    "The store's rows are durable on both sides (synchronous=FULL); the first three are in memory "
    "on all": f"{HERE}::test_the_figures_are_those_that_were_measured",
    "As of November 2026": COMPARED,
    "Take pycrdt, Loro or Automerge if people edit text together; etcd if a server in every "
    "language is wanted; DBOS or Temporal if ordinary code shall become durable as it is written; "
    "Akka Distributed Data on the JVM; a LangGraph checkpointer for the steps of one graph; "
    "agent-coherence for plans and files that agents of one host rewrite": COMPARED,
    "convoca is for agents on several hosts that share state which merges, and decide the rest in "
    "one place: what each does that the others do not": COMPARED,
    "Each runs real agents in real processes, ends with checks and says by its exit status whether "
    "they hold": f"{HERE}::test_the_demos_are_those_that_there_are",
    "docs/index.md lists the pages, make docs makes a site of "
    "them": "tests/test_site.py::test_the_site_builds_without_a_warning",
    "docs/architecture.md is the map of the code, docs/decisions says why, CONTRIBUTING.md has the "
    "commands": DOCS,
    "Apache-2.0": DOCS,
}


def sentences() -> list[str]:
    """The prose, its marks taken off."""
    text = CODE.sub("\n\n", README)
    text = re.sub(r"^(#.*|\|.*\||\s*<.*>)$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"(?<!\w)\*+|\*+(?!\w)|`", "", text)
    flat = [" ".join(block.split()) for block in re.split(r"\n\s*\n", text)]
    found = [
        part for block in flat for part in re.split(r"(?<=[.:?])\s+(?=[A-Z]|docs/|convoca )", block)
    ]
    return [part.rstrip(".:") for part in found if part]


def test_every_sentence_is_known() -> None:
    """No claim without a word on how it is shown, and none of these without its sentence."""
    assert sorted(sentences()) == sorted(CLAIMS)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim[:40])
def test_each_claim_has_a_test(claim: str) -> None:
    """The named test exists; what no test can show says why."""
    path, _, name = CLAIMS[claim].partition("::")
    if path.startswith("no test: "):
        return
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return [text for kind, text in CODE.findall(README) if kind == language]


@pytest.mark.processes
def test_the_quickstart_runs_as_pasted(tmp_path: Path) -> None:
    """Pasted into a file, and run twice; at most 25 lines."""
    (source,) = [block for block in blocks("python") if "convoca.join" in block]
    assert len(source.splitlines()) <= 25
    (tmp_path / "pasted.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-W", "error", "pasted.py"]
    environment = {"CONVOCA_RUNTIME_DIR": str(tmp_path / "run"), "PATH": ""}
    for printed in ("in stock: 5\nbooked", "in stock: 10\ntaken by ann, free from 10:00"):
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.stdout.strip(), done.stderr) == (printed, "")
        for line in printed.splitlines():
            assert f"`{line}`" in README


@pytest.mark.processes
def test_the_fuzzing_quickstart_runs_as_pasted(tmp_path: Path) -> None:
    """At most ten lines, under pytest."""
    (source,) = [block for block in blocks("python") if "scenarios(" in block]
    assert len(source.splitlines()) <= 10
    (tmp_path / "test_pasted.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_pasted.py"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_demos_are_those_that_there_are() -> None:
    """`python -m demos` lists as many as the page, and each has its target."""
    tree = ast.parse((ROOT / "demos" / "__main__.py").read_text(encoding="utf-8"))
    (named,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DEMOS"
    ]
    wanted = {"demo" if name == "meetings" else f"demo-{name}" for name in named}
    assert set(re.findall(r"^\$ make (demo[\w-]*) ", README, re.MULTILINE)) == wanted
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert wanted <= set(re.findall(r"^(demo[\w-]*):", makefile, re.MULTILINE))


def test_the_figures_are_those_that_were_measured() -> None:
    """Each number of the table stands in a table of benchmarks/results, in full or rounded."""
    results = [
        path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks" / "results").glob("*.md")
    ]
    measured = {
        float(number.replace(",", ""))
        for text in results
        for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)
    }
    section = README.partition("## Measured")[2].partition("\n## ")[0]
    rows = [row.split("|")[2:4] for row in section.splitlines() if row.startswith("| ")][1:]
    assert len(rows) >= 8
    for row in rows:
        for number in re.findall(
            r"\d+(?:\.\d+)?", re.sub(r"\d+ (?=connections|callers|writer)", "", row[0] + row[1])
        ):
            shown, digits = float(number), len(number.partition(".")[2])
            near = {round(value, digits) for value in measured}
            near |= {round(value / 1000, digits) for value in measured}
            assert shown in near, (number, row)
