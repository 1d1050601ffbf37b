"""What routes ask for: typed dependencies on the parts that the app holds.

All are coroutines, though they wait for nothing: FastAPI would call others in threads, four to a request.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.bell import Bell
from api.following import Following
from api.http.held import Held
from api.kept import Kept
from api.readiness import Readiness
from api.threads import Threads
from api.turns import Turns
from api.webhooks.addresses import Addresses
from jobs.events import EventHub
from jobs.keys import ApiKey, KeyRing, owner_of
from jobs.model_card import ModelCard
from jobs.objects.images import ImageStore
from jobs.room import Room
from jobs.settings import Settings
from jobs.store.client import ClientStore
from jobs.store.webhooks import Outbox


@dataclass(frozen=True)
class Services:
    """The parts of one API process."""

    settings: Settings
    store: ClientStore
    served: Kept[tuple[ModelCard | None, Sequence[Room]]]  # `store.served`, which each submit needs
    images: ImageStore
    events: EventHub
    following: Following
    held: Held
    bell: Bell
    outbox: Outbox
    addresses: Addresses
    keys: KeyRing | None  # None: the service has no keys
    readiness: Readiness
    answers: Turns  # with pictures
    lists: Turns
    # For what asks S3, and for what asks for its credentials.
    pictures: Threads
    removals: Threads
    signing: Threads


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _key(request: Request) -> ApiKey | None:
    key: ApiKey | None = request.state.key  # set, like `asker`, by `auth.Identification`
    return key


async def _asker(request: Request) -> str:
    asker: str = request.state.asker
    return asker


KeyDep = Annotated[ApiKey | None, Depends(_key)]  # None: the service has no keys


async def _owner(key: KeyDep) -> str:
    return owner_of(key)


ServicesDep = Annotated[Services, Depends(_services)]
AskerDep = Annotated[str, Depends(_asker)]
OwnerDep = Annotated[str, Depends(_owner)]


async def held(services: ServicesDep, asker: AskerDep) -> AsyncIterator[None]:
    """Count a route's answer, until it is sent, among those that are held for who asks.

    Raises:
        ProblemError: there are too many (429).
    """
    with services.held.answer(asker):
        yield
