"""The Kubernetes overlays as kubectl builds them, and what their objects say of one another."""

import json
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from support.root import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("local", "gpu", "gpu-keda")
NAMESPACE = "zimage"

Object = dict[str, Any]
Labels = Mapping[str, str]


def kustomize(folder: Path) -> list[Object]:
    """What `kubectl apply -k` would send."""
    installed = Path(sysconfig.get_path("scripts"), "kubectl")
    kubectl = str(installed) if installed.exists() else shutil.which("kubectl") or "kubectl"
    built = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    # Through JSON, as an API server gets it: YAML knows dates, and both ends of an anchor would be one object.
    return [json.loads(json.dumps(found)) for found in yaml.safe_load_all(built.stdout)]


@cache
def overlay(name: str) -> list[Object]:
    """The objects of one overlay; not to be changed."""
    return kustomize(KUBERNETES / "overlays" / name)


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [found for found in objects if found["kind"] in kinds]


def title(found: Object) -> str:
    return f"{found['kind']} {found['metadata']['name']}"


def workloads(objects: list[Object]) -> list[Object]:
    """Everything that runs pods."""
    return of_kind(objects, "Deployment", "StatefulSet")


def workload(objects: list[Object], name: str) -> Object:
    return next(found for found in workloads(objects) if found["metadata"]["name"] == name)


def pod(found: Object) -> Object:
    """The spec of a workload's pods."""
    spec: Object = found["spec"]["template"]["spec"]
    return spec


def pod_labels(found: Object) -> Labels:
    labels: Labels = found["spec"]["template"]["metadata"]["labels"]
    return labels


def containers(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Every container, with the name of its workload."""
    for found in workloads(objects):
        for container in [*pod(found).get("initContainers", []), *pod(found)["containers"]]:
            yield found["metadata"]["name"], container


def container(objects: list[Object], name: str) -> Object:
    """The only container of a workload."""
    (only,) = pod(workload(objects, name))["containers"]
    found: Object = only
    return found


def matches(selector: Object, labels: Labels) -> bool:
    """Whether a label selector takes these labels; an empty one takes all."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    wanted: Labels = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


def named_ports(found: Object) -> dict[str, int]:
    """The ports of a workload's containers."""
    return {
        port["name"]: port["containerPort"]
        for container in pod(found)["containers"]
        for port in container.get("ports", [])
    }


def config_map(objects: list[Object], name: str) -> Mapping[str, str]:
    data: Mapping[str, str] = next(
        found["data"] for found in of_kind(objects, "ConfigMap") if found["metadata"]["name"] == name
    )
    return data


def environment(objects: list[Object], name: str) -> dict[str, str]:
    """The environment of a workload's container, but for what comes from Secrets."""
    found = container(objects, name)
    values: dict[str, str] = {}
    for source in found.get("envFrom", []):
        if "configMapRef" in source:
            values |= config_map(objects, source["configMapRef"]["name"])
    return values | {entry["name"]: entry["value"] for entry in found.get("env", []) if "value" in entry}


def valkeys_megabytes(objects: list[Object]) -> int:
    """Valkey's `maxmemory`, in MiB."""
    (conf,) = [
        found["data"]["valkey.conf"] for found in of_kind(objects, "ConfigMap") if "valkey.conf" in found["data"]
    ]
    (megabytes,) = re.findall(r"^maxmemory (\d+)mb$", conf, re.MULTILINE)
    return int(megabytes)
