"""Which process runs, since when, and one at a time: what differs between systems, for `discovery`.

    ran here    Linux: /proc, flock
    not run     macOS: `ps` for the start time, flock
    not run     Windows: the process is asked for by its handle, `filelock` for the lock

A process number is given to others when its process is gone, so the time of the start goes with it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SYSTEM: str = sys.platform
PID_MAX = 1 << 32
PS_S = 2.0
"""How long `ps` may take, where it is asked."""
LOCK_S = 5.0
LOCK_PAUSE_S = 0.005


def is_running(pid: int, since: str) -> bool:
    """Whether the process of that number runs that began then; "" is any of that number."""
    if not 0 < pid < PID_MAX:
        return False
    now = started(pid)
    if now is None:
        return _exists(pid)
    return now != "" and since in {"", now}


def started(pid: int) -> str | None:
    """When a process began, in the system's own words; "" if none runs, None if none can say."""
    if SYSTEM == "linux":
        return _started_linux(pid)
    if SYSTEM == "win32":
        return _started_windows(pid)
    return _started_ps(pid)


def _started_linux(pid: int) -> str | None:
    """Field 22 of proc(5): clock ticks since the boot, with the boot's own id."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        return None
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    fields = line.rpartition(b")")[2].split()  # the name before may hold spaces and brackets
    if fields[0] in {b"Z", b"X"}:  # ended, and nobody has asked how
        return ""
    return f"{boot.strip()}:{fields[19].decode()}"


def _started_ps(pid: int) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - no word of it comes from outside
            ["/bin/ps", "-o", "lstart=", "-p", str(pid)],
            capture_output=True,
            timeout=PS_S,
            check=False,
            env={"LC_ALL": "C", "TZ": "UTC"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()


def _started_windows(pid: int) -> str:
    """The creation time, in 100 ns since 1601 (GetProcessTimes)."""
    import ctypes  # noqa: PLC0415 - of this system alone
    from ctypes import wintypes  # noqa: PLC0415

    kernel: Any = getattr(ctypes, "WinDLL")("kernel32")  # noqa: B009 - mypy looks from here
    kernel.OpenProcess.restype = wintypes.HANDLE
    handle = kernel.OpenProcess(0x1000, False, pid)
    if not handle:
        return ""
    try:
        times = [wintypes.FILETIME() for _ in range(4)]
        code = wintypes.DWORD()
        if not kernel.GetProcessTimes(handle, *map(ctypes.byref, times)):
            return ""
        if kernel.GetExitCodeProcess(handle, ctypes.byref(code)) and code.value != 259:
            return ""  # ended; 259 is STILL_ACTIVE
        return str(times[0].dwHighDateTime << 32 | times[0].dwLowDateTime)
    finally:
        kernel.CloseHandle(handle)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # there, and of another user
        return True
    return True


@contextlib.contextmanager
def locked(place: Path) -> Iterator[None]:
    """Hold a lock file, for moments: whoever comes meanwhile waits, for at most `LOCK_S`.

    Raises:
        TimeoutError: somebody holds it for longer.
    """
    if SYSTEM == "win32":
        from filelock import FileLock  # noqa: PLC0415 - of this system alone

        with FileLock(place, timeout=LOCK_S):
            yield
        return
    import fcntl  # noqa: PLC0415 - not of every system

    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(place, flags, 0o600)
    try:
        until_s = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until_s:
                    raise TimeoutError(f"{place} is held by another process") from None
                time.sleep(LOCK_PAUSE_S)
        yield
    finally:
        os.close(descriptor)
