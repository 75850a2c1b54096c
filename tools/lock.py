"""Write requirements-dev.lock: every development requirement, pinned, with the hashes of its files.

`make lock` runs it with uv, which resolves for all platforms at once; `make setup` installs what it
says and nothing else (`pip --require-hashes`).  The first line names what it was made of, so that a
test sees when pyproject.toml asks for something else by now.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements-dev.lock"
OPTIONS = ("--universal", "--python-version=3.11", "--generate-hashes", "--no-header", "--quiet")


def wanted() -> list[str]:
    """What the environment of development needs, as pyproject.toml says it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = list(project["project"]["dependencies"])
    for extra in ("calendar", "testing"):
        found += project["project"]["optional-dependencies"][extra]
    found += [each for each in project["dependency-groups"]["dev"] if "convoca[" not in each]
    return sorted(found)


def first_line() -> str:
    """Says what a lock was made of."""
    digest = hashlib.sha256("\n".join(wanted()).encode()).hexdigest()
    return f"# of pyproject.toml, sha256 of its requirements: {digest}\n"


def main() -> None:
    """Resolve and write."""
    done = subprocess.run(  # noqa: S603 our own arguments
        [*sys.argv[1:], "pip", "compile", "-", *OPTIONS],
        input="\n".join(wanted()),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    LOCK.write_text(first_line() + done.stdout, encoding="utf-8")


if __name__ == "__main__":
    main()
