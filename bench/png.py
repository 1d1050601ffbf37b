"""Time and size of PNG files, beside Pillow's at the same and at its default level.

    python -m bench.png [--size N] [--repeats N] [--out FILE]

The picture is photo-like: smooth noise of all scales under a little grain.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.setting import describe
from worker.png import encode_png


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=1024, help="side in pixels")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("bench/results/png.json"))
    arguments = parser.parse_args()
    image = photo_like(arguments.size)
    writers: dict[str, Callable[[], bytes]] = {
        "ours": lambda: encode_png(image, {}),
        "pillow level 1": lambda: _pillow(image, 1),
        "pillow default": lambda: _pillow(image, 6),
    }
    result: dict[str, Any] = {
        **describe("bench.png", "pillow", "numpy", "isal"),
        "size": arguments.size,
    }
    for name, write in writers.items():
        milliseconds, size = _measure(write, arguments.repeats)
        result[name] = {"ms": milliseconds, "bytes": size}
        print(f"{name:16}{milliseconds:8.1f} ms {size:10} bytes")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def photo_like(size: int) -> NDArray[np.uint8]:
    """Return an image `[size, size, 3]`, always the same one."""
    rng = np.random.default_rng(0)
    image = np.zeros((size, size, 3))
    for octave in range(1, 10):
        noise = Image.fromarray(rng.integers(0, 256, (2**octave, 2**octave, 3), np.uint8))
        image += np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC)) / 1.9**octave
    image = (image - image.min()) / np.ptp(image) * 255 + rng.normal(0, 2, image.shape)
    pixels: NDArray[np.uint8] = image.round().clip(0, 255).astype(np.uint8)
    return pixels


def _pillow(image: NDArray[np.uint8], level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", compress_level=level)
    return buffer.getvalue()


def _measure(write: Callable[[], bytes], repeats: int) -> tuple[float, int]:
    """Return the median milliseconds, after a warm-up, and the bytes."""
    size = len(write())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        write()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000, size


if __name__ == "__main__":
    main()
