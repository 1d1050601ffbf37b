"""How weights move: precision, optimizer, its rate over a run, the weights' average, the way back from a blow-up.

Everything stays on the device, so that a step can be part of a CUDA graph.
"""

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
WEIGHT_DECAY = 0.02
RISE = 200  # steps until the rate is full
FALL = 0.4  # share of the run over which the rate goes down to zero
AVERAGE_EVERY = 10  # steps
AVERAGE_DECAY = 0.99  # each time
BLOWN_UP = 1.5  # times the least loss
_ENDS = ("embed", "conv_in", "conv_out", "final_layer")  # layers between the network and what is outside it


class Optimizer:
    """Muon for matrices inside the network, AdamW for embeddings, ends, norms and the timestep's path.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) moves a matrix by the orthogonal factor of its
    momentum. Matrices of one shape are stepped together: torch.optim.Muon takes them one by one, which costs several
    times the rest of a step for networks as small as these.
    """

    def __init__(self, module: nn.Module, *, matrix_rate: float, rate: float, outside: Iterable[str] = ()) -> None:
        """Take the parameters of `module`.

        Args:
            module: the network.
            matrix_rate: Muon's peak rate, for an update of spectral norm about 1.
            rate: AdamW's peak rate.
            outside: parts of names of matrices that AdamW steps, at a tenth of its rate: no norm bounds what the
                timestep multiplies, and at the full rate it grew a hundredfold.
        """
        shapes: dict[tuple[int, int], list[Tensor]] = {}
        plain: list[Tensor] = []
        slow: list[Tensor] = []
        outside = tuple(outside)
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            if any(part in name for part in outside):
                slow.append(parameter)
            elif parameter.ndim < 2 or any(part in name for part in _ENDS):
                plain.append(parameter)
            else:
                rows, columns = parameter.flatten(1).shape
                shapes.setdefault((rows, columns), []).append(parameter)
        self._matrices = list(shapes.values())
        self._momenta = [torch.zeros(len(group), *group[0].flatten(1).shape, device=group[0].device)
                         for group in self._matrices]  # fmt: skip
        self._parameters = [*itertools.chain(*self._matrices), *plain, *slow]
        device = self._parameters[0].device
        self._matrix_rate = torch.zeros((), device=device)
        self._peak = matrix_rate
        groups = [
            {"params": plain, "lr": torch.zeros((), device=device), "peak": rate},
            {"params": slow, "lr": torch.zeros((), device=device), "peak": rate / 10},
        ]
        self._adam = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY, fused=True, capturable=True,
        )  # fmt: skip
        self.share = 1.0  # of the rates; halved by each blow-up

    def set_rate(self, step: int, done: float) -> None:
        """Set the rates for a step, `done` being the share of the run that is over: a rise, level, and down to zero."""
        factor = self.share * min(1.0, (step + 1) / RISE) * min(1.0, max(0.0, (1 - done) / FALL))
        self._matrix_rate.fill_(self._peak * factor)
        for group in self._adam.param_groups:
            group["lr"].fill_(group["peak"] * factor)

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters by their gradients, whose norm is limited to 1, and drop the gradients."""
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._adam.step()
        for group, momentum in zip(self._matrices, self._momenta, strict=True):
            gradient = torch.stack([parameter.grad.flatten(1) for parameter in group])  # type: ignore[union-attr]
            momentum.lerp_(gradient, 1 - MOMENTUM)
            update = orthogonal_factor(gradient.lerp(momentum, MOMENTUM))
            rows, columns = update.shape[1:]
            update *= self._matrix_rate * max(1.0, rows / columns) ** 0.5
            torch._foreach_mul_(group, 1 - self._matrix_rate * WEIGHT_DECAY)
            torch._foreach_sub_(group, [part.view_as(p) for part, p in zip(update, group, strict=True)])
        for parameter in self._parameters:
            parameter.grad = None

    def state(self) -> list[Tensor]:
        """All tensors that a step changes, parameters included, in a fixed order; complete after the first step."""
        adam = [value for state in self._adam.state.values() for value in state.values()]
        return [*self._parameters, *self._momenta, *adam]

    def halve(self) -> None:
        """Go on at half the rate."""
        self.share /= 2


def orthogonal_factor(matrices: Tensor) -> Tensor:
    """Return about U Vᵀ, float32, of each matrix U S Vᵀ of `[N, rows, columns]`, by five Newton–Schulz steps."""
    x: Tensor = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    x = x.mT if tall else x
    return x.float()


def mixed_precision(device: torch.device) -> torch.autocast:
    """Return the context for forward passes: bfloat16 on GPUs; CPUs are quicker without."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


class Keeper:
    """Keeps the state of a run as it was when its loss was least, to go back there when the loss blows up."""

    def __init__(self, optimizer: Optimizer, average: "Average") -> None:
        self._optimizer = optimizer
        self._average = average
        self._least = float("inf")
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def watch(self, loss: float) -> bool:
        """Take a mean loss of the last steps in; return whether the run was set back.

        Raises:
            FloatingPointError: it is NaN, and there is nothing to go back to.
        """
        state = [*self._optimizer.state(), *self._average.weights]
        if loss < self._least:
            self._least = loss
            self._kept = [tensor.clone() for tensor in state]
        elif not self._kept:
            raise FloatingPointError(f"the first steps' loss is {loss}: lower the rate")
        elif not loss < BLOWN_UP * self._least:  # NaN too
            torch._foreach_copy_(state, self._kept)
            self._optimizer.halve()
            return True
        return False


class Average:
    """Exponential moving average of weights, over fewer steps at the beginning."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = list(module.parameters())
        self.weights = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the present weights in, if it is their turn."""
        if step % AVERAGE_EVERY == 0:
            turn = step // AVERAGE_EVERY
            weight = 1 - min(AVERAGE_DECAY, (1 + turn) / (10 + turn))
            torch._foreach_lerp_(self.weights, [parameter.detach() for parameter in self._parameters], weight)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Put the average into a module of the same shape."""
        for parameter, weight in zip(module.parameters(), self.weights, strict=True):
            parameter.copy_(weight)
