"""The documentation as a site: it builds without a warning, and nothing is missing in it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    path.relative_to(DOCS).with_suffix("").as_posix()
    for path in DOCS.rglob("*.md")
    if path.parent.name != "decisions" and path.name != "index.md"
)


@pytest.mark.processes
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """A dead link, a page that no list names, a docstring that is no text: each is a warning."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    command += ["-d", str(tmp_path / "trees"), str(DOCS), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    reference = (tmp_path / "site" / "reference" / "transactional.html").read_text("utf-8")
    assert 'id="transactional.WorkQueue.claims"' in reference
    page = (tmp_path / "site" / "index.html").read_text("utf-8")
    assert not re.findall(r'(?:src|href)="(?:https?:)?//(?!github\.com/pradyunsg)[^"]+', page)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_named_for_programs(page: str) -> None:
    """`llms.txt` is the index that a language model reads."""
    assert f"({page}.html)" in (DOCS / "llms.txt").read_text(encoding="utf-8")


def test_what_is_named_for_programs_is_there() -> None:
    """The other way round."""
    named = re.findall(r"\(([\w/.-]+)\.html\)", (DOCS / "llms.txt").read_text(encoding="utf-8"))
    assert not [name for name in named if not (DOCS / f"{name}.md").exists()]
