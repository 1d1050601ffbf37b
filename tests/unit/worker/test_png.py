"""PNG files are read by others as they were written."""

import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from bench.png import photo_like
from worker.png import encode_png

SIDES = st.integers(1, 40)


@given(arrays.arrays(np.uint8, st.tuples(SIDES, SIDES, st.just(3))))
def test_pillow_reads_the_same_pixels(image: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(image, {})))), image)


@pytest.mark.parametrize("prompt", ["a cat", "猫\n“狗”", "nul \0 in it", "😀" * 500])
def test_the_parameters_are_text_that_pillow_reads(prompt: str) -> None:
    png = encode_png(photo_like(16), {"prompt": prompt, "seed": 2**53 - 1})
    Image.open(io.BytesIO(png)).verify()  # checksums of all chunks
    text = Image.open(io.BytesIO(png)).text  # type: ignore[attr-defined]
    assert "\0" not in text["parameters"]
    assert json.loads(text["parameters"]) == {"prompt": prompt, "seed": 2**53 - 1}


def test_files_are_no_larger_than_pillows_quickest() -> None:
    image = photo_like(512)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", compress_level=1)
    assert len(encode_png(image, {})) <= len(buffer.getvalue())
