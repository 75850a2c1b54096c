"""The curl commands of docs/http-api.md, run as printed against an authority on a new file."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from importlib import resources
from pathlib import Path

import pytest

from tests.transactional.authority import AuthorityProcess

pytestmark = pytest.mark.processes

PAGE = Path(__file__).resolve().parents[3] / "docs" / "http-api.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
MARK = "<status %{http_code}>"
EXPECTED = [200, 412, 200, 200, 412, 200, 200, 422, 200, 404, 200, 200, 200, 200, 200, 200]
"""One status per command, in the order of the page; its comments say the same in words."""


async def run_page(url: str, home: Path) -> list[tuple[int, str]]:
    """Run every command in one shell; return the status and the answer of each."""
    # The commands stay as they are: what a test adds is said in curl's own configuration.
    (home / ".curlrc").write_text(f'silent\nwrite-out = "{MARK}"\n')
    script = "".join(BLOCK.findall(PAGE.read_text(encoding="utf-8")))
    assert "http://127.0.0.1:7700" in script
    shell = await asyncio.create_subprocess_exec(
        *("sh", "-c", script.replace("http://127.0.0.1:7700", url)),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"CURL_HOME": str(home)},
    )
    output, _ = await shell.communicate()
    answers = re.findall(r"(.*?)<status (\d+)>", output.decode(), re.DOTALL)
    return [(int(status), answer) for answer, status in answers]


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
async def test_the_commands_of_the_page_do_what_it_says(tmp_path: Path) -> None:
    """Conditional requests, idempotency keys, a commit over several keys, resolve: from curl."""
    authority = AuthorityProcess(tmp_path / "s.db")
    await authority.start()
    async with asyncio.timeout(60):
        answers = await run_page(authority.url, tmp_path)
    assert await authority.stop() == 0
    assert [status for status, _ in answers] == EXPECTED
    texts = [text for _, text in answers]
    assert '"value":"free"' in texts[1]
    assert 'Etag: "1"' in texts[2]
    assert '"revision":3' in texts[5]
    assert ('"revision":3' in texts[6], '"replayed":true' in texts[6]) == (True, True)
    assert texts[11].count("\nid: ") == 4  # the start, and three commits under the prefix
    assert '"revision":5' in texts[12]
    assert '"ttl_s":30' in texts[13]
    assert ('"applied":true' in texts[14], '"applied":false' in texts[15]) == (True, True)


def test_the_page_and_the_openapi_document_list_the_same() -> None:
    """Each path with its method, and each status: what one has, the other has."""
    page = PAGE.read_text(encoding="utf-8")
    document = json.loads(resources.files("transactional").joinpath("openapi.json").read_text())
    operations = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method != "parameters"
    }
    assert re.findall(r"^\| `([A-Z]+) (\S+)` \|", page, re.MULTILINE) == list(operations)
    statuses = {status for each in operations.values() for status in each["responses"]}
    assert {*re.findall(r"^\| (\d{3}) \|", page, re.MULTILINE)} == statuses - {"101", "200"}
