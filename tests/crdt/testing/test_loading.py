"""What a test run loads that uses nothing of the kit: the plugin of its name, and no more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = ("crdt.kernel", "crdt.set", "crdt.testing.network", "hypothesis", "msgpack", "aiohttp")


def loaded_by(*arguments: str, folder=None) -> set[str]:
    """The modules of a fresh interpreter, which prints them as its last line."""
    run = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return set(run.stdout.splitlines()[-1].split())


@pytest.mark.processes
@pytest.mark.parametrize(
    "statement",
    ["import crdt", "import crdt.testing", "import crdt.testing.pytest_plugin"],
)
def test_a_door_loads_no_room_before_a_name_is_asked_for(statement):
    """Importing the package, the kit or the plugin costs three small files."""
    loaded = loaded_by("-c", f"{statement}; import sys; print(*sys.modules)")
    assert not loaded.intersection(HEAVY)


@pytest.mark.processes
def test_a_test_run_that_uses_no_fixture_loads_neither_kernel_nor_sockets(tmp_path):
    """Both plugins, as pytest itself finds them on a machine with this package."""
    (tmp_path / "test_of_somebody_else.py").write_text(
        "import sys\n"
        "def test_nothing_of_ours_is_here():\n"
        f"    assert not [name for name in {HEAVY!r} if name in sys.modules]\n"
        "    assert 'crdt.testing.pytest_plugin' in sys.modules\n"
        "def test_the_fixture_brings_it(network):\n"
        "    from crdt import ORSet\n"
        "    network(ORSet, 2)\n"
        "    assert 'crdt.kernel' in sys.modules\n"
    )
    plugins = ("crdt.testing.pytest_plugin", "replication.testing.pytest_plugin")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        + [part for plugin in plugins for part in ("-p", plugin)],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in run.stdout, run.stdout


@pytest.mark.processes
def test_a_type_is_there_for_whoever_loaded_the_kernel_alone():
    """Bytes may name a type that nobody has imported: the table loads the room of its class."""
    program = (
        "from crdt.kernel import Kernel, TYPES; import sys; assert 'crdt.flag' not in sys.modules;"
        "k = Kernel('a'); k.document('f', TYPES['EWFlag']).enable();"
        "print(*(kind.__name__ for _, kind in k.documents()), 'Bag' in TYPES, len(TYPES))"
    )
    assert loaded_by("-c", program) == {"EWFlag", "False", "15"}


def test_a_name_that_a_door_does_not_know_is_no_attribute():
    """As of any module; and what it knows is listed."""
    import crdt
    import crdt.testing

    for door in (crdt, crdt.testing):
        assert set(door.__all__) <= set(dir(door))
        assert set(door.ROOMS) == set(door.__all__)
        with pytest.raises(AttributeError, match="no attribute 'bag'"):
            _ = door.bag
