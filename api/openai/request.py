"""OpenAI's images API as this service speaks it: the request, what of it can be honoured, and the answer."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import ErrorDetails

from api.problems import FieldError, invalid_request
from jobs.model_card import SizeLimits
from jobs.reading import advised, refusal
from jobs.spec import NO_CONTROLS, JobOptions, JobRequest, NumImages, WebhookUrl

EXAMPLE: dict[str, JsonValue] = {"model": "Tongyi-MAI/Z-Image-Turbo", "prompt": "a red circle on white"}
NO_EFFECT = {  # what asks for something that there is not; OpenAI's clients send it whether they are asked to or not
    "style": "style has no effect: say it in the prompt",
    "quality": "quality has no effect: there is one, and more num_inference_steps if the model gains by them",
    "complexity": "complexity has no effect: there is nothing to plan",
}


def _boolean(wanted: bool) -> BeforeValidator:
    """Keep JSON's false and 0 apart, which are equal in Python: `Literal` would take either for the other."""

    def check(value: Any) -> Any:
        if isinstance(value, bool) != wanted:
            raise ValueError
        return value

    return BeforeValidator(check)


NO_SIDE = advised("a picture's sides are said in size, such as 1024x1024")
SIZE = Field(pattern=r"^(auto|(0|[1-9][0-9]*)x(0|[1-9][0-9]*))$", json_schema_extra={"format": "image-size"})
_HERE = {"/width": "/size/width", "/height": "/size/height", "/num_images": "/n"}  # where a job's fields are said
DIGITS = 9  # of a side: what has more is too large for any model, and Python reads no more than 4300


class ImagesRequest(JobOptions):
    """OpenAI's request for images, and what a job may say besides.

    What its clients send by themselves is taken. A value that can't be honoured is refused, never passed over.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE, {**EXAMPLE, "n": 4, "seed": 7}]})

    model: str | None = Field(
        None, description="The served model, as `/v1/models` names it; null and `default`: that one."
    )
    n: NumImages = Field(1, description="Number of images.")
    size: Annotated[
        Annotated[str, SIZE],
        advised("say WIDTHxHEIGHT in pixels, such as 1024x1024, or auto"),
    ] = Field("auto", description="`WxH` in pixels, multiples of 16; `auto`: the square that suits the served model.")
    width: Annotated[None, NO_SIDE] = None
    height: Annotated[None, NO_SIDE] = None
    num_images: Annotated[None, advised("the number of images is said in n")] = None
    response_format: Literal["b64_json", "url"] | None = Field(
        None,
        description="`url`: presigned, so it needs no credentials, and it ends after a while. "
        "null: `url` where `model` begins with `dall-e-`, else `b64_json`.",
    )
    webhook_url: WebhookUrl = None
    user: Annotated[str, Field(json_schema_extra=NO_CONTROLS)] | None = Field(
        None, description="Your name for who asked: becomes the pair `user` of `metadata`."
    )
    safety_identifier: Annotated[str, Field(json_schema_extra=NO_CONTROLS)] | None = Field(
        None, description="OpenAI's newer name for `user`: counts before it."
    )
    quality: Annotated[
        Literal["auto", "standard", "hd", "low", "medium", "high", "xhigh", "max"] | None,
        advised("there is one quality: leave it out, or send one of OpenAI's (auto, standard, hd, …)"),
    ] = Field(None, description="Taken, and told in `warnings` to have no effect: there is one.")
    style: Annotated[
        Literal["vivid", "natural"] | None,
        advised("say the style in the prompt, and leave this out (or send vivid or natural, to no effect)"),
    ] = Field(None, description="Taken, and told in `warnings` to have no effect: say it in the prompt.")
    complexity: Annotated[
        Literal["low", "medium", "high"] | None,
        advised("the model has no such setting: leave it out (or send low, medium or high, to no effect)"),
    ] = Field(None, description="Taken, and told in `warnings` to have no effect.")
    background: Annotated[
        Literal["auto", "opaque"] | None, advised("the model draws opaque pictures only: auto or opaque")
    ] = None
    moderation: Annotated[
        Literal["auto", "low"] | None,
        advised("nothing is filtered: auto, low, or leave it out"),
    ] = None
    output_format: Annotated[Literal["png"] | None, advised("images are PNG: convert them yourself")] = None
    output_compression: Annotated[
        Annotated[Literal[100], _boolean(False)] | None,
        advised("PNG loses nothing, so there is nothing to choose: 100, or leave it out"),
    ] = None
    stream: Annotated[
        Annotated[Literal[False], _boolean(True)] | None,
        advised("only whole images are sent: follow a job's steps at /v1/jobs/{id}/events"),
    ] = None
    partial_images: Annotated[
        Annotated[Literal[0], _boolean(False)] | None, advised("only whole images are sent: 0, or leave it out")
    ] = None

    @model_validator(mode="after")
    def _one_user(self) -> Self:
        if self._who and "user" in self.metadata:
            told = "becomes the pair `user` of metadata, which has one already: send one of them"
            raise refusal((self._who,), getattr(self, self._who), told)
        return self

    @property
    def _who(self) -> Literal["safety_identifier", "user"] | None:
        """The field that says who asked."""
        return "safety_identifier" if self.safety_identifier else "user" if self.user else None

    @property
    def answered_by(self) -> Literal["b64_json", "url"]:
        """How the images are to come: as OpenAI answers where the request does not say."""
        return self.response_format or ("url" if (self.model or "").startswith("dall-e-") else "b64_json")

    @property
    def warnings(self) -> list[str]:
        """What was asked for and has no effect."""
        as_it_is = (None, "auto", "standard")
        return [told for name, told in NO_EFFECT.items() if getattr(self, name) not in as_it_is]

    def job_request(self, sizes: SizeLimits) -> JobRequest:
        """Return the job that was asked for.

        Args:
            sizes: what the served model draws.

        Raises:
            RequestValidationError: no job can be like that.
            ProblemError: its size is not one of those.
        """
        options = self.model_dump(include={*JobOptions.model_fields, "webhook_url"})
        options["num_images"] = self.n
        if self.size != "auto":
            options["width"], options["height"] = width, height = [int(side[:DIGITS]) for side in self.size.split("x")]
            if refusals := sizes.refusals(width, height):
                raise invalid_request(
                    [FieldError(pointer=f"/size/{side}", detail=told) for side, told in refusals.items()]
                )
        if self._who:
            options["metadata"] |= {"user": getattr(self, self._who)}
        try:
            return JobRequest(**options)
        except ValidationError as error:
            raise RequestValidationError([self._placed(item) for item in error.errors()]) from None

    def _placed(self, item: ErrorDetails) -> dict[str, Any]:
        """Return what is wrong with the job as what is wrong with this request: all else was right as it came."""
        match item["loc"]:
            case ["width" | "height" as side]:
                return {**item, "loc": ("body", "size", side)}
            case ["metadata", *_]:  # was right, too, without the user
                return {**item, "loc": ("body", self._who), "msg": f"becomes a pair of metadata: {item['msg']}"}
        return {**item, "loc": ("body", *item["loc"])}


def placed_here(errors: Sequence[FieldError]) -> list[FieldError]:
    """Return what is wrong with a job where it is said in a request for images."""
    return [error.model_copy(update={"pointer": _HERE.get(error.pointer or "", error.pointer)}) for error in errors]


class ImageData(BaseModel):
    """One image, in one of the two ways."""

    b64_json: str | None = Field(None, description="The PNG in base64.", examples=["iVBORw0KGgo…"])
    url: str | None = Field(None, description="Presigned URL of the PNG.")


class ImagesResponse(BaseModel):
    """OpenAI's answer with images; what is null is left out."""

    created: int = Field(description="When the images were done, in seconds since 1970.", examples=[1764082800])
    data: list[ImageData]
    size: str = Field(examples=["1024x1024"])
    output_format: Literal["png"] = "png"
    background: Literal["opaque"] = "opaque"
    warnings: list[str] = Field(description="What whoever wrote the request should know; in `X-Warnings` too.")
    peak_memory_mb: float = Field(description="Most memory of the GPU in use at once, in MiB; 0 on a CPU.")
