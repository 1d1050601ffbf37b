"""A job's request: each field with its bounds and what it means to the rest of the service, and what follows from them.

A field is declared once, here. Its `Trait` says whether it decides the picture, what it costs, what a worker must be
able to do for it, and its command-line option.
"""

import hashlib
import math
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self

import httpx
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

from jobs.reading import WHOLE, Float, Int, RequestBody, advised, refusal
from jobs.step_cache import MAX_STEPS, Choice, StepCache, StepCacheParameters, computed_share, expected_cost

MAX_IMAGES = 10  # of one job
EARLIER_MAX_IMAGES = 8  # of the releases up to 0.2, whose workers can't read a request for more
LARGEST_EXACT = 2**53 - 1  # in JSON and JavaScript: of a seed with the index of an image added
MAX_SEED = LARGEST_EXACT - (EARLIER_MAX_IMAGES - 1)  # with more images less
METADATA_BYTES = 4096
MIN_SIDE, MAX_SIDE, SIDE_MULTIPLE = 64, 2048, 16  # of any model, in pixels

IDLE_NEGATIVE_PROMPT = "the negative prompt has no effect: that takes a guidance_scale above 0"  # as the pipeline says

# Of the release whose digests must stay valid; those that came later count only where they are not at their default.
FIRST_FIELDS = frozenset(
    {
        "prompt",
        "negative_prompt",
        "num_inference_steps",
        "guidance_scale",
        "seed",
        "priority",
        "timeout_seconds",
        "metadata",
        "width",
        "height",
        "num_images",
        "webhook_url",
    }
)

Priority = Literal["high", "normal", "low"]

# Refused at submit (Unicode's Cc but for tab and line ends); records of earlier releases have some.
CONTROLS = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
NO_CONTROLS: dict[str, JsonValue] = {"pattern": f"^[^{CONTROLS}]*$"}  # as the JSON schema tells it


@dataclass(frozen=True)
class Trait:
    """What a field means beyond its value, as metadata of its type; a field without one has these defaults.

    Attributes:
        picture: whether it decides what the picture looks like.
        cost: factor by which a value, with the job's steps, makes it dearer than its pixels × steps × images.
        needs: what a worker must be able to do for a value that not every worker knows.
        needed: whether a value is one of these; None: all but the default are.
        flag: the command-line option; None: named as the field is; empty: there is none.
        help: of that option; None: the field's description.
    """

    picture: bool = False
    cost: Callable[[Any, int], float] = lambda _value, _steps: 1
    needs: str | None = None
    needed: Callable[[Any], bool] | None = None
    flag: str | None = None
    help: str | None = None


@cache
def traits(model: type[BaseModel]) -> dict[str, Trait]:
    """Return the trait of each of a model's fields."""

    def trait(metadata: list[Any]) -> Trait:
        return next((item for item in metadata if isinstance(item, Trait)), Trait())

    return {name: trait(field.metadata) for name, field in model.model_fields.items()}


def _at_most_4_kib(metadata: dict[str, str]) -> dict[str, str]:
    try:
        size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
    except UnicodeEncodeError:
        raise ValueError("keys and values must be valid Unicode: there is half of a surrogate pair") from None
    if size > METADATA_BYTES:
        raise ValueError(f"keys and values must be at most {METADATA_BYTES} bytes together, got {size}")
    return metadata


def _webhook_url(value: str) -> str:
    # Read by the parser of the client that will call it. Where its host points to, api/webhooks/addresses.py looks at.
    try:
        url = httpx.URL(value)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"must be a URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("must be an http:// or https:// URL with a host")
    if url.userinfo:
        raise ValueError("must have no user name and password in it: verify the signature of what comes instead")
    if url.port is not None and url.port not in (80, 443) and not 1024 <= url.port <= 65535:
        raise ValueError("must have port 80, 443 or one from 1024 on: the others belong to other protocols")
    return value


def _largest_seed(images: int) -> int:
    return LARGEST_EXACT - (images - 1)


def random_seed() -> int:
    """Return a seed for a request that has none; good for any number of images."""
    return secrets.randbelow(_largest_seed(MAX_IMAGES) + 1)


# Bounds first, or the JSON schema of `… | None` has none.
NumImages = Annotated[int, Field(ge=1, le=MAX_IMAGES), WHOLE]
Side = Annotated[
    int,
    Field(ge=MIN_SIDE, le=MAX_SIDE, multiple_of=SIDE_MULTIPLE),
    WHOLE,
    advised(
        f"must be a whole number, a multiple of {SIDE_MULTIPLE} within the served model's limits, which lie between "
        f"{MIN_SIDE} and {MAX_SIDE}"
    ),
    Trait(picture=True, help="Pixels, a multiple of 16; default: the model's."),
]
WebhookUrl = Annotated[
    Annotated[
        str,
        StringConstraints(max_length=2048),
        AfterValidator(_webhook_url),
        Field(json_schema_extra={"format": "uri"}),
    ]
    | None,
    Field(
        description="Told when the job has ended (see the webhook `job.ended`); http or https, "
        "port 80, 443 or one from 1024 on, public addresses only.",
        examples=[None],
    ),
]
Prompt = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=2000),
    Field(json_schema_extra={"pattern": rf"^[^{CONTROLS}]*[^\s{CONTROLS}][^{CONTROLS}]*$"}),
]


STEP_CACHE = (
    "Lets steps that change little skip layers: `off`, `quality` (less is skipped) or `fast`, or the parameters of "
    "DBCache and TaylorSeer"
)


class JobOptions(RequestBody):
    """What every request for images may say, whatever API it comes by."""

    prompt: Annotated[Prompt, Trait(picture=True, help="What to draw.")] = Field(
        description="What to draw; the model reads the first 512 tokens.", examples=["a red circle"]
    )
    negative_prompt: Annotated[
        Annotated[str, StringConstraints(max_length=2000), Field(json_schema_extra=NO_CONTROLS)] | None,
        Trait(picture=True, help="What to avoid; only with --guidance above 0."),
    ] = Field(None, description="What to avoid; only with guidance_scale > 0.")
    num_inference_steps: Annotated[Int, Trait(picture=True, flag="--steps", help="Denoising steps, 1 to 50.")] = Field(
        8, ge=1, le=MAX_STEPS
    )
    guidance_scale: Annotated[
        Float,
        Trait(
            picture=True,
            cost=lambda scale, _steps: 2 if scale > 0 else 1,  # evaluations a step
            flag="--guidance",
            help="Classifier-free guidance, 0 to 20; Turbo takes 0.",
        ),
    ] = Field(0.0, ge=0, le=20, description="Classifier-free guidance; Turbo takes 0.")
    step_cache: StepCache | None = Field(None, description=f"{STEP_CACHE}; null: as the service has it.")
    seed: Annotated[
        Annotated[int, Field(ge=0, le=MAX_SEED), WHOLE] | None,
        advised(
            f"must be a whole number from 0 to {MAX_SEED} ({_largest_seed(MAX_IMAGES)} for {MAX_IMAGES} images): "
            "for a random one leave it out"
        ),
        Trait(help="The same seed draws the same picture; default: a random one."),
    ] = Field(None, description="Image i is drawn from seed + i; null: drawn for you.")
    priority: Annotated[Priority, Trait(help="Place in the queue.")] = "normal"
    timeout_seconds: Annotated[Annotated[int, Field(ge=1, le=3600), WHOLE] | None, Trait(flag="--timeout")] = Field(
        None, description="Seconds after which the job is not worth finishing."
    )
    metadata: Annotated[
        dict[str, str], AfterValidator(_at_most_4_kib), Trait(help="Kept with the job; repeatable.")
    ] = Field(
        default_factory=dict,
        max_length=16,
        description="At most 16 pairs of strings, 4 KiB together.",
        json_schema_extra={
            "propertyNames": NO_CONTROLS,
            "additionalProperties": {"type": "string", **NO_CONTROLS},
        },
    )

    @model_validator(mode="after")
    def _mask_has_a_digit_for_each_step(self) -> Self:
        match self.step_cache:
            case StepCacheParameters(mask=str(mask)) as parameters if not parameters.fits_steps(
                self.num_inference_steps
            ):
                told = f"must have a digit for each of the {self.num_inference_steps} steps, has {len(mask)}"
                raise refusal(("step_cache", "mask"), mask, told)
        return self


INPUT_EXAMPLE: dict[str, JsonValue] = {
    "prompt": "a red circle on white",
    "negative_prompt": None,
    "width": 1024,
    "height": 1024,
    "num_inference_steps": 8,
    "guidance_scale": 0.0,
    "step_cache": "off",
    "seed": None,
    "num_images": 1,
    "priority": "normal",
    "timeout_seconds": None,
    "webhook_url": None,
    "metadata": {"project": "shapes"},
}
REQUEST_EXAMPLE = {name: value for name, value in INPUT_EXAMPLE.items() if name not in ("width", "height")}
SIDE = "Pixels; null: as many as suit the served model, which may allow less."


class JobRequest(JobOptions):
    """A request for images as `POST /v1/jobs` takes it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "a red circle on white"}, REQUEST_EXAMPLE]})

    width: Side | None = Field(None, description=SIDE)
    height: Side | None = Field(None, description=SIDE)
    num_images: Annotated[
        NumImages,
        Trait(
            help="How many, 1 to 10; image i is drawn from seed + i.",
            needs="ten_images",
            needed=lambda number: number > EARLIER_MAX_IMAGES,
        ),
    ] = 1
    webhook_url: Annotated[WebhookUrl, Trait(flag="")] = None

    @model_validator(mode="after")
    def _seeds_are_exact(self) -> Self:
        largest = _largest_seed(self.num_images)
        if self.seed is not None and self.seed > largest:
            told = f"image i is drawn from seed + i: for {self.num_images} images it is at most {largest}"
            raise refusal(("seed",), self.seed, told)
        return self

    def complete(self, width: int, height: int, step_cache: Choice = "off") -> "JobInput":
        """Return the request with these sides, in pixels, and this step cache, where it names none."""
        sides = {"width": self.width or width, "height": self.height or height}
        return JobInput(**{**dict(self), **sides, "step_cache": self.step_cache or step_cache})


class JobInput(JobRequest):
    """A request for images, complete: what the record keeps and the worker draws."""

    takes_null: ClassVar[bool] = False  # answers show it

    model_config = ConfigDict(json_schema_extra={"examples": [INPUT_EXAMPLE]})

    # Of a request as the first release took it, which filled this in: the digests that it left behind stay valid.
    width: Side = Field(1024, description="Pixels.")
    height: Side = Field(1024, description="Pixels.")
    step_cache: Annotated[
        StepCache,
        Trait(
            picture=True,
            cost=expected_cost,
            needs="step_cache",
            help="Quicker by skipped layers: off, quality or fast, or parameters in JSON.",
        ),
    ] = Field("off", description=f"{STEP_CACHE}.")

    @property
    def work(self) -> int:
        """Pixels × steps × images: what `ZIMAGE_MAX_WORK` limits."""
        return self.width * self.height * self.total_steps

    @property
    def total_steps(self) -> int:
        """Of all images together."""
        return self.num_inference_steps * self.num_images

    @property
    def cost(self) -> int:
        """The work, times what the fields' traits say: what the queue measures the GPU's time in."""
        steps = self.num_inference_steps
        return round(self.work * math.prod(trait.cost(getattr(self, name), steps) for name, trait in self._traits()))

    def cost_drawn(self, steps_skipped: float) -> int:
        """As `cost`, by the steps that did skip, of all images together: what the time that it took is measured by."""
        share = computed_share(self.step_cache, steps_skipped / self.total_steps)
        return round(self.cost / expected_cost(self.step_cache, self.num_inference_steps) * share)

    @property
    def needs(self) -> frozenset[str]:
        """What a worker must be able to do to draw this job; empty: any worker can."""
        return frozenset(trait.needs for name, trait in self._traits() if trait.needs and self._is_new(name, trait))

    @property
    def warnings(self) -> list[str]:
        """What of it has no effect, to be told before it is drawn; the pipeline tells the same."""
        if self.negative_prompt and self.guidance_scale == 0:
            return [IDLE_NEGATIVE_PROMPT]
        return []

    def picture(self) -> dict[str, Any]:
        """Return the fields that decide the picture, but for the seeds."""
        return self.model_dump(include={name for name, trait in self._traits() if trait.picture})

    def digest(self) -> str:
        """Return the SHA-256 of the request (its sides filled in, its seed not yet), to tell a repetition from another.

        So that a digest stays valid when a field comes, one that came later counts only where it isn't at its default.
        """
        later = type(self).model_fields.keys() - FIRST_FIELDS
        dumped = self.model_dump_json(exclude=set(filter(self._is_default, later)))
        return hashlib.sha256(dumped.encode()).hexdigest()

    def _is_new(self, name: str, trait: Trait) -> bool:
        return trait.needed(getattr(self, name)) if trait.needed else not self._is_default(name)

    def _is_default(self, name: str) -> bool:
        default = type(self).model_fields[name].get_default(call_default_factory=True)
        return bool(getattr(self, name) == default)

    def _traits(self) -> Iterable[tuple[str, Trait]]:
        return traits(type(self)).items()


ABILITIES = frozenset(trait.needs for trait in traits(JobInput).values() if trait.needs)  # of this release's workers
