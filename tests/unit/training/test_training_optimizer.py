"""How weights move, and the way back from a blow-up."""

import pytest
import torch
from torch import nn

from training.optimizer import WEIGHT_DECAY, Average, Keeper, Optimizer, orthogonal_factor


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


def turn_and_stretch(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a matrix that stretches by 0.05 to 1, and what of it only turns."""
    left, _, right = torch.linalg.svd(torch.randn(rows, columns), full_matrices=False)
    return left * torch.linspace(0.05, 1, min(rows, columns)) @ right, left @ right


@pytest.mark.parametrize(("rows", "columns"), [(24, 24), (16, 48), (48, 16)])
def test_the_orthogonal_factor_turns_as_before_and_does_not_stretch(rows: int, columns: int) -> None:
    torch.manual_seed(0)
    matrix, turn = turn_and_stretch(rows, columns)
    factor = orthogonal_factor(matrix[None])[0]
    values = torch.linalg.svdvals(factor)
    assert 0.6 < values.min() < values.max() < 1.3
    assert torch.linalg.matrix_norm(factor - turn, 2) < 0.4


def test_a_step_moves_a_matrix_downhill_by_the_same_in_all_directions() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, 24)
    optimizer = Optimizer(nn.Sequential(layer), matrix_rate=0.1, rate=0.1)
    optimizer.set_rate(1000, 0.1)
    gradient, turn = turn_and_stretch(24, 24)
    before = layer.weight.detach().clone()
    (layer(torch.eye(24)) * gradient.T).sum().backward()
    optimizer.step()

    moved = (layer.weight.detach() - before * (1 - 0.1 * WEIGHT_DECAY)) / 0.1
    assert torch.linalg.matrix_norm(moved + turn, 2) < 0.4
