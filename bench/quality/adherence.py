"""How well pictures follow their prompts: reads them by rule (`reading`) and scores each attribute of the scene.

    python -m bench.quality.adherence [--prompts N] [--model tiny|DIR] [--size S|WxH] [--seed N] [--language en|zh|both]
                              [--out FILE] [--contact-sheet PNG] [--ground-truth]

Prompts are captions that were kept out of training, drawn by the model on the CPU: float32, 8 steps, no guidance. With
`--ground-truth` the scenes' own pictures are read instead, to test the reader. Beside each score stands what the same
pictures score for other prompts of their kind (shuffled), and what perfect pictures would (chance): a reader that sees
what it should see rather than what is there would score more than that.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.quality.reading import Object, Reading, read
from bench.setting import describe
from pipeline import CheckpointError
from training.raster import draw
from training.scenes import Kind, Language, Scene, caption, held_out, sample_scene

STEPS = 8
SHUFFLES = 10
SHEET_COLUMNS, SHEET_ROWS, SHEET_EDGE = 12, 8, 3

Pixels = NDArray[np.uint8]  # [H, W, 3], RGB
Score = dict[str, bool | float]


@dataclass(frozen=True)
class Prompt:
    """A scene and what is said of it."""

    scene: Scene
    text: str
    language: Language
    seed: int  # for the picture's noise


def sample_prompts(count: int, seed: int, languages: Sequence[Language] = ("en", "zh")) -> list[Prompt]:
    """Draw prompts that were kept out of training, the languages taking turns."""
    rng = random.Random(seed)  # noqa: S311 - pictures, not secrets
    prompts: list[Prompt] = []
    while len(prompts) < count:
        scene, language = sample_scene(rng), languages[len(prompts) % len(languages)]
        text = caption(scene, language, rng)
        if held_out(text):
            prompts.append(Prompt(scene, text, language, seed=len(prompts)))
    return prompts


def score(picture: Pixels, scene: Scene) -> Score:
    """Read a picture and compare it with what it should show; see `grade`."""
    return grade(read(picture), scene)


def grade(seen: Reading, scene: Scene) -> Score:
    """Compare a reading with a scene; what the scene does not name is not scored.

    Returns:
        For every scene `background`, and
        a single object: `colour`, `shape`, `size`, all wrong unless it is alone;
        a relation: `colour` and `shape` (the two, whichever is where), `relation_sides` (two objects along the right
        axis, that fit better in this order than in the other), `relation` (also each with its colour and shape);
        a count: `colour` and `shape` (of all), `count`;
        a word: `colour`, `characters` (share of places with the right one; too many count against it), `word`.
    """
    result: Score = {"background": seen.background == scene.background}
    match scene.kind:
        case "single":
            alone = seen.objects[0] if len(seen.objects) == 1 else Object("", "", "", 0, 0)
            wanted = scene.things[0]
            result["colour"] = alone.colour == wanted.colour
            result["shape"] = alone.shape == wanted.shape
            result["size"] = alone.size == wanted.size
        case "relation":
            for name in ("colour", "shape"):
                found = sorted(getattr(thing, name) for thing in seen.objects)
                result[name] = found == sorted(getattr(thing, name) for thing in scene.things)
            result["relation_sides"], result["relation"] = _grade_relation(seen.objects, scene)
        case "count":
            wanted = scene.things[0]
            result["colour"] = {thing.colour for thing in seen.objects} == {wanted.colour}
            result["shape"] = {thing.shape for thing in seen.objects} == {wanted.shape}
            result["count"] = len(seen.objects) == scene.number
        case "word":
            right = sum(a == b for a, b in zip(seen.word, scene.word, strict=False))
            result["colour"] = seen.word_colour == scene.things[0].colour
            result["characters"] = right / max(len(seen.word), len(scene.word))
            result["word"] = seen.word == scene.word
    return result


def _grade_relation(objects: Sequence[Object], scene: Scene) -> tuple[bool, bool]:
    """Return whether the sides are right, and whether the whole relation is."""
    if len(objects) != 2:
        return False, False
    across, down = objects[1].x - objects[0].x, objects[1].y - objects[0].y
    if abs(across) > 2 * abs(down):
        actual = "left of" if across > 0 else "right of"
    elif abs(down) > 2 * abs(across):
        actual = "above" if down > 0 else "below"
    else:
        return False, False
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    if scene.relation == opposite[actual]:  # the objects come in no order of their own
        objects = objects[::-1]
    elif scene.relation != actual:
        return False, False

    def fits(things: Sequence[Object]) -> int:
        pairs = zip(things, scene.things, strict=True)
        return sum((thing.colour == wanted.colour) + (thing.shape == wanted.shape) for thing, wanted in pairs)

    best, other = fits(objects), fits(objects[::-1])
    return best > 0 and (best > other or scene.things[0] == scene.things[1]), best == 4


def perfect_reading(scene: Scene) -> Reading:
    """Return what the reader should see in a scene's picture."""
    if scene.kind == "word":
        return Reading(scene.background, (), scene.word, scene.things[0].colour)
    step = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}.get(scene.relation, (1, 0))
    things = scene.things if scene.kind == "relation" else scene.things * scene.number
    placed = (Object(thing.colour, thing.shape, thing.size, i * step[0], i * step[1]) for i, thing in enumerate(things))
    return Reading(scene.background, tuple(placed))


def evaluate(draw_picture: Callable[[str, int], Pixels], prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Draw and score each prompt; see `summarise`. `draw_picture` takes the prompt's text and a seed."""
    return summarise(prompts, [read(draw_picture(prompt.text, prompt.seed)) for prompt in prompts])


def summarise(prompts: Sequence[Prompt], readings: Sequence[Reading]) -> dict[str, Any]:
    """Average the scores of the prompts' pictures by language, kind and attribute.

    Returns:
        `{language: {"kind.attribute": {"score", "shuffled", "chance", "prompts"}}}`, with "all" for the languages
        together if there are several. Shares are 0 to 1; `shuffled` is what the pictures score for other prompts of
        their kind, `chance` what perfect pictures do, both over all languages; `prompts` is how many were scored.
    """
    groups: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(prompt.language, []).append(i)
    if len(groups) > 1:
        groups["all"] = list(range(len(prompts)))
    scenes = [prompt.scene for prompt in prompts]
    shuffled = _average_shuffled(readings, scenes)
    chances = _average_shuffled([perfect_reading(scene) for scene in scenes], scenes)
    return {
        group: {
            name: {"score": mean(values), "shuffled": shuffled[name], "chance": chances[name], "prompts": len(values)}
            for name, values in _by_attribute((readings[i], scenes[i]) for i in members).items()
        }
        for group, members in groups.items()
    }


def _by_attribute(pairs: Iterable[tuple[Reading, Scene]]) -> dict[str, list[float]]:
    """Collect the scores of "kind.attribute", the kinds in order."""
    scores: dict[str, list[float]] = {}
    for seen, scene in sorted(pairs, key=lambda pair: get_args(Kind).index(pair[1].kind)):
        for attribute, value in grade(seen, scene).items():
            scores.setdefault(f"{scene.kind}.{attribute}", []).append(float(value))
    return scores


def _average_shuffled(readings: Sequence[Reading], scenes: Sequence[Scene]) -> dict[str, float]:
    """Score readings for other scenes of the same kind, over many pairs that are the same for any readings."""
    pairs = (
        (readings[other], scene)
        for turn in range(SHUFFLES)
        for scene, other in zip(scenes, shuffle_within_kinds(scenes, seed=turn), strict=True)
    )
    return {name: mean(values) for name, values in _by_attribute(pairs).items()}


def shuffle_within_kinds(scenes: Sequence[Scene], seed: int) -> list[int]:
    """Return for each scene another one's index, of the same kind (itself if it is the only one)."""
    order = list(range(len(scenes)))
    random.Random(seed).shuffle(order)  # noqa: S311 - pictures, not secrets
    others = [0] * len(scenes)
    for kind in get_args(Kind):
        members = [i for i in order if scenes[i].kind == kind]
        for i, other in zip(members, members[1:] + members[:1], strict=True):
            others[i] = other
    return others


def compare_in_pairs(kinds: Sequence[Kind], scores: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Compare the scores of two ways to draw the same prompts.

    Args:
        kinds: of the prompts' scenes.
        scores: by the way's name, the one to compare with first: of each prompt's picture, as `grade` gives them.

    Returns:
        `{"kind.attribute": {"prompts", name, name, "points", "points_within", "better_in_NAME" of both}}`, with "all"
        for the mean of a picture's scores. `points` is what the second way gains, in hundredths, with its 95 %
        interval (pairs of pictures, normal approximation).
    """
    pairs: dict[str, list[tuple[float, float]]] = {}
    (one, before), (other, after) = scores.items()
    for kind, first, second in zip(kinds, before, after, strict=True):
        for attribute, score in first.items():
            pairs.setdefault(f"{kind}.{attribute}", []).append((float(score), float(second[attribute])))
        pairs.setdefault("all", []).append((mean(first.values()), mean(second.values())))
    return {
        name: {
            "prompts": len(found),
            one: mean(a for a, _ in found),
            other: mean(b for _, b in found),
            "points": 100 * mean(b - a for a, b in found),
            "points_within": 196 * stdev([b - a for a, b in found] if len(found) > 1 else [0, 0]) / len(found) ** 0.5,
            f"better_in_{one}": sum(a > b for a, b in found),
            f"better_in_{other}": sum(b > a for a, b in found),
        }
        for name, found in sorted(pairs.items())
    }


def draw_truth(scenes: Sequence[Scene], width: int, height: int, seed: int) -> list[Pixels]:
    """Draw the scenes themselves."""
    pictures: list[Pixels] = []
    for start in range(0, len(scenes), 64):
        drawn = draw(scenes[start : start + 64], height, width, torch.device("cpu"), seed + start)
        pictures += list(((drawn + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy())
    return pictures


def main() -> None:
    """Run the benchmark from the command line."""
    arguments = _parse_arguments()
    languages: Sequence[Language] = get_args(Language) if arguments.language == "both" else (arguments.language,)
    prompts = sample_prompts(arguments.prompts, arguments.seed, languages)
    width, height = arguments.size
    result: dict[str, Any] = {
        **describe("bench.quality.adherence", "torch", "numpy"),
        "model": None if arguments.ground_truth else arguments.model,
        "size": {"width": width, "height": height},
        "seed": arguments.seed,
    }
    if arguments.ground_truth:
        pictures = draw_truth([prompt.scene for prompt in prompts], width, height, arguments.seed)
    else:
        try:
            pictures = draw_with_model(arguments.model, prompts, width, height)
        except CheckpointError as error:
            sys.exit(str(error))
    readings = [read(picture) for picture in pictures]
    result["scores"] = summarise(prompts, readings)
    print_table(result["scores"])
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.contact_sheet:
        contact_sheet(pictures, prompts, readings).save(arguments.contact_sheet)


def _parse_arguments() -> argparse.Namespace:
    def size(text: str) -> tuple[int, int]:
        width, _, height = text.partition("x")
        sides = int(width), int(height or width)
        if any(side < 64 or side % 16 for side in sides):
            raise argparse.ArgumentTypeError(f"{text}: expected multiples of 16 from 64")
        return sides

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=1000, help="how many, the languages taken together")
    parser.add_argument("--model", default="tiny", help="tiny, or a checkpoint's directory")
    parser.add_argument("--size", type=size, default=(128, 128), metavar="S|WxH", help="in pixels; default: 128")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts")
    parser.add_argument("--language", choices=(*get_args(Language), "both"), default="both")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--contact-sheet", type=Path, help="PNG to write: the first pictures, framed green where right")
    parser.add_argument("--ground-truth", action="store_true", help="read the scenes' own pictures, to test the reader")
    arguments = parser.parse_args()
    if arguments.prompts < 10:  # fewer may lack a kind
        parser.error("--prompts: expected 10 or more")
    return arguments


def draw_with_model(model: str, prompts: Sequence[Prompt], width: int, height: int) -> list[Pixels]:
    """Draw the prompts on the CPU with the model that `ZIMAGE_MODEL` would name so.

    Raises:
        pipeline.CheckpointError: there is none, or it is broken.
    """
    from jobs.settings import Settings
    from worker.loading import load_pipeline

    pipeline, *_ = load_pipeline(Settings(model=model, device="cpu"))
    pictures: list[Pixels] = []
    for prompt in prompts:
        images = pipeline(prompt.text, height=height, width=width, num_inference_steps=STEPS, seed=prompt.seed)
        pictures.append(images[0].numpy())
    return pictures


def contact_sheet(
    pictures: Sequence[Pixels], prompts: Sequence[Prompt], readings: Sequence[Reading], columns: int = SHEET_COLUMNS
) -> Image.Image:
    """Lay out the first pictures in rows, framed in green where all that is read is right and in red elsewhere."""
    height, width, _ = pictures[0].shape
    tile_width, tile_height = width + 2 * SHEET_EDGE, height + 2 * SHEET_EDGE
    shown = list(zip(pictures, prompts, readings, strict=True))[: columns * SHEET_ROWS]
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (min(len(shown), columns) * tile_width, rows * tile_height))
    for index, (picture, prompt, seen) in enumerate(shown):
        x, y = index % columns * tile_width, index // columns * tile_height
        edge = "#2a2" if all(value == 1 for value in grade(seen, prompt.scene).values()) else "#c22"
        sheet.paste(edge, (x, y, x + tile_width, y + tile_height))
        sheet.paste(Image.fromarray(picture), (x + SHEET_EDGE, y + SHEET_EDGE))
    return sheet


def print_table(scores: dict[str, Any]) -> None:
    """Print percentages for people: a row for each attribute, columns for languages, shuffled pairs and chance."""
    everyone = next(reversed(scores))  # all languages together, or the only one
    print(f"{'%':24}" + "".join(f"{title:>10}" for title in (*scores, "shuffled", "chance", "prompts")))
    for name, entry in scores[everyone].items():
        shares = [rows[name]["score"] if name in rows else None for rows in scores.values()]
        cells = (
            f"{'-':>10}" if share is None else f"{100 * share:10.1f}"
            for share in (*shares, entry["shuffled"], entry["chance"])
        )
        print(f"{name:24}" + "".join(cells) + f"{entry['prompts']:10}")


if __name__ == "__main__":
    main()
