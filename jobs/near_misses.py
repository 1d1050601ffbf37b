"""Names that other services have for a request's fields, so that who uses one of them is told ours."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

# What to use, where a request has it, in place of which names. The first that fits is told.
_ELSEWHERE = tuple(
    (fields.split(), names.split())
    for fields, names in (
        ("prompt", "text text_prompt positive positive_prompt input inputs caption description"),
        ("negative_prompt", "negative negative_text neg_prompt uncond exclude"),
        ("num_inference_steps", "steps step_count num_steps n_steps inference_steps sampling_steps sample_steps nfe"),
        (
            "guidance_scale",
            "cfg cfg_scale cfg_guidance guidance guidance_strength true_cfg_scale classifier_free_guidance",
        ),
        ("seed", "seeds random_seed manual_seed noise_seed generator"),
        ("size", "resolution image_size dimensions w h image_width image_height aspect_ratio"),
        ("width height", "size resolution image_size dimensions aspect_ratio"),
        ("width", "w image_width"),
        ("height", "h image_height"),
        ("n", "batch batch_size count image_count n_images n_iter n_samples num_outputs num_samples number_of_images"),
        ("n", "num_images_per_prompt num_outputs_per_prompt number_results samples"),
        ("num_images", "n batch batch_size count image_count n_images n_iter n_samples num_outputs num_samples"),
        ("num_images", "number_of_images num_images_per_prompt num_outputs_per_prompt number_results samples"),
        ("timeout_seconds", "timeout timeout_s max_seconds ttl"),
        ("webhook_url", "webhook webhook_endpoint callback callback_url notify_url"),
        ("metadata", "user tags labels extra extra_body"),
    )
)
_CLOSE = 0.75  # of `get_close_matches`: takes promt for prompt, and colour for nothing


def advice(name: str, fields: Sequence[str]) -> str:
    """Return what to tell of a field that a request has not, given those that it has."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
    for right, elsewhere in _ELSEWHERE:
        if snake in elsewhere and set(right) <= set(fields):
            return f"no such field: use {' and '.join(right)}"
    if close := get_close_matches(snake, fields, 1, _CLOSE):
        return f"no such field: use {close[0]}"
    return f"no such field: there are {', '.join(fields)}"
