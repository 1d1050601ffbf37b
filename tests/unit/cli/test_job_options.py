"""A job's fields as options of a command, those that come later included."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from cli import job_options
from cli.errors import UserError
from jobs.spec import JobInput, Trait
from zimage import JobRequest


class LaterInput(JobInput):
    """With fields of later releases."""

    sharpness: Annotated[Annotated[float, Field(ge=0)] | None, Trait(flag="--sharp", help="How sharp.")] = None
    tiled: bool = Field(False, description="Whether it repeats.")
    step_cache: Literal["off", "fast"] | dict[str, float] = "off"
    loras: list[dict[str, str | float]] = Field(default_factory=list)
    callback: Annotated[str | None, Trait(flag="")] = None


def asked(*arguments: str, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return the job that a command is handed."""
    app, given = typer.Typer(), []

    @app.command()
    @job_options.describes_job(*without)
    def draw(request: JobRequest, out: str = "out") -> None:
        given.append((request, out))

    told = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert told.exit_code == 0, told.output
    [(request, out)] = given
    assert out == "out"
    return dict(request)


def test_bytes_that_the_locale_could_not_read_are_utf_8() -> None:
    """Python hands them over as halves of surrogate pairs."""
    unread = "café 猫".encode().decode("ascii", "surrogateescape")
    assert asked(unread, "--metadata", f"a={unread}") == {"prompt": "café 猫", "metadata": {"a": "café 猫"}}


@pytest.mark.parametrize("wrong", [["caf\udce9"], ["a cat", "--metadata", "a=caf\udce9"]])
def test_bytes_that_are_no_utf_8_are_refused_by_the_field_s_name(wrong: list[str]) -> None:
    with pytest.raises(UserError, match=r"^(prompt|metadata): holds bytes that are not UTF-8$"):
        asked(*wrong)


def test_what_is_not_given_is_left_to_the_service() -> None:
    assert asked("a cat") == {"prompt": "a cat"}


def test_every_option_says_its_field() -> None:
    options = "--negative-prompt text --width 64 --height 128 --steps 4 --guidance 1.5 --seed 0 --num-images 2"
    more = "--priority low --timeout 60 --metadata a=b --metadata c=d=e"
    assert asked("a cat", *options.split(), *more.split()) == {
        "prompt": "a cat",
        "negative_prompt": "text",
        "width": 64,
        "height": 128,
        "num_inference_steps": 4,
        "guidance_scale": 1.5,
        "seed": 0,
        "num_images": 2,
        "priority": "low",
        "timeout_seconds": 60,
        "metadata": {"a": "b", "c": "d=e"},
    }


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--sharp", "0.5"], {"sharpness": 0.5}),
        (["--tiled"], {"tiled": True}),
        (["--no-tiled"], {"tiled": False}),
        (["--step-cache", "fast"], {"step_cache": "fast"}),
        (["--step-cache", " fast "], {"step_cache": "fast"}),
        (["--step-cache", '{"threshold": 0.2}'], {"step_cache": {"threshold": 0.2}}),
        (["--loras", '[{"name": "ink", "weight": 0.5}]'], {"loras": [{"name": "ink", "weight": 0.5}]}),
    ],
)
def test_a_field_that_comes_later_has_an_option(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], field: dict[str, Any]
) -> None:
    monkeypatch.setattr(job_options, "JobInput", LaterInput)
    request = asked("a cat", *arguments)
    assert request == {"prompt": "a cat", **field}
    LaterInput.model_validate(request)


@pytest.mark.parametrize("wrong", ["{bad", '{"threshold":NaN}'])
def test_an_object_that_is_no_json_is_refused_by_the_option_s_name(wrong: str) -> None:
    with pytest.raises(UserError, match=r"^--step-cache begins like an object, but is no JSON: \w"):
        asked("a cat", "--step-cache", wrong)


@pytest.mark.parametrize("word", ["NaN", "null", "1", '"low"'])
def test_a_word_is_sent_as_it_is_written(word: str) -> None:
    assert asked("a cat", "--priority", word) == {"prompt": "a cat", "priority": word}


def test_help_tells_of_a_later_field_unless_it_has_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_options, "JobInput", LaterInput)
    app = typer.Typer()

    @app.command()
    @job_options.describes_job("seed")
    def draw(request: JobRequest) -> None: ...

    told = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert "How sharp." in told
    assert "Whether it repeats." in told
    assert "NAME=VALUE" in told
    assert "high|normal|low" in told
    assert not any(option in told for option in ("--seed", "--webhook-url", "--callback"))
