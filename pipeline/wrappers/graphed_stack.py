"""Small pictures' layers replayed from CUDA graphs: launching them from Python takes longer than they do."""

from typing import TYPE_CHECKING

from torch import Tensor

from pipeline.cuda import graphs
from pipeline.memory_plan import RESIDENT
from pipeline.model.stack import Conditioning, Stack

if TYPE_CHECKING:
    from pipeline.recipe import Parts, Recipe


class GraphedStack:
    """Replays ranges of another stack's layers; it keeps nothing from one step to the next."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._replayed = graphs.Graphs(self._run)

    def run(self, x: Tensor, time: Tensor, conditioning: Conditioning, first: int, last: int) -> Tensor:
        """Run a range of layers, as in `Stack`."""
        if first == last or not graphs.worthwhile(x.shape[:2].numel()):
            return self._stack.run(x, time, conditioning, first, last)
        return self._replayed(x, time, conditioning.rope, conditioning.mask, first, last)

    def _run(self, x: Tensor, time: Tensor, rope: Tensor, mask: Tensor | None, first: int, last: int) -> Tensor:
        return self._stack.run(x, time, Conditioning(rope, mask), first, last)


def wrap(parts: "Parts", recipe: "Recipe") -> None:
    """Put it around the fused stack; the reference is not recorded, nor are weights that come and go."""
    if recipe.fused and (parts.plan is None or parts.plan.transformer == RESIDENT):
        parts.transformer.stack = GraphedStack(parts.transformer.stack)
