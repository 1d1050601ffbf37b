"""What the compose files promise and nobody would notice in a test run: ports, secrets, versions, time to stop."""

import re
import subprocess
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from jobs.settings import Settings
from support.container_images import FULL_NAME
from support.root import ROOT

FILES = ("docker-compose.yml", "docker-compose.gpu.yml", "docker-compose.keys.yml")
TEXTS = {name: (ROOT / name).read_text() for name in FILES}
SERVICES = {name: yaml.safe_load(text)["services"] for name, text in TEXTS.items()}
SERVERS: dict[str, dict[str, Any]] = SERVICES["docker-compose.yml"]
NETWORKS: dict[str, dict[str, Any]] = yaml.safe_load(TEXTS["docker-compose.yml"])["networks"]
OURS = ("api", "worker")
STANDARD = {  # boto3's and OpenTelemetry's
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_setting_is_one(name: str) -> None:
    given = {setting for ours in OURS for setting in SERVICES[name].get(ours, {}).get("environment", {})}
    assert given
    assert given <= {f"ZIMAGE_{field.upper()}" for field in Settings.model_fields} | STANDARD


def test_ports_are_published_on_loopback_alone_and_workers_have_none() -> None:
    published = {name: port for name, service in SERVERS.items() for port in service.get("ports", [])}
    assert set(published) == {"api", "seaweedfs", "grafana"}
    assert all(port.startswith("127.0.0.1:") for port in published.values())


def test_without_keys_it_serves_all_the_same() -> None:
    assert SERVERS["api"]["environment"]["ZIMAGE_ALLOW_ANONYMOUS"] == "true"


def test_without_keys_it_is_called_by_its_service_s_name() -> None:
    assert SERVERS["api"]["environment"]["ZIMAGE_ALLOWED_HOSTS"] == "${API_HOSTS:-api}"


def test_valkey_is_reached_by_api_and_worker_alone() -> None:
    assert [name for name, service in SERVERS.items() if "queue" in service["networks"]] == ["api", "worker", "valkey"]
    assert SERVERS["valkey"]["networks"] == ["queue"]
    assert NETWORKS["queue"]["internal"] is True


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(
    ("setting", "server", "port"), [("ZIMAGE_REDIS_URL", "valkey", 6379), ("ZIMAGE_S3_ENDPOINT", "seaweedfs", 8333)]
)
def test_servers_are_where_they_are_said_to_be(name: str, setting: str, server: str, port: int) -> None:
    url = urlsplit(SERVERS[name]["environment"][setting])
    assert (url.hostname, url.port) == (server, port)
    assert set(SERVERS[name]["networks"]) & set(SERVERS[server]["networks"])


def valkeys_options() -> dict[str, str]:
    words = SERVERS["valkey"]["command"][1:]
    return dict(zip(words[::2], words[1::2], strict=True))


def test_valkey_takes_the_memory_that_the_docs_tell() -> None:
    told = re.search(
        r"Valkey's memory\]\(reliability\.md#memory\), (\d+) GB", (ROOT / "docs/operations.md").read_text()
    )
    assert told
    assert valkeys_options()["--maxmemory"] == f"{told[1]}gb"


def test_what_valkey_has_accepted_is_on_the_disk() -> None:
    options = valkeys_options()
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "noeviction"
    assert f"valkey:{options['--dir']}" in SERVERS["valkey"]["volumes"]


def test_workers_on_gpus_are_given_them_and_a_torch_that_can_use_them() -> None:
    worker = SERVICES["docker-compose.gpu.yml"]["worker"]
    assert worker["build"]["args"]["TORCH"] == "cuda"
    (devices,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert devices == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_any_number_of_workers_can_run() -> None:
    assert not {"container_name", "ports", "hostname"} & SERVERS["worker"].keys()


def test_what_is_secret_comes_from_the_example_of_env() -> None:
    asked = {match for text in TEXTS.values() for match in re.findall(r"\$\{(\w+):\?", text)}
    told = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    # Of new installations alone: what an older .env says nothing of stays as it was.
    assert told.pop("WEBHOOK_COMMON_SIGNATURE") == "false"
    assert "${WEBHOOK_COMMON_SIGNATURE:-true}" in TEXTS["docker-compose.keys.yml"]
    assert asked == set(told)
    assert not [name for name, value in told.items() if value and ("SECRET" in name or "PASSWORD" in name)]


def test_what_fills_the_example_in_leaves_no_secret_empty() -> None:
    (command,) = re.findall(r"^#   (awk .*) > \.env$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    filled = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    secrets = dict(re.findall(r"^(\w+)=(.*)$", filled, re.MULTILINE))
    assert secrets.pop("S3_ACCESS_KEY") == "zimage"
    assert secrets.pop("WEBHOOK_COMMON_SIGNATURE") == "false"
    assert all(len(value) == 32 for value in secrets.values()), filled
    assert len(set(secrets.values())) == len(secrets)
    assert Settings(webhook_secret=f"whsec_{secrets['WEBHOOK_SECRET']}").webhook_secret  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["docker-compose.yml", ".env.example", "README.md"])
def test_without_a_gpu_one_is_told_how_to_go_without_cuda(path: str) -> None:
    assert SERVERS["worker"]["build"]["args"]["PIP_EXTRA_INDEX_URL"] == "${TORCH_INDEX_URL:-}"
    words = re.sub(r"\W+", " ", (ROOT / path).read_text())
    assert re.search(r"PyTorch s index of CPU builds pytorch org Get Started tells its address", words)
    assert "TORCH_INDEX_URL" in words


def test_images_of_others_have_a_version() -> None:
    images = {service["image"] for name, service in SERVERS.items() if name not in OURS}
    assert all(re.search(r":v?\d+\.\d+", image) for image in images), images


@pytest.mark.parametrize("name", FILES)
def test_images_are_named_in_full(name: str) -> None:
    images = [service["image"] for service in SERVICES[name].values() if "image" in service]
    assert [image for image in images if not FULL_NAME.fullmatch(image)] == []
    # Built here, and not to be had anywhere: else a stranger's image of that name would be taken.
    ours = [service["image"] for service in SERVICES[name].values() if "build" in service]
    assert [image for image in ours if not image.startswith("localhost/")] == []


@pytest.mark.parametrize("name", FILES)
def test_what_is_mounted_from_this_machine_may_be_read_where_selinux_is_on(name: str) -> None:
    volumes = [volume for service in SERVICES[name].values() for volume in service.get("volumes", [])]
    ours = [volume.rsplit(":", 1)[1].split(",") for volume in volumes if volume[0] in "./$"]
    # Not Z: several containers read the same.
    assert [options for options in ours if "z" not in options or "ro" not in options] == []


def test_a_worker_is_given_the_time_that_it_takes_to_drain() -> None:
    assert int(SERVERS["worker"]["stop_grace_period"].rstrip("s")) >= Settings().drain_seconds + 10


def test_an_api_is_given_the_time_to_answer_those_who_wait() -> None:
    assert int(SERVERS["api"]["stop_grace_period"].rstrip("s")) >= 30  # as docs/operations.md says


def test_api_and_worker_can_do_no_more_than_they_need() -> None:
    for name in OURS:
        assert SERVERS[name]["read_only"] is True
        assert SERVERS[name]["cap_drop"] == ["ALL"]
        assert SERVERS[name]["security_opt"] == ["no-new-privileges:true"]
