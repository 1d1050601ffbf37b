"""What routes ask for: typed dependencies on the parts that the app holds."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.bell import Bell
from jobs.client_store import ClientStore
from jobs.events import EventHub
from jobs.images import ImageStore
from jobs.settings import Settings

ANONYMOUS = "anonymous"


@dataclass(frozen=True)
class Services:
    """The parts of one API process."""

    settings: Settings
    store: ClientStore
    images: ImageStore
    events: EventHub
    bell: Bell


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _owner() -> str:
    return ANONYMOUS


ServicesDep = Annotated[Services, Depends(_services)]
OwnerDep = Annotated[str, Depends(_owner)]
