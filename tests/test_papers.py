"""What a report, an audit and an installation rely on: policy, bill, lock, certificates."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
import shutil
import ssl
import subprocess
import sys
from importlib import util
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from replication.cli import running
from transactional.cli import serve

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def tool(name: str) -> ModuleType:
    spec = util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_policy_says_how_to_report_and_where_the_rest_is() -> None:
    """Every page that it names exists, and so does every heading."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for heading in ("What is supported", "How to report", "When a secret leaked"):
        assert f"## {heading}" in text
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        page = (ROOT / path).read_text(encoding="utf-8")
        if anchor:
            assert f"\n## {anchor.replace('-', ' ').capitalize()}\n" in page


def test_the_bill_lists_what_a_user_installs(tmp_path: Path) -> None:
    """Core and extras with their versions, each edge known, no tool of development; twice equal."""
    command = [sys.executable, str(ROOT / "tools" / "sbom.py")]
    for name in ("one", "two"):
        subprocess.run([*command, str(tmp_path / name)], check=True, capture_output=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    bill = json.loads((tmp_path / "one").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    listed = {each["name"].lower(): each["version"] for each in bill["components"]}
    for name in ("msgpack", "aiohttp", "rich", "icalendar", "yarl"):
        assert listed[name] == version(name)
    assert not {"pytest", "ruff", "mypy", "hypothesis"} & listed.keys()
    refs = {each["bom-ref"] for each in [bill["metadata"]["component"], *bill["components"]]}
    assert {each["ref"] for each in bill["dependencies"]} == refs
    assert all(refs >= set(each["dependsOn"]) for each in bill["dependencies"])


def test_the_lock_is_of_what_pyproject_asks_for() -> None:
    """`make lock` was run after the last change; every requirement is pinned and has hashes."""
    lock = tool("lock")
    text = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")
    assert text.startswith(lock.first_line()), "run `make lock`"
    entries = re.split(r"\n(?=[A-Za-z0-9])", text)[1:]
    assert len(entries) > 30
    for entry in entries:
        assert re.match(r"[\w.-]+==\S+", entry), entry[:80]
        assert "--hash=sha256:" in entry


@pytest.mark.parametrize(
    ("report", "status", "says"),
    [
        ("", 0, "gave no answer"),
        ("[]", 0, "gave no answer"),
        ('{"dependencies":[{"name":"a","version":"1","vulns":[]}]}', 0, "1 packages looked up"),
        ('{"dependencies":[{"name":"a","skip_reason":"x"}]}', 0, "does not answer for 1 of 1"),
        (
            '{"dependencies":[{"name":"b","skip_reason":""},{"name":"a","version":"1","vulns":[{"id":"P-1"}]}]}',
            1,
            "a 1: P-1",
        ),
    ],
)
def test_an_advisory_fails_the_check_and_silence_is_said(
    report: str, status: int, says: str
) -> None:
    """A known one is a failure; an index that does not answer is told, and none."""
    found, words = tool("advisories").verdict(report)
    assert found == status
    assert says in words


def make_certificate(folder: Path, name: str) -> None:
    """A certificate and its key; moved into place as tools that renew them do."""
    done = subprocess.run(
        shlex.split(
            "openssl req -x509 -newkey rsa:2048 -nodes -keyout new.key -out new.pem -days 1"
            f" -subj /CN={name} -addext subjectAltName=IP:127.0.0.1"
        ),
        cwd=folder,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("no openssl program here")
    for kind in ("key", "pem"):
        (folder / f"new.{kind}").replace(folder / f"tls.{kind}")


@pytest.mark.parametrize("whose", ["agent", "authority"])
async def test_a_certificate_is_read_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    """New connections see the new one, the old ones go on; one that is broken changes nothing."""
    monkeypatch.setattr(running, "RENEW_S", 0.01)
    monkeypatch.setattr(serve, "RENEW_S", 0.01)
    make_certificate(tmp_path, "first")
    certificate, key = tmp_path / "tls.pem", tmp_path / "tls.key"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    work = (
        running._renew([context], certificate, key)
        if whose == "agent"
        else serve._renew(context, certificate, key)
    )
    renewing = asyncio.create_task(work)
    echoing: list[asyncio.StreamWriter] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        echoing.append(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(10):
                writer.write(data)

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    blind = ssl.create_default_context()
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE

    async def shown() -> bytes:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=blind)
        found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return bytes(found)

    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=blind)
    first = await shown()
    shutil.copy(certificate, tmp_path / "whole.pem")
    certificate.write_text("no certificate")
    await asyncio.sleep(0.1)
    assert await shown() == first
    make_certificate(tmp_path, "second")
    async with asyncio.timeout(20):
        while await shown() == first:  # noqa: ASYNC110 a timer looks at files
            await asyncio.sleep(0.01)
    writer.write(b"still")
    assert await reader.read(10) == b"still"
    renewing.cancel()
    for each in (*echoing, writer):
        each.close()
    server.close()
