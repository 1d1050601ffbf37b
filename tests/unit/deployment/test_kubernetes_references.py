"""What the manifests name is there: pods, ports, scale targets, settings, Secrets, commands."""

import re
from collections.abc import Iterator

import pytest
import typer.main

from cli.main import app
from jobs.settings import Settings
from support.kubernetes_objects import (
    ROOT,
    Object,
    container,
    containers,
    environment,
    matches,
    named_ports,
    of_kind,
    overlay,
    pod,
    pod_labels,
    title,
    workload,
    workloads,
)

STANDARD = {"OMP_NUM_THREADS"}  # variables of others, which no field of the settings tells
DOCS = (ROOT / "docs" / "kubernetes.md").read_text()


def selectors(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Every selector of pods that are meant to be there, with whose it is."""
    for found in objects:
        spec = found.get("spec", {})
        if found["kind"] == "Service":
            yield title(found), {"matchLabels": spec["selector"]}
        if found["kind"] in ("PodDisruptionBudget", "PodMonitor"):
            yield title(found), spec["selector"]
        if found["kind"] == "NetworkPolicy":
            yield title(found), spec["podSelector"]
            peers = [*spec.get("ingress", []), *spec.get("egress", [])]
            for peer in [peer for rule in peers for peer in [*rule.get("from", []), *rule.get("to", [])]]:
                if "podSelector" in peer and "namespaceSelector" not in peer:
                    yield title(found), peer["podSelector"]


def test_every_selector_finds_pods(objects: list[Object]) -> None:
    pods = [pod_labels(found) for found in workloads(objects)]
    found = list(selectors(objects))
    assert len(found) > 10
    assert [name for name, selector in found if not any(matches(selector, labels) for labels in pods)] == []


def test_a_workload_selects_its_own_pods_and_no_others(objects: list[Object]) -> None:
    for found in workloads(objects):
        selected = [other for other in workloads(objects) if matches(found["spec"]["selector"], pod_labels(other))]
        assert selected == [found], title(found)


def test_pods_are_spread_among_their_own(objects: list[Object]) -> None:
    constraints = pod(workload(objects, "zimage-api"))["topologySpreadConstraints"]
    assert constraints
    labels = pod_labels(workload(objects, "zimage-api"))
    assert all(matches(constraint["labelSelector"], labels) for constraint in constraints)


def test_services_and_monitors_name_ports_of_the_pods_they_select(objects: list[Object]) -> None:
    for found in of_kind(objects, "Service", "PodMonitor"):
        spec = found["spec"]
        service = found["kind"] == "Service"
        selector = {"matchLabels": spec["selector"]} if service else spec["selector"]
        wanted = {port["targetPort"] for port in spec["ports"]} if service else {spec["podMetricsEndpoints"][0]["port"]}
        for target in workloads(objects):
            if matches(selector, pod_labels(target)):
                assert wanted <= named_ports(target).keys(), title(found)


def test_services_are_there_by_ipv6_where_the_cluster_is(objects: list[Object]) -> None:
    for found in of_kind(objects, "Service"):
        assert found["spec"]["ipFamilyPolicy"] == "PreferDualStack", title(found)
        assert "ipFamilies" not in found["spec"], title(found)  # it would ask for one that a cluster may not have


def test_a_statefulset_has_its_service(objects: list[Object]) -> None:
    services = {found["metadata"]["name"] for found in of_kind(objects, "Service")}
    assert {found["spec"]["serviceName"] for found in of_kind(objects, "StatefulSet")} <= services


def test_images_run_commands_of_zimage(objects: list[Object]) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name in ("zimage-api", "zimage-worker"):
        command, *arguments = container(objects, name)["args"]
        assert command in commands
        commands[command].make_context(command, arguments)  # raises for an option that it doesn't know


@pytest.mark.parametrize("name", ["zimage-api", "zimage-worker"])
def test_every_variable_is_a_setting_and_has_a_value_that_it_takes(
    objects: list[Object], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = container(objects, name)
    given = environment(objects, name).keys() | {entry["name"] for entry in found["env"]}
    assert given <= {f"ZIMAGE_{field.upper()}" for field in Settings.model_fields} | STANDARD
    for variable, value in environment(objects, name).items():
        monkeypatch.setenv(variable, value)
    Settings()


def secrets_wanted(objects: list[Object]) -> Iterator[tuple[str, str | None]]:
    """Names of Secrets and their keys; None: whatever is in it."""
    for _, found in containers(objects):
        for entry in found.get("env", []):
            if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
                yield reference["name"], reference["key"]
        for source in found.get("envFrom", []):
            if "secretRef" in source:
                yield source["secretRef"]["name"], None
    for found in workloads(objects):
        for volume in pod(found).get("volumes", []):
            if "secret" in volume:
                yield volume["secret"]["secretName"], None
    for found in of_kind(objects, "TriggerAuthentication"):
        for reference in found["spec"]["secretTargetRef"]:
            yield reference["name"], reference["key"]


@pytest.mark.parametrize("name", ["gpu", "gpu-keda"])
def test_the_docs_create_the_secrets_that_the_pods_want(name: str) -> None:
    created: dict[str, set[str]] = {}
    for command in re.findall(r"kubectl -n zimage create secret generic (.*)", DOCS.replace("\\\n", "")):
        keys = re.findall(r"--from-(?:literal|file)=([\w.-]+)", command)
        created[command.split()[0]] = set(keys)
    wanted = set(secrets_wanted(overlay(name)))
    assert len(wanted) >= 5
    assert [(secret, key) for secret, key in wanted if not created.get(secret)] == []
    assert [(secret, key) for secret, key in wanted if key and key not in created[secret]] == []


def test_the_local_overlay_brings_its_secrets() -> None:
    local = overlay("local")
    brought = {found["metadata"]["name"] for found in of_kind(local, "Secret")}
    assert {name for name, _ in secrets_wanted(local)} - brought == {"zimage-webhooks"}  # which is optional


@pytest.mark.parametrize("name", ["gpu", "gpu-keda"])
def test_no_secret_is_in_the_files(name: str) -> None:
    assert of_kind(overlay(name), "Secret") == []


def test_every_config_map_is_there(objects: list[Object]) -> None:
    there = {found["metadata"]["name"] for found in of_kind(objects, "ConfigMap")}
    named = {
        source["configMapRef"]["name"]
        for _, found in containers(objects)
        for source in found.get("envFrom", [])
        if "configMapRef" in source
    }
    named |= {
        volume["configMap"]["name"]
        for found in workloads(objects)
        for volume in pod(found).get("volumes", [])
        if "configMap" in volume
    }
    assert named == there


def test_every_mount_has_its_volume(objects: list[Object]) -> None:
    for found in workloads(objects):
        volumes = {volume["name"] for volume in pod(found).get("volumes", [])}
        volumes |= {claim["metadata"]["name"] for claim in found["spec"].get("volumeClaimTemplates", [])}
        (only,) = pod(found)["containers"]
        assert {mount["name"] for mount in only["volumeMounts"]} == volumes, title(found)


def test_the_pods_account_is_there(objects: list[Object]) -> None:
    accounts = {found["metadata"]["name"] for found in of_kind(objects, "ServiceAccount")}
    assert {pod(found)["serviceAccountName"] for found in workloads(objects)} <= accounts
