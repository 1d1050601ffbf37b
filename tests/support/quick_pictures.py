"""`zimage`, with a worker that draws each picture black, at once, in any size that the API takes.

What API and worker of a test run as that sends jobs by the thousand.
"""

import sys

from cli.main import app

if sys.argv[1] == "worker":
    import torch

    import worker.process
    from jobs.model_card import SizeLimits
    from pipeline import Drawing, Generation, ZImagePipeline
    from pipeline.timeline import Stages

    def draw(_pipeline: ZImagePipeline, drawing: Drawing, _stages: Stages | None = None) -> Generation:
        for step in range(1, drawing.num_inference_steps + 1):
            if drawing.on_step:
                drawing.on_step(step, drawing.num_inference_steps)
        images = torch.zeros(drawing.num_images, drawing.height, drawing.width, 3, dtype=torch.uint8)
        timings = dict.fromkeys(("text_encode", "denoise", "decode"), 0.0)
        return Generation(
            images, timings, 0, warnings=[], prompts=1, prompts_reused=0, steps_skipped=[0.0] * len(images)
        )

    ZImagePipeline.generate = draw  # type: ignore[method-assign]
    worker.process.size_limits = lambda _model: SizeLimits(min_size=64, max_size=2048)  # type: ignore[attr-defined]
app()
