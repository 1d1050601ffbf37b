"""Steps that change little skip the middle layers and add what those added before: DBCache, with TaylorSeer's forecast.

As Cache-DiT 1.5 defines them (TaylorSeer: arXiv 2503.06923), but each row, which is an image's prompt or its negative
one, decides for itself. The rules are in `pipeline.skipping`.
"""

import math
from collections.abc import Sequence
from time import sleep
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.drawing import Branch
from pipeline.model.stack import Conditioning, Stack
from pipeline.skipping import StepCache

if TYPE_CHECKING:
    from pipeline.recipe import Parts, Recipe

FIRST_DIFFERENCE = 3  # Cache-DiT's forecaster takes none before this step, counted from 0
POLL_SECONDS = 20e-6  # between two looks at whether the GPU has got to a number


class Row:
    """What one branch remembers from step to step. Changes of the stream are `[1, tokens, dim]`.

    Where guidance ends, the stream of the prompt loses the tokens that filled it up to a longer negative prompt: what
    is remembered is then cut at their end.

    It does not know its branch, whose memory it lies in: the two would outlive the picture, with their tensors, until
    the garbage is collected.
    """

    def __init__(self, cache: StepCache, steps: int) -> None:
        self.step = 0  # the one that is taken
        self._cache = cache
        self._steps = steps
        self._skipped = 0  # steps in a row
        # Of the last computed step, once `keep` was told of one:
        self._computed = 0
        self._change: Tensor  # by the first layers
        self._size: Tensor  # the sum of its absolute values, [1]
        self._terms: list[Tensor] = []  # the change by the middle layers, and its finite differences

    @property
    def rule(self) -> bool | None:
        """Whether this step skips; None where the change by the first layers has to tell."""
        return self._cache.skips(self.step, self._steps, self._skipped)

    @property
    def keeps(self) -> bool:
        """Whether a later step may need what this one computes."""
        return self._cache.skips_after(self.step, self._steps)

    @property
    def compares(self) -> bool:
        """Whether the change by the first layers is needed, now or later."""
        return self._cache.measures and (self.rule is None or self.keeps)

    def difference(self, change: Tensor) -> Tensor:
        """The mean absolute difference from the last computed step's change, as a share `[1]` of its mean."""
        return _size(self._change[:, : change.shape[1]] - change) / self._size

    def is_near(self, difference: float) -> bool:
        """Whether the step skips for it. What is not a number is not near."""
        return difference < self._cache.threshold

    def keep(self, change: Tensor | None, residual: Tensor) -> None:
        """Remember the changes that a computed step made, by the first layers and by the middle ones."""
        if change is not None:
            self._change, self._size = change, _size(change)
        terms = [residual]
        if self.step >= FIRST_DIFFERENCE:
            for earlier in self._terms[: self._cache.taylor_order]:
                difference = terms[-1] - earlier[:, : residual.shape[1]]
                terms.append(difference / (self.step - self._computed))
        self._terms, self._computed, self._skipped = terms, self.step, 0

    def skip(self, tokens: int) -> Tensor:
        """What the middle layers would change in this step, of so many tokens."""
        self._skipped += 1
        elapsed = self.step - self._computed
        forecast, *differences = self._terms
        for order, difference in enumerate(differences, start=1):
            forecast = torch.add(forecast, difference, alpha=elapsed**order / math.factorial(order))
        return forecast[:, :tokens]


class StepCachingStack:
    """Runs those of another stack's layers that a step does not skip.

    Args:
        stack: of the layers.
        layers: how many it has.
    """

    def __init__(self, stack: Stack, layers: int) -> None:
        self.stack = stack
        self._layers = layers

    def run(self, x: Tensor, time: Tensor, conditioning: Conditioning, first: int, last: int) -> Tensor:
        """Run a range of layers, as in `Stack`; where it is the whole one, the rows are branches of one image."""
        branches: Sequence[Branch] = conditioning.rows
        cache = branches[0].step_cache if branches else None
        if cache is None or (first, last) != (0, self._layers):
            return self.stack.run(x, time, conditioning, first, last)
        rows = [self._row(branch, cache) for branch in branches]
        end = self._layers - cache.last
        entered = x.clone() if any(row.compares for row in rows) else None
        x = self.stack.run(x, time, conditioning, 0, cache.first)
        changes = [None] * len(rows) if entered is None else _changes(x, entered, conditioning.mask)
        skipping = _decide(rows, changes)
        for i in (i for i, skips in enumerate(skipping) if skips):
            x[i : i + 1] += rows[i].skip(x.shape[1])
            branches[i].steps_skipped += 1 / len(rows)
        if computing := [i for i, skips in enumerate(skipping) if not skips]:
            x = self._compute(x, time, conditioning, (cache.first, end), rows, changes, computing)
        return self.stack.run(x, time, conditioning, end, self._layers)

    def _row(self, branch: Branch, cache: StepCache) -> Row:
        if self not in branch.memory:
            branch.memory[self] = Row(cache, branch.drawing.num_inference_steps)
        row: Row = branch.memory[self]
        row.step = branch.step
        return row

    def _compute(
        self,
        x: Tensor,
        time: Tensor,
        conditioning: Conditioning,
        layers: tuple[int, int],
        rows: Sequence[Row],
        changes: Sequence[Tensor | None],
        computing: Sequence[int],
    ) -> Tensor:
        """Run the middle layers over some of the rows, without the others: they come out as if they were alone."""
        if len(computing) < len(rows):
            time = time if len(time) == 1 else _pick(time, computing)
            mask = None if conditioning.mask is None else _pick(conditioning.mask, computing)
            branches = [conditioning.rows[i] for i in computing]
            conditioning = Conditioning(_pick(conditioning.rope, computing), mask, branches)
            own = _pick(x, computing)
        else:
            own = x
        before = {i: own[place : place + 1].clone() for place, i in enumerate(computing) if rows[i].keeps}
        own = self.stack.run(own, time, conditioning, *layers)
        for place, i in enumerate(computing):
            if i in before:
                rows[i].keep(changes[i], own[place : place + 1] - before[i])
        if len(computing) == len(rows):
            return own
        for place, i in enumerate(computing):
            x[i] = own[place]
        return x


def _changes(x: Tensor, entered: Tensor, mask: Tensor | None) -> list[Tensor]:
    """What layers changed in each row; nothing in tokens that fill a batch up, or one row's length told in another.

    Each is in memory of its own: what one row keeps would keep the others' alive.
    """
    changes = [x[i : i + 1] - entered[i : i + 1] for i in range(len(x))]
    if mask is not None:
        for i, change in enumerate(changes):
            change.masked_fill_(~mask[i : i + 1, 0, 0, :, None], 0)
    return changes


def _decide(rows: Sequence[Row], changes: Sequence[Tensor | None]) -> list[bool]:
    """Whether each row skips the middle layers."""
    rules = [row.rule for row in rows]
    open_ = [i for i, rule in enumerate(rules) if rule is None]
    differences = _read([rows[i].difference(change) for i in open_ if (change := changes[i]) is not None])
    found = {i: rows[i].is_near(difference) for i, difference in zip(open_, differences, strict=True)}
    return [found[i] if rule is None else rule for i, rule in enumerate(rules)]


def _read(numbers: Sequence[Tensor]) -> list[float]:
    """The numbers `[1]` of a device, as soon as it has them.

    What is queued before them is waited for, and nothing else: what another thread or stream queues goes on.
    """
    if not numbers:
        return []
    found = torch.cat(list(numbers))
    if found.device.type == "cpu":
        return list(found.tolist())
    here = torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found, non_blocking=True)
    arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrived.record(torch.cuda.current_stream(found.device))
    while not arrived.query():  # type: ignore[no-untyped-call]
        sleep(POLL_SECONDS)
    return list(here.tolist())


def _size(change: Tensor) -> Tensor:
    """The sum of absolute values, float32 `[1]`."""
    size: Tensor = torch.linalg.vector_norm(change, ord=1, dtype=torch.float32)
    return size[None]


def _pick(x: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows, in memory of their own; an index of the host's would be copied to the GPU."""
    return torch.cat([x[i : i + 1] for i in rows])


def wrap(parts: "Parts", _recipe: "Recipe") -> None:
    """Put it around the stack, outside of CUDA graphs."""
    parts.transformer.stack = StepCachingStack(parts.transformer.stack, parts.transformer.params.num_layers)
