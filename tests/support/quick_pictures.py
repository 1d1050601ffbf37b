"""`zimage`, with a worker that draws each picture black, at once, in any size that the API takes.

What API and worker of a test run as that sends jobs by the thousand.
"""

import inspect
import sys
from typing import Any

from cli.main import app

if sys.argv[1] == "worker":
    import torch

    import worker.process
    from jobs.model_card import SizeLimits
    from pipeline import Generation, ZImagePipeline

    signature = inspect.signature(ZImagePipeline.generate)

    def draw(*arguments: Any, **more: Any) -> Generation:
        asked = signature.bind(*arguments, **more)
        asked.apply_defaults()
        values = asked.arguments
        steps = values["num_inference_steps"]
        for step in range(1, steps + 1):
            if values["on_step"]:
                values["on_step"](step, steps)
        images = torch.zeros(values["num_images"], values["height"], values["width"], 3, dtype=torch.uint8)
        timings = dict.fromkeys(("text_encode", "denoise", "decode"), 0.0)
        return Generation(images, timings, peak_vram_bytes=0, warnings=[], prompts=1, prompts_reused=0)

    ZImagePipeline.generate = draw  # type: ignore[method-assign]
    worker.process.size_limits = lambda _model: SizeLimits(min_size=64, max_size=2048)  # type: ignore[attr-defined]
app()
