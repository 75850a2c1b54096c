"""Linux without what Windows lacks: modules and calls are taken away, and everything still runs.

That is not Windows, and says nothing of its file systems; it says that nothing of ours needs what
is not there. docs/platforms.md says what was run where.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

POORER = """
import asyncio, getpass, multiprocessing, os, signal, socket, sqlite3, ssl, subprocess, sys
import logging, pathlib, shutil, tempfile, threading, time, uuid, zipfile
import aiohttp, aiohttp.web, msgpack, rich.table, rich.console
with __import__("contextlib").suppress(ImportError):
    import filelock  # whose own choice follows the system: what it uses elsewhere it may use here
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in (
    "O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY", "fchmod", "pread", "pwrite",
    "register_at_fork", "fork", "getuid", "geteuid", "killpg", "fdatasync", "sync",
):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGQUIT", "SIGSTOP", "SIGTSTP", "SIGCONT", "SIGUSR1", "SIGUSR2"):
    delattr(signal, name)
for name in [each for each in dir(time) if each.startswith(("CLOCK_", "clock_"))]:
    delattr(time, name)
"""

IMPORTS = """
import importlib, pkgutil
for package in ("crdt", "replication", "transactional", "convoca"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if module.name.rpartition(".")[2] not in {"__main__", "pytest_plugin"}:
            importlib.import_module(module.name)
print("imported")
"""

RUNS = """
import transactional as t
from replication import Agent, JournalHeldError

async def lives():
    async with Agent("ann", journal="ann.db") as ann:
        ann.counter("c").increment(5)
        await ann.durable(ann.version())
        try:
            await Agent("bob", journal="ann.db").start()
        except JournalHeldError:
            print("held")
        first = ann.id
    async with Agent("ann", journal="ann.db") as ann:
        print(ann.counter("c").value, ann.id == first)
    async with t.open("sqlite:team.db") as store:
        await t.create(store, "k", b"v")
        try:
            await t.connect("sqlite:team.db")
        except t.StoreLockedError:
            print("locked")
    async with t.open("sqlite:team.db") as store:
        print((await store.get("k")).value, store.capabilities.durable)
    t.stores.backup(pathlib.Path("team.db"), pathlib.Path("copy.db"))
    print(t.stores.verify(pathlib.Path("copy.db")))

asyncio.run(lives())
"""


def run(program: str, cwd: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", POORER + program],
        cwd=cwd, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.processes
def test_every_module_is_imported_without_what_windows_lacks(tmp_path: Path) -> None:
    """No fcntl, resource or pwd, no SIGKILL, no fork, no flag of POSIX."""
    assert run(IMPORTS, tmp_path) == ["imported"]


@pytest.mark.processes
def test_files_are_held_and_continued_without_what_windows_lacks(tmp_path: Path) -> None:
    """A journal and a store are held by one, are whole after a close, and go on as themselves."""
    said = run(RUNS, tmp_path)
    assert said == ["held", "5 True", "locked", "b'v' True", "[]"]
