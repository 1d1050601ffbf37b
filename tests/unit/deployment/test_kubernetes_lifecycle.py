"""Starting, being asked how one is, being scaled, and leaving."""

import re
from collections.abc import Iterator

import httpx
import pytest
import yaml

from api.app import create_app
from api.routes.queue import QueueOverview
from api.server import GRACE_SECONDS
from jobs.settings import Settings
from support.kubernetes_objects import (
    NAMESPACE,
    ROOT,
    Object,
    container,
    containers,
    environment,
    named_ports,
    of_kind,
    overlay,
    pod,
    valkeys_megabytes,
    workload,
    workloads,
)
from worker.health import Health

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
MARGIN_SECONDS = 10
DOCS = (ROOT / "docs" / "kubernetes.md").read_text()


def seconds(probe: Object) -> int:
    """For how long a probe may fail before something is done."""
    allowed: int = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
    return allowed


def settings(objects: list[Object], name: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What a workload's process would read."""
    for variable, value in environment(objects, name).items():
        monkeypatch.setenv(variable, value)
    return Settings()


def test_every_container_has_all_three_probes(objects: list[Object]) -> None:
    for found in workloads(objects):
        (only,) = pod(found)["containers"]
        assert only.keys() >= set(PROBES), found["metadata"]["name"]


@pytest.mark.parametrize(("name", "port"), [("zimage-api", "port"), ("zimage-worker", "metrics_port")])
def test_probes_ask_the_port_that_the_process_listens_on(
    objects: list[Object], name: str, port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = named_ports(workload(objects, name))
    read = settings(objects, name, monkeypatch)
    for probe in PROBES:
        assert ports[container(objects, name)[probe]["httpGet"]["port"]] == getattr(read, port)
    assert (read.host if name == "zimage-api" else read.metrics_host) == "::"  # else the kubelet can't ask


def test_the_apis_probes_ask_for_routes_that_it_has(objects: list[Object]) -> None:
    routes = create_app(Settings()).openapi()["paths"]
    paths = {probe: container(objects, "zimage-api")[probe]["httpGet"]["path"] for probe in PROBES}
    assert set(paths.values()) <= routes.keys()
    # /readyz says what Redis and S3 are like: neither a restart nor an empty Service would help anybody.
    assert paths == {"startupProbe": "/livez", "readinessProbe": "/livez", "livenessProbe": "/livez"}


@pytest.fixture
def starting_worker() -> Iterator[httpx.Client]:
    """What a worker answers in its first second."""
    health = Health(Settings(metrics_port=0))
    with httpx.Client(base_url=f"http://127.0.0.1:{health.port}") as client:
        yield client


@pytest.mark.parametrize(("probe", "status"), [("startupProbe", 503), ("readinessProbe", 503), ("livenessProbe", 200)])
def test_a_cold_worker_is_not_started_and_not_ready_and_not_killed(
    objects: list[Object], starting_worker: httpx.Client, probe: str, status: int
) -> None:
    answer = starting_worker.get(container(objects, "zimage-worker")[probe]["httpGet"]["path"])
    assert answer.status_code == status
    assert answer.text == "ok\n" or answer.text.startswith("starting")  # not the metrics, which are at any other path


def test_a_start_may_take_as_long_as_it_needs(objects: list[Object], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("zimage-api", "zimage-worker"):
        startup = seconds(container(objects, name)["startupProbe"])
        assert startup >= settings(objects, name, monkeypatch).startup_timeout + MARGIN_SECONDS
        assert workload(objects, name)["spec"].get("progressDeadlineSeconds", 600) > startup


def test_a_worker_may_take_as_long_to_start_as_the_docs_say(objects: list[Object]) -> None:
    told = re.search(r"waits, for (\d+) minutes at most \(startup probe\)", DOCS)
    cold = re.search(r"A start\*\* takes (\d+) s", (ROOT / "docs" / "scaling.md").read_text())
    assert told
    assert cold
    startup = seconds(container(objects, "zimage-worker")["startupProbe"])
    assert startup == int(told[1]) * 60
    assert startup > 4 * int(cold[1])  # where machines, images and weights come slower than was assumed


def test_valkey_may_read_all_that_it_can_hold_before_it_is_killed(objects: list[Object]) -> None:
    slow = 20  # MB/s; two busy cores read 85
    assert seconds(container(objects, "zimage-valkey")["startupProbe"]) > valkeys_megabytes(objects) / slow


def test_a_process_is_missed_soon_and_killed_late(objects: list[Object]) -> None:
    for name, found in containers(objects):
        assert seconds(found["readinessProbe"]) <= 30, name
        assert 60 <= seconds(found["livenessProbe"]) <= 120, name  # "a minute later", say the docs
        for probe in PROBES:
            assert found[probe].get("timeoutSeconds", 1) <= found[probe].get("periodSeconds", 10), name


def test_a_worker_is_given_the_time_to_drain(objects: list[Object], monkeypatch: pytest.MonkeyPatch) -> None:
    drain = settings(objects, "zimage-worker", monkeypatch).drain_seconds
    assert pod(workload(objects, "zimage-worker"))["terminationGracePeriodSeconds"] >= drain + MARGIN_SECONDS


def test_an_api_answers_those_who_wait_after_the_services_have_left_it_out(objects: list[Object]) -> None:
    left_out = container(objects, "zimage-api")["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = pod(workload(objects, "zimage-api"))["terminationGracePeriodSeconds"]
    assert grace >= left_out + GRACE_SECONDS + MARGIN_SECONDS


def test_new_workers_do_not_wait_for_a_gpu_that_old_ones_hold(objects: list[Object]) -> None:
    assert workload(objects, "zimage-worker")["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


def test_an_autoscaler_has_its_target_for_itself(objects: list[Object]) -> None:
    scalers = of_kind(objects, "HorizontalPodAutoscaler", "ScaledObject")
    targets = [scaler["spec"]["scaleTargetRef"] for scaler in scalers]
    named = [(target["kind"], target["name"]) for target in targets]
    assert len(set(named)) == len(named)
    for kind, name in named:
        found = workload(objects, name)
        assert found["kind"] == kind
        assert "replicas" not in found["spec"], f"an apply would set the replicas of {name} back"


def test_there_are_always_two_apis(objects: list[Object]) -> None:
    (autoscaler,) = of_kind(objects, "HorizontalPodAutoscaler")
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == "zimage-api"
    assert autoscaler["spec"]["minReplicas"] >= 2
    (budget,) = of_kind(objects, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1


def test_workers_are_scaled_on_queued_and_running_jobs_together() -> None:
    objects = overlay("gpu-keda")
    (scaled,) = of_kind(objects, "ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    url = httpx.URL(trigger["metadata"]["url"])
    services = {f"{found['metadata']['name']}.{NAMESPACE}.svc": found for found in of_kind(objects, "Service")}
    service = services[url.host]
    assert service["spec"]["ports"][0]["port"] == (url.port or 80)
    assert url.path in create_app(Settings()).openapi()["paths"]
    read = QueueOverview(queued=1, running=2, demand=3, workers=4, oldest_queued_seconds=5)
    assert getattr(read, trigger["metadata"]["valueLocation"]) == read.queued + read.running
    assert scaled["spec"]["scaleTargetRef"]["name"] == "zimage-worker"
    assert float(trigger["metadata"]["targetValue"]) <= 1  # more: jobs wait while there could be workers for them
    scale_down = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert scale_down["stabilizationWindowSeconds"] >= 300  # less: a lull between two jobs costs the start of a worker
    assert "fallback" not in scaled["spec"]  # it would take workers away while the queue can't be read


def test_keda_shows_a_key_as_the_api_wants_it() -> None:
    objects = overlay("gpu-keda")
    (scaled,) = of_kind(objects, "ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    (authentication,) = of_kind(objects, "TriggerAuthentication")
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    assert trigger["metadata"]["authMode"] == "bearer"
    assert [reference["parameter"] for reference in authentication["spec"]["secretTargetRef"]] == ["token"]


@pytest.mark.parametrize("name", ["gpu", "gpu-keda"])
def test_prometheus_has_the_projects_rules(name: str) -> None:
    (found,) = of_kind(overlay(name), "PrometheusRule")
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    assert found["spec"] == rules, "make deploy/kubernetes/monitoring/rules.yaml"


@pytest.mark.parametrize("name", ["gpu", "gpu-keda"])
def test_prometheus_scrapes_the_metrics_of_both(name: str) -> None:
    endpoints = {
        found["metadata"]["name"]: found["spec"]["podMetricsEndpoints"][0]
        for found in of_kind(overlay(name), "PodMonitor")
    }
    assert {name: endpoint["path"] for name, endpoint in endpoints.items()} == {
        "zimage-api": "/metrics",
        "zimage-worker": "/metrics",
    }


@pytest.mark.parametrize("name", ["gpu", "gpu-keda"])
def test_jobs_of_prometheus_have_the_names_that_the_rules_ask_for(name: str) -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    scraped = {scrape["job_name"] for scrape in config["scrape_configs"]}
    relabelings = [
        relabeling
        for found in of_kind(overlay(name), "PodMonitor")
        for relabeling in found["spec"]["podMetricsEndpoints"][0]["relabelings"]
    ]
    assert {found["replacement"] for found in relabelings if found["targetLabel"] == "job"} == scraped
    rules = (ROOT / "deploy" / "prometheus" / "rules.yml").read_text()
    asked = set(re.findall(r'job="([^"]+)"', rules))
    assert asked
    assert asked <= scraped


def test_valkey_is_asked_whether_it_serves_before_pods_reach_it_and_whether_it_lives_after(
    objects: list[Object],
) -> None:
    probes = {probe: container(objects, "zimage-valkey")[probe]["exec"]["command"] for probe in PROBES}
    assert probes == {
        "startupProbe": ["valkey-cli", "-e", "ping"],
        "readinessProbe": ["valkey-cli", "-e", "ping"],
        "livenessProbe": ["valkey-cli", "ping"],  # an error is an answer: a full disk is no reason to kill it
    }
