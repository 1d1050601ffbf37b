"""Names that others have for a request's fields, so that who uses one of them is told ours."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeAlias

OtherNames: TypeAlias = Sequence[tuple[str, str]]

# What to use, or, where a request has not got that, what stands behind the |; and in place of which other names.
OF_A_JOB: OtherNames = (
    ("prompt", "text text_prompt positive positive_prompt input inputs caption description style"),
    ("negative_prompt", "negative negative_text neg neg_prompt uncond exclude"),
    (
        "num_inference_steps",
        "steps step_count num_steps inference_steps sampling_steps sampler_steps denoising_steps diffusion_steps "
        "iterations nfe",
    ),
    ("guidance_scale", "guidance guidance_strength cfg cfg_scale true_cfg_scale classifier_free_guidance scale"),
    (
        "step_cache",
        "cache cache_config cache_options cache_dit cachedit dbcache block_cache first_block_cache teacache",
    ),
    ("seed", "seeds random_seed manual_seed noise_seed generator"),
    (
        "n | num_images",
        "num_images batch batch_size batch_count count num number quantity n_iter number_results number_of_images "
        "num_samples num_outputs num_generations image_count sample_count images_per_prompt num_images_per_prompt "
        "num_outputs_per_prompt",
    ),
    ("size | width height", "resolution image_size dimensions aspect_ratio"),
    ("width | size", "w image_width"),
    ("height | size", "h image_height"),
    ("timeout_seconds", "timeout timeout_s max_seconds ttl deadline"),
    ("webhook_url", "webhook webhook_endpoint callback callback_url notify_url"),
    ("metadata", "user safety_identifier tags labels"),
    ("model", "model_id model_name checkpoint engine"),
    *((field, "") for field in ("response_format", "quality", "complexity", "background", "moderation")),
    *((field, "") for field in ("output_format", "output_compression", "stream", "partial_images")),
)
# Those of Cache-DiT, SGLang and the papers.
OF_A_STEP_CACHE: OtherNames = (
    ("first", "fn f_n f fn_compute_blocks compute_first first_layers first_blocks sglang_cache_dit_fn"),
    ("last", "bn b_n b bn_compute_blocks compute_last last_layers last_blocks sglang_cache_dit_bn"),
    ("warmup", "w warm_up warmup_steps max_warmup_steps num_warmup_steps sglang_cache_dit_warmup"),
    ("threshold", "r rdt residual_diff_threshold residual_threshold rel_l1_thresh tolerance sglang_cache_dit_rdt"),
    ("max_skips", "mc m_c max_continuous_cached_steps continuous_cached_steps max_skip sglang_cache_dit_mc"),
    ("mask", "scm steps_mask step_mask steps_computation_mask computation_mask steps_computation_policy"),
    (
        "taylor_order",
        "order taylor taylorseer enable_taylorseer taylorseer_order ts_order sglang_cache_dit_taylorseer "
        "sglang_cache_dit_ts_order",
    ),
    ("protect_last", "keep_last last_step compute_last_step"),
)
_WRAPPERS = ("extra", "extrabody")  # `extra_body` is an argument of OpenAI's client, which sends what is in it
_CLOSE = 0.8  # of `get_close_matches`: one letter in five is another
_LONGER = 4  # by one letter in four at most: upscale is no scale


def _spelled(name: str) -> str:
    """Return a name as it is compared: numImages, Num-Images and num_images are one."""
    return re.sub(r"[\W_]+", "", name).lower()


@cache
def _meant(names: OtherNames) -> dict[str, list[list[str]]]:
    return {
        _spelled(name): [right.split() for right in ours.split(" | ")]
        for ours, others in names
        for name in (ours.split()[0], *others.split())
    }


def advice(name: str, value: Any, fields: Sequence[str], names: OtherNames) -> str:
    """Return what to tell of a field that a request has not.

    Args:
        name: of that field.
        value: of that field.
        fields: those that the request has.
        names: by which others call them.
    """
    inside = value if isinstance(value, Mapping) else {}
    if _spelled(name) in _WRAPPERS or not inside.keys().isdisjoint(fields):
        return "no such field: put its fields at the top level"
    meant = {**_meant(names), **{_spelled(field): [[field]] for field in fields}}
    spelled = _spelled(name)
    near = [known for known in meant if abs(len(known) - len(spelled)) <= len(known) // _LONGER]
    for close in get_close_matches(spelled, near, 1, _CLOSE):
        for right in meant[close]:
            if set(right) <= set(fields):
                return f"no such field: use {' and '.join(right)}"
        return f"no such field: leave it out, only /v1/images/generations takes {meant[close][0][0]}"
    return f"no such field: there are {', '.join(fields)}"
