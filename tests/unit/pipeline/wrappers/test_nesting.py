"""Wrappers nest: every two that stand around a pipeline draw the picture that it draws without them.

Those of the recipe are here with the plainest ones for each place where a wrapper can stand, innermost first.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline import recipe
from pipeline.matrices import places
from pipeline.model.stack import Conditioning, Stack
from pipeline.pipeline import ZImagePipeline
from pipeline.recipe import Parts, Recipe

Wrapper = Callable[[Parts, Recipe], None]
ASKED = {"height": 64, "width": 80, "num_images": 2, "num_inference_steps": 3, "guidance_scale": 2.0}


class LayerByLayer:
    """Runs another stack's layers one at a time, and counts them."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.runs = 0

    def run(self, x: Tensor, time: Tensor, conditioning: Conditioning, first: int, last: int) -> Tensor:
        for layer in range(first, last):
            self.runs += 1
            x = self._stack.run(x, time, conditioning, layer, layer + 1)
        return x


def layer_by_layer(parts: Parts, _recipe: Recipe) -> None:
    parts.transformer.stack = LayerByLayer(parts.transformer.stack)


def remembering(parts: Parts, _recipe: Recipe) -> None:
    """Compares each step's time with the last one's, as a step cache would compare residuals."""

    class Remembering(LayerByLayer):
        def run(self, x: Tensor, time: Tensor, conditioning: Conditioning, first: int, last: int) -> Tensor:
            for memory in conditioning.memories:
                assert not torch.equal(memory.get(self, torch.zeros_like(time)), time)
                memory[self] = time
            return self._stack.run(x, time, conditioning, first, last)

    parts.transformer.stack = Remembering(parts.transformer.stack)


def side_paths_of_zeros(parts: Parts, _recipe: Recipe) -> None:
    def beside(_module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return output + torch.zeros_like(inputs[0][..., :1])

    for place in places(parts.transformer).values():
        place.module.register_forward_hook(beside)


class Presence:
    """A part whose weights are nonsense but while its stage is at work."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.__exit__()

    def __enter__(self) -> None:
        for parameter, values in self._kept:
            parameter.data = values

    def __exit__(self, *_: object) -> None:
        self._kept = [(parameter, parameter.data) for parameter in self._module.parameters()]
        for parameter, values in self._kept:
            parameter.data = torch.full_like(values, torch.nan)


def coming_and_going(parts: Parts, _recipe: Recipe) -> None:
    modules = {"text_encoder": parts.text_encoder.model, "transformer": parts.transformer, "vae": parts.autoencoder}
    parts.presence.update({name: Presence(module) for name, module in modules.items()})


WRAPPERS: list[Wrapper] = [
    side_paths_of_zeros,
    coming_and_going,
    layer_by_layer,
    *recipe.WRAPPERS,
    remembering,
]


def draw(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, *wrappers: Wrapper) -> tuple[ZImagePipeline, Tensor]:
    monkeypatch.setattr(recipe, "WRAPPERS", wrappers)
    pipe = ZImagePipeline.from_pretrained(checkpoint, device="cpu", dtype=torch.float32)
    return pipe, pipe("a cat", **ASKED)  # type: ignore[arg-type]


PAIRS = list(itertools.combinations(WRAPPERS, 2))


@pytest.mark.parametrize("pair", PAIRS, ids=["-".join(wrap.__name__ for wrap in pair) for pair in PAIRS])
def test_every_two_wrappers_draw_the_plain_picture(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, pair: tuple[Wrapper, Wrapper]
) -> None:
    _, expected = draw(checkpoints["small"], monkeypatch)
    _, found = draw(checkpoints["small"], monkeypatch, *pair)
    assert torch.equal(found, expected)


def test_what_is_wrapped_first_is_innermost(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, _ = draw(checkpoints["small"], monkeypatch, layer_by_layer, layer_by_layer)
    outer = pipe.transformer.stack
    assert isinstance(outer, LayerByLayer)
    assert isinstance(outer._stack, LayerByLayer)
    layers, evaluations = pipe.transformer.params.num_layers, 2 * 3  # images, steps
    assert outer.runs == outer._stack.runs == layers * evaluations
