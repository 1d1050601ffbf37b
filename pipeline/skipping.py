"""Which steps of a picture may skip the middle layers: the settings of a step cache, and the rules that follow.

They are DBCache's and TaylorSeer's (arXiv 2503.06923), as Cache-DiT 1.5 defines them. What is kept and reused in their
place is `pipeline.wrappers.step_cache`'s.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

HIGHEST_ORDER = 2  # of differences: a picture has too few computed steps for more


@dataclass(frozen=True)
class StepCache:
    """When a step skips the layers between the first and the last ones, and adds what they added last.

    Attributes:
        first: so many layers run at every step, 1 or more; how much they change the stream tells how far it has gone.
        last: so many layers at the end run at every step.
        warmup: so many steps compute at the beginning. The first always does.
        threshold: a step skips where the first layers' change differs from that of the last computed step by less than
            this share of it (mean absolute values). 0: none skips. 1 or more: all that may do.
        max_skips: in a row.
        mask: a character a step: "1" computes, "0" skips; it begins with "1". With it, `warmup`, `threshold` and
            `max_skips` have no say: it is Cache-DiT's `steps_computation_mask` with the policy "static".
        taylor_order: 0 adds what the middle layers added in the last computed step; 1 and 2 forecast it by that many
            finite differences over the computed steps, from the fourth step on, as Cache-DiT does.
        protect_last: the last step computes, whatever the others say.

    Raises:
        ValueError: a field is out of range; the message names it, its value and what was expected.
    """

    first: int = 1
    last: int = 0
    warmup: int = 4
    threshold: float = 0.24
    max_skips: int = 3
    mask: str | None = None
    taylor_order: int = 0
    protect_last: bool = False

    def __post_init__(self) -> None:
        self._check_count("first", 1)
        for name in ("last", "warmup", "max_skips"):
            self._check_count(name, 0)
        if not _is_number(self.threshold) or not 0 <= self.threshold < math.inf:
            raise ValueError(f"step_cache.threshold is {self.threshold!r}, expected a number of 0 or more")
        if self.mask is not None and not _is_mask(self.mask):
            raise ValueError(f"step_cache.mask is {self.mask!r}, expected a text of 1 and 0 that begins with 1")
        if not _is_whole(self.taylor_order) or not 0 <= self.taylor_order <= HIGHEST_ORDER:
            raise ValueError(f"step_cache.taylor_order is {self.taylor_order!r}, expected 0, 1 or {HIGHEST_ORDER}")
        if not isinstance(self.protect_last, bool):
            raise ValueError(f"step_cache.protect_last is {self.protect_last!r}, expected true or false")

    @classmethod
    def of(cls, choice: "Choice") -> "StepCache | None":
        """The settings that somebody chose.

        Args:
            choice: a preset's name; the fields that are not to be the defaults; the settings; None or "off" for none.

        Raises:
            ValueError: there is no such preset or field, or a field is out of range.
        """
        if choice is None or choice == "off":
            return None
        if isinstance(choice, StepCache):
            return choice
        if isinstance(choice, Mapping):
            names = [field.name for field in fields(cls)]
            if strays := [str(name) for name in choice if name not in names]:
                raise ValueError(f"step_cache.{strays[0]} is unknown, expected one of {', '.join(names)}")
            return cls(**choice)
        if isinstance(choice, str) and choice in PRESETS:
            return PRESETS[choice]
        raise ValueError(f"step_cache is {choice!r}, expected off, {', '.join(PRESETS)}, or an object")

    def check(self, steps: int, layers: int) -> None:
        """Refuse what does not fit a picture of so many steps by a model of so many layers; raises ValueError."""
        if self.mask is not None and len(self.mask) != steps:
            raise ValueError(
                f"step_cache.mask has {len(self.mask)} characters, expected {steps}, one for each of the steps"
            )
        if self.first + self.last >= layers:
            raise ValueError(
                f"step_cache.first and step_cache.last are {self.first} and {self.last},"
                f" expected less than the model's {layers} layers together"
            )

    def skips(self, step: int, steps: int, skipped: int) -> bool | None:
        """Whether a step skips; None where the threshold has to tell.

        Args:
            step: counted from 0.
            steps: of the picture.
            skipped: so many steps right before this one.
        """
        if step == 0 or (self.protect_last and step == steps - 1):
            return False
        if self.mask is not None:
            return self.mask[step] == "0"
        if step < self.warmup or skipped >= self.max_skips or self.threshold == 0:
            return False
        return None if self.measures else True

    def skips_after(self, step: int, steps: int) -> bool:
        """Whether a later step may skip, so that something of this one has to be kept."""
        return any(self.skips(later, steps, skipped=0) is not False for later in range(step + 1, steps))

    @property
    def measures(self) -> bool:
        """Whether what the first layers change is ever compared."""
        return self.mask is None and 0 < self.threshold < 1

    def _check_count(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not _is_whole(value) or value < least:
            raise ValueError(f"step_cache.{name} is {value!r}, expected a whole number of {least} or more")


Choice: TypeAlias = StepCache | Mapping[str, Any] | str | None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_mask(value: object) -> bool:
    return isinstance(value, str) and value.startswith("1") and set(value) <= {"0", "1"}


PRESETS: Mapping[str, StepCache] = {  # chosen for 8 steps: `bench.quality.step_cache`
    "quality": StepCache(warmup=1, threshold=0.25, max_skips=1, taylor_order=1, protect_last=True),
    "fast": StepCache(warmup=1, threshold=0.4, max_skips=2, taylor_order=1, protect_last=True),
}
