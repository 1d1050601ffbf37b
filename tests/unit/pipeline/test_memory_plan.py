"""What fits a budget, decided before anything is loaded."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.checkpoint.config import Config
from pipeline.checkpoint.params import autoencoder_params, qwen3_params, transformer_params
from pipeline.checkpoint.random import SIZES, weight_shapes, write_configs
from pipeline.formats.fp8 import FP8
from pipeline.memory_plan import (
    LAYERS,
    RESIDENT,
    BudgetError,
    Plan,
    least_budget,
    parse_budget,
    parse_residency,
    plan,
)
from pipeline.memory_sizes import TURBO, PartSizes, Picture, Shape, Sizes

GIB, MIB = 2**30, 2**20
BF16 = Sizes.of(TURBO)
FP8_SIZES = Sizes.of(TURBO, quantized_bytes=1, text_quantized_bytes=1)
budgets = st.integers(GIB, 30 * GIB)
MEASURED = Picture(caption_tokens=64)


def test_turbos_weights_are_counted_as_its_networks_have_them(tmp_path):
    write_configs(tmp_path, SIZES["turbo"])
    params = [
        make(Config(tmp_path / part / "config.json"))
        for part, make in (("transformer", transformer_params), ("vae", autoencoder_params))
    ]
    text = qwen3_params(Config(tmp_path / "text_encoder" / "config.json"))
    shapes = weight_shapes(tmp_path)

    def count(beginning: str, quantized: bool, leave_out: tuple[str, ...] = ()) -> int:
        total = 0
        for key, shape in next(found for name, found in shapes.items() if name.startswith(beginning)).items():
            name = key.removeprefix("model.")
            if name.startswith(leave_out):
                continue
            takes = quantized and FP8.takes(name, shape)
            total += shape.numel() + 4 * shape[0] if takes else 2 * shape.numel()
        return total

    unused = ("norm.", f"layers.{text.num_layers - 1}.")
    for sizes, quantized in ((BF16, False), (FP8_SIZES, True)):
        assert sizes.transformer.total == count("transformer", quantized)
        assert sizes.vae.total == count("vae", quantized=False)
        assert sizes.text_encoder.total == count("text_encoder", quantized, unused)
    assert Shape.of(params[0], text, params[1]).dim == TURBO.dim


@pytest.mark.parametrize(
    ("sizes", "side", "measured_mib"),  # bench/results/pipeline-h100.json
    [
        (BF16, 1024, 21001),
        (BF16, 512, 19858),
        (BF16, 1536, 22990),
        (FP8_SIZES, 1024, 12244),
        (FP8_SIZES, 512, 11098),
        (FP8_SIZES, 1536, 14230),
    ],
)
def test_peaks_are_those_that_were_measured(sizes: Sizes, side: int, measured_mib: int):
    predicted = plan(sizes, None).peak_bytes(Picture(side, side, caption_tokens=64)) / MIB
    assert predicted == pytest.approx(measured_mib, rel=0.01)


@given(sizes=st.sampled_from([BF16, FP8_SIZES]), budget=budgets, more=st.integers(0, 8 * GIB))
@settings(max_examples=25, deadline=None)
def test_any_budget_fits_or_is_refused_with_the_least_that_does_and_more_is_never_slower(
    sizes: Sizes, budget: int, more: int
):
    try:
        made = plan(sizes, budget)
    except BudgetError as error:
        budget = max(budget + 1, error.least_bytes)
        made = plan(sizes, error.least_bytes)
    assert made.peak_bytes() < budget
    made.check(made.picture)
    larger = plan(sizes, budget + more)
    assert larger.most_seconds <= made.most_seconds
    assert larger.seconds_per_picture() + larger.seconds_per_prompt() <= larger.most_seconds


@given(budget=budgets, guided=st.booleans(), images=st.integers(1, 8), step_cache=st.booleans())
@settings(max_examples=25, deadline=None)
def test_what_is_larger_than_the_largest_is_refused_by_name(budget: int, guided: bool, images: int, step_cache: bool):
    made = plan(BF16, max(budget, least_budget(BF16)))
    largest = made.largest(kind := Picture(guided=guided, num_images=images, step_cache=step_cache))
    if largest:
        made.check(Picture(16, largest // 16, images, guided, step_cache))
    with pytest.raises(ValueError, match=f"at most {largest:,} pixels" if largest >= 256 else "none can be drawn"):
        made.check(Picture(16, largest // 16 + 16, images, guided, step_cache))
    assert kind.num_images == images


def test_a_card_that_has_room_keeps_all_weights():
    made = plan(BF16, 24 * GIB)
    assert made.residency == dict.fromkeys(made.residency, RESIDENT)
    assert not made.offloads
    assert made.bytes_per_picture() == made.bytes_per_prompt() == made.pinned_bytes == 0


def test_cards_of_6_to_16_gb_draw_and_tell_what_it_costs():
    for sizes, budget, seconds in (
        (BF16, 16, 0.1),
        (FP8_SIZES, 12, 0.05),
        (BF16, 8, 0.7),
        (FP8_SIZES, 8, 0.3),
        (BF16, 6, 1.0),
    ):
        made = plan(sizes, budget * GIB)
        assert made.offloads
        assert made.seconds_per_picture() <= seconds
        assert made.seconds_per_prompt() <= 0.2
        made.check(Picture(1536, 1536))


def test_graphs_of_resident_parts_have_memory_of_their_own():
    for budget in range(12 * GIB, 24 * GIB, GIB):
        made = plan(BF16, budget)
        kept = sum(part.recorded_bytes for part in (BF16.text_encoder, BF16.transformer) if part in resident(made))
        assert made.peak_bytes() + kept <= made.budget_bytes - 512 * MIB


def resident(made: Plan) -> list[PartSizes]:
    return [getattr(made.sizes, part) for part, residency in made.residency.items() if residency == RESIDENT]


def test_what_is_settled_stays_so():
    settled = {"transformer": LAYERS, "text_encoder": "whole", "vae": RESIDENT}
    assert plan(BF16, None, residency=settled).streamed["transformer"] == 30
    made = plan(BF16, 14 * GIB, residency=settled)
    assert made.residency == settled
    assert 0 < made.transformer_layers_resident < 30


@pytest.mark.parametrize(
    ("text", "expected"), [("8GiB", 8 * GIB), ("8 gb", 8 * 10**9), ("7500MiB", 7500 * MIB), ("512b", 512)]
)
def test_budgets_are_read_with_their_units(text: str, expected: int):
    assert parse_budget(text) == expected


@pytest.mark.parametrize("text", ["8", "", "0GiB", "-1GiB", "8 gigs", "GiB"])
def test_budgets_without_a_meaning_are_refused(text: str):
    with pytest.raises(ValueError, match="vram_budget is"):
        parse_budget(text)


def test_residencies_are_read_and_refused():
    assert parse_residency("transformer=layers, vae=resident") == {"transformer": LAYERS, "vae": RESIDENT}
    for text, told in (("unet=whole", "unet"), ("vae=layers", "layers"), ("transformer", "transformer"), ("", "names")):
        with pytest.raises(ValueError, match=told):
            parse_residency(text)
