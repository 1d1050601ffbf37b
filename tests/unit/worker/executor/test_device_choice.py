"""What an operator is told of a device that can't do what the settings ask."""

import pytest

from jobs.settings import Settings
from worker.executor.device_choice import choose_device


def test_a_quantization_that_the_device_can_not_run_is_told_by_its_setting() -> None:
    settings = Settings(device="cpu", quantization="fp8")
    with pytest.raises(ValueError, match=r"^ZIMAGE_QUANTIZATION: fp8 needs .* the CPU is none; ") as told:
        choose_device(settings)
    assert "=" not in str(told.value)
    assert "None" not in str(told.value)
