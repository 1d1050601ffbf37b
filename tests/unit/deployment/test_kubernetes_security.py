"""The pods have no more rights than they need, and all that they do need."""

import re
from pathlib import PurePosixPath

import pytest

from jobs import __version__
from support.container_images import FULL_NAME
from support.kubernetes_objects import (
    Object,
    container,
    containers,
    environment,
    of_kind,
    overlay,
    pod,
    title,
    workload,
    workloads,
)


def test_the_namespace_enforces_restricted(objects: list[Object]) -> None:
    (namespace,) = of_kind(objects, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {found["metadata"].get("namespace") for found in objects if found is not namespace} == {
        namespace["metadata"]["name"]
    }


def test_pods_are_restricted(objects: list[Object]) -> None:
    for found in workloads(objects):
        spec = pod(found)
        assert spec["securityContext"]["runAsNonRoot"] is True, title(found)
        assert spec["securityContext"]["runAsUser"] > 0, title(found)
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, title(found)
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), title(found)
        kinds = {kind for volume in spec.get("volumes", []) for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}, title(found)


def test_containers_are_restricted(objects: list[Object]) -> None:
    for name, found in containers(objects):
        assert found["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name


def test_nobody_has_rights_or_a_token(objects: list[Object]) -> None:
    (account,) = of_kind(objects, "ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    assert [title(found) for found in workloads(objects) if pod(found)["automountServiceAccountToken"]] == []
    assert of_kind(objects, "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding") == []


def test_services_add_no_variables_that_look_like_settings(objects: list[Object]) -> None:
    assert [title(found) for found in workloads(objects) if pod(found)["enableServiceLinks"]] == []


def test_images_have_a_tag_that_stays(objects: list[Object]) -> None:
    for name, found in containers(objects):
        tag = re.fullmatch(r"[^:@]+:([0-9]+\.[0-9.]+)(@sha256:[0-9a-f]{64})?", found["image"])
        assert tag, f"{name}: {found['image']}"
        assert FULL_NAME.fullmatch(found["image"]), found["image"]
        if name in ("zimage-api", "zimage-worker"):
            assert tag[1] == __version__, found["image"]


@pytest.mark.parametrize("name", ["zimage-api", "zimage-worker"])
def test_what_is_written_is_written_to_a_volume(objects: list[Object], name: str) -> None:
    volumes = {volume["name"] for volume in pod(workload(objects, name))["volumes"] if "emptyDir" in volume}
    mounts = container(objects, name)["volumeMounts"]
    writable = {PurePosixPath(mount["mountPath"]) for mount in mounts if mount["name"] in volumes}
    assert PurePosixPath("/tmp") in writable  # noqa: S108
    if name == "zimage-worker":
        assert writable & set(PurePosixPath(environment(objects, name)["ZIMAGE_CACHE_DIR"]).parents)


def test_the_api_serves_the_network_with_keys_or_openly_by_intention(objects: list[Object]) -> None:
    settings = environment(objects, "zimage-api")
    assert settings["ZIMAGE_HOST"] == "::"
    keys = settings.get("ZIMAGE_API_KEYS_FILE")
    assert bool(keys) != (settings.get("ZIMAGE_ALLOW_ANONYMOUS") == "true")  # the API starts with one of both only
    if keys:
        mounts = {mount["mountPath"]: mount for mount in container(objects, "zimage-api")["volumeMounts"]}
        # A whole directory: Kubernetes renews no single file (subPath) when the Secret changes.
        assert "subPath" not in mounts[str(PurePosixPath(keys).parent)]


def test_where_everyone_is_let_in_the_service_s_names_are_its_own() -> None:
    local = overlay("local")
    names = environment(local, "zimage-api")["ZIMAGE_ALLOWED_HOSTS"].split(",")
    (service,) = [found for found in of_kind(local, "Service") if found["metadata"]["name"] == "zimage-api"]
    name = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc.cluster.local".split(".")
    assert {".".join(name[:labels]) for labels in (1, 2, 3, 5)} == set(names)


def test_only_the_local_overlay_lets_everyone_in() -> None:
    for name in ("gpu", "gpu-keda"):
        assert "ZIMAGE_ALLOW_ANONYMOUS" not in environment(overlay(name), "zimage-api")


@pytest.mark.parametrize("name", ["gpu", "gpu-keda"])
def test_a_worker_has_a_gpu_or_does_not_start(name: str) -> None:
    objects = overlay(name)
    resources = container(objects, "zimage-worker")["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == 1
    assert environment(objects, "zimage-worker")["ZIMAGE_DEVICE"] == "gpu"
