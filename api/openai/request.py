"""OpenAI's images API as this service speaks it: the request, what of it can be honoured, and the answer."""

from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from api.problems import FieldError, invalid_request
from jobs.model_card import SizeLimits
from jobs.spec import JobInput, JobOptions, NumImages, WebhookUrl

EXAMPLE: dict[str, JsonValue] = {
    "model": "Tongyi-MAI/Z-Image-Turbo",
    "prompt": "a red circle on white",
    "size": "1024x1024",
}


def _or(advice: str) -> WrapValidator:
    """Answer a value that can't be honoured with what to do instead: pydantic would only say what it should be."""

    def check(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise ValueError(advice) from None

    return WrapValidator(check)


def _boolean(wanted: bool) -> BeforeValidator:
    """Keep JSON's false and 0 apart, which are equal in Python: `Literal` would take either for the other."""

    def check(value: Any) -> Any:
        if isinstance(value, bool) != wanted:
            raise ValueError
        return value

    return BeforeValidator(check)


NO_SIDE = _or("a picture's sides are said in size, such as 1024x1024")
SIZE = Field(pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$", json_schema_extra={"format": "image-size"})


class ImagesRequest(JobOptions):
    """OpenAI's request for images, and what a job may say besides.

    OpenAI's own fields take null for their default. A value that can't be honoured is refused, never passed over.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE, {**EXAMPLE, "n": 4, "seed": 7}]})

    model: str | None = Field(None, description="The served model, as `/v1/models` names it; null: that one.")
    n: NumImages | None = Field(1, description="Number of images.")
    size: Annotated[
        Annotated[str, SIZE] | None,
        _or("say WIDTHxHEIGHT in pixels, such as 1024x1024, or auto"),
    ] = Field("auto", description="`WxH` in pixels, multiples of 16; `auto`: the square that suits the served model.")
    width: Annotated[None, NO_SIDE] = None
    height: Annotated[None, NO_SIDE] = None
    num_images: Annotated[None, _or("the number of images is said in n")] = None
    response_format: Literal["b64_json", "url"] | None = Field(
        "b64_json", description="`url`: presigned, so it needs no credentials, and it ends after a while."
    )
    webhook_url: WebhookUrl = None
    user: str | None = Field(None, description="Your name for who asked: becomes the pair `user` of `metadata`.")
    quality: Annotated[
        Literal["auto", "standard"] | None,
        _or("there is one quality: leave it out, and ask for more num_inference_steps if the model gains by them"),
    ] = None
    style: Annotated[None, _or("there are no styles to choose from: say it in the prompt")] = None
    background: Annotated[
        Literal["auto", "opaque"] | None, _or("the model draws opaque pictures only: auto or opaque")
    ] = None
    moderation: Annotated[Literal["auto", "low"] | None, _or("nothing is filtered: auto, low, or leave it out")] = None
    output_format: Annotated[Literal["png"] | None, _or("images are PNG: convert them yourself")] = None
    output_compression: Annotated[None, _or("PNG loses nothing, so there is nothing to choose: leave it out")] = None
    stream: Annotated[
        Annotated[Literal[False], _boolean(True)] | None,
        _or("only whole images are sent: follow a job's steps at /v1/jobs/{id}/events"),
    ] = None
    partial_images: Annotated[
        Annotated[Literal[0], _boolean(False)] | None, _or("only whole images are sent: 0, or leave it out")
    ] = None

    @model_validator(mode="after")
    def _one_user(self) -> "ImagesRequest":
        if self.user is not None and "user" in self.metadata:
            raise ValueError("user becomes the pair `user` of metadata, which has one already: send one of them")
        return self

    def job_input(self, sizes: SizeLimits) -> JobInput:
        """Return the job that was asked for.

        Args:
            sizes: what the served model draws.

        Raises:
            RequestValidationError: no job can be like that.
            ProblemError: its size is not one of those.
        """
        width, height = sizes.default_size, sizes.default_size
        if self.size not in (None, "auto"):
            width, height = map(int, self.size.split("x"))
        options = self.model_dump(include={*JobOptions.model_fields, "webhook_url"})
        if self.user is not None:
            options["metadata"] |= {"user": self.user}
        try:
            job_input = JobInput(**options, width=width, height=height, num_images=self.n or 1)
        except ValidationError as error:
            # All else was right as it came. The metadata too, so if it is wrong now that is the user's doing.
            places = {"width": ("size", "width"), "height": ("size", "height"), "metadata": ("user",)}
            errors = [{**item, "loc": ("body", *places[str(item["loc"][0])])} for item in error.errors()]
            raise RequestValidationError(errors) from None
        if refusals := sizes.refusals(job_input):
            raise invalid_request([FieldError(pointer=f"/size/{side}", detail=told) for side, told in refusals.items()])
        return job_input


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
