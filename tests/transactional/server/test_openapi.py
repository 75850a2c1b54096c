"""The authority keeps what its OpenAPI document says, whatever is sent to it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import resources
from typing import TYPE_CHECKING

import pytest

from tests.scale import SOAK, rounds, seeds
from tests.transactional.authority import AuthorityProcess
from transactional.server.admission import Listen
from transactional.server.server import Authority
from transactional.stores.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENT = json.loads(resources.files("transactional").joinpath("openapi.json").read_text())


async def test_every_route_is_documented_and_every_document_has_a_route() -> None:
    """The paths and methods of the router are those of openapi.json."""
    application = Authority(MemoryStore(), Listen(port=0))._application()
    routed = {
        (re.sub(r"\{(\w+):[^}]*\}", r"{\1}", route.resource.canonical), route.method)
        for route in application.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    documented = {
        (path, method.upper())
        for path, methods in DOCUMENT["paths"].items()
        for method in methods
        if method != "parameters"
    }
    assert routed - {("/openapi.json", "GET")} == documented


@pytest.mark.processes
async def test_schemathesis_finds_no_deviation(tmp_path: Path) -> None:
    """Generated requests, right and wrong: no 5xx, statuses and bodies as documented.

    Soak adds the phase that walks through every boundary value of the document.
    """
    pytest.importorskip("schemathesis")
    authority = AuthorityProcess(tmp_path / "s.db")
    await authority.start()
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{authority.url}/openapi.json"),
        *("--checks", "not_a_server_error,status_code_conformance,response_schema_conformance"),
        *("--max-examples", str(rounds(200)), "--seed", str(seeds(1)[0])),
        *("--phases", "coverage,fuzzing,stateful" if SOAK else "fuzzing,stateful"),
        *("--exclude-path", "/v1/watch"),  # its answer does not end
        *("--suppress-health-check", "too_slow"),  # says something of the machine only
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        check=False,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"NO_COLOR": "1"},
    )
    await authority.stop()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
