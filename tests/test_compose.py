"""`deploy/compose.yaml`: read as YAML, and looked at for what would not start. It is not run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from replication.cli import command_line

FILE = Path(__file__).parent.parent / "deploy" / "compose.yaml"


@pytest.fixture
def compose() -> dict:
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def test_what_a_service_names_is_there(compose: dict) -> None:
    """Networks, volumes, secrets and services: each that is used is declared, and none besides."""
    services = compose["services"]
    assert set(compose) <= {"services", "networks", "volumes", "secrets"} | {
        key for key in compose if key.startswith("x-")
    }
    used = {"networks": set(), "volumes": set(), "secrets": set()}
    for service in services.values():
        assert service["image"].count(":") == 1
        assert not service["image"].endswith(":latest")
        used["networks"] |= set(service["networks"])
        used["volumes"] |= {volume.partition(":")[0] for volume in service.get("volumes", ())}
        used["secrets"] |= set(service.get("secrets", ()))
        assert set(service.get("depends_on", ())) <= services.keys()
        assert "ports" not in service, "published: it has neither users nor TLS"
    assert {kind: set(compose[kind]) for kind in used} == used


def test_the_three_members_know_each_other(compose: dict) -> None:
    """The same list for all, each in it under its own name, with a volume of its own."""
    members = {n: s for n, s in compose["services"].items() if n.startswith("etcd")}
    assert len(members) == 3
    settings = [member["environment"] for member in members.values()]
    (listed,) = {each["ETCD_INITIAL_CLUSTER"] for each in settings}
    assert dict(part.split("=") for part in listed.split(",")) == {
        each["ETCD_NAME"]: each["ETCD_INITIAL_ADVERTISE_PEER_URLS"] for each in settings
    }
    for name, member in members.items():
        assert member["environment"]["ETCD_ADVERTISE_CLIENT_URLS"] == f"http://{name}:2379"
        volume, _, place = member["volumes"][0].partition(":")
        assert (volume, place) == (name, member["environment"]["ETCD_DATA_DIR"])


def test_the_agents_are_commands_that_there_are(compose: dict) -> None:
    """Their options are parsed by the command itself; peers are services, the store is members."""
    agents = {n: s for n, s in compose["services"].items() if "python" in s["image"]}
    assert len(agents) == 2
    for name, agent in agents.items():
        script = shlex.split(agent["command"])[2]
        words = shlex.split(script.partition("-m replication ")[2])
        asked = command_line.parser().parse_args(words)
        assert (asked.name, asked.address) == (name, f"{name}:7001")
        assert {peer.partition(":")[0] for peer in asked.peer} == agents.keys() - {name}
        store = agent["environment"]["CONVOCA_STORE"]
        hosts = re.findall(r"(\w+):2379", store)
        assert hosts == [each for each in compose["services"] if each.startswith("etcd")]
