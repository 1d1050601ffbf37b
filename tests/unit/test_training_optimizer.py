"""The way back from a blow-up."""

import pytest
import torch
from torch import nn

from training.optimizer import Average, Keeper, Optimizer


def make() -> tuple[nn.Module, Optimizer, Average, Keeper]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
    optimizer = Optimizer(module, matrix_rate=0.1, rate=0.1)
    average = Average(module)
    return module, optimizer, average, Keeper(optimizer, average)


def step(module: nn.Module, optimizer: Optimizer, average: Average, scale: float, number: int) -> None:
    optimizer.set_rate(1000, 0.1)
    (module(torch.ones(2, 4)).square().mean() * scale).backward()
    optimizer.step()
    average.update(number * 10)


def test_weights_and_their_average_go_back_to_the_least_loss_at_half_the_rate() -> None:
    module, optimizer, average, keeper = make()
    step(module, optimizer, average, 1.0, 1)
    assert not keeper.watch(1.0)
    kept = [parameter.detach().clone() for parameter in (*module.parameters(), *average.weights)]

    step(module, optimizer, average, float("nan"), 2)
    assert not all(weight.isfinite().all() for weight in average.weights)
    assert keeper.watch(float("nan"))

    assert all(map(torch.equal, (*module.parameters(), *average.weights), kept))
    assert optimizer.share == 0.5


def test_without_a_good_state_a_blow_up_is_an_error() -> None:
    module, optimizer, average, keeper = make()
    step(module, optimizer, average, 1.0, 1)
    with pytest.raises(FloatingPointError, match="lower the rate"):
        keeper.watch(float("nan"))
