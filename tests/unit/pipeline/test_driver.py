"""Why torch can use no GPU, as its driver says it, in one line: what was found, what is needed, what to do."""

import re
import warnings

import pytest
import torch

from pipeline.device import find_device
from pipeline.driver import UnfitGpuError, check_capability, why_none
from support.fake_gpus import gpus, no_gpu

UNEXPECTED = (
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that "
    "might have already set an error? Error "
)


@pytest.mark.parametrize("warned", [True, False])
@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver",
            r"there is no NVIDIA driver, and torch .* needs driver 580\.65 or newer for its CUDA 13\.0: install one",
        ),
        (
            "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver",
            r"too old, it knows CUDA 11\.4, and torch .* needs driver 580\.65 or newer for its CUDA 13\.0: install",
        ),
        ("The NVIDIA driver on your system is too old (found version 12080). Please", r"it knows CUDA 12\.8, and"),
        (f"{UNEXPECTED}803: system has unsupported display driver / cuda driver combination", r"two versions: restart"),
        (f"{UNEXPECTED}802: system not yet initialized", r"nvidia-fabricmanager does not run: start it"),
        (f"{UNEXPECTED}804: forward compatibility was attempted on non supported HW", r"out of LD_LIBRARY_PATH"),
        (f"{UNEXPECTED}101: invalid device ordinal", r"driver fails \(Error 101: invalid device ordinal\): see what"),
        ("CUDA unknown error - this may be due to an\n incorrectly set up environment", r"fails \(CUDA unknown error"),
        ("CUDA driver initialization failed, you might not have a CUDA gpu.", r"fails \(CUDA driver initialization"),
        ("No CUDA GPUs are available", r"finds none: see what nvidia-smi says; a container that has lost its GPUs"),
    ],
)
def test_a_driver_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, said: str, told: str, warned: bool) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    no_gpu(monkeypatch, said, warned=warned)
    why = why_none() or ""
    assert re.match(r"torch can use no GPU here: \S", why)
    assert re.search(told, why)
    assert "\n" not in why
    assert "Triggered internally" not in why


@pytest.mark.parametrize("value", ["", "-1", "7", "GPU-00000000"])
def test_gpus_that_are_hidden_are_told_by_the_variable(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    no_gpu(monkeypatch, "No CUDA GPUs are available", warned=False)
    assert f"CUDA_VISIBLE_DEVICES={value!r} leaves none of its GPUs to this process: unset it" in (why_none() or "")


def test_a_torch_without_cuda_is_told_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch, "Torch not compiled with CUDA enabled", cuda=None, warned=False)
    assert f"torch {torch.__version__} is a build without CUDA: install" in (why_none() or "")


def test_a_torch_for_a_cuda_to_come_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    no_gpu(monkeypatch, "Found no NVIDIA driver on your system.", cuda="14.2")
    assert "needs one that knows CUDA 14.2: install" in (why_none() or "")


@pytest.mark.parametrize("warnings_are", ["ignore", "error"])
def test_torch_s_own_warnings_neither_end_nor_double_it(monkeypatch: pytest.MonkeyPatch, warnings_are: str) -> None:
    no_gpu(monkeypatch, "The NVIDIA driver on your system is too old (found version 11040).")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter(warnings_are)  # type: ignore[arg-type]
        with pytest.raises(UnfitGpuError, match=r"^device is cuda, and this machine has no .* GPU here: .* too old"):
            find_device("cuda")
    assert not seen


@pytest.mark.parametrize(("name", "capability"), [("Tesla V100-SXM2-16GB", (7, 0)), ("Tesla T4", (7, 5))])
def test_a_card_that_is_too_old_is_named_with_what_is_needed(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int]
) -> None:
    gpus(monkeypatch, (name, capability))
    has = r"\.".join(map(str, capability))
    with pytest.raises(UnfitGpuError, match=rf"^cuda:0 \({name}\) has compute capability {has}, and 8\.0 is the least"):
        check_capability(torch.device("cuda", 0))


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (12, 0)])
def test_newer_ones_are_taken(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]) -> None:
    gpus(monkeypatch, ("some card", capability))
    check_capability(find_device("cuda"))
