"""Small pictures' layers replayed from CUDA graphs: launching them from Python takes longer than they do."""

from functools import cache
from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.cuda import graphs
from pipeline.model.stack import Conditioning, Stack

if TYPE_CHECKING:
    from pipeline.recipe import Parts, Recipe


class GraphedStack:
    """Replays each range of another stack's layers; it keeps nothing from one step to the next."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._recorded = cache(self._record)

    def run(self, x: Tensor, time: Tensor, conditioning: Conditioning, first: int, last: int) -> Tensor:
        """Run a range of layers, as in `Stack`."""
        if first == last or not graphs.worthwhile(x):
            return self._stack.run(x, time, conditioning, first, last)
        return self._recorded(first, last)(x, time, conditioning.rope, conditioning.mask)

    def _record(self, first: int, last: int) -> graphs.Graphs[Tensor]:
        def run(x: Tensor, time: Tensor, rope: Tensor, mask: Tensor | None) -> Tensor:
            none = x[:, :0]  # a stack reads neither caption nor sizes
            return self._stack.run(x, time, Conditioning(none, none, rope, mask, 0, 0), first, last)

        return graphs.Graphs(run)


def wrap(parts: "Parts", recipe: "Recipe") -> None:
    """Put it around the fused stack; the reference is not recorded."""
    if recipe.fused:
        parts.transformer.stack = GraphedStack(parts.transformer.stack)
