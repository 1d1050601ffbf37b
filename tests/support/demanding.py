"""Requests that not every worker can do: no field of the service's own needs anything of a worker yet."""

from typing import Annotated, Any

from jobs.spec import JobInput, Trait


class DemandingInput(JobInput):
    """A request with two fields of a later release."""

    style: Annotated[str | None, Trait(picture=True, needs="styles")] = None
    blur: Annotated[int, Trait(picture=True, needs="blurring")] = 0


FIELDS: dict[str, dict[str, Any]] = {"styles": {"style": "ink"}, "blurring": {"blur": 1}}  # by what they need


def demanding(*needs: str, **fields: Any) -> JobInput:
    """Return a small request that needs this of a worker."""
    asked = {"prompt": "a cat", "seed": 1, "width": 64, "height": 64, **fields}
    for need in needs:
        asked |= FIELDS[need]
    return DemandingInput(**asked)
