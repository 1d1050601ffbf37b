"""The step cache against Cache-DiT and against a plain loop of our own, with the bundled model."""

import gc
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import TINY_CHECKPOINT, Drawing, StepCache, ZImagePipeline
from pipeline.denoise import Guidance, trajectory
from pipeline.drawing import Branch
from pipeline.model.scheduler import euler_step
from pipeline.model.stack import Conditioning
from pipeline.wrappers.step_cache import Row, StepCachingStack
from support.parity import Pair, load_pair, relative_error
from support.wrapping import Recording

os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")
import cache_dit  # it reads its log's level now

LAYERS = 7
SIZE = {"height": 64, "width": 80}
PROMPT, LONGER = "a red circle on a blue background", "left of a green square is a yellow star, white background " * 3


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair(TINY_CHECKPOINT)


@pytest.fixture(scope="module")
def tiny(pair: Pair) -> ZImagePipeline:
    return pair.ours


@pytest.fixture
def recording(tiny: ZImagePipeline) -> Iterator[Recording]:
    """What runs within the step cache."""
    cached = tiny.transformer.stack
    assert isinstance(cached, StepCachingStack)
    recording = Recording(cached.stack)
    tiny.transformer.stack = StepCachingStack(recording, LAYERS)
    yield recording
    tiny.transformer.stack = cached


def draw_with_cache_dit(pair: Pair, latents: Tensor, steps: int, settings: StepCache) -> tuple[Tensor, list[int]]:
    """Its latents, and the steps that it skipped."""
    order = settings.taylor_order
    cache_dit.enable_cache(
        pair.theirs,
        cache_config=cache_dit.DBCacheConfig(
            Fn_compute_blocks=settings.first,
            Bn_compute_blocks=settings.last,
            max_warmup_steps=settings.warmup,
            residual_diff_threshold=settings.threshold,
            max_continuous_cached_steps=settings.max_skips,
            num_inference_steps=steps,
            steps_computation_mask=[int(step) for step in settings.mask] if settings.mask else None,
            steps_computation_policy="static",
        ),
        calibrator_config=cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order) if order else None,
    )
    try:
        drawn = pair.theirs(
            PROMPT, **SIZE, latents=latents, num_inference_steps=steps, guidance_scale=0.0, output_type="latent"
        )
        return drawn.images, cache_dit.summary(pair.theirs, logging=False)[0].cached_steps
    finally:
        cache_dit.disable_cache(pair.theirs)


@pytest.mark.parametrize(
    ("steps", "settings"),
    [
        (8, {}),
        (8, {"first": 2, "warmup": 1, "threshold": 0.12, "max_skips": 8}),
        (8, {"last": 1, "warmup": 1, "threshold": 0.1, "max_skips": 8, "taylor_order": 2}),
        (8, {"first": 2, "last": 1, "warmup": 2, "threshold": 0.4, "max_skips": 2, "taylor_order": 1}),
        (8, {"warmup": 0, "threshold": 0.06, "max_skips": 1, "taylor_order": 1}),
        (8, {"warmup": 3, "threshold": 1.5}),
        (8, {"mask": "11101001", "taylor_order": 1}),
        (8, {"first": 2, "last": 1, "mask": "10010011", "taylor_order": 2}),
        (20, {"threshold": 0.07, "taylor_order": 2}),
        (20, {"first": 2, "last": 1, "warmup": 1, "threshold": 0.1, "max_skips": 5, "taylor_order": 1}),
        (20, {"mask": "11111101011001101001", "taylor_order": 2}),
        (20, {"last": 1, "warmup": 6, "threshold": 0.05, "max_skips": 2}),
    ],
)
def test_the_same_steps_are_skipped_and_the_latents_are_those_of_cache_dit(
    pair: Pair, recording: Recording, steps: int, settings: dict[str, Any]
) -> None:
    latents = torch.randn(1, 16, 8, 10, generator=torch.Generator().manual_seed(3))
    theirs, skipped = draw_with_cache_dit(pair, latents, steps, StepCache(**settings))

    drawing = Drawing(
        PROMPT, **SIZE, latents=latents, num_inference_steps=steps, output_type="latent", step_cache=settings
    )
    ours = pair.ours.generate(drawing)

    assert 0 < len(skipped) < steps - 1
    middle = settings.get("first", 1)
    assert recording.computed(0, middle) == [step for step in range(steps) if step not in skipped]
    assert recording.computed(0, 0) == list(range(steps))
    assert ours.steps_skipped == [len(skipped)]
    assert relative_error(ours.images, theirs) <= 1e-4


def draw_plainly(pipe: ZImagePipeline, drawing: Drawing, cache: StepCache) -> tuple[Tensor, list[list[int]]]:
    """A guided picture, each branch evaluated and cached alone; its latents and the steps that each branch computed."""
    transformer, guidance = pipe.transformer, Guidance.of(drawing)
    texts = [pipe.text_encoder.encode(text).features for text in (drawing.prompt, drawing.negative_prompt or "")]
    x = torch.randn(1, 16, 8, 10, generator=torch.Generator().manual_seed(drawing.seed))
    branches = [transformer.prepare([text], *x.shape[-2:]) for text in texts]
    changes: list[Tensor] = [torch.empty(0)] * 2
    histories: list[list[tuple[int, Tensor]]] = [[], []]  # the computed steps, with what the middle layers changed

    def differences(history: list[tuple[int, Tensor]]) -> list[Tensor]:
        """What the last computed step changed, and its differences, up to the order."""
        last, change = history[-1]
        found = [change]
        if last >= 3 and len(history) > 1:
            for earlier in differences(history[:-1])[: cache.taylor_order]:
                found.append((found[-1] - earlier) / (last - history[-2][0]))
        return found

    def forecast(history: list[tuple[int, Tensor]], step: int) -> Tensor:
        elapsed = step - history[-1][0]
        terms = enumerate(differences(history))
        return torch.stack([term * elapsed**order / math.factorial(order) for order, term in terms]).sum(0)

    def skips(number: int, branch: int, change: Tensor) -> bool:
        history = histories[branch]
        if not history or (cache.protect_last and number == drawing.num_inference_steps - 1):
            return False
        if cache.mask:
            return cache.mask[number] == "0"
        if number < cache.warmup or number - 1 - history[-1][0] >= cache.max_skips:
            return False
        difference = (changes[branch] - change).abs().mean() / changes[branch].abs().mean()
        return bool(difference < cache.threshold)

    def evaluate(branch: int, number: int, timestep: Tensor) -> Tensor:
        prepared, history = branches[branch], histories[branch]
        entered, time = transformer.embed(x, timestep, prepared.caption, prepared.image_rope)

        def run(stream: Tensor, first: int, last: int) -> Tensor:
            for layer in transformer.layers[first:last]:
                stream = layer(stream, prepared.rope, prepared.mask, time)
            return stream

        stream, end = run(entered, 0, cache.first), LAYERS - cache.last
        change = stream - entered
        if skips(number, branch, change):
            stream = stream + forecast(history, number)
        else:
            changes[branch], middle = change, stream
            stream = run(stream, cache.first, end)
            history.append((number, stream - middle))
        return transformer.unpatchify(run(stream, end, LAYERS), time, *x.shape[-2:])

    for step in trajectory(pipe.schedule, drawing, pipe.device):
        outputs = [evaluate(branch, step.number, step.timestep) for branch in range(1 + step.guided)]
        output = guidance.combine(*outputs) if step.guided else outputs[0]
        x = euler_step(x, -output, step.sigma, step.sigma_next)
    return x, [[number for number, _ in history] for history in histories]


@torch.inference_mode()
@pytest.mark.parametrize(
    ("negative", "truncation", "steps", "settings"),
    [
        ("", 1.0, 8, StepCache(warmup=1, threshold=0.125, max_skips=3, taylor_order=1)),
        (LONGER, 1.0, 20, StepCache(warmup=2, threshold=0.05, max_skips=5)),
        (LONGER, 0.6, 20, StepCache(warmup=2, threshold=0.06, max_skips=4, taylor_order=1)),
        (LONGER, 1.0, 12, StepCache(2, 1, 1, 0.12, 6, taylor_order=2, protect_last=True)),
        (LONGER, 0.6, 8, StepCache(2, 2, mask="11011010", taylor_order=2, protect_last=True)),
    ],
)
def test_each_guidance_branch_decides_for_itself(
    tiny: ZImagePipeline, recording: Recording, negative: str, truncation: float, steps: int, settings: StepCache
) -> None:
    drawing = Drawing(
        PROMPT,
        negative,
        **SIZE,
        seed=5,
        num_inference_steps=steps,
        guidance_scale=2.0,
        cfg_truncation=truncation,
        output_type="latent",
        step_cache=settings,
    )
    expected, computed = draw_plainly(tiny, drawing, settings)

    found = tiny.generate(drawing)

    assert [recording.computed(row, settings.first) for row in (0, 1)] == computed
    assert settings.mask or computed[0] != computed[1]
    guided = sum(step.guided for step in trajectory(tiny.schedule, drawing, tiny.device))
    skipped = [step for step in range(steps) if step not in computed[0]]
    of_prompt = sum(0.5 if step < guided else 1 for step in skipped)
    assert found.steps_skipped == [of_prompt + (guided - len(computed[1])) / 2]
    assert relative_error(found.images, expected) <= 1e-4


class Waves:
    """Layers whose rows and tokens know nothing of each other, so that a batch gives each row's bits."""

    def run(self, x: Tensor, time: Tensor, conditioning: Conditioning, first: int, last: int) -> Tensor:
        for layer in range(first, last):
            x.add_(torch.sin(x * conditioning.rope[:, :, 0, :1, 0] * (layer + 1) + time[:, None]) / 3)
        return x


def take_steps(
    recording: Recording, cache: StepCache, start: Tensor, rows: Sequence[int], one_time: bool = True
) -> tuple[list[Tensor], list[Branch]]:
    """What some rows of `start` are after each of 12 steps of one image."""
    stack = StepCachingStack(recording, LAYERS)
    branches = [Branch(Drawing(PROMPT, num_inference_steps=12), cache) for _ in rows]
    rope = torch.stack([torch.full((start.shape[1], 1, 1, 2), 0.3 + row) for row in rows])
    conditioning = Conditioning(rope, torch.ones(len(rows), 1, 1, start.shape[1], dtype=torch.bool), branches)
    x, seen = start[list(rows)], []
    for step in range(12):
        for branch in branches:
            branch.step = step
        time = torch.full((1 if one_time else len(rows), 1), step / 3)
        x = x + stack.run(x.clone(), time, conditioning, 0, LAYERS) / 12
        seen.append(x)
    return seen, branches


@pytest.mark.parametrize("one_time", [True, False])
def test_rows_that_skip_and_rows_that_compute_give_the_bits_of_each_alone(one_time: bool) -> None:
    cache = StepCache(first=2, last=1, warmup=1, threshold=0.3, taylor_order=2)
    start = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    together = Recording(Waves())
    found, branches = take_steps(together, cache, start, [0, 1, 2], one_time)

    patterns = [tuple(together.computed(row, 2)) for row in range(3)]
    assert len(set(patterns)) == 3
    for row in range(3):
        recording = Recording(Waves())
        alone, _ = take_steps(recording, cache, start, [row], one_time)
        assert tuple(recording.computed(0, 2)) == patterns[row]
        assert branches[row].steps_skipped == pytest.approx((12 - len(patterns[row])) / 3)
        for step in range(12):
            assert torch.equal(found[step][row], alone[step][0])


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_difference_that_is_no_number_skips_nothing(broken: float) -> None:
    start = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))
    start[0, 0, 0] = broken
    recording = Recording(Waves())
    take_steps(recording, StepCache(warmup=1, threshold=0.99), start, [0, 1])

    assert recording.computed(0, 1) == list(range(12))
    assert len(recording.computed(1, 1)) < 12


@pytest.mark.parametrize("guidance_scale", [0.0, 2.0])
def test_each_image_of_a_job_is_the_one_made_alone(tiny: ZImagePipeline, guidance_scale: float) -> None:
    options: dict[str, Any] = {**SIZE, "guidance_scale": guidance_scale, "step_cache": {"warmup": 2, "threshold": 0.15}}
    together = tiny.generate(Drawing(PROMPT, seed=7, num_images=3, **options))

    alone = [tiny.generate(Drawing(PROMPT, seed=7 + i, **options)) for i in range(3)]

    assert torch.equal(together.images, torch.cat([image.images for image in alone]))
    assert together.steps_skipped == [image.steps_skipped[0] for image in alone]
    assert min(together.steps_skipped) > 0


def test_drawings_with_different_settings_do_not_touch_each_other(tiny: ZImagePipeline) -> None:
    cached = tiny.transformer.stack
    choices = [None, "fast", "off", {"mask": "11101001"}, "quality", {"first": 3, "last": 2}, "fast", None]

    drawn = [tiny(PROMPT, **SIZE, step_cache=choice) for choice in choices]  # type: ignore[arg-type]

    tiny.transformer.stack = cached.stack  # type: ignore[attr-defined]
    uncached = tiny(PROMPT, **SIZE, step_cache="fast")  # type: ignore[arg-type]
    tiny.transformer.stack = cached
    assert torch.equal(drawn[1], drawn[6])
    for off in (0, 2, 7):
        assert torch.equal(drawn[off], uncached)
    for one, other in ((0, 1), (1, 3), (3, 4), (4, 5)):
        assert not torch.equal(drawn[one], drawn[other])


def test_nothing_of_a_picture_is_kept_when_it_is_drawn(tiny: ZImagePipeline) -> None:
    gc.collect()
    gc.disable()
    try:
        tiny(PROMPT, **SIZE, guidance_scale=2.0, step_cache="fast")  # type: ignore[arg-type]
        assert not [kept for kept in gc.get_objects() if type(kept) is Row]
    finally:
        gc.enable()


@pytest.mark.parametrize("settings", [{"mask": "11110000"}, {"warmup": 1, "threshold": 2.0, "max_skips": 8}])
def test_the_last_step_is_protected_where_that_is_asked_for(
    tiny: ZImagePipeline, recording: Recording, settings: dict[str, Any]
) -> None:
    tiny(PROMPT, **SIZE, step_cache=settings)  # type: ignore[arg-type]
    tiny(PROMPT, **SIZE, step_cache={**settings, "protect_last": True})  # type: ignore[arg-type]

    assert recording.computed(0, 1)[-1] < 7
    assert recording.computed(1, 1) == [*recording.computed(0, 1), 7]
