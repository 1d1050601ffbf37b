"""Reads pictures of scenes by rule: background, objects and letters, by colour, component and template; no network.

The reader gets no hint of what it should see. What is unclear (a colour between two names, a shape between two shapes)
is read as "", so that it counts as wrong. Lengths and places are in the units of `training.raster`: half the picture's
shorter side, from its centre, y downwards.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from training.font import segments
from training.raster import PALETTE, RADIUS, STROKE, signed_distance
from training.scenes import LETTERS, SHAPES

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
_Value = TypeVar("_Value", np.float32, np.bool_)

# Distances of colours are Euclidean in RGB, 0 to 441. The palette's closest two are 93 apart.
_FAR = 60.0  # further than this from every name, a colour has none
_BETWEEN = 0.75  # nor if it is nearly as close to a second name
_FROM_GROUND = 45.0  # less than this from the background, a pixel may be noise
_EVEN = 0.8  # share of the pixels of a frame or an object that must have its colour, else it has none
_UNMIX = (1.0, 1.2, 1.4)  # how much stronger than its crest a thin stroke may be
_RIM = 2  # pixels: how wide a blurred edge is to each side
_SMALLEST = 0.003  # of the shorter side squared; half the radius of a small thing. Less is dirt
_MOST_OBJECTS = 12  # more are no objects: the picture is a texture
_SAME_LETTER = 0.3  # pieces that share this much of the narrower one's columns belong to one letter
_SHAPE_GRID, _LETTER_GRID = 24, (24, 20)
_BLURS = (0.7, 1.4)  # in cells; one pixel is 1.4 cells of the smallest thing in a picture of 64 pixels
_SHAPE_MATCH, _SHAPE_LEAD = 0.8, 0.04  # overlap (intersection over union), and what it must be above the second best
_LETTER_MATCH, _LETTER_LEAD = 0.75, 0.01  # the same for the correlation of letters
_SIZE_LIMITS = (0.15, 0.272, 0.45, 0.8)  # of half the longer extent: the shapes' own are 0.86 to 1.08 times the radius


@dataclass(frozen=True)
class Object:
    """One connected thing before the background; an unclear colour, shape or size is ""."""

    colour: str
    shape: str
    size: str
    x: float
    y: float


@dataclass(frozen=True)
class Reading:
    """What a picture shows, read both ways: its foreground as objects and as letters."""

    background: tuple[str, ...]  # one colour, or two from top to bottom; "" where unclear, () where there is none
    objects: tuple[Object, ...] = ()
    word: str = ""  # from left to right, "?" for a letter that is none
    word_colour: str = ""


@dataclass(frozen=True)
class _Piece:
    """A connected component: where it is, and how much of each pixel it covers."""

    cover: Floats  # [h, w], 0 to 1, of the crop around it alone
    top: int
    left: int
    colour: str


def read(picture: NDArray[np.uint8]) -> Reading:
    """Read a picture `[H, W, 3]`, RGB."""
    pixels = picture.astype(np.float32)
    ground = _fit_background(pixels)
    if ground is None:
        return Reading(())
    names = tuple(name_colour([ground[row, 0]]) for row in (0, -1))
    background = names[:1] if names[0] == names[1] else names
    pieces = _find_pieces(pixels, ground)
    if not pieces or len(pieces) > _MOST_OBJECTS:
        return Reading(background)
    return Reading(background, tuple(_describe(piece, picture.shape) for piece in pieces), *_read_word(pieces))


def name_colour(colours: Sequence[Floats]) -> str:
    """Return the palette's name of a colour `[3]` (0 to 255), or "" if it is none or between two.

    Of several colours that it may be, the one nearest to a name counts.
    """
    names = np.array(list(PALETTE.values()))
    distances = np.min([np.linalg.norm(names - colour, axis=1) for colour in colours], axis=0)
    best, second = np.argsort(distances)[:2]
    clear = distances[best] <= min(_FAR, _BETWEEN * distances[second])
    return list(PALETTE)[best] if clear else ""


def _fit_background(pixels: Floats) -> Floats | None:
    """Fit a vertical gradient `[H, 1, 3]` to the frame, then to all that is near it; None if the frame is not even."""
    height, width, _ = pixels.shape
    margin = max(2, min(height, width) // 32)
    frame = np.zeros((height, width), dtype=bool)
    frame[:margin] = frame[-margin:] = frame[:, :margin] = frame[:, -margin:] = True
    sides = np.concatenate([pixels[:, :margin], pixels[:, -margin:]], axis=1)
    ground = _line_through(np.median(sides, axis=1), np.ones(height, dtype=np.float32))
    for _ in range(2):
        near = _distance(pixels, ground) < _FROM_GROUND
        count = near.sum(axis=1).astype(np.float32)
        means = np.einsum("hwc,hw->hc", pixels, near.astype(np.float32)) / np.maximum(count, 1)[:, None]
        if count.sum() < frame.sum():
            return None
        ground = _line_through(means, count)
    even = (_distance(pixels, ground) < _FROM_GROUND)[frame].mean() >= _EVEN
    return ground if even else None


def _line_through(rows: Floats, weights: Floats) -> Floats:
    """Least squares: colours `[H, 3]` with weights `[H]` to a line `[H, 1, 3]` over the rows."""
    height = len(rows)
    share = (np.arange(height, dtype=np.float32) + 0.5) / height
    total = weights.sum()
    centre, mean = (weights * share).sum() / total, (weights[:, None] * rows).sum(axis=0) / total
    offset = share - centre
    slope = ((weights * offset)[:, None] * rows).sum(axis=0) / max((weights * offset**2).sum(), 1e-6)
    line: Floats = (mean + offset[:, None] * slope)[:, None].astype(np.float32)
    return line


def _distance(pixels: Floats, ground: Floats) -> Floats:
    difference = pixels - ground
    distance: Floats = np.sqrt(np.einsum("hwc,hwc->hw", difference, difference))
    return distance


def _find_pieces(pixels: Floats, ground: Floats) -> list[_Piece]:
    """Return the connected pieces before the background, from left to right."""
    distance = _distance(pixels, ground)
    # Edges are where the contrast has fallen by half, whatever the object's own contrast: a blur leaves them in place.
    crest = _spread(distance, _RIM)
    foreground = (distance > _FROM_GROUND) & (distance > crest / 2)
    labels, areas = label(foreground)
    pieces = []
    for number in np.flatnonzero(areas >= _SMALLEST * min(distance.shape) ** 2)[: _MOST_OBJECTS + 1]:
        rows, columns = (np.flatnonzero((labels == number).any(axis=axis)) for axis in (1, 0))
        top, left = max(rows[0] - _RIM, 0), max(columns[0] - _RIM, 0)
        crop = np.s_[top : rows[-1] + _RIM + 1, left : columns[-1] + _RIM + 1]
        own = labels[crop] == number
        # Thin strokes have no inside, so that their colour is taken along their crest.
        core = own & (distance[crop] >= 0.9 * crest[crop])
        if not core.any():  # the fringe of something stronger
            continue
        under = ground[crop[0]]
        colour = np.median(pixels[crop][core], axis=0)
        one_colour = (np.linalg.norm(pixels[crop][core] - colour, axis=1) < _FAR).mean() >= _EVEN
        ink = colour - under
        cover = ((pixels[crop] - under) * ink).sum(axis=-1) / np.maximum((ink * ink).sum(axis=-1), 1)
        cover = np.where(own, cover.clip(0.51, 1), cover.clip(0, 0.5) * _spread(own, _RIM)).astype(np.float32)
        # Where no pixel is out of a blur's reach, even the crest is mixed with the background.
        thin = not (own & ~_spread(~own, _RIM + 1)).any()
        behind = under[core.any(axis=1)].mean(axis=(0, 1))
        colours = [behind + (colour - behind) * factor for factor in (_UNMIX if thin else (1.0,))]
        pieces.append(_Piece(cover, int(top), int(left), name_colour(colours) if one_colour else ""))
    return sorted(pieces, key=lambda piece: piece.left)


def _spread(picture: NDArray[_Value], radius: int) -> NDArray[_Value]:
    """Return the largest value within `radius` pixels to each side, of a picture `[H, W]`."""
    for _ in range(2):  # down, then across
        spread = picture.copy()
        for step in range(1, radius + 1):
            np.maximum(spread[step:], picture[:-step], out=spread[step:])
            np.maximum(spread[:-step], picture[step:], out=spread[:-step])
        picture = spread.T
    return picture


def label(mask: Bools) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number the connected components (by edges) of a mask `[H, W]`.

    Returns:
        The number of each pixel's component `[H, W]`, -1 outside, and the components' areas in pixels.
    """
    height, width = mask.shape
    line = np.pad(mask, ((0, 0), (1, 1))).ravel().astype(np.int8)  # padded, so that no run goes round a row's end
    steps = np.diff(line)
    starts, ends = np.flatnonzero(steps == 1) + 1, np.flatnonzero(steps == -1) + 1
    # The runs of the next row that lie below each run are a range of runs.
    first = np.searchsorted(ends, starts + width + 2, side="right").tolist()
    last = np.searchsorted(starts, ends + width + 2, side="left").tolist()
    parents = list(range(len(starts)))

    def root(run: int) -> int:
        while parents[run] != run:
            parents[run] = run = parents[parents[run]]
        return run

    for run, (begin, end) in enumerate(zip(first, last, strict=True)):
        for below in range(begin, end):
            parents[root(below)] = root(run)
    roots, numbers = np.unique([root(run) for run in range(len(starts))], return_inverse=True)
    lengths = ends - starts
    labels = np.full((height, width), -1)
    labels[mask] = np.repeat(numbers, lengths)
    areas = np.bincount(numbers, weights=lengths, minlength=len(roots)).astype(np.int64)
    return labels, areas


def _describe(piece: _Piece, size: tuple[int, ...]) -> Object:
    """Tell a piece as an object; `size` is the picture's (height, width, …) in pixels."""
    half = min(size[:2]) / 2
    y, x = _centre(piece.cover)
    extent = max(np.ptp(np.flatnonzero((piece.cover > 0.5).any(axis=axis))) + 1 for axis in (0, 1)) / 2 / half
    step = int(np.searchsorted(_SIZE_LIMITS, extent)) - 1
    return Object(
        piece.colour,
        _name_shape(piece.cover),
        list(RADIUS)[step] if 0 <= step < len(RADIUS) else "",
        (piece.left + x - size[1] / 2) / half,
        (piece.top + y - size[0] / 2) / half,
    )


def _centre(cover: Floats) -> tuple[float, float]:
    """Return the centre of mass (y, x) in pixels from the crop's corner."""
    total = cover.sum()
    y, x = (float((cover.sum(axis=1 - axis) * (np.arange(cover.shape[axis]) + 0.5)).sum() / total) for axis in (0, 1))
    return y, x


def _name_shape(cover: Floats) -> str:
    """Name a shape by its overlap with each shape of the same area and centre, sharp or blurred; "" if it is none."""
    seen = _normalise_shape(cover).ravel()
    templates = _shape_templates()
    overlaps = (np.minimum(templates, seen).sum(axis=-1) / np.maximum(templates, seen).sum(axis=-1)).max(axis=1)
    second, best = np.argsort(overlaps)[-2:]
    clear = overlaps[best] >= _SHAPE_MATCH and overlaps[best] - overlaps[second] >= _SHAPE_LEAD
    return list(SHAPES)[best] if clear else ""


def _normalise_shape(cover: Floats) -> Floats:
    """Bring a mask to unit area and its centre of mass to the middle of a grid."""
    y, x = _centre(cover)
    side = float(np.sqrt(cover.sum()))
    return _resample(cover, y, x, 2 * side / _SHAPE_GRID, (_SHAPE_GRID, _SHAPE_GRID))


def _resample(cover: Floats, y: float, x: float, cell: float, grid: tuple[int, int]) -> Floats:
    """Average a mask over the square cells (`cell` pixels a side) of a grid (rows, columns) around (y, x)."""

    def overlap(centre: float, cells: int, pixels: int) -> Floats:
        edges = (centre + (np.arange(cells + 1) - cells / 2) * cell)[:, None]
        pixel = np.arange(pixels)
        shared = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
        weights: Floats = (shared.clip(0) / cell).astype(np.float32)
        return weights

    down, across = overlap(y, grid[0], cover.shape[0]), overlap(x, grid[1], cover.shape[1])
    return np.asarray(down @ cover @ across.T, dtype=np.float32)


@cache
def _shape_templates() -> Floats:
    """Return the shapes' normalised masks `[8, blurs, cells]`."""
    pixel = 1 / 64
    steps = torch.arange(-1.2, 1.2, pixel)
    points = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1)
    covers = [(0.5 - signed_distance(shape, points) / pixel).clamp(0, 1).numpy() for shape in SHAPES]
    return np.stack([_blurs(_normalise_shape(cover)) for cover in covers]).reshape(len(SHAPES), len(_BLURS) + 1, -1)


def _blurs(cells: Floats) -> list[Floats]:
    """Return a mask sharp and blurred: a small thing's edge is never sharp."""
    blurred = [cells]
    for sigma in _BLURS:
        down, across = (
            np.exp(-0.5 * (np.subtract.outer(range(size), range(size)) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
            for size in cells.shape
        )
        blurred.append((down @ cells @ across).astype(np.float32))
    return blurred


def _read_word(pieces: list[_Piece]) -> tuple[str, str]:
    """Read pieces, sorted from left to right, as letters; return the word and its colour."""
    letters: list[list[_Piece]] = []
    right = 0
    for piece in pieces:
        width = piece.cover.shape[1]
        if letters and right - piece.left > _SAME_LETTER * min(width, letters[-1][-1].cover.shape[1]):
            letters[-1].append(piece)
        else:
            letters.append([piece])
        right = max(right, piece.left + width)
    colour, count = Counter(piece.colour for piece in pieces).most_common(1)[0]
    word = "".join(_name_letter(_join(letter)) for letter in letters)
    return word, colour if count > len(pieces) / 2 else ""


def _join(pieces: list[_Piece]) -> Floats:
    """Put pieces into one mask."""
    top, left = min(piece.top for piece in pieces), min(piece.left for piece in pieces)
    bottom = max(piece.top + piece.cover.shape[0] for piece in pieces)
    right = max(piece.left + piece.cover.shape[1] for piece in pieces)
    joined = np.zeros((bottom - top, right - left), dtype=np.float32)
    for piece in pieces:
        y, x = piece.top - top, piece.left - left
        place = joined[y : y + piece.cover.shape[0], x : x + piece.cover.shape[1]]
        np.maximum(place, piece.cover, out=place)
    return joined


def _name_letter(cover: Floats) -> str:
    """Name a letter by correlation with each glyph of the same height, moved a little; "?" if it is none."""
    seen = _standardise(_normalise_letter(cover))
    matches = (_letter_templates() @ seen).reshape(len(LETTERS), -1).max(axis=1)
    second, best = np.argsort(matches)[-2:]
    clear = matches[best] >= _LETTER_MATCH and matches[best] - matches[second] >= _LETTER_LEAD
    return LETTERS[best] if clear else "?"


def _normalise_letter(cover: Floats, down: int = 0, across: int = 0) -> Floats:
    """Bring a mask to the grid's height, moved by whole cells."""
    rows, columns = (np.flatnonzero((cover > 0.5).any(axis=axis)) for axis in (1, 0))
    cell = (rows[-1] - rows[0] + 1) / (_LETTER_GRID[0] - 2)
    y, x = (rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2
    return _resample(cover, y - down * cell, x - across * cell, cell, _LETTER_GRID)


def _standardise(cells: Floats) -> Floats:
    cells = cells.ravel() - cells.mean()
    return cells / max(float(np.linalg.norm(cells)), 1e-6)


@cache
def _letter_templates() -> Floats:
    """Return the glyphs' normalised masks `[36 × moves × blurs, cells]`."""
    templates = []
    for letter in LETTERS:
        cover = _glyph(letter)
        for down, across in itertools.product((-1, 0, 1), repeat=2):
            templates += [_standardise(cells) for cells in _blurs(_normalise_letter(cover, down, across))]
    return np.stack(templates)


def _glyph(letter: str, pixel: float = 1 / 40) -> Floats:
    """Return a glyph's mask; `pixel` is in units of half its height."""
    y, x = np.mgrid[-1.3:1.3:pixel, -1.0:1.0:pixel]
    nearest = np.full(y.shape, np.inf)
    for x0, y0, x1, y1 in segments(letter):
        along_x, along_y = x1 - x0, y1 - y0
        share = (((x - x0) * along_x + (y - y0) * along_y) / (along_x**2 + along_y**2)).clip(0, 1)
        nearest = np.minimum(nearest, np.hypot(x - x0 - share * along_x, y - y0 - share * along_y))
    mask: Floats = (0.5 - (nearest - STROKE) / pixel).clip(0, 1).astype(np.float32)
    return mask
