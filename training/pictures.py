"""Training pictures in bulk: scenes laid out by all cores, drawn on the device, kept as pixels or as latents."""

import multiprocessing
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from training.model import tokenize
from training.raster import Layout, lay_out, render
from training.scenes import Scene, caption, held_out, sample_scene

CHUNK = 1000  # scenes that are laid out and drawn at a time

ImageSize = tuple[int, int]  # height, width in pixels


@dataclass
class Pool:
    """Pictures of one size and what they show."""

    data: Tensor  # uint8 [N, 3, H, W], or whatever the pictures were turned into
    ids: Tensor  # [N, tokens] of the captions
    lengths: Tensor  # [N], tokens of each caption


def draw_pools(
    chunks: Mapping[ImageSize, int],
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device,
    seed: int,
    keep: Callable[[Tensor], Tensor] = lambda pictures: pictures,
) -> dict[ImageSize, Pool]:
    """Draw so many thousand pictures of each size.

    Args:
        chunks: thousands of pictures by size.
        tokenizer: of the captions.
        device: where they are drawn and kept.
        seed: other seeds give other pictures.
        keep: makes what is kept of pictures `[1000, 3, H, W]`, uint8.
    """
    pools = {}
    with multiprocessing.get_context("spawn").Pool() as processes:
        for (height, width), count in chunks.items():
            jobs = [(CHUNK, height, width, ((seed * 1000 + height) * 1000 + width) * 1000 + n) for n in range(count)]
            kept, captions = [], []
            for layout, texts in processes.imap(_make_chunk, jobs):
                pictures = (render(layout, height, width, device) + 1) * 127.5
                kept.append(keep(pictures.round().clamp(0, 255).to(torch.uint8)))
                captions += texts
            ids, lengths = tokenize(tokenizer, captions)
            pools[height, width] = Pool(torch.cat(kept), ids.to(device), lengths.to(device))
    return pools


def _make_chunk(job: tuple[int, int, int, int]) -> tuple[Layout, list[str]]:
    size, height, width, seed = job
    rng = random.Random(seed)  # noqa: S311 - pictures, not secrets
    scenes: list[Scene] = []
    captions: list[str] = []
    while len(scenes) < size:
        scene = sample_scene(rng)
        text = caption(scene, "en" if rng.random() < 0.5 else "zh", rng)
        if not held_out(text):
            scenes.append(scene)
            captions.append(text)
    return lay_out(scenes, height, width, seed), captions


def sizes_at_random(shares: Mapping[ImageSize, float], seed: int) -> Iterator[ImageSize]:
    """Give the size of each batch, forever."""
    rng = random.Random(seed)  # noqa: S311 - pictures, not secrets
    while True:
        yield rng.choices(list(shares), list(shares.values()))[0]
