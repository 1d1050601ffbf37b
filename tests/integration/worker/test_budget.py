"""A worker with a budget of GPU memory in the whole service; on the CPU weights come and go as on a GPU."""

import secrets
import subprocess
import sys
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from cli.stack import Stack
from jobs.settings import Settings
from support.waiting import wait_until

SIZES = ((64, 64), (128, 128), (96, 128), (256, 64), (128, 96), (64, 320))
RESIDENCY = {"text_encoder": "whole", "transformer": "layers", "vae": "whole"}


@pytest.fixture
def http(servers: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """An API with a worker."""
    named = ",".join(f"{part}={residency}" for part, residency in RESIDENCY.items())
    environ = {
        **servers.environ(),
        "ZIMAGE_REDIS_PREFIX": f"budget-{secrets.token_hex(4)}:",
        "ZIMAGE_METRICS_PORT": "0",
    }
    environ |= {"ZIMAGE_VRAM_BUDGET": "1230MiB", "ZIMAGE_RESIDENCY": named}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    worker = subprocess.Popen([sys.executable, "-m", "cli.main", "worker"])
    try:
        with TestClient(create_app(Settings()), base_url="http://127.0.0.1") as http:
            yield http
    finally:
        worker.kill()
        worker.wait()


def test_jobs_of_all_sizes_are_drawn_and_what_has_no_room_is_refused(http: TestClient) -> None:
    wait_until(lambda: http.get("/v1/queue").json()["workers"] == 1)
    steps = {"prompt": "a red heart", "num_inference_steps": 2}
    jobs = [http.post("/v1/jobs", json={**steps, "width": width, "height": height}) for width, height in SIZES]
    jobs.append(http.post("/v1/jobs", json={**steps, "num_images": 3, "guidance_scale": 2, "step_cache": "fast"}))
    ended = [http.get(job.headers["location"], headers={"Prefer": "wait=60"}).json() for job in jobs]
    assert [job["status"] for job in ended] == ["succeeded"] * len(jobs)

    refused = http.post("/v1/jobs", json={**steps, "width": 1024, "height": 1024, "num_images": 10})
    [error] = refused.json()["errors"]
    assert (refused.status_code, error["pointer"]) == (422, "/num_images")
