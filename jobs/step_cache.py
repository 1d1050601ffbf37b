"""`step_cache` as a job says it: a preset, or the parameters of DBCache and TaylorSeer; and what it saves.

What the parameters do to a picture is `pipeline.skipping`'s.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from jobs import near_misses
from jobs.reading import Float, Int, RequestBody, advised, mistake

LAYERS = 30  # of Z-Image's stack
MAX_STEPS = 50  # of a job

# Steps between the first and the last, which compute, that a preset skips in a row; then one computes.
SKIPS_IN_A_ROW: Mapping[str, int] = {"off": 0, "quality": 1, "fast": 2}


class StepCacheParameters(RequestBody):
    """When a step skips the middle layers and adds what these added before (DBCache, TaylorSeer)."""

    other_names: ClassVar[near_misses.OtherNames] = near_misses.OF_A_STEP_CACHE

    first: Int = Field(1, ge=1, le=LAYERS - 1, description="Layers at the beginning that every step computes.")
    last: Int = Field(
        0,
        ge=0,
        le=LAYERS - 2,
        description="Layers at the end that every step computes; with `first` fewer than the model has.",
    )
    warmup: Int = Field(4, ge=0, le=MAX_STEPS, description="Steps at the beginning that compute all layers.")
    threshold: Float = Field(
        0.24,
        ge=0,
        le=1000,
        description="A step skips where the change by its first layers differs by less than this share from that in "
        "the last computed step; 0: none skips.",
    )
    max_skips: Int = Field(3, ge=0, le=MAX_STEPS, description="Steps in a row that may skip.")
    mask: Annotated[
        Annotated[str, Field(pattern=r"^1[01]*$", max_length=MAX_STEPS)] | None,
        advised(
            "must be a text with a digit for each step, 1 where it computes and 0 where it skips, that begins with 1: "
            f'such as "11101001" for 8 steps, {MAX_STEPS} at most'
        ),
    ] = Field(
        None,
        description="A digit for each step, 1: it computes, 0: it skips; `warmup`, `threshold` and `max_skips` have no "
        "say then.",
    )
    taylor_order: Int = Field(
        0,
        ge=0,
        le=2,
        description="0: what the skipped layers added last is added again; 1 and 2: it is forecast by finite "
        "differences of this order.",
    )
    protect_last: bool = Field(False, description="Whether the last step computes, whatever the others say.")

    @model_validator(mode="after")
    def _some_layers_are_skipped(self) -> Self:
        if not self.fits_layers(LAYERS):
            told = f"first and last are {self.first} and {self.last}; they must be fewer than {LAYERS} together"
            raise ValueError(told)
        return self

    def fits_steps(self, steps: int) -> bool:
        """Tell whether the mask, if there is one, has a digit for each step."""
        return self.mask is None or len(self.mask) == steps

    def fits_layers(self, layers: int) -> bool:
        """Tell whether so many layers leave some to skip."""
        return self.first + self.last < layers

    @property
    def masked_steps(self) -> int:
        """The steps that skip for sure."""
        mask = self.mask or ""
        return (mask[:-1] if self.protect_last else mask).count("0")


Preset = Literal["off", "quality", "fast"]
Choice: TypeAlias = Preset | StepCacheParameters


def _kind(value: Any) -> str:
    return "parameters" if isinstance(value, dict | StepCacheParameters) else "preset"


def _told_plainly(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Keep from clients that pydantic tries one kind or the other."""
    try:
        return validate(value)
    except ValidationError as error:
        if _kind(value) == "preset":
            raise ValueError("must be off, quality or fast, or an object with parameters") from None
        inside = [mistake(item["type"], item["loc"][1:], item["input"], item["msg"]) for item in error.errors()]
        raise ValidationError.from_exception_data("step_cache", inside) from None


StepCache = Annotated[
    Annotated[Preset, Tag("preset")] | Annotated[StepCacheParameters, Tag("parameters")],
    Discriminator(_kind),
    WrapValidator(_told_plainly),
]


def if_it_fits(choice: Choice, steps: int, layers: int) -> Choice:
    """Return the choice, or `off` where it is made for another number of steps or layers."""
    if isinstance(choice, str) or (choice.fits_steps(steps) and choice.fits_layers(layers)):
        return choice
    return "off"


def expected_cost(choice: Choice, steps: int) -> float:
    """Return the share of the layers' work that is expected of so many steps: 1 where only the picture will tell."""
    if isinstance(choice, str):
        between = max(0, steps - 2)
        skipped = between - between // (SKIPS_IN_A_ROW[choice] + 1)
    else:
        skipped = choice.masked_steps
    return computed_share(choice, skipped / steps)


def computed_share(choice: Choice, skipped: float) -> float:
    """Return the share of the layers' work that is done when this share of the steps skips."""
    always = 1 if isinstance(choice, str) else choice.first + choice.last
    return 1 - skipped * (1 - always / LAYERS)
