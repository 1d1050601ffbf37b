"""Draws scenes from signed distance functions, anti-aliased, many at once on any device.

Lengths are in units of half the shorter side of the picture, the origin is its centre, y points down.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.font import segments
from training.scenes import SHAPES, Scene

PALETTE = {
    "red": (214, 34, 40),
    "orange": (250, 134, 10),
    "yellow": (250, 222, 40),
    "green": (36, 150, 56),
    "cyan": (60, 212, 222),
    "blue": (34, 76, 214),
    "purple": (130, 44, 172),
    "pink": (252, 132, 190),
    "white": (248, 248, 248),
    "black": (18, 18, 20),
}
RADIUS = {"small": 0.22, "medium": 0.36, "large": 0.6}
MOST_THINGS = 3
MOST_SEGMENTS = 60
STROKE = 0.15  # half a letter's stroke, in units of half its height
FAR = 1e3
_COLOUR_NOISE = 6.0


@dataclass(frozen=True)
class Layout:
    """Where everything is in B pictures, as arrays: made on the CPU, by several processes at once if need be."""

    shapes: NDArray[np.int64]  # [B, things]
    places: NDArray[np.float32]  # [B, things, 3]: x, y, radius; radius 0: nothing there
    strokes: NDArray[np.float32]  # [B, segments, 4]; far away: nothing there
    stroke_width: NDArray[np.float32]  # [B]: half of it
    inks: NDArray[np.float32]  # [B, things, 3]: 0 to 255
    grounds: NDArray[np.float32]  # [B, 2, 3]: top and bottom


def lay_out(scenes: Sequence[Scene], height: int, width: int, seed: int) -> Layout:
    """Place the things of scenes; places, sizes and colours vary a little with the seed."""
    rng = random.Random(seed)  # noqa: S311 - pictures, not secrets
    count = len(scenes)
    layout = Layout(
        shapes=np.zeros((count, MOST_THINGS), np.int64),
        places=np.zeros((count, MOST_THINGS, 3), np.float32),
        strokes=np.full((count, MOST_SEGMENTS, 4), FAR, np.float32),
        stroke_width=np.ones(count, np.float32),
        inks=np.zeros((count, MOST_THINGS, 3), np.float32),
        grounds=np.zeros((count, 2, 3), np.float32),
    )
    for row, scene in enumerate(scenes):
        layout.grounds[row, :] = _colour(scene.background[0], rng)
        if len(scene.background) == 2:
            layout.grounds[row, 1] = _colour(scene.background[1], rng)
        layout.inks[row, :] = _colour(scene.things[0].colour, rng)
        if scene.kind == "word":
            lines, layout.stroke_width[row] = _write(scene.word, width / min(width, height), rng)
            layout.strokes[row, : len(lines)] = lines
            continue
        for index, place in enumerate(_places(scene, rng)):
            thing = scene.things[min(index, len(scene.things) - 1)]
            layout.shapes[row, index] = list(SHAPES).index(thing.shape)
            layout.places[row, index] = place
            if 0 < index < len(scene.things):
                layout.inks[row, index:] = _colour(thing.colour, rng)
    return layout


def draw(scenes: Sequence[Scene], height: int, width: int, device: torch.device, seed: int) -> Tensor:
    """Return pictures `[B, 3, height, width]` in [-1, 1]."""
    return render(lay_out(scenes, height, width, seed), height, width, device)


def _colour(name: str, rng: random.Random) -> list[float]:
    return [min(255.0, max(0.0, value + rng.uniform(-_COLOUR_NOISE, _COLOUR_NOISE))) for value in PALETTE[name]]


def _places(scene: Scene, rng: random.Random) -> list[tuple[float, float, float]]:
    """Return (x, y, radius) of each thing: near fixed places, so that a caption leaves little open."""

    def near(x: float, y: float, radius: float) -> tuple[float, float, float]:
        return x + rng.uniform(-0.04, 0.04), y + rng.uniform(-0.04, 0.04), radius * rng.uniform(0.95, 1.05)

    match scene.kind:
        case "relation":
            x, y = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}[scene.relation]
            return [near(sign * 0.5 * x, sign * 0.5 * y, RADIUS["medium"]) for sign in (1, -1)]
        case "count":
            step = 0.66
            return [near((i - (scene.number - 1) / 2) * step, 0.0, RADIUS["small"]) for i in range(scene.number)]
    return [near(0.0, 0.0, RADIUS[scene.things[0].size])]


def _write(word: str, room: float, rng: random.Random) -> tuple[list[list[float]], float]:
    """Return a word's strokes, and half their width; it fills most of the picture's width or height."""
    advance = 2.0  # from one letter to the next, in units of half a letter's height
    half_height = min(0.62, 1.8 * room / (advance * len(word))) * rng.uniform(0.97, 1.03)
    x, y = rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03)
    lines = []
    for index, character in enumerate(word):
        shift = (index - (len(word) - 1) / 2) * advance
        for x0, y0, x1, y1 in segments(character):
            line = [(x0 + shift) * half_height + x, y0 * half_height + y]
            lines.append([*line, (x1 + shift) * half_height + x, y1 * half_height + y])
    return lines, STROKE * half_height


def render(layout: Layout, height: int, width: int, device: torch.device) -> Tensor:
    """Return the pictures of a layout, `[B, 3, height, width]` in [-1, 1]."""
    shapes, places, strokes, stroke_width, inks, grounds = (
        torch.from_numpy(array).to(device)
        for array in (
            layout.shapes, layout.places, layout.strokes, layout.stroke_width, layout.inks, layout.grounds,
        )
    )  # fmt: skip
    pixel = 2.0 / min(height, width)
    y = ((torch.arange(height, device=device) + 0.5) - height / 2) * pixel
    x = ((torch.arange(width, device=device) + 0.5) - width / 2) * pixel
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # [H, W, 2]

    down = ((torch.arange(height, device=device) + 0.5) / height)[None, None, :, None]
    picture = grounds[:, 0, :, None, None] * (1 - down) + grounds[:, 1, :, None, None] * down
    picture = picture.expand(-1, -1, -1, width)

    def paint(picture: Tensor, distance: Tensor, ink: Tensor) -> Tensor:
        cover = (0.5 - distance / pixel).clamp(0, 1)[:, None]  # a pixel's share inside the edge
        return picture * (1 - cover) + ink[:, :, None, None] * cover

    for index in range(places.shape[1]):
        centre, radius = places[:, index, None, None, :2], places[:, index, 2, None, None]
        local = (grid - centre) / radius.clamp(min=1e-3)[..., None]
        distance = torch.full_like(local[..., 0], FAR)
        for number, shape in enumerate(SHAPES):
            rows = ((shapes[:, index] == number) & (places[:, index, 2] > 0)).nonzero()[:, 0]
            if len(rows):
                distance[rows] = signed_distance(shape, local[rows]) * radius[rows]
        picture = paint(picture, distance, inks[:, index])

    rows = (strokes[:, 0, 0] < FAR).nonzero()[:, 0]
    if len(rows):
        nearest = torch.full((len(rows), height, width), FAR, device=device)
        for line in strokes[rows].unbind(1):
            start, end = line[:, None, None, :2], line[:, None, None, 2:]
            along = end - start
            share = ((grid - start) * along).sum(-1) / (along * along).sum(-1).clamp(min=1e-9)
            offset = grid - start - share.clamp(0, 1)[..., None] * along
            nearest = torch.minimum(nearest, offset.norm(dim=-1))
        picture = picture.clone()
        picture[rows] = paint(picture[rows], nearest - stroke_width[rows, None, None], inks[rows, 0])
    return picture / 127.5 - 1


def signed_distance(shape: str, p: Tensor) -> Tensor:
    """Distance of points `[…, 2]` to the edge of a shape of radius 1, negative inside; near the edge close to exact."""
    x, y = p.unbind(-1)
    match shape:
        case "circle":
            return torch.hypot(x, y) - 1
        case "ring":
            return (torch.hypot(x, y) - 0.75).abs() - 0.25
        case "square":
            return torch.maximum(x.abs(), y.abs()) - 0.86
        case "diamond":
            # Taller than wide: no square stood on its corner.
            return (x.abs() / 0.72 + y.abs() / 1.08 - 1) * 0.6
        case "triangle":
            return _polygon(p, [(0.0, -1.0), (0.98, 0.78), (-0.98, 0.78)])
        case "cross":
            return torch.maximum(torch.minimum(x.abs(), y.abs()) - 0.3, torch.maximum(x.abs(), y.abs()) - 0.96)
        case "star":
            angles = [math.pi * (index / 5 - 0.5) for index in range(10)]
            radii = [1.08 if index % 2 == 0 else 0.45 for index in range(10)]
            return _polygon(p, [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)])
        case "heart":
            turns = [2 * math.pi * index / 40 for index in range(40)]
            outline = [
                (
                    16 * math.sin(t) ** 3 / 17,
                    -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 17 - 0.1,
                )
                for t in turns
            ]
            return _polygon(p, outline)
    raise ValueError(f"no such shape: {shape}")


def _polygon(p: Tensor, corners: list[tuple[float, float]]) -> Tensor:
    """Exact signed distance to a polygon: the nearest edge, and the sign by crossings."""
    nearest = torch.full_like(p[..., 0], 1e6)
    inside = torch.zeros_like(p[..., 0], dtype=torch.bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        along_x, along_y = x1 - x0, y1 - y0
        from_x, from_y = p[..., 0] - x0, p[..., 1] - y0
        share = ((from_x * along_x + from_y * along_y) / (along_x**2 + along_y**2)).clamp(0, 1)
        nearest = torch.minimum(nearest, (from_x - share * along_x) ** 2 + (from_y - share * along_y) ** 2)
        if y0 != y1:
            crosses = (p[..., 1] < y0) != (p[..., 1] < y1)
            inside ^= crosses & (from_x < along_x * from_y / along_y)
    return torch.where(inside, -nearest.sqrt(), nearest.sqrt())
