"""SGLang's benchmark of image services, unchanged, with the flags of its documentation for this model."""

import re
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from support.client_environments import CLIENTS, run, venv, version

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

FLAGS = ("--backend", "sglang-image", "--dataset", "vbench", "--task", "text-to-image")


@pytest.mark.parametrize("prompts", [1, 20])
def test_bench_serving(
    prompts: int, service: dict[str, str], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("client", version("sglang", "sglang"))
    # Its own prompts are downloaded, by default.
    (tmp_path / "prompts.txt").write_text("".join(f"{number} red circles on white\n" for number in range(1, 6)))
    load = ("--num-prompts", str(prompts), "--max-concurrency", str(prompts))
    where = ("--base-url", service["ZIMAGE_URL"], "--dataset-path", tmp_path / "prompts.txt")
    benchmark = (CLIENTS / "python" / "sglang_benchmark.py", *FLAGS, *load, *where)
    # It imports torch too, which is large: that of the project's own environment.
    environ = {"PYTHONPATH": sysconfig.get_path("purelib"), "HF_HUB_OFFLINE": "1"}
    printed = run(venv("sglang") / "python", *benchmark, cwd=tmp_path, **environ)
    assert re.search(rf"^Successful requests: +{prompts}/{prompts}\b", printed, re.MULTILINE), printed
