import pytest
import torch
from torch import Tensor, nn

from pipeline import ZImagePipeline
from pipeline.matrices import places

ASKED = {"height": 64, "width": 48, "num_inference_steps": 2, "output_type": "latent"}


def test_every_matrix_of_the_layers_has_a_place_by_its_name_in_the_checkpoint(small: ZImagePipeline) -> None:
    names = {name for name, tensor in small.transformer.named_parameters() if tensor.dim() == 2 and "pad" not in name}

    assert {f"{name}.weight" for name in places(small.transformer)} == names


@pytest.mark.parametrize(
    "name",
    ["layers.1.attention.to_q", "noise_refiner.0.feed_forward.w2", "context_refiner.0.attention.to_out.0"],
)
def test_a_side_path_is_what_a_change_of_the_weight_would_be(small: ZImagePipeline, name: str) -> None:
    place = places(small.transformer)[name]
    linear = small.transformer.get_submodule(name)
    down, up = torch.randn(2, linear.in_features) / 8, torch.randn(linear.out_features, 2) / 8

    def beside(_module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        output[..., place.outputs] += inputs[0] @ down.T @ up.T

    plain = small("a cat", **ASKED)
    with place.module.register_forward_hook(beside):
        found = small("a cat", **ASKED)
    before = linear.weight.data
    linear.weight.data = before + up @ down
    expected = small("a cat", **ASKED)
    linear.weight.data = before

    assert (found - expected).norm() < 1e-4 * expected.norm()
    assert (found - plain).norm() > 1e-3 * plain.norm()
