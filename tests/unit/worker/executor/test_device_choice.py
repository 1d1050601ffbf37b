"""Which device a worker takes, and what an operator is told of one that can't do what the settings ask."""

import fcntl
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.addresses import SettingError
from jobs.settings import Settings
from pipeline.driver import UnfitGpuError
from support.fake_gpus import gpus, no_gpu
from worker.executor import device_choice, gpu_claim
from worker.executor.device_choice import AllTakenError, choose_device

A100, V100 = ("NVIDIA A100-SXM4-40GB", (8, 0)), ("Tesla V100-SXM2-16GB", (7, 0))
TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040)."
TURBO = "Tongyi-MAI/Z-Image-Turbo"


@pytest.fixture(autouse=True)
def no_lock_is_kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    held: list[int] = []
    monkeypatch.setattr(gpu_claim, "_held", held)
    yield
    for file in held:
        fcntl.flock(file, fcntl.LOCK_UN)


def settings(tmp_path: Path, device: str, **others: Any) -> Settings:
    return Settings(device=device, cache_dir=tmp_path, **others)


def test_a_quantization_that_the_device_can_not_run_is_told_by_its_setting() -> None:
    settings = Settings(device="cpu", quantization="fp8")
    with pytest.raises(ValueError, match=r"^ZIMAGE_QUANTIZATION: fp8 needs .* the CPU is none; ") as told:
        choose_device(settings)
    assert "=" not in str(told.value)
    assert "None" not in str(told.value)


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:0"])
def test_without_a_gpu_one_that_is_asked_for_is_never_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str
) -> None:
    no_gpu(monkeypatch, TOO_OLD)
    with pytest.raises(UnfitGpuError, match=r"^ZIMAGE_DEVICE: .*torch can use no GPU here: .* is too old"):
        choose_device(settings(tmp_path, device, model="tiny"))


def test_auto_is_the_cpu_for_the_bundled_model_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_gpu(monkeypatch, TOO_OLD)
    assert choose_device(settings(tmp_path, "auto", model="tiny")).type == "cpu"
    with pytest.raises(UnfitGpuError, match=rf"too old.* on a CPU {TURBO} takes minutes .*: set ZIMAGE_DEVICE=cpu if"):
        choose_device(settings(tmp_path, "auto", model=TURBO))
    assert choose_device(settings(tmp_path, "cpu", model=TURBO)).type == "cpu"


@pytest.mark.parametrize("device", ["tpu", "GPU", "cuda:", "cuda:x", "mps", ""])
def test_a_name_that_is_none_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str) -> None:
    gpus(monkeypatch, A100)
    with pytest.raises(SettingError, match=rf"^ZIMAGE_DEVICE: device is {re.escape(repr(device))}, expected"):
        choose_device(settings(tmp_path, device))


def test_a_number_beyond_those_that_are_there_is_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpus(monkeypatch, A100, A100)
    with pytest.raises(SettingError, match=r"^ZIMAGE_DEVICE: device is cuda:2, and this machine has cuda:0, cuda:1; "):
        choose_device(settings(tmp_path, "cuda:2"))


@pytest.mark.parametrize("device", ["gpu", "auto", "cuda", "cuda:0"])
def test_a_card_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str) -> None:
    gpus(monkeypatch, V100)
    with pytest.raises(
        UnfitGpuError, match=r"^ZIMAGE_DEVICE: cuda(:0)? \(Tesla V100.*\) has compute capability 7\.0, "
    ):
        choose_device(settings(tmp_path, device, model="tiny"))


@pytest.mark.parametrize("device", ["gpu", "auto"])
def test_beside_an_old_card_the_newer_one_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str
) -> None:
    gpus(monkeypatch, V100, A100)  # the old one has more memory free
    assert choose_device(settings(tmp_path, device)) == torch.device("cuda", 1)


def test_taken_gpus_are_shared_by_auto_and_waited_for_by_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpus(monkeypatch, A100, A100)
    first, second = (choose_device(settings(tmp_path, "gpu")) for _ in range(2))
    assert {first.index, second.index} == {0, 1}
    with pytest.raises(
        AllTakenError, match=r"taken all GPUs of this machine \(2; .*gpus\), and none became free"
    ) as told:
        choose_device(settings(tmp_path, "gpu"))
    assert "\n" not in str(told.value)
    assert choose_device(settings(tmp_path, "auto")).type == "cuda"

    def somebody_leaves(_seconds: float) -> None:
        fcntl.flock(gpu_claim._held[1], fcntl.LOCK_UN)

    monkeypatch.setattr(device_choice.time, "sleep", somebody_leaves)
    assert choose_device(settings(tmp_path, "gpu"), patience=60) == second


def test_locks_that_can_not_be_written_are_told_by_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, A100)
    with pytest.raises(SettingError, match=r"^ZIMAGE_CACHE_DIR: .*: name a directory that can be written, on"):
        choose_device(Settings(device="gpu", cache_dir="/proc/zimage"))
