"""The reader of pictures is right about ground truth, and says no where it should."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from bench.quality.adherence import (
    Pixels,
    Prompt,
    compare_in_pairs,
    draw_truth,
    evaluate,
    grade,
    perfect_reading,
    sample_prompts,
    score,
    summarise,
)
from bench.quality.reading import label, read
from training.raster import PALETTE
from training.scenes import COLOURS, LETTERS, SHAPES, SIZES, Scene, Thing, apart, held_out

PROMPTS = 240
FEW = {(64, 64): 100, (128, 96): 60, (256, 256): 16}  # drawing takes most of the time
GREY = np.full((128, 128, 3), 128, np.uint8)


@cache
def prompts() -> list[Prompt]:
    return sample_prompts(PROMPTS, seed=1)


@cache
def truth(width: int, height: int) -> list[Pixels]:
    shown = prompts()[: FEW.get((width, height))]
    return draw_truth([prompt.scene for prompt in shown], width, height, seed=2)


def spoil(picture: Pixels, rng: np.random.Generator) -> Pixels:
    """Blur by a pixel, shift the colours, and add noise."""
    blurred = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1)), dtype=np.float64)
    spoiled = blurred + rng.uniform(-10, 10, 3) + rng.normal(0, 8, blurred.shape)
    return spoiled.round().clip(0, 255).astype(np.uint8)


def one(shape: str, colour: str = "red", ground: str = "white", size: str = "medium") -> Scene:
    return Scene("single", (Thing(shape, colour, size),), (ground,))


def picture_of(scene: Scene, size: int = 128) -> Pixels:
    return draw_truth([scene], size, size, seed=3)[0]


@cache
def results(width: int = 128, height: int = 128) -> dict[str, Any]:
    readings = [read(picture) for picture in truth(width, height)]
    return summarise(prompts()[: len(readings)], readings)


@pytest.mark.parametrize(("width", "height"), [(128, 128), *FEW])
def test_ground_truth_scores_full_marks(width: int, height: int) -> None:
    for name, entry in results(width, height)["all"].items():
        assert entry["score"] >= 0.99, name


def test_blur_noise_and_shifted_colours_do_no_harm() -> None:
    rng = np.random.default_rng(4)
    spoiled = (spoil(picture, rng) for picture in truth(128, 128))

    def draw_picture(text: str, seed: int) -> Pixels:
        return next(spoiled)

    for name, entry in evaluate(draw_picture, prompts())["all"].items():
        assert entry["score"] >= 0.99, name


def test_pictures_of_other_prompts_score_no_more_than_chance() -> None:
    for name, entry in results()["all"].items():
        assert entry["shuffled"] <= entry["chance"] + 0.03, name


def test_chance_is_that_of_uniform_guessing() -> None:
    measured = {name: entry["chance"] for name, entry in results()["all"].items()}
    assert measured["single.shape"] == pytest.approx(1 / len(SHAPES), abs=0.03)
    assert measured["single.size"] == pytest.approx(1 / len(SIZES), abs=0.03)
    assert measured["count.count"] == pytest.approx(1 / 3, abs=0.03)
    assert measured["word.characters"] < 0.03
    assert measured["relation.relation"] < 0.01


def test_a_perfect_reading_gets_full_marks() -> None:
    for prompt in prompts():
        assert all(value == 1 for value in grade(perfect_reading(prompt.scene), prompt.scene).values())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_and_size(shape: str, size: str) -> None:
    seen = read(picture_of(one(shape, size=size)))
    assert [(thing.shape, thing.size) for thing in seen.objects] == [(shape, size)]


def test_each_colour_on_each() -> None:
    for ground in COLOURS:
        for colour in COLOURS:
            if apart(colour, ground):
                seen = read(picture_of(one("circle", colour, ground), 64))
                assert (seen.background, seen.objects[0].colour) == ((ground,), colour)


@pytest.mark.parametrize("letter", LETTERS)
def test_each_letter(letter: str) -> None:
    word = letter + "A" + letter
    for text in (letter, word):
        scene = Scene("word", (Thing("word", "blue", "medium"),), ("white",), word=text)
        assert read(picture_of(scene)).word == text


@pytest.mark.parametrize("colour", COLOURS)
def test_an_empty_picture_shows_only_its_background(colour: str) -> None:
    seen = read(np.full((128, 96, 3), PALETTE[colour], np.uint8))
    for prompt in prompts():
        values = grade(seen, prompt.scene)
        assert values.pop("background") == (prompt.scene.background == (colour,))
        assert not any(values.values())


@pytest.mark.parametrize("kind", ["grey", "noise", "stripes"])
def test_a_picture_of_nothing_scores_nothing(kind: str) -> None:
    rng = np.random.default_rng(6)
    pictures = {
        "grey": GREY,
        "noise": rng.integers(0, 256, GREY.shape, dtype=np.uint8),
        "stripes": GREY * (np.arange(128) // 4 % 2).astype(np.uint8)[:, None],
    }
    seen = read(pictures[kind])
    assert not any(any(grade(seen, prompt.scene).values()) for prompt in prompts())


def outline(power: float) -> Pixels:
    """A superellipse: a circle for power 2, a square for a large one."""
    x = np.abs((np.arange(128) - 63.5) / 36)
    inside = (x[:, None] ** power + x**power) < 1
    return np.where(inside[..., None], PALETTE["red"], PALETTE["white"]).astype(np.uint8)


def test_between_circle_and_square_is_neither() -> None:
    names = [read(outline(power)).objects[0].shape for power in (2, 4, 40)]
    assert names == ["circle", "", "square"]


def test_what_is_beside_the_object_counts_against_it() -> None:
    scene = one("star")
    picture = picture_of(scene).copy()
    picture[8:24, 8:24] = PALETTE["blue"]
    assert not any(value for name, value in score(picture, scene).items() if name != "background")


def test_an_object_of_two_colours_has_none() -> None:
    picture = picture_of(one("square")).copy()
    ink = (picture == picture[64, 64]).all(axis=-1)
    ink[:64] = False
    picture[ink] = PALETTE["green"]
    assert [thing.colour for thing in read(picture).objects] == [""]


def test_the_sides_of_a_relation() -> None:
    things = (Thing("star", "red", "medium"), Thing("ring", "blue", "medium"))
    picture = picture_of(Scene("relation", things, ("white",), 2, "left of"))
    for relation, order, right in [
        ("left of", things, True),
        ("right of", things[::-1], True),
        ("right of", things, False),
        ("left of", things[::-1], False),
        ("above", things, False),
    ]:
        values = score(picture, Scene("relation", order, ("white",), 2, relation))
        assert (values["relation"], values["relation_sides"]) == (right, right)
        assert values["colour"]
        assert values["shape"]


def test_sides_are_told_from_what_is_at_them() -> None:
    things = (Thing("star", "red", "medium"), Thing("ring", "blue", "medium"))
    asked = Scene("relation", (Thing("heart", "red", "medium"), things[1]), ("white",), 2, "left of")
    values = score(picture_of(Scene("relation", things, ("white",), 2, "left of")), asked)
    assert values["relation_sides"]
    assert not values["relation"]


def test_characters_are_the_share_of_places_that_are_right() -> None:
    def values(shown: str, asked: str) -> float:
        thing = (Thing("word", "blue", "medium"),)
        shown_scene, asked_scene = (Scene("word", thing, ("white",), word=word) for word in (shown, asked))
        return float(score(picture_of(shown_scene), asked_scene)["characters"])

    assert values("AB12", "AB13") == 0.75
    assert values("AB1", "AB") == pytest.approx(2 / 3)
    assert values("AB", "BA") == 0


def test_components_are_joined_by_edges_alone() -> None:
    mask = np.array([[1, 0, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0]], dtype=bool)
    labels, areas = label(mask)
    assert sorted(areas.tolist()) == [1, 1, 1, 9]
    assert (labels >= 0).tolist() == mask.tolist()
    assert len(np.unique(labels[:3][mask[:3]])) == 1


def test_prompts_are_held_out_and_in_both_languages() -> None:
    assert all(held_out(prompt.text) for prompt in prompts())
    assert [prompt.language for prompt in prompts()[:2]] == ["en", "zh"]
    assert sample_prompts(10, seed=1) == prompts()[:10]


def test_two_ways_are_compared_picture_by_picture() -> None:
    before = [{"colour": 1.0, "word": 1.0}, {"colour": 1.0, "word": 0.5}, {"colour": 0.0}]
    after = [{"colour": 1.0, "word": 0.0}, {"colour": 0.0, "word": 0.5}, {"colour": 1.0}]

    found = compare_in_pairs(["word", "word", "count"], {"off": before, "on": after})

    assert list(found) == ["all", "count.colour", "word.colour", "word.word"]
    colour = found["word.colour"]
    assert (colour["prompts"], colour["off"], colour["on"], colour["points"]) == (2, 1.0, 0.5, -50.0)
    assert (colour["better_in_off"], colour["better_in_on"]) == (1, 0)
    assert colour["points_within"] == pytest.approx(98)  # 1.96 of the standard error, √½ by √2
    assert found["count.colour"]["points"] == 100.0
    assert found["all"]["points"] == pytest.approx(0, abs=1e-9)
    assert found["all"]["better_in_off"] == 2
