"""Wrappers of a pipeline: the plainest one for each place where one can stand, with those of the recipe; in pairs."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline import recipe
from pipeline.drawing import Branch
from pipeline.formats.row_format import Rows
from pipeline.matrices import places
from pipeline.model.stack import Conditioning, Stack
from pipeline.recipe import Parts, Recipe
from pipeline.wrappers import banded_decoder, residency

Wrapper = Callable[[Parts, Recipe], None]


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


class Recording:
    """Runs another stack's layers, and keeps which: (row, step, first, last), the rows being numbered as they come."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.rows: list[Branch] = []
        self.runs: list[tuple[int, int, int, int]] = []

    def run(self, x: Tensor, time: Tensor, conditioning: Conditioning, first: int, last: int) -> Tensor:
        for row in conditioning.rows:
            if row not in self.rows:
                self.rows.append(row)
            self.runs.append((self.rows.index(row), row.step, first, last))
        return self._stack.run(x, time, conditioning, first, last)

    def computed(self, row: int, layer: int) -> list[int]:
        """The steps in which a row ran a layer."""
        return [step for found, step, first, last in self.runs if found == row and first <= layer < last]


def layer_by_layer(parts: Parts, _recipe: Recipe) -> None:
    parts.transformer.stack = LayerByLayer(parts.transformer.stack)


def remembering(parts: Parts, _recipe: Recipe) -> None:
    """Compares each step's time with the last one's, as a step cache would compare residuals."""

    class Remembering(LayerByLayer):
        def run(self, x: Tensor, time: Tensor, conditioning: Conditioning, first: int, last: int) -> Tensor:
            for row in conditioning.rows:
                assert not torch.equal(row.memory.get(self, torch.zeros_like(time)), time)
                row.memory[self] = time
            return self._stack.run(x, time, conditioning, first, last)

    parts.transformer.stack = Remembering(parts.transformer.stack)


def side_paths_of_zeros(parts: Parts, _recipe: Recipe) -> None:
    def beside(_module: nn.Module, inputs: tuple[Tensor | Rows], output: Tensor) -> Tensor:
        x = inputs[0]
        x = x.dequantize(torch.bfloat16) if isinstance(x, Rows) else x
        return output + torch.zeros_like(x[..., :1])

    for place in places(parts.transformer).values():
        place.module.register_forward_hook(beside)


class Presence:
    """A part whose weights are nonsense but while its stage is at work."""

    def __init__(self, module: nn.Module) -> None:
        self._weights = [*module.parameters(), *module.buffers()]
        self.__exit__()

    def __call__(self) -> "Presence":
        return self

    def __enter__(self) -> None:
        for weight, values in zip(self._weights, self._kept, strict=True):
            weight.data = values

    def __exit__(self, *_: object) -> None:
        self._kept = [weight.data for weight in self._weights]
        for weight, values in zip(self._weights, self._kept, strict=True):
            weight.data = torch.empty_like(values)


def coming_and_going(parts: Parts, _recipe: Recipe) -> None:
    modules = {"text_encoder": parts.text_encoder.model, "transformer": parts.transformer, "vae": parts.autoencoder}
    parts.presence.update({name: Presence(module) for name, module in modules.items()})


PLANNED = (residency.wrap, banded_decoder.wrap)  # they do nothing without a plan; their own tests have one

WRAPPERS: list[Wrapper] = [
    side_paths_of_zeros,
    coming_and_going,
    layer_by_layer,
    *(wrap for wrap in recipe.WRAPPERS if wrap not in PLANNED),
    remembering,
]

PAIRS = list(itertools.combinations(WRAPPERS, 2))
NAMES = ["-".join(wrap.__module__.rpartition(".")[2] + "." + wrap.__name__ for wrap in pair) for pair in PAIRS]
