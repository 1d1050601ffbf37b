"""SGLang's benchmark of image services, unchanged, with the flags of its documentation for this model.

Of 0.5.8, 0.5.9 and 0.5.23, as far as they run here: `python/sglang_benchmark.py` leaves out what the benchmark does not
use, and the project's own environment has the torch that they import.
"""

import json
import re
import shutil
import sysconfig
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

from cli.stack import Stack
from pipeline import TINY_CHECKPOINT
from support.client_environments import CLIENTS, run, venv, version
from support.loopback import serving

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

Record = Callable[[str, object], None]

FLAGS = ("--dataset", "vbench", "--task", "text-to-image")
BACKEND = ("--backend", "sglang-image")  # later releases have no such option
HUB_ID = "Tongyi-MAI/Z-Image-Turbo"


def benchmark(environment: str, folder: Path, url: str, prompts: int, *flags: str, **environ: str) -> None:
    """Run the benchmark of a release; each of its prompts is to become a picture."""
    # Its own prompts are downloaded, by default.
    (folder / "prompts.txt").write_text("".join(f"{number} red circles on white\n" for number in range(1, 6)))
    load = ("--num-prompts", str(prompts), "--max-concurrency", str(prompts))
    where = ("--base-url", url, "--dataset-path", str(folder / "prompts.txt"))
    command = (venv(environment) / "python", CLIENTS / "python" / "sglang_benchmark.py", *FLAGS, *flags, *load, *where)
    printed = run(*command, cwd=folder, PYTHONPATH=sysconfig.get_path("purelib"), **environ)
    assert re.search(rf"^Successful requests: +{prompts}/{prompts}\b", printed, re.MULTILINE), printed


@pytest.mark.parametrize("prompts", [1, 20])
@pytest.mark.parametrize(("environment", "flags"), [("sglang-0.5.9", BACKEND), ("sglang-0.5.23", ())])
def test_bench_serving(
    environment: str,
    flags: tuple[str, ...],
    prompts: int,
    service: dict[str, str],
    tmp_path: Path,
    record_property: Record,
) -> None:
    record_property("client", version("sglang", environment))
    benchmark(environment, tmp_path, service["ZIMAGE_URL"], prompts, *flags, HF_HUB_OFFLINE="1")


class Hub(BaseHTTPRequestHandler):
    """Knows what kind of model ours is, and nothing else."""

    def do_GET(self) -> None:
        known = self.path.startswith(f"/api/models/{HUB_ID}")
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"id": HUB_ID, "pipeline_tag": "text-to-image"} if known else {}).encode())


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[str]:
    """The address of a service whose API has no folder of the model, as where workers run on other machines."""
    model = shutil.copytree(TINY_CHECKPOINT, tmp_path / "model")
    with Stack(tmp_path / "data", model=str(model)) as stack:
        while not httpx.get(f"{stack.api_url}/v1/queue").json()["workers"]:
            time.sleep(0.1)
        shutil.rmtree(model)  # the worker has loaded it
        yield stack.api_url


def test_bench_serving_that_always_asks_the_hub(elsewhere: str, tmp_path: Path, record_property: Record) -> None:
    """0.5.8 takes no folder for a model, so none that is served from one: it looks each up on the hub."""
    record_property("client", version("sglang", "sglang-0.5.8"))
    size = ("--width", "256", "--height", "256")
    with serving(Hub) as hub:
        benchmark("sglang-0.5.8", tmp_path, elsewhere, 4, *BACKEND, *size, HF_ENDPOINT=hub)
