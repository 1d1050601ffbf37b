"""What pods ask for can be had, holds what they keep, and belongs to the user that they run as."""

import re
from collections.abc import Iterator
from decimal import Decimal

import pytest

from support.kubernetes_objects import (
    ROOT,
    Object,
    container,
    containers,
    of_kind,
    overlay,
    pod,
    title,
    valkeys_megabytes,
    workload,
    workloads,
)

DECIMAL = {"": 1, "m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9}
BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
LARGEST_POD = {"cpu": "16", "memory": "64Gi", "ephemeral-storage": "100Gi", "nvidia.com/gpu": "1"}  # nodes have more
DOCS = "".join((ROOT / "docs" / name).read_text() for name in ("kubernetes.md", "operations.md"))


def quantity(text: object) -> Decimal:
    """Kubernetes' notation of an amount as a number."""
    number = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    assert number, text
    return Decimal(number[1]) * (DECIMAL | BINARY)[number[2]]


def resources(objects: list[Object]) -> Iterator[tuple[str, str, Decimal, Decimal]]:
    """Workload, resource, request and limit; what has a limit alone requests as much."""
    for name, found in containers(objects):
        limits, requests = found["resources"]["limits"], found["resources"]["requests"]
        assert requests.keys() <= limits.keys(), name
        for resource, limit in limits.items():
            yield name, resource, quantity(requests.get(resource, limit)), quantity(limit)


def test_every_container_has_requests_and_limits_of_what_all_share(objects: list[Object]) -> None:
    for name, found in containers(objects):
        for bound in ("requests", "limits"):
            assert {"cpu", "memory"} <= found["resources"][bound].keys(), name


def test_no_more_is_requested_than_allowed_nor_than_a_node_has(objects: list[Object]) -> None:
    for name, resource, request, limit in resources(objects):
        assert 0 < request <= limit <= quantity(LARGEST_POD[resource]), f"{resource} of {name}"


def test_a_process_gets_the_memory_that_it_takes_at_its_start(objects: list[Object]) -> None:
    measured = re.search(
        r"the API \((\d+) MiB after its start\) and a worker with the bundled model \((\d+) MiB\)", DOCS
    )
    assert measured
    for name, mebibytes in zip(("zimage-api", "zimage-worker"), measured.groups(), strict=True):
        assert quantity(container(objects, name)["resources"]["requests"]["memory"]) > quantity(f"{mebibytes}Mi")


def test_a_container_fills_its_volumes_before_it_is_evicted(objects: list[Object]) -> None:
    for found in workloads(objects):
        (only,) = pod(found)["containers"]
        allowed = only["resources"]["limits"].get("ephemeral-storage")
        sizes = [quantity(volume["emptyDir"]["sizeLimit"]) for volume in pod(found)["volumes"] if "emptyDir" in volume]
        assert allowed is None or sum(sizes) <= quantity(allowed), title(found)


def test_a_node_may_be_taken_away_with_the_scratch_space_that_is_on_it(objects: list[Object]) -> None:
    """The cluster autoscaler keeps a node as long as a pod on it has an emptyDir that is not named."""
    annotation = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes"
    for found in workloads(objects):
        scratch = {volume["name"] for volume in pod(found)["volumes"] if "emptyDir" in volume}
        named = found["spec"]["template"]["metadata"].get("annotations", {}).get(annotation)
        assert set(named.split(",") if named else ()) == scratch, title(found)


@pytest.mark.parametrize("name", ["gpu", "gpu-keda"])
def test_there_is_room_for_the_weights(name: str) -> None:
    objects = overlay(name)
    gigabytes = re.search(r"a new pod fetches (\d+) GB", DOCS)
    assert gigabytes
    (cache,) = [volume for volume in pod(workload(objects, "zimage-worker"))["volumes"] if volume["name"] == "cache"]
    node = container(objects, "zimage-worker")["resources"]["requests"]["ephemeral-storage"]
    for room in (cache["emptyDir"]["sizeLimit"], node):
        assert quantity(room) >= Decimal("1.2") * quantity(f"{gigabytes[1]}G")  # and for compiled kernels


def test_pods_tolerate_the_taint_of_what_they_request(objects: list[Object]) -> None:
    for found in workloads(objects):
        (only,) = pod(found)["containers"]
        devices = {resource for resource in only["resources"]["limits"] if "/" in resource}  # others share a node
        assert {toleration["key"] for toleration in pod(found).get("tolerations", [])} == devices, title(found)


def test_a_user_without_rights_can_write_to_the_volumes_that_outlive_it(objects: list[Object]) -> None:
    kept = [found for found in of_kind(objects, "StatefulSet") if found["spec"].get("volumeClaimTemplates")]
    assert kept
    for found in kept:
        security = pod(found)["securityContext"]
        assert security["fsGroup"] == security["runAsGroup"], title(found)


def test_valkey_may_be_full_while_it_rewrites_its_append_only_file(objects: list[Object]) -> None:
    """On the disk: the file as it was rewritten last, what came since (as much again), and what it is rewritten to."""
    (claim,) = workload(objects, "zimage-valkey")["spec"]["volumeClaimTemplates"]
    memory = quantity(f"{valkeys_megabytes(objects)}Mi")
    assert 3 * memory <= quantity(claim["spec"]["resources"]["requests"]["storage"])
    assert 2 * memory < quantity(container(objects, "zimage-valkey")["resources"]["limits"]["memory"])
