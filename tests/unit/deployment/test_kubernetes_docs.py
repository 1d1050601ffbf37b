"""What docs/kubernetes.md tells to put into the overlay `gpu` works there."""

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from support.kubernetes_objects import KUBERNETES, ROOT, Object, container, kustomize, overlay, pod, title, workload
from support.network_policies import End, gets_through

DOCS = (ROOT / "docs" / "kubernetes.md").read_text()
API = End({"app.kubernetes.io/name": "zimage", "app.kubernetes.io/component": "api"})
WORKER = End({"app.kubernetes.io/name": "zimage", "app.kubernetes.io/component": "worker"})


def example(path: str) -> str:
    """The file that the docs show under this path."""
    found = re.search(rf"```yaml\n# {re.escape(path)}\n(.*?)```", DOCS, re.DOTALL)
    assert found
    return found[1]


def with_example(
    folder: Path, name: str, field: str, *, without: str | None = None, target: dict[str, str] | None = None
) -> list[Object]:
    """The overlay's objects with a file of the docs named in a field of its kustomization."""
    shutil.copytree(KUBERNETES, folder, dirs_exist_ok=True)
    gpu = folder / "overlays" / "gpu"
    (gpu / name).write_text(example(f"overlays/gpu/{name}"))
    kustomization: dict[str, Any] = yaml.safe_load((gpu / "kustomization.yaml").read_text())
    patch = {"path": name, "target": target} if target else {"path": name}
    kustomization[field].append(patch if field == "patches" else name)
    if without:
        kustomization["resources"].remove(without)
    (gpu / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return kustomize(gpu)


def test_weights_may_come_from_a_volume(tmp_path: Path) -> None:
    objects = with_example(tmp_path, "weights.yaml", "patches")
    mounts = {mount["mountPath"]: mount for mount in container(objects, "zimage-worker")["volumeMounts"]}
    assert mounts["/models"]["readOnly"]
    assert {"/tmp", "/cache"} <= mounts.keys()  # noqa: S108


def test_workers_may_want_a_runtime_class(tmp_path: Path) -> None:
    objects = with_example(tmp_path, "runtime-class.yaml", "patches")
    assert pod(workload(objects, "zimage-worker"))["runtimeClassName"] == "nvidia"
    assert "runtimeClassName" not in pod(workload(objects, "zimage-api"))


def test_names_may_be_resolved_elsewhere(tmp_path: Path) -> None:
    server = End(address="198.51.100.53")
    assert not gets_through(overlay("gpu"), WORKER, server, 53, "UDP")
    assert gets_through(with_example(tmp_path, "dns-egress.yaml", "resources"), WORKER, server, 53, "UDP")


def test_networks_with_public_addresses_may_be_kept_from_webhooks(tmp_path: Path) -> None:
    (told,) = re.findall(r"^and `(\{path: webhook-networks.yaml, .*\})` to `patches`", DOCS, re.MULTILINE)
    narrowed = with_example(tmp_path, "webhook-networks.yaml", "patches", target=yaml.safe_load(told)["target"])
    for own, other in [("2001:db8:5::1", "2001:db8:6::1"), ("203.0.113.7", "198.51.100.7")]:
        assert gets_through(overlay("gpu"), API, End(address=own), 8080)
        assert not gets_through(narrowed, API, End(address=own), 8080)
        assert gets_through(narrowed, API, End(address=other), 8080)


def test_redis_may_be_elsewhere(tmp_path: Path) -> None:
    objects = with_example(tmp_path, "redis-egress.yaml", "resources", without="../../valkey")
    assert [title(found) for found in objects if "valkey" in title(found)] == []
    assert gets_through(objects, WORKER, End(address="198.51.100.7"), 6379)


def test_traces_reach_a_collector(tmp_path: Path) -> None:
    collector = End(namespace="observability")
    assert not gets_through(overlay("gpu"), WORKER, collector, 4318)
    assert gets_through(with_example(tmp_path, "collector-egress.yaml", "resources"), WORKER, collector, 4318)


def test_linked_files_are_there() -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", DOCS):
        assert (ROOT / "docs" / target).exists(), target
