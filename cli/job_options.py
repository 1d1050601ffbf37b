"""The options that describe a job: one for each field of `jobs/spec.py`."""

import functools
import inspect
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from cli.errors import ExitCode, UserError
from jobs.reading import word_or_json
from jobs.spec import JobInput, traits

Command = Callable[..., None]
Reader = Callable[[Any], Any]


def describes_job(*without: str) -> Callable[[Command], Command]:
    """Give a command the options that describe a job, and that job (a `JobRequest`) as its first argument.

    What is not given is left to the service.

    Args:
        without: fields that have no option here.
    """
    named = (name for name, trait in traits(JobInput).items() if trait.flag != "" and name not in without)
    options = {name: _option(name) for name in named}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            given = {name: _decoded(parameter, values.pop(name)) for name, (parameter, _) in options.items()}
            request = {name: read(given[name]) for name, (_, read) in options.items() if given[name] is not None}
            command(request, **values)

        _, *own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [parameter for parameter, _ in options.values()] + own
        by_name = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        run.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]
        return run

    return decorate


def _option(name: str) -> tuple[inspect.Parameter, Reader]:
    """Return the parameter for a field, and what turns its value into the field's."""
    field, trait = JobInput.model_fields[name], traits(JobInput)[name]
    told = trait.help or field.description
    option = trait.flag or f"--{name.replace('_', '-')}"
    kind, metavar, read = _spelling(field.annotation, option)
    if field.is_required():
        annotation, default = Annotated[kind, typer.Argument(help=told)], inspect.Parameter.empty
    else:
        flags = [trait.flag] if trait.flag else []  # without, typer names it, and the opposite of a bool
        annotation, default = Annotated[kind | None, typer.Option(*flags, metavar=metavar, help=told)], None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation), read


def _spelling(annotation: Any, option: str) -> tuple[Any, str | None, Reader]:
    """Return how a field is written on the command line: its type there, its metavar, and what reads it."""
    match _kinds(annotation):
        case [kind] if kind in (bool, int, float, str):
            return kind, None, lambda value: value
        case [kind] if get_origin(kind) is Literal and all(isinstance(choice, str) for choice in get_args(kind)):
            return str, "|".join(get_args(kind)), lambda value: value
        case [kind] if kind == dict[str, str]:
            return list[str], "NAME=VALUE", functools.partial(_pairs, option)
        case [words, _] if get_origin(words) is Literal:
            return str, "|".join((*get_args(words), "JSON")), functools.partial(_json, option)
    return str, "JSON", functools.partial(_json, option)


def _kinds(annotation: Any) -> list[Any]:
    """Return the types that a field takes besides None."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [] if annotation is NoneType else [annotation]


def _decoded(parameter: inspect.Parameter, value: Any) -> Any:
    """Return what was given, and where the locale could not read its bytes, what they are in UTF-8."""
    if isinstance(value, list):
        return [_decoded(parameter, part) for part in value]
    if not isinstance(value, str):
        return value
    try:
        return value.encode(errors="surrogateescape").decode()
    except UnicodeError:
        raise UserError(f"{parameter.name}: holds bytes that are not UTF-8", ExitCode.USAGE) from None


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if not all(separator for _, separator, _ in pairs):
        raise UserError(f"{option} takes NAME=VALUE", ExitCode.USAGE)
    return {name: value for name, _, value in pairs}


def _json(option: str, text: str) -> Any:
    try:
        return word_or_json(text)  # a word where the field takes none: the service says what it takes
    except ValueError as error:
        raise UserError(f"{option} {error}", ExitCode.USAGE) from None
