"""Pictures that came the whole way, from POST to PNG, show what their prompts say."""

import io

import numpy as np
from PIL import Image

from bench.gallery import SIZE, gallery_prompts
from bench.quality.adherence import STEPS, grade
from bench.quality.reading import read
from cli.bars import follow
from cli.stack import Stack
from zimage.client import ZImageClient


def test_the_gallery_through_the_service(stack: Stack) -> None:
    prompts = gallery_prompts()
    asked = {"width": SIZE, "height": SIZE, "num_inference_steps": STEPS, "guidance_scale": 0.0}
    scores: dict[str, list[float]] = {}
    with ZImageClient(stack.api_url) as client:
        ids = [client.submit({"prompt": prompt.text, "seed": prompt.seed, **asked})["id"] for prompt in prompts]
        for prompt, job_id in zip(prompts, ids, strict=True):
            job = follow(client, job_id)
            assert job["status"] == "succeeded", job
            picture = np.asarray(Image.open(io.BytesIO(client.download(job["images"][0]))))
            for attribute, value in grade(read(picture), prompt.scene).items():
                scores.setdefault(attribute, []).append(float(value))

    assert len(prompts) == 24
    assert {language: sum(p.language == language for p in prompts) for language in ("en", "zh")} == {"en": 12, "zh": 12}
    # All are right where this was written; other processors round differently, so a picture may turn out otherwise.
    misses = {name: sum(1 - value for value in values) for name, values in scores.items()}
    assert {name: count for name, count in misses.items() if count > 1} == {}
