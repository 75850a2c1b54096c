"""Python snippets of README and docs run as printed; links inside the repository lead somewhere."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")

NOTEBOOK = """
import json, sys
import nbclient, nbformat

cells = [nbformat.v4.new_code_cell(cell) for cell in json.load(sys.stdin)]
notebook = nbformat.v4.new_notebook(cells=cells)
nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
for cell in cells:
    for output in cell.outputs:
        print(output.get("data", {}).get("text/plain", output.get("text", "")))
"""


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
def test_the_tests_of_the_how_to_pass(tmp_path: Path) -> None:
    """Its blocks define tests, which run nothing until pytest collects them."""
    text = (ROOT / "docs" / "howto" / "testing-your-agents.md").read_text(encoding="utf-8")
    source = "\n\n".join(SNIPPET.findall(text))
    (tmp_path / "test_board.py").write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_board.py"]
    command += ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert f"{source.count('def test_')} passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.processes
def test_the_cells_of_the_notebook_run_in_a_kernel(tmp_path: Path) -> None:
    """Each block that is called ipython is a cell; the agent lives from one to the next."""
    cells = re.findall(
        r"^```ipython\n(.*?)^```",
        (ROOT / "docs" / "howto" / "frameworks.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    (tmp_path / "notebook.py").write_text(NOTEBOOK, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "notebook.py"],
        cwd=tmp_path,
        input=json.dumps(cells),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["1"], done.stdout + done.stderr


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_inside_the_repository_lead_somewhere(path: Path) -> None:
    """A relative link names a file or folder that is there."""
    links = LINK.findall(path.read_text(encoding="utf-8"))
    broken = [link for link in links if not (path.parent / link).exists()]
    assert not broken
