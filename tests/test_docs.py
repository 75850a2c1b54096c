"""Python snippets of README and docs run as printed; links inside the repository lead somewhere."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.processes
@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_the_snippets_of_a_page_run_in_order(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python blocks of a page share a namespace and a directory; `await` is allowed."""
    text = path.read_text(encoding="utf-8")
    snippets = [(match.start(1), match.group(1)) for match in SNIPPET.finditer(text)]
    monkeypatch.chdir(tmp_path)

    async def run() -> None:
        namespace: dict[str, object] = {"__name__": "__snippet__"}
        for start, source in snippets:
            where = f"{name_of(path)}:{text.count(chr(10), 0, start) + 1}"
            flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            code = compile(source, where, "exec", flags=flags, dont_inherit=True)
            if code.co_flags & inspect.CO_COROUTINE:
                async with asyncio.timeout(30):
                    await eval(code, namespace)  # noqa: S307 - our own pages
            elif "asyncio.run(" in source:  # a whole program, with a loop of its own
                await asyncio.to_thread(exec, code, namespace)
            else:
                exec(code, namespace)  # noqa: S102 - our own pages

    asyncio.run(run())


@pytest.mark.processes
def test_the_agent_of_the_readme_runs_as_pasted_and_again(tmp_path: Path) -> None:
    """Counterexample: pasted it was a SyntaxError, and mended it failed from the second run on."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (source,) = [block for block in SNIPPET.findall(text) if "Agent(" in block]
    (tmp_path / "pasted.py").write_text(source)
    command = [sys.executable, "-W", "error", "pasted.py"]
    for printed in ("5", "10", "15"):
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.stdout.strip(), done.stderr) == (printed, "")


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_inside_the_repository_lead_somewhere(path: Path) -> None:
    """A relative link names a file or folder that is there."""
    links = LINK.findall(path.read_text(encoding="utf-8"))
    broken = [link for link in links if not (path.parent / link).exists()]
    assert not broken
