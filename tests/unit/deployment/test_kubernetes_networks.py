"""Who reaches whom in the cluster, and who reaches out of it."""

import pytest

from support.kubernetes_objects import Object, overlay, pod_labels, workload
from support.network_policies import End, gets_through

API, WORKER, VALKEY, SEAWEEDFS = "zimage-api", "zimage-worker", "zimage-valkey", "zimage-seaweedfs"
PROMETHEUS = End({"app.kubernetes.io/name": "prometheus"}, namespace="monitoring")
DNS = End({"k8s-app": "kube-dns"}, namespace="kube-system")
STRANGER = End({"app.kubernetes.io/name": "zimage", "app.kubernetes.io/component": "api"}, namespace="default")
OPENSHIFT_DNS = End({"dns.operator.openshift.io/daemonset-dns": "default"}, namespace="openshift-dns")
NODES_DNS = (  # on the node, or at the Service's address as it is seen there: no pods
    *("169.254.20.10", "169.254.25.10"),  # NodeLocal DNSCache, as it comes and as Kubespray sets it up
    *("169.254.10.11", "169.254.169.254"),  # AKS, and GKE's Cloud DNS
    *("10.96.0.10", "192.168.0.10", "100.64.0.10", "fd00:10:96::a"),  # the Service of clusters,
    *("172.20.0.10", "34.118.224.10"),  # of EKS and of GKE
    "fe80::a",
)
INTERNET = "93.184.215.14"
PRIVATE = (  # the first and the last address of each network that isn't the Internet, and what clouds tell secrets at
    *("10.0.0.1", "10.255.255.254", "172.16.0.1", "172.31.255.254", "192.168.0.1", "192.168.255.254"),
    *("100.64.0.1", "100.127.255.254", "127.0.0.1", "127.255.255.254", "169.254.0.1", "169.254.169.254"),
    *("34.118.224.1", "34.118.239.254", "168.63.129.16", "::1", "fc00::1", "fdff::1", "fe80::1"),
)
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
        (WORKER, DNS, 8053, "UDP"),
        (VALKEY, OPENSHIFT_DNS, 5353, "UDP"),
        (WORKER, OPENSHIFT_DNS, 5353, "TCP"),
        *[(WORKER, address, 53, protocol) for address in NODES_DNS for protocol in ("UDP", "TCP")],
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
        (WORKER, INTERNET, 53),
        (API, "2606:2800:21f::1", 53),
        (WORKER, DNS, 443),
        (WORKER, End(namespace="default"), 53),
        # Where a name server may be, nothing else is reached: not what clouds tell secrets at.
        *[(WORKER, address, port) for address in NODES_DNS for port in (80, 443)],
    ],
)
def test_all_else_does_not(objects: list[Object], source: str | End, target: str | End, port: int) -> None:
    assert not gets_through(objects, end(objects, source), end(objects, target), port)


@pytest.mark.parametrize("address", PRIVATE)
@pytest.mark.parametrize("port", [80, 443, 8443])
def test_webhooks_lead_into_no_private_network(objects: list[Object], address: str, port: int) -> None:
    assert not gets_through(objects, end(objects, API), End(address=address), port)


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
