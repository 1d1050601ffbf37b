"""A Triton kernel that writes where there is no memory: the GPU does nothing more for this process."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import torch
import triton
import triton.language as tl


def break_device(device: torch.device) -> None:
    """Launch it; the error is told by whatever waits for the device next."""
    with torch.cuda.device(device):
        _write_far_away[(1,)](torch.zeros(1, device=device))


@triton.jit
def _write_far_away(place):
    tl.store(place + 10**12, 1.0)
