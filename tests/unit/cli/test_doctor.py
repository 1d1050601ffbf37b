"""`zimage doctor` says of a machine what a worker would end with, without a traceback."""

import json
import re
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cli.commands import doctor
from cli.main import app
from support.fake_gpus import GIB, gpus, no_gpu

L4 = ("NVIDIA L4", (8, 9))
TURBO = "Tongyi-MAI/Z-Image-Turbo"


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, tuple[str, str]]]:
    """What it finds of the machine: level and message by check. Servers are not asked."""
    for check in ("_redis", "_s3"):
        monkeypatch.setattr(doctor, check, lambda _settings: iter(()))
    monkeypatch.setattr("pipeline.faults.multiply", lambda _device: None)
    monkeypatch.setattr("pipeline.formats.number_format.NumberFormat.product", lambda *_: "some product")
    monkeypatch.setattr("worker.executor.gpu_claim._held", [])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _index: (20 * GIB, 24 * GIB))

    def examine(**settings: str) -> dict[str, tuple[str, str]]:
        env = {f"ZIMAGE_{name.upper()}": value for name, value in settings.items()}
        told = CliRunner().invoke(app, ["doctor", "--json"], env={"ZIMAGE_CACHE_DIR": str(tmp_path), **env})
        findings: list[dict[str, Any]] = json.loads(told.stdout)
        assert told.exit_code == any(finding["level"] == "fail" for finding in findings)
        return {finding["check"]: (finding["level"], finding["message"]) for finding in findings}

    return examine


def test_no_gpu_is_a_warning_and_a_failure_where_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, found: Callable[..., dict[str, tuple[str, str]]]
) -> None:
    no_gpu(monkeypatch, "The NVIDIA driver on your system is too old (found version 11040).")
    by_default, gpu, turbo, fp8 = found(), found(device="gpu"), found(model=TURBO), found(quantization="fp8")
    assert fp8["device"][0] == "fail"
    assert by_default["gpu"][0] == "warn"
    assert "too old, it knows CUDA 11.4" in by_default["gpu"][1]
    assert by_default["device"][0] == "ok"
    for asked, level in ((gpu, "fail"), (turbo, "warn")):
        assert asked["device"][0] == level
        assert "too old, it knows CUDA 11.4" in asked["device"][1]


def test_a_card_that_is_too_old_is_told(
    monkeypatch: pytest.MonkeyPatch, found: Callable[..., dict[str, tuple[str, str]]]
) -> None:
    gpus(monkeypatch, ("Tesla T4", (7, 5)))
    told = found(device="gpu")
    assert (told["gpu"][0], told["device"][0]) == ("warn", "fail")
    assert told["gpu"][1] in told["device"][1]


@pytest.mark.parametrize(
    ("free", "quantization", "level"), [(22.0, "none", "ok"), (10.0, "none", "warn"), (13.0, "fp8", "ok")]
)
def test_compiler_and_memory_are_looked_at_before_a_worker_misses_them(
    monkeypatch: pytest.MonkeyPatch,
    found: Callable[..., dict[str, tuple[str, str]]],
    tmp_path: Path,
    free: float,
    quantization: str,
    level: str,
) -> None:
    gpus(monkeypatch, L4, free=int(free * GIB))
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setenv("CC", "/bin/sh")  # a program, at least
    told = found(model=TURBO, quantization=quantization, device="cuda")
    assert told["compiler"] == ("fail", told["compiler"][1])
    assert f"{tmp_path}/Python.h" in told["compiler"][1]
    assert told["memory"][0] == level
    (tmp_path / "Python.h").touch()
    assert found(model=TURBO, quantization=quantization, device="cuda")["compiler"][0] == "ok"


@pytest.mark.parametrize(
    ("free", "total", "settings", "level", "told"),
    [
        (7.5, 8, {}, "ok", r"7\.5 of 8\.0 GiB are free: text_encoder=layers .* at most"),
        (7.5, 24, {}, "warn", "nvidia-smi tells why: text_encoder=layers"),
        (2, 24, {}, "warn", r"Z-Image-Turbo takes about 20\.5 GiB at 1024×1024, at least \d\.\d with weights in RAM"),
        (2, 2.5, {}, "fail", r"at least \d\.\d with weights in RAM; with ZIMAGE_QUANTIZATION=fp8 12\.0 and"),
        (22, 24, {"vram_budget": "8GiB"}, "ok", "transformer=layers"),
        (5, 24, {"vram_budget": "8GiB"}, "warn", "nvidia-smi tells why"),
        (22, 24, {"vram_budget": "2GiB"}, "fail", r"^ZIMAGE_VRAM_BUDGET: .* the least .* is \d\.\d\d GiB"),
        (22, 24, {"residency": "text_encoder=whole"}, "ok", "text_encoder=whole, transformer=resident"),
    ],
)
def test_memory_is_looked_at_with_the_plan_that_a_worker_would_make(
    monkeypatch: pytest.MonkeyPatch,
    found: Callable[..., dict[str, tuple[str, str]]],
    free: float,
    total: float,
    settings: dict[str, str],
    level: str,
    told: str,
) -> None:
    gpus(monkeypatch, L4, free=int(free * GIB), total=int(total * GIB))
    finding = found(model=TURBO, device="cuda", **settings)["memory"]
    assert (finding[0], bool(re.search(told, finding[1]))) == (level, True), finding


@pytest.mark.parametrize(
    ("kind", "told_of_device"),
    [
        (torch.AcceleratorError, "cuda (NVIDIA L4) is broken: "),
        (KeyError, "for a reason that nobody foresaw: KeyError"),
    ],
)
def test_a_gpu_that_fails_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
    found: Callable[..., dict[str, tuple[str, str]]],
    kind: type[Exception],
    told_of_device: str,
) -> None:
    def broken(*_: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might")

    def fail(*_: Any) -> None:
        raise kind("an illegal memory access")

    gpus(monkeypatch, L4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    monkeypatch.setattr("pipeline.faults.multiply", fail)
    told = found(device="cuda")
    assert told["gpu"] == (
        "fail",
        "cuda:0: CUDA error: an illegal memory access was encountered: see what nvidia-smi says",
    )
    assert told["device"][0] == "fail"
    assert told_of_device in told["device"][1]


def test_a_revision_is_told_and_refused_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch, found: Callable[..., dict[str, tuple[str, str]]], tmp_path: Path
) -> None:
    no_gpu(monkeypatch, "no GPU")
    assert found(model=TURBO)["model"] == ("ok", f"{TURBO}, main, from the hub or its cache")
    assert found(model=TURBO, model_revision="v1.0")["model"] == ("ok", f"{TURBO}, v1.0, from the hub or its cache")
    for name in ("tiny", str(tmp_path)):
        level, told = found(model=name, model_revision="v1.0")["model"]
        assert (level, told.endswith(": see ZIMAGE_MODEL_REVISION")) == ("fail", True)
