"""What a worker's card and metrics tell of its plan."""

from dataclasses import replace

import pytest
from prometheus_client import REGISTRY

from jobs.model_card import ModelCard
from jobs.room import Room
from jobs.spec import JobInput
from pipeline.memory_plan import plan
from pipeline.memory_sizes import Picture, Sizes
from worker.plan import plan_card, room, tell_metrics

GIB = 2**30
LARGEST = 2048**2
SMALL = plan(Sizes.of(), 8 * GIB)
CARD = ModelCard(name="x", min_size=256, max_size=2048, precision="bfloat16", load_seconds=7.0)


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("step_cache", ["off", "fast"])
@pytest.mark.parametrize("images", [1, 10])
def test_there_is_room_for_what_fits_the_plan(guided: bool, step_cache: str, images: int) -> None:
    bound = room(SMALL, LARGEST)
    assert bound
    fields = {"guidance_scale": 2.0 * guided, "step_cache": step_cache, "num_images": images}
    picture = Picture(num_images=images, guided=guided, step_cache=step_cache != "off")
    for height in range(256, 2049, 64):
        job = JobInput.model_validate({"prompt": "a cat", "width": 1536, "height": height, **fields})
        assert bound.has(job) == SMALL.fits(replace(picture, width=1536, height=height))


def test_without_a_bound_there_is_room_for_all() -> None:
    assert room(plan(Sizes.of(), None), LARGEST) is None
    assert room(plan(Sizes.of(), 80 * GIB), LARGEST) is None


def test_the_card_tells_it_and_is_read_with_and_without() -> None:
    card = CARD.model_copy(update={"plan": plan_card(SMALL), "room": room(SMALL, LARGEST)})
    again = ModelCard.model_validate_json(card.model_dump_json())
    assert again == card
    assert again.room
    assert Room.from_words(again.room.words()) == card.room
    assert ModelCard.model_validate_json(CARD.model_dump_json(exclude={"plan", "room"})) == CARD


def test_metrics_tell_it() -> None:
    tell_metrics(plan_card(SMALL))
    where = {"text_encoder": "layers", "transformer": "layers", "vae": SMALL.vae}
    assert REGISTRY.get_sample_value("zimage_plan_info", where) == 1
    assert REGISTRY.get_sample_value("zimage_plan_budget_bytes") == 8 * GIB
    assert REGISTRY.get_sample_value("zimage_plan_peak_bytes") == SMALL.peak_bytes()
    assert REGISTRY.get_sample_value("zimage_plan_extra_seconds", {"of": "prompt"}) == SMALL.seconds_per_prompt()
