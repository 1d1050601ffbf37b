"""`zimage configure`: settings for a card and a goal, and what to expect of them."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, TypeVar

import typer

from cli.configure.cards import LEAST_CAPABILITY, Card, find, of_gpu
from cli.configure.choice import GOALS, Choice, Goal, choose, on_cpu
from cli.configure.forms import FORMS, Form, write
from cli.errors import ExitCode, UserError
from cli.gpus import GIB, Gpu, list_gpus
from pipeline.memory_plan import BudgetError, parse_budget

CPU = "cpu"
T = TypeVar("T")


def configure(
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Card, such as 'RTX 4090', or cpu: the bundled model; default: what is here."
        ),
    ] = None,
    vram: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Its memory, such as 16GiB; default: the card's.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, metavar="N", help="How many; default: what is here, or 1.")] = None,
    goal: Annotated[Goal | None, typer.Option(help="What matters most; default: latency.")] = None,
    form: Annotated[Form | None, typer.Option("--format", help="What to print; default: env.")] = None,
) -> None:
    """Print settings for a card and a goal, and what to expect of them. On a terminal it asks for what is not given."""
    try:
        choice, arguments = _choice(gpu, vram, gpus, goal)
        chosen: Form = form if form else _asked(f"Format ({', '.join(FORMS)})", "env", _one_of(FORMS))
    except typer.Abort:
        raise KeyboardInterrupt from None
    command = shlex.join(["zimage", "configure", *arguments, "--format", chosen])
    print(write(chosen, choice.deployment, [f"Made by {command}", *choice.remarks]), end="")


def _choice(name: str | None, vram: str | None, gpus: int | None, goal: Goal | None) -> tuple[Choice, list[str]]:
    """Return what to run, and the arguments that say the same without asking and without looking at this machine."""
    here = list_gpus() if name is None else []
    if name is None and (here or vram is None):
        name = _asked("GPU (its name, or cpu)", here[0].name if here else None)
        if name is None:
            raise UserError(
                "nvidia-smi lists no GPU here: name one (--gpu 'RTX 4090'), or tell its memory (--vram 16GiB); "
                "--gpu cpu is the bundled model on the CPU",
                ExitCode.USAGE,
            )
    if name == CPU:
        if vram or gpus:
            raise UserError("--vram and --gpus are of GPUs: leave them out with --gpu cpu", ExitCode.USAGE)
        return on_cpu(), ["--gpu", CPU]
    alike = [gpu for gpu in here if gpu.name == name]
    card = _card(name, vram, alike)
    count = gpus if gpus else _asked("How many", len(alike) or 1, _count)
    aim: Goal = goal if goal else _asked(f"Goal ({', '.join(GOALS)})", "latency", _one_of(GOALS))
    try:
        choice = choose(card, count, aim)
    except BudgetError as error:
        raise UserError(f"{card.name} is too small, with 1 GiB left for CUDA's context: {error}") from error
    if alike and len(here) > len(alike):
        choice.remarks.append("Other cards are here, too: a worker on one takes settings of its own, and cuda:N.")
    arguments = [*(["--gpu", name] if name else []), "--vram", f"{card.vram / GIB:g}GiB", "--gpus", str(count)]
    return choice, [*arguments, "--goal", aim]


def _card(name: str | None, vram: str | None, alike: list[Gpu]) -> Card:
    """Return the card that is meant.

    Raises:
        UserError: nothing tells its memory, or it is too old.
    """
    known = find(name) if name else None
    size = alike[0].vram if alike else known.vram if known else None
    if vram is None and size is None:
        vram = _asked("Its memory, such as 16GiB", None, _size)
    if vram is not None:
        try:
            size = parse_budget(vram)
        except ValueError:
            raise UserError(f"--vram {vram}: expected bytes with their unit, such as 16GiB", ExitCode.USAGE) from None
    if size is None:
        raise UserError(f"{name} is not a card that is known here: tell its memory, too (--vram 16GiB)", ExitCode.USAGE)
    card = of_gpu(alike[0], size) if alike else replace(known or Card(name or "a card", size), vram=size)
    if card.capability is not None and card.capability < LEAST_CAPABILITY:
        least = ".".join(map(str, LEAST_CAPABILITY))
        raise UserError(
            f"{card.name} is too old: compute capability {'.'.join(map(str, card.capability))}, and {least} is the "
            "least (A100, RTX 30 or newer)"
        )
    return card


def _asked(question: str, default: T, read: Callable[[str], T] | None = None) -> T:
    """Return what is answered on a terminal; the default where there is none."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return default
    answer: T = typer.prompt(question, default=default, value_proc=read, err=True)
    return answer


def _one_of(words: tuple[T, ...]) -> Callable[[str], T]:
    def read(answer: str) -> T:
        if answer not in words:
            raise typer.BadParameter(f"one of {', '.join(map(str, words))}")
        return answer

    return read


def _count(answer: str) -> int:
    if not answer.isdecimal() or not int(answer):
        raise typer.BadParameter("a number from 1 on")
    return int(answer)


def _size(answer: str) -> str:
    try:
        parse_budget(answer)
    except ValueError:
        raise typer.BadParameter("bytes with their unit, such as 16GiB") from None
    return answer
