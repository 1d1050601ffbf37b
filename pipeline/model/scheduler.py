"""The flow-matching schedule (arXiv 2210.02747) and its Euler step.

A straight path joins noise (sigma 1) and image (sigma 0): x = sigma · noise + (1 - sigma) · image. The model predicts
the velocity along it. A shift above 1 (arXiv 2403.03206) spends more of the steps where there is much noise.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """The options that Z-Image uses."""

    shift: float  # 3
    train_steps: int  # 1000

    def timesteps(self, sigmas: Tensor) -> Tensor:
        """What the transformer is told at each of sigmas `[N]`: 0 for pure noise, 1 for a finished image."""
        return (self.train_steps - sigmas * self.train_steps) / self.train_steps


def sigmas(num_inference_steps: int, shift: float) -> Tensor:
    """Noise levels `[num_inference_steps + 1]`, float32, on the CPU, from 1 down to 0."""
    even = torch.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
    return torch.cat([shift * even / (1 + (shift - 1) * even), torch.zeros(1)])


def euler_step(latents: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """Move float32 latents along their predicted velocity from noise level `sigma` to `sigma_next`."""
    return latents + (sigma_next - sigma) * velocity
