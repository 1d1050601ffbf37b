"""What routes ask for: typed dependencies on the parts that the app holds."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.bell import Bell
from api.readiness import Readiness
from api.threads import Threads
from api.turns import Turns
from api.webhooks.addresses import Addresses
from jobs.events import EventHub
from jobs.keys import RESERVED, ApiKey, KeyRing
from jobs.objects.images import ImageStore
from jobs.settings import Settings
from jobs.store.client import ClientStore
from jobs.store.webhooks import Outbox


@dataclass(frozen=True)
class Services:
    """The parts of one API process."""

    settings: Settings
    store: ClientStore
    images: ImageStore
    events: EventHub
    bell: Bell
    outbox: Outbox
    addresses: Addresses
    keys: KeyRing | None  # None: the service has no keys
    readiness: Readiness
    turns: Turns
    # For what asks S3, and for what asks for its credentials.
    pictures: Threads
    removals: Threads
    signing: Threads


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _key(request: Request) -> ApiKey | None:
    key: ApiKey | None = getattr(request.state, "key", None)  # set by `auth.Authentication`
    return key


KeyDep = Annotated[ApiKey | None, Depends(_key)]  # None: the service has no keys


def _owner(key: KeyDep) -> str:
    return key.name if key else RESERVED


ServicesDep = Annotated[Services, Depends(_services)]
OwnerDep = Annotated[str, Depends(_owner)]
