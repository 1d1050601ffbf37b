"""The model that the workers serve: its names, its sizes, and for which of these their memory has room."""

from collections.abc import Sequence
from dataclasses import dataclass

from api.deps import Services
from api.problems import FieldError, ProblemError, shortened
from jobs.model_card import SizeLimits, served_name, size_limits
from jobs.room import Room

HUB_ID = "Tongyi-MAI/Z-Image-Turbo"  # what the guides' examples ask for, whatever is served
DEFAULT = "default"  # what clients ask for that were told no model, such as SGLang's benchmark


@dataclass(frozen=True)
class ServedModel:
    """The served model."""

    names: tuple[str, ...]  # its own first, then its aliases
    sizes: SizeLimits
    rooms: Sequence[Room]  # of the workers' memory; empty: for all sizes
    path: str | None  # its folder, where that is told
    commit: str | None  # the hub's, as above

    def check_name(self, name: str) -> None:
        """Raise the 404 that OpenAI's clients know when it is not one of the model's names."""
        if name not in (*self.names, DEFAULT, self.path):
            told = f"there is no model {shortened(name)}: what is served is called {', '.join(self.names)}"
            error = FieldError(pointer="/model", detail=told)
            raise ProblemError(404, "model_not_found", error.detail, errors=[error])


async def served_model(services: Services) -> ServedModel:
    """Return what the worker heard last serves; before there was one, what this process's settings name."""
    settings = services.settings
    card, rooms = await services.served.get()
    name = card.name if card else served_name(settings.model)
    aliases = (alias.strip() for alias in (settings.model_aliases or "").split(","))
    names = dict.fromkeys([name, HUB_ID, *filter(None, aliases)])
    path, commit = (card.path, card.commit) if card else (None, None)
    return ServedModel(tuple(names), card or size_limits(name), rooms, path, commit)
