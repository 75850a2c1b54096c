"""docs/tutorial.md as a newcomer does it: files are saved, sessions typed, in real processes.

A line `ann$` starts a program in ann's terminal, `ann<` is typed there, `ann>` has to come back,
`ann!` kills, `ann^` ends the input. Only the port of the store is another one.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"(\w+)([$<>!^]) (.*)")
WAIT_S = 60


class Terminal:
    """A program that somebody types into."""

    def __init__(self, command: str, where: Path) -> None:
        program, *arguments = shlex.split(command)
        front = {"python": [], "convoca": ["-m", "convoca"]}[program]
        self.process = subprocess.Popen(
            [sys.executable, *front, *arguments],
            cwd=where,
            env={**os.environ, "PYTHONPATH": str(ROOT), "CONVOCA_RUNTIME_DIR": str(where / "run")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            bufsize=1,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line.rstrip("\n"))

    def type(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def comes(self, wanted: str) -> None:
        """Wait for a line, in which `...` is anything; states on the way to it may be seen, too."""
        pattern = re.compile(re.escape(wanted).replace(r"\.\.\.", ".*"))
        seen = [""]
        while not pattern.fullmatch(seen[-1]):
            try:
                seen.append(self.lines.get(timeout=WAIT_S))
            except queue.Empty:
                raise AssertionError(f"{wanted!r} did not come, but {seen}") from None

    def end_of_input(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(WAIT_S) == 0, list(self.lines.queue)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.reader.join(WAIT_S)
        self.process.stdout.close()


@pytest.fixture
def terminals() -> Iterator[dict[str, Terminal]]:
    opened: dict[str, Terminal] = {}
    yield opened
    for terminal in opened.values():
        terminal.kill()


@pytest.mark.processes
def test_the_tutorial_works_as_printed(tmp_path: Path, terminals: dict[str, Terminal]) -> None:
    """Three share a board, one dies and comes back, and what is decided is decided once."""
    (port,) = free_ports(1)
    lines = 0
    for kind, text in BLOCK.findall(PAGE):
        block = text.replace("7700", str(port))
        if kind == "python":
            name = block.split()[1].strip(":,")
            kept = (tmp_path / name).read_text() if (tmp_path / name).exists() else ""
            imports, _, rest = kept.partition("async def main")
            assert rest or "changed" not in block
            (tmp_path / name).write_text(imports + block, encoding="utf-8")
            continue
        for who, what, said in LINE.findall(block):
            if what == "$":
                if who in terminals:
                    terminals[who].kill()
                terminals[who] = Terminal(said, tmp_path)
            elif what == "<":
                terminals[who].type(said)
            elif what == ">":
                terminals[who].comes(said)
            elif what == "!":
                terminals[who].kill()
            else:
                terminals[who].end_of_input()
            lines += 1
    assert lines >= 35
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_board.py"]
    command += ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
