"""How a request is read: null is as good as nothing, and what is refused is answered with what to do instead."""

import json
from types import NoneType
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError

from jobs import near_misses

Location = tuple[int | str, ...]  # of a value within a request

MOST_TOLD = 32  # of a request's mistakes: a small body can hold thousands


def advised(advice: str) -> WrapValidator:
    """Answer a value that is refused with what to do instead: pydantic would only say what it should be."""

    def check(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise ValueError(advice) from None

    return WrapValidator(check)


def word_or_json(text: str) -> Any:
    """Return what stands for a value where only text can: JSON, or a word as it is; spaces around are none of it.

    Raises:
        ValueError: it begins like an object, but is no JSON.
    """
    try:
        return json.loads(text, parse_constant=_no_number)
    except ValueError as error:
        if text.lstrip().startswith("{"):
            raise ValueError(f"begins like an object, but is no JSON: {error}") from None
        return text.strip()


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number")


def refusal(location: Location, value: Any, told: str) -> ValidationError:
    """Return the error of a field that is wrong only together with others."""
    return ValidationError.from_exception_data("request", [mistake("value_error", location, value, told)])


def mistake(kind: str, location: Location, value: Any, told: str) -> InitErrorDetails:
    """Return what is told of a value that is wrong; `kind` is pydantic's word for it."""
    return InitErrorDetails(type=PydanticCustomError(kind, "{told}", {"told": told}), loc=location, input=value)


def _integral_float_is_int(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_integral_float_is_int)  # JSON has one kind of number: JavaScript and jq may write 8 as 8.0
Int = Annotated[int, WHOLE]
# JSON has a -0, which equals 0: equal requests have one digest.
Float = Annotated[float, BeforeValidator(lambda value: value + 0.0 if isinstance(value, float) else value)]


class RequestBody(BaseModel):
    """A request's JSON object. Null stands for a field's default; unknown fields are refused."""

    takes_null: ClassVar[bool] = True  # as far as its JSON schema tells
    other_names: ClassVar[near_misses.OtherNames] = near_misses.OF_A_JOB

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(data, dict):
            unknown = [name for name in data if name not in cls.model_fields]
            passed_over = set(unknown[MOST_TOLD:])  # one is enough for a refusal, and each costs time
            data = {
                name: value
                for name, value in data.items()
                if name not in passed_over and (value is not None or name not in cls.model_fields)
            }
        try:
            return validate(data)
        except ValidationError as error:
            errors = [cls._with_advice(item) for item in error.errors()[:MOST_TOLD]]
            raise ValidationError.from_exception_data(cls.__name__, errors) from None

    @classmethod
    def _with_advice(cls, item: ErrorDetails) -> InitErrorDetails:
        told = item["msg"].removeprefix("Value error, ")  # pydantic's own words for a validator of ours
        match item:
            case {"type": "extra_forbidden", "loc": [str() as name]}:
                told = near_misses.advice(name, item["input"], cls._settable(), cls.other_names)
            case {"type": "model_type" | "model_attributes_type" | "dict_type", "loc": []}:
                told = "must be a JSON object"
        return mistake(item["type"], item["loc"], item["input"], told)

    @classmethod
    def _settable(cls) -> list[str]:
        """The fields that take anything but null; the others are there for their advice."""
        return [name for name, field in cls.model_fields.items() if field.annotation is not NoneType]

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Say that null is taken for each field that need not be there."""
        reference = handler(core_schema)
        if cls.takes_null:
            schema = handler.resolve_ref_schema(reference)
            optional = schema["properties"].keys() - schema.get("required", ())
            schema["properties"] |= {name: _or_null(schema["properties"][name]) for name in optional}
        return reference


def _or_null(field: JsonSchemaValue) -> JsonSchemaValue:
    """Return a field's JSON schema with null allowed."""
    if field.get("type") == "null" or {"type": "null"} in field.get("anyOf", ()):
        return field
    told = {key: told for key, told in field.items() if key in ("title", "description", "default", "examples")}
    return {"anyOf": [{key: field[key] for key in field if key not in told}, {"type": "null"}], **told}
