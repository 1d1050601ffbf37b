"""The stack of layers as an object that runs any range of them: the one place where the rest of the network meets it.

What makes the stack quicker or smaller is a `Stack` too, and wraps another one (`pipeline.wrappers`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from pipeline.model.layers import ModulatedBlock


@dataclass(frozen=True)
class Conditioning:
    """What layers read beside the stream, the same in all steps of one picture."""

    rope: Tensor  # float32 [B, tokens, 1, head_dim / 2, 2], (cos, sin) last
    mask: Tensor | None  # [B, 1, 1, tokens], True where attended; None when every token is
    rows: Sequence[Any] = ()  # for wrappers: a `Branch` of `pipeline.drawing` for each row, where the loop gives it


class Stack(Protocol):
    """Layers over the single stream of image and caption tokens."""

    def run(self, x: Tensor, time: Tensor, conditioning: Conditioning, first: int, last: int) -> Tensor:
        """Run layers `first` to `last`, the latter excluded; running two halves is running the whole, to the bit.

        Args:
            x: the stream `[B, image + caption tokens, dim]`; it may be changed in place.
            time: embedding `[B or 1, time width]` of the timestep.
            conditioning: of the picture.
            first: the first layer to run, counted from 0.
            last: the one behind the last.

        Returns:
            The stream behind the last of them, of x's shape.
        """


class PlainStack:
    """The layers one after the other."""

    def __init__(self, layers: Sequence[ModulatedBlock]) -> None:
        self._layers = layers

    def run(self, x: Tensor, time: Tensor, conditioning: Conditioning, first: int, last: int) -> Tensor:
        """Run a range of layers, as in `Stack`."""
        for layer in self._layers[first:last]:
            x = layer(x, conditioning.rope, conditioning.mask, time)
        return x
