import diffusers
import pytest
import torch
from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas

from pipeline.model.scheduler import Schedule, euler_step, sigmas


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 8, 9, 28, 50])
def test_schedule_equals_diffusers_bit_for_bit(steps: int, shift: float) -> None:
    reference = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    reference.set_timesteps(sigmas=get_default_z_image_sigmas(steps))

    levels = sigmas(steps, shift)

    assert torch.equal(levels, reference.sigmas)
    timesteps = Schedule(shift=shift, train_steps=1000).timesteps(levels[:-1])
    assert torch.equal(timesteps, (1000 - reference.timesteps) / 1000)


def test_euler_step_equals_diffusers_bit_for_bit() -> None:
    reference = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    reference.set_timesteps(sigmas=get_default_z_image_sigmas(8))
    latents, velocity = torch.randn(2, 16, 4, 4), torch.randn(2, 16, 4, 4)
    expected = reference.step(velocity, reference.timesteps[0], latents).prev_sample

    levels = sigmas(8, 3.0)

    assert torch.equal(euler_step(latents, velocity, levels[0], levels[1]), expected)


def test_eight_steps_of_turbo_start_at_pure_noise_and_end_at_the_image() -> None:
    levels = sigmas(8, 3.0)

    assert levels[0] == 1
    assert levels[-1] == 0
    assert (levels.diff() < 0).all()
