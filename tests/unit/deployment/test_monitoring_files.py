"""Prometheus and Grafana beside the compose file find one another, the service, and the files that they read."""

import json
import re
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from jobs.settings import Settings
from support.kubernetes_objects import ROOT, of_kind, overlay

SERVERS: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
PROMETHEUS = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
# https://prometheus.io/docs/prometheus/latest/configuration/configuration/#kubernetes_sd_config, role `pod`
LABELS_OF_A_POD = re.compile(
    "__address__|__meta_kubernetes_(namespace|pod_(name|ip|container_(init|name|id|image|port_(name|number|protocol))"
    "|ready|phase|node_name|host_ip|uid|controller_(kind|name)|(label|annotation)(present)?_.+))"
)


def mounted(service: str) -> dict[PurePosixPath, PurePosixPath]:
    """Folders and files of the repository, by where a container finds them."""
    volumes = [volume.split(":") for volume in SERVERS[service]["volumes"] if volume.startswith("./")]
    return {PurePosixPath(there): PurePosixPath(here) for here, there, *_ in volumes}


def reach_each_other(one: str, other: str) -> bool:
    return bool(set(SERVERS[one]["networks"]) & set(SERVERS[other]["networks"]))


def test_dashboards_ask_the_datasource_that_is_there() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"]
    for path in DASHBOARDS:
        asked = re.findall(r'"datasource": \{[^}]*?"type": "(\S+)",\s*"uid": "(\S+)"', path.read_text())
        assert set(asked) == {(source["type"], source["uid"])}, path.name
    url = urlsplit(source["url"])
    assert (url.hostname, url.port) == ("prometheus", 9090)  # Prometheus' own port, which no option changes
    assert not [option for option in SERVERS["prometheus"]["command"] if "listen-address" in option]
    assert reach_each_other("grafana", "prometheus")


def test_grafana_reads_the_dashboards_from_where_they_are_mounted() -> None:
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "zimage.yml").read_text())["providers"]
    folders = mounted("grafana")
    assert ROOT / folders[PurePosixPath(provider["options"]["path"])] == DASHBOARDS[0].parent
    assert ROOT / folders[PurePosixPath("/etc/grafana/provisioning")] == PROVISIONING  # where Grafana's image looks
    assert len({json.loads(path.read_text())["uid"] for path in DASHBOARDS}) == len(DASHBOARDS)


def test_prometheus_reads_its_configuration_and_rules_from_where_they_are_mounted() -> None:
    (configuration,) = [word for word in SERVERS["prometheus"]["command"] if word.startswith("--config.file=")]
    files = mounted("prometheus")
    for path in (configuration.removeprefix("--config.file="), *PROMETHEUS["rule_files"]):
        assert (ROOT / files[PurePosixPath(path)]).is_file(), path


@pytest.mark.parametrize(("service", "port"), [("api", Settings().port), ("worker", Settings().metrics_port)])
def test_prometheus_scrapes_the_services_at_their_ports(service: str, port: int) -> None:
    (scrape,) = [found for found in PROMETHEUS["scrape_configs"] if found["job_name"] == f"zimage-{service}"]
    (looked_up,) = scrape["dns_sd_configs"]
    assert (looked_up["names"], looked_up["port"]) == ([service], port)
    assert not {"ZIMAGE_PORT", "ZIMAGE_METRICS_PORT"} & SERVERS[service]["environment"].keys()
    assert reach_each_other("prometheus", service)


@pytest.mark.parametrize("name", ["gpu", "gpu-keda"])
def test_pod_monitors_make_labels_of_what_prometheus_knows_of_a_pod(name: str) -> None:
    endpoints = [
        each for found in of_kind(overlay(name), "PodMonitor") for each in found["spec"]["podMetricsEndpoints"]
    ]
    assert {each["path"] for each in endpoints} == {"/metrics"}
    sources = {label for each in endpoints for rule in each["relabelings"] for label in rule.get("sourceLabels", [])}
    assert sources
    assert [label for label in sources if not LABELS_OF_A_POD.fullmatch(label)] == []
