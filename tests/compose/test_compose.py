"""The compose file, for real: images built, containers started by podman, jobs posted from outside.

    make test-compose

Needs root, and Debian's packages podman, buildah, runc, netavark, aardvark-dns, iptables, debootstrap, prometheus,
skopeo.
"""

import io
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image

from cli.stack import ports
from deploy.pin_images import digest_of, pin
from support.container_images import ROOT, provide, run

pytestmark = [
    pytest.mark.compose,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not (shutil.which("podman") and shutil.which("buildah") and os.geteuid() == 0), reason="needs podman, as root"
    ),
]

SERVICES = ("valkey", "seaweedfs", "prometheus", "api", "worker")  # not Grafana: there is no stand-in for its image
SLOW = {"width": 256, "height": 256, "num_inference_steps": 50}


class Compose:
    """`podman-compose` on the project's own file, with ports and secrets of its own."""

    def __init__(self, folder: Path, images: Path) -> None:
        self.images = images
        self.project = f"zimage-{secrets.token_hex(3)}"
        self.ports = ports.assign(folder / "ports.json", ["API_PORT", "S3_PORT", "GRAFANA_PORT"])
        secret = secrets.token_hex(20)
        filled = re.sub(r"=$", f"={secret}", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)
        self._env = folder / "env"
        self._env.write_text(filled + "".join(f"{name}={port}\n" for name, port in self.ports.items()))
        self.api = f"http://127.0.0.1:{self.ports['API_PORT']}"

    def __call__(self, *words: str, also: Sequence[str] = ()) -> str:
        """Run a command of compose, with further files beside the first one."""
        paths = [*(ROOT / name for name in ("docker-compose.yml", *also)), self.images]
        files = [word for path in paths for word in ("--file", path)]
        options = (*files, "--env-file", self._env, "--project-name", self.project)
        return run(sys.executable, "-m", "podman_compose", *options, *words, cwd=ROOT)

    def down(self) -> None:
        """Remove all of it; podman-compose alone forgets what was scaled."""
        containers = self._labeled("ps", "--all")
        if containers:
            run("podman", "rm", "--force", "--depend", "--ignore", "--time", "30", *containers)
        self("down", "--volumes", also=["docker-compose.keys.yml"])
        assert not self._labeled("ps", "--all")
        assert not self._labeled("volume", "ls")

    def _labeled(self, *words: str) -> list[str]:
        return run("podman", *words, "--quiet", f"--filter=label=io.podman.compose.project={self.project}").split()

    def containers(self, service: str) -> list[str]:
        """Ids of a service's running containers."""
        labels = (
            f"label=io.podman.compose.project={self.project}",
            f"label=com.docker.compose.service={service}",
        )
        return run("podman", "ps", "--quiet", *(f"--filter={label}" for label in labels)).split()


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """The stack, up."""
    folder = tmp_path_factory.mktemp("compose")
    stack = Compose(folder, provide(folder))
    try:
        stack("up", "--detach", "--no-build", *SERVICES)
        yield stack
    finally:
        stack.down()


@pytest.fixture(scope="module")
def http(compose: Compose) -> Iterator[httpx.Client]:
    """A client of the API, which has a worker."""
    with httpx.Client(base_url=compose.api, timeout=90) as client:
        wait_for(lambda: client.get("/readyz").status_code == 200, 120)
        wait_for(lambda: client.get("/v1/queue").json()["workers"] == 1, 120)
        yield client


def wait_for(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def submit(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    job: dict[str, Any] = http.post("/v1/jobs", json={"prompt": "a red circle", **fields}).raise_for_status().json()
    return job


def read(http: httpx.Client, job: dict[str, Any], wait: int = 0) -> dict[str, Any]:
    answer: dict[str, Any] = http.get(job["urls"]["self"], headers={"Prefer": f"wait={wait}"}).raise_for_status().json()
    return answer


def ended(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    while (answer := read(http, job, wait=60))["finished_at"] is None:
        pass
    return answer


def worker_of(http: httpx.Client, job: dict[str, Any]) -> str:
    """The container that draws a job: a worker's id begins with its host's name."""
    wait_for(lambda: read(http, job)["progress"]["step"] > 0, 120)
    worker: str = read(http, job)["worker"]
    return worker.split("-")[0]


def test_a_job_posted_from_outside_gives_a_picture_at_its_url(http: httpx.Client) -> None:
    done = ended(http, submit(http, width=128, height=96))
    assert done["status"] == "succeeded", done["error"]
    with Image.open(io.BytesIO(httpx.get(done["images"][0]["url"]).raise_for_status().content)) as picture:
        assert (picture.format, picture.size) == ("PNG", (128, 96))


def test_images_are_pinned_by_the_digests_that_they_have(compose: Compose) -> None:
    name = yaml.safe_load(compose.images.read_text())["services"]["valkey"]["image"]
    digest = run("podman", "image", "inspect", "--format={{.Digest}}", name).strip()
    tagged = name.partition("@")[0]
    pinned = pin(f"  image: {tagged}\n", lambda image: digest_of(image, "containers-storage:"))
    assert pinned == f"  image: {tagged}@{digest}\n"


def test_the_playground_is_there(http: httpx.Client) -> None:
    assert "<title>" in http.get("/").raise_for_status().text


def test_nothing_but_api_and_s3_is_published_and_that_on_loopback(compose: Compose, http: httpx.Client) -> None:
    published = {
        line.split(" -> ")[1]
        for service in SERVICES
        for container in compose.containers(service)
        for line in run("podman", "port", container).splitlines()
    }
    assert published == {f"127.0.0.1:{compose.ports[name]}" for name in ("API_PORT", "S3_PORT")}


@pytest.mark.parametrize("service", ["api", "worker"])
def test_processes_are_nobody_special_on_a_root_that_they_cannot_write(
    compose: Compose, http: httpx.Client, service: str
) -> None:
    (container,) = compose.containers(service)
    assert run("podman", "exec", container, "id", "--user").strip() == "10001"
    refused = subprocess.run(
        ["podman", "exec", container, "touch", "/opt/x"], capture_output=True, text=True, check=False
    )
    assert "Read-only file system" in refused.stderr


@pytest.mark.parametrize("service", ["api", "worker"])
def test_the_images_own_health_check_passes(compose: Compose, http: httpx.Client, service: str) -> None:
    (container,) = compose.containers(service)
    run("podman", "healthcheck", "run", container)


def test_more_workers_by_scale_share_the_work(compose: Compose, http: httpx.Client) -> None:
    compose("up", "--detach", "--no-build", "--no-recreate", "--scale", "worker=2", *SERVICES)
    wait_for(lambda: http.get("/v1/queue").json()["workers"] == 2, 120)
    done = [ended(http, job) for job in [submit(http, width=256, height=256) for _ in range(8)]]
    assert {job["status"] for job in done} == {"succeeded"}
    assert len({job["worker"] for job in done}) == 2


def test_prometheus_scrapes_the_api_and_every_worker(compose: Compose, http: httpx.Client) -> None:
    (container,) = compose.containers("api")
    fetch = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())"
    query = "http://prometheus:9090/api/v1/query?query=sum%20by%20(job)(up)"

    def scraped() -> bool:
        told = run("podman", "exec", container, "python3", "-c", fetch, query)
        return re.findall(r'"job":"([a-z-]+)"},"value":\[[\d.]+,"(\d)"', told) == [
            ("zimage-api", "1"),
            ("zimage-worker", "2"),
        ]

    wait_for(scraped, 120)


def test_the_job_of_a_worker_that_is_killed_is_drawn_by_another_one(compose: Compose, http: httpx.Client) -> None:
    job = submit(http, **SLOW)
    killed = worker_of(http, job)
    run("podman", "kill", "--signal=KILL", killed)
    done = ended(http, job)
    assert (done["status"], done["attempt"]) == ("succeeded", 2)
    assert httpx.get(done["images"][0]["url"]).status_code == 200


def test_a_worker_that_is_stopped_finishes_its_job_or_hands_it_back(compose: Compose, http: httpx.Client) -> None:
    wait_for(lambda: http.get("/v1/queue").json()["workers"] >= 1, 120)
    jobs = [submit(http, **SLOW) for _ in range(3)]
    stopped = worker_of(http, jobs[0])
    run("podman", "stop", "--time", "75", stopped)
    assert run("podman", "inspect", "--format={{.State.ExitCode}}", stopped).strip() == "0"
    compose("start", "worker")
    assert {ended(http, job)["status"] for job in jobs} == {"succeeded"}


def test_jobs_and_pictures_outlive_a_restart_of_everything(compose: Compose, http: httpx.Client) -> None:
    done = ended(http, submit(http))
    compose("stop", "--timeout", "90")
    compose("start", *SERVICES)
    wait_for(lambda: http.get("/readyz").status_code == 200, 120)
    assert read(http, done)["images"][0]["sha256"] == done["images"][0]["sha256"]
    assert httpx.get(read(http, done)["images"][0]["url"]).status_code == 200


def test_with_keys_nobody_draws_without_one_nor_with_one_that_was_revoked(compose: Compose, http: httpx.Client) -> None:
    keys = ("run", "--rm", "--no-deps", "-T", "api", "keys")
    also = ["docker-compose.keys.yml"]
    key = compose(*keys, "create", "alice", also=also).split()[-1]
    compose("up", "--detach", "--no-build", "--no-deps", "api", also=also)

    def status(headers: dict[str, str]) -> int:
        return http.get("/v1/jobs", headers=headers).status_code

    mine = {"Authorization": f"Bearer {key}"}
    wait_for(lambda: status({}) == 401, 120)
    assert status(mine) == 200
    compose(*keys, "revoke", "alice", also=also)
    wait_for(lambda: status(mine) == 401, 30)
