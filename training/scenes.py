"""Scenes: what a picture shows, and how that is said in English and in Chinese.

A scene names everything that a reader of pictures can check: shapes, colours, sizes, where things are, how many there
are, which word is written, what the background is. `training.raster` draws it.
"""

import random
import zlib
from dataclasses import dataclass
from typing import Literal

SHAPES = {
    "circle": "圆形",
    "square": "正方形",
    "triangle": "三角形",
    "diamond": "菱形",
    "star": "星形",
    "cross": "十字形",
    "ring": "圆环",
    "heart": "心形",
}
COLOURS = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "cyan": "青色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "white": "白色",
    "black": "黑色",
}
SIZES = {"small": "小", "medium": "中等大小的", "large": "大"}
RELATIONS = {"left of": "左边", "right of": "右边", "above": "上面", "below": "下面"}
NUMBERS = {1: ("one", "一"), 2: ("two", "两"), 3: ("three", "三")}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
LONGEST_WORD = 4

# Too alike to tell a thing from its ground, above all in a gradient.
_CLOSE = [{"red", "orange"}, {"orange", "yellow"}, {"red", "pink"}, {"purple", "blue"}, {"green", "cyan"},
          {"yellow", "white"}, {"cyan", "blue"}, {"pink", "purple"}, {"pink", "white"}, {"cyan", "white"},
          {"purple", "black"}, {"blue", "black"}, {"orange", "pink"}]  # fmt: skip

Kind = Literal["single", "relation", "count", "word"]
Language = Literal["en", "zh"]


@dataclass(frozen=True)
class Thing:
    """One object: a shape, or (shape "word") letters."""

    shape: str
    colour: str
    size: str


@dataclass(frozen=True)
class Scene:
    """A picture in terms that can be checked.

    `things` has one entry for a single object, the word, or all of a count's equal objects; two for a relation, which
    holds from the first to the second.
    """

    kind: Kind
    things: tuple[Thing, ...]
    background: tuple[str, ...]  # one colour, or two from top to bottom
    number: int = 1
    relation: str = ""
    word: str = ""


def sample_scene(rng: random.Random, kind: Kind | None = None) -> Scene:
    """Draw a scene at random."""
    kind = kind or rng.choices(("single", "relation", "count", "word"), (24, 25, 11, 40))[0]
    background = tuple(rng.sample(list(COLOURS), 2 if rng.random() < 0.25 else 1))
    colours = [name for name in COLOURS if all(apart(name, ground) for ground in background)]
    if not colours:
        return sample_scene(rng, kind)

    def thing(sizes: tuple[str, ...] = tuple(SIZES)) -> Thing:
        return Thing(rng.choice(list(SHAPES)), rng.choice(colours), rng.choice(sizes))

    match kind:
        case "single":
            return Scene(kind, (thing(),), background)
        case "relation":
            return Scene(kind, (thing(("medium",)), thing(("medium",))), background, 2, rng.choice(list(RELATIONS)))
        case "count":
            return Scene(kind, (thing(("small",)),), background, rng.randint(1, 3))
        case "word":
            length = rng.choices(range(1, LONGEST_WORD + 1), (25, 30, 25, 20))[0]
            word = "".join(rng.choices(LETTERS, k=length))
            return Scene(kind, (Thing("word", rng.choice(colours), "medium"),), background, word=word)


def apart(a: str, b: str) -> bool:
    """Whether two colours can be told apart side by side."""
    return a != b and {a, b} not in _CLOSE


def caption(scene: Scene, language: Language, rng: random.Random) -> str:
    """Say what a scene shows, in one of several ways."""
    return _english(scene, rng) if language == "en" else _chinese(scene, rng)


def held_out(text: str) -> bool:
    """Whether a caption is kept out of training, to test with."""
    return zlib.crc32(text.encode()) % 16 == 0


def _english(scene: Scene, rng: random.Random) -> str:
    def name(thing: Thing, plural: bool = False) -> str:
        size = thing.size + " " if scene.kind == "single" else ""
        ending = ("es" if thing.shape == "cross" else "s") if plural else ""
        return f"{size}{thing.colour} {thing.shape}{ending}"

    def with_article(words: str) -> str:
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"

    first = scene.things[0]
    match scene.kind:
        case "single":
            subject = with_article(name(first))
        case "relation":
            subject = f"{with_article(name(first))} {scene.relation} {with_article(name(scene.things[1]))}"
        case "count":
            subject = f"{NUMBERS[scene.number][0]} {name(first, scene.number > 1)}"
        case "word":
            subject = rng.choice(
                (f'the word "{scene.word}" in {first.colour}', f'{first.colour} letters "{scene.word}"')
            )
    if len(scene.background) == 2:
        top, bottom = scene.background
        ground = rng.choice((f"on a gradient from {top} to {bottom}", f"on a background fading from {top} to {bottom}"))
    else:
        colour = scene.background[0]
        ground = rng.choice((f"on {with_article(colour)} background", f"on {colour}", f"in front of a {colour} wall"))
    opening = rng.choice(("", "", "a picture of ", "draw ", "an image of "))
    text = f"{opening}{subject} {ground}"
    return text[0].upper() + text[1:] + "." if rng.random() < 0.2 else text


def _chinese(scene: Scene, rng: random.Random) -> str:
    def name(thing: Thing) -> str:
        size = SIZES[thing.size] if scene.kind == "single" else ""
        return f"{size}{COLOURS[thing.colour]}{SHAPES[thing.shape]}"

    first = scene.things[0]
    match scene.kind:
        case "single":
            subject = f"一个{name(first)}"
        case "relation":
            subject = f"一个{name(first)}在一个{name(scene.things[1])}的{RELATIONS[scene.relation]}"
        case "count":
            subject = f"{NUMBERS[scene.number][1]}个{name(first)}"
        case "word":
            colour = COLOURS[first.colour]
            subject = rng.choice((f"{colour}的文字“{scene.word}”", f"用{colour}写的“{scene.word}”"))
    if len(scene.background) == 2:
        top, bottom = (COLOURS[colour] for colour in scene.background)
        ground = rng.choice((f"背景从{top}渐变到{bottom}", f"从{top}到{bottom}的渐变背景"))
    else:
        ground = rng.choice((f"{COLOURS[scene.background[0]]}背景", f"背景是{COLOURS[scene.background[0]]}"))
    return rng.choice(("", "", "画", "一张图:")) + f"{subject},{ground}"
