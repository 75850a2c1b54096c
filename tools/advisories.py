"""Ask the index whether advisories are known for what the lock pins; part of `make check`.

An index that does not answer is not a failure of the code, so it is said and passed over; a known
advisory is one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements-dev.lock"
ANSWER_S = 120.0


def verdict(report: str) -> tuple[int, str]:
    """The exit status and the words for what pip-audit printed."""
    try:
        found = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return 0, "advisories: not looked up, the index gave no answer"
    known = [
        f"{each['name']} {each['version']}: {', '.join(vuln['id'] for vuln in each['vulns'])}"
        for each in found
        if each.get("vulns")
    ]
    silent = sum("skip_reason" in each for each in found)
    words = f"advisories: {len(found) - silent} packages looked up"
    if silent:
        words += f"; the index does not answer for {silent} of {len(found)}"
    return (1 if known else 0), "\n".join([words, *known])


def main() -> int:
    """Look everything up."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(LOCK), "--require-hashes"]
    command += ["--disable-pip", "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(  # noqa: S603 our own arguments
            command, capture_output=True, text=True, check=False, timeout=ANSWER_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"advisories: not looked up: {type(error).__name__}")  # noqa: T201 a tool prints
        return 0
    status, words = verdict(done.stdout)
    print(words)  # noqa: T201 a tool prints
    return status


if __name__ == "__main__":
    raise SystemExit(main())
