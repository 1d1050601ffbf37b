"""Who reaches whom in the cluster, and who reaches out of it."""

import pytest
from kubernetes_objects import Object, overlay, pod_labels, workload
from network_policies import End, gets_through

API, WORKER, VALKEY, SEAWEEDFS = "zimage-api", "zimage-worker", "zimage-valkey", "zimage-seaweedfs"
PROMETHEUS = End({"app.kubernetes.io/name": "prometheus"}, namespace="monitoring")
DNS = End({"k8s-app": "kube-dns"}, namespace="kube-system")
STRANGER = End({"app.kubernetes.io/name": "zimage", "app.kubernetes.io/component": "api"}, namespace="default")
INTERNET, PRIVATE, CLOUD_METADATA = "93.184.215.14", "10.1.2.3", "169.254.169.254"
S3 = "203.0.113.7"  # in the block that stands for S3's addresses


def end(objects: list[Object], who: str | End) -> End:
    """A workload's pod, an address, or what is an end already."""
    if isinstance(who, End):
        return who
    return End(pod_labels(workload(objects, who))) if who.startswith("zimage-") else End(address=who)


@pytest.mark.parametrize(
    ("source", "target", "port", "protocol"),
    [
        (API, VALKEY, 6379, "TCP"),
        (WORKER, VALKEY, 6379, "TCP"),
        (STRANGER, API, 8000, "TCP"),
        (INTERNET, API, 8000, "TCP"),
        (API, DNS, 53, "UDP"),
        (WORKER, DNS, 53, "UDP"),
        (WORKER, DNS, 53, "TCP"),
        (API, INTERNET, 443, "TCP"),
        (API, INTERNET, 80, "TCP"),
        (API, INTERNET, 8443, "TCP"),
        (API, "2606:2800:21f::1", 443, "TCP"),
    ],
)
def test_what_must_get_through_does(
    objects: list[Object], source: str | End, target: str | End, port: int, protocol: str
) -> None:
    assert gets_through(objects, end(objects, source), end(objects, target), port, protocol)


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        (STRANGER, VALKEY, 6379),
        (INTERNET, VALKEY, 6379),
        (VALKEY, VALKEY, 6379),
        (STRANGER, WORKER, 9100),
        (API, WORKER, 9100),
        (STRANGER, API, 22),
        (API, VALKEY, 16379),
        (WORKER, API, 8000),
        (WORKER, INTERNET, 443),
        (WORKER, INTERNET, 80),
        (VALKEY, INTERNET, 443),
        (API, INTERNET, 25),
        (API, PRIVATE, 443),
        (API, CLOUD_METADATA, 80),
        (API, "fd00::1", 443),
    ],
)
def test_all_else_does_not(objects: list[Object], source: str | End, target: str | End, port: int) -> None:
    assert not gets_through(objects, end(objects, source), end(objects, target), port)


@pytest.mark.parametrize("source", [API, WORKER])
def test_s3_is_reached_inside_and_outside(source: str) -> None:
    local, gpu = overlay("local"), overlay("gpu")
    assert gets_through(local, end(local, source), end(local, SEAWEEDFS), 8333)
    assert gets_through(gpu, end(gpu, source), End(address=S3), 443)


@pytest.mark.parametrize("port", [8888, 9333, 18888])
def test_the_filer_which_asks_for_no_credentials_is_not(port: int) -> None:
    local = overlay("local")
    assert not gets_through(local, end(local, API), end(local, SEAWEEDFS), port)


@pytest.mark.parametrize("name", ["gpu", "gpu-keda"])
@pytest.mark.parametrize(("target", "port"), [(API, 8000), (WORKER, 9100)])
def test_prometheus_scrapes(name: str, target: str, port: int) -> None:
    objects = overlay(name)
    assert gets_through(objects, PROMETHEUS, end(objects, target), port)
