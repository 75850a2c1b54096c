"""The meetings demo on other stores: its own servers, one that is there, one that will not do."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from demos import servers
from demos.meetings import main
from demos.servers import missing
from tests.demos.test_meetings import demo, programme
from tests.transactional import postgres
from tests.transactional.servers import missing as skipped_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.demo, pytest.mark.processes]


@pytest.mark.parametrize(("engine", "known_as"), [("etcd", "etcd"), ("postgresql", "postgres")])
def test_the_same_table_on_servers_of_its_own(engine: str, known_as: str, tmp_path: Path) -> None:
    """240 talks on three members of etcd, whose leader is killed half-way, and on PostgreSQL."""
    if lacking := missing(engine):
        skipped_for(known_as, lacking)
    # A server answers many at once: there have to be enough talks for a saga to be in flight.
    given = ("--input", programme(tmp_path, talks=240), "--store", engine, "--collisions", "2")
    status, output, errors = demo(*given, out=tmp_path / "out")
    assert status == 0, output + errors
    assert f"and {engine} are up" in output
    assert bool(re.search(r"SIGKILL to m\d, the leader of three members", output)) == (
        engine == "etcd"
    )
    assert re.search(r"overlapping bookings +│ 0 ", output), output
    assert output.endswith("all 11 checks hold (exit status 0)\n")


def test_a_store_that_is_running_is_taken_if_it_is_empty(tmp_path: Path) -> None:
    """Once it is; when the talks are in there, the demo would count them twice."""
    url = asyncio.run(postgres.new_schema())
    given = ("--input", programme(tmp_path, talks=20), "--store", url, "--collisions", "0")
    given = (*given, "--no-trouble", "--agents", "2", "--rivals", "2", "--stalls", "0")
    status, output, errors = demo(*given, out=tmp_path / "out")
    assert status == 0, output + errors
    assert "on a store that was there" in output
    status, _, errors = demo(*given, out=tmp_path / "out")
    assert status == 5
    assert "the store is not empty" in errors
    asyncio.run(postgres.drop(url))


@pytest.mark.parametrize("url", ["sqlite:a.db", "memory:", "postgresql://127.0.0.1:9/x", "ftp://x"])
def test_a_store_that_will_not_do_is_said_in_one_line(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For one process, not there, not an engine: status 5 and a hint."""
    assert main(["--out", str(tmp_path), "--store", url]) == 5
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "hint: " in said
    assert "Traceback" not in said


@pytest.mark.parametrize("engine", servers.ENGINES)
def test_servers_that_are_not_installed_say_what_installs_them(
    engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without the programs: one line with the command, and nothing was begun."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(servers, "VERSIONS", tmp_path)
    assert main(["--out", str(tmp_path), "--store", engine]) == 5
    assert f"hint: {servers.INSTALL[engine]}" in capsys.readouterr().err
