"""The model that the workers serve: its names and its sizes."""

from dataclasses import dataclass

from api.deps import Services
from api.problems import FieldError, ProblemError
from jobs.model_card import SizeLimits, size_limits


@dataclass(frozen=True)
class ServedModel:
    """The served model: `names` has its own name first, then its aliases."""

    names: tuple[str, ...]
    sizes: SizeLimits

    def check_name(self, name: str) -> None:
        """Raise the 404 that OpenAI's clients know when it is not one of the model's names."""
        if name not in self.names:
            error = FieldError(pointer="/model", detail=f"there is no model {name}: /v1/models lists what is served")
            raise ProblemError(404, "model_not_found", error.detail, errors=[error])


async def served_model(services: Services) -> ServedModel:
    """Return what the worker heard last serves; before there was one, what this process's settings name."""
    settings = services.settings
    card = await services.store.last_card()
    name = card.name if card else settings.model
    aliases = (alias.strip() for alias in settings.model_aliases.split(","))
    return ServedModel(tuple(dict.fromkeys([name, *filter(None, aliases)])), card or size_limits(name))
