"""What a worker tells of its pipeline's plan for the GPU's memory: on its card, and in its metrics."""

from jobs.model_card import MemoryPlan
from jobs.room import KINDS, Room
from jobs.spec import MAX_IMAGES
from pipeline.memory_plan import PARTS, Plan
from pipeline.memory_sizes import Picture
from worker import metrics


def plan_card(plan: Plan) -> MemoryPlan:
    """Return it as the card has it."""
    return MemoryPlan(
        residency=plan.residency,
        budget_bytes=plan.budget_bytes,
        peak_bytes=plan.peak_bytes(),
        seconds_per_picture=plan.seconds_per_picture(),
        seconds_per_prompt=plan.seconds_per_prompt(),
    )


def room(plan: Plan, largest: int) -> Room | None:
    """Return which pictures there is memory for; None: for all.

    Args:
        plan: that bounds them.
        largest: pixels that the model draws at most, of any picture.
    """
    rows = tuple(
        tuple(
            min(largest, plan.largest(Picture(num_images=images, guided=guided, step_cache=cached)))
            for images in range(1, MAX_IMAGES + 1)
        )
        for guided, cached in KINDS
    )
    return Room(most_pixels=rows) if any(pixels < largest for row in rows for pixels in row) else None


def tell_metrics(plan: MemoryPlan) -> None:
    """Set the gauges of a plan."""
    metrics.plan_info.labels(*(plan.residency[part] for part in PARTS)).set(1)
    metrics.plan_budget_bytes.set(plan.budget_bytes or 0)
    metrics.plan_peak_bytes.set(plan.peak_bytes)
    metrics.plan_extra_seconds.labels("picture").set(plan.seconds_per_picture)
    metrics.plan_extra_seconds.labels("prompt").set(plan.seconds_per_prompt)
