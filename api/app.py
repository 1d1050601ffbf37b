"""The FastAPI application: its parts, its layers and its routes."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer

from api.background import end
from api.bell import Bell
from api.deps import Services
from api.document import KEYED, UNKEYED, openapi
from api.following import Following
from api.http.at_work import AtWork
from api.http.auth import Authentication, Identification
from api.http.cors import CrossOrigin
from api.http.head import Head
from api.http.held import Held
from api.http.hosts import HostGuard
from api.http.middleware import BodyGuard, HeadGuard, RequestId
from api.http.prefix import BehindProxy
from api.http.query import known_parameters
from api.http.rates import Rates
from api.http.room import RoomGuard
from api.kept import Kept
from api.openai.refusals import OpenAIErrorBody, openai_error_responses
from api.problems import Problem, install_problem_handlers, problem_responses
from api.readiness import Readiness
from api.routes import docs, generations, health, jobs, models, playground, queue, sglang
from api.routes.jobs import JobPage
from api.threads import Threads
from api.turns import Turns
from api.webhooks import deliverer
from api.webhooks.addresses import Addresses
from api.webhooks.deliverer import Deliverer, JobEvent
from api.webhooks.signing import Signatures
from jobs import __version__
from jobs.doorbell import celery_app
from jobs.events import EventHub
from jobs.keys import KeyRing
from jobs.objects.images import ImageStore
from jobs.reaper import Reaper
from jobs.settings import Settings
from jobs.store.client import ClientStore
from jobs.store.redis_client import connect, connect_async
from jobs.store.webhooks import Outbox


def create_app(settings: Settings) -> FastAPI:
    """Return the API.

    Raises:
        jobs.keys.KeysFileError: the file of API keys is missing or broken.
    """
    keys = KeyRing(settings.api_keys_file) if settings.api_keys_file else None
    app = FastAPI(
        title="zimage-service",
        version=__version__,
        description="Self-hosted, queue-backed image service for Z-Image-Turbo.",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": "/"}],  # said, since not every tool knows that it is the default
        lifespan=functools.partial(_running, settings=settings, keys=keys),
        webhooks=deliverer.documented,
        # Spans of requests that change something, where jobs.telemetry.trace_export exports any.
        telemetry={
            "exclude": lambda scope: scope.get("method") != "POST",
            "operation_spans": False,
            "metrics": False,
            "logs": False,
            "auto_configure": False,
        },
        openapi_url=None,  # FastAPI's own renders the document anew for each request
        docs_url=None,  # FastAPI's own load what they show from a CDN
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    _add_routes(app, keyed=keys is not None)
    _add_layers(app, settings, keys)
    install_problem_handlers(app)
    app.openapi = lambda: openapi(app, [Problem, OpenAIErrorBody, JobPage, JobEvent])  # type: ignore[method-assign]
    return app


@contextlib.asynccontextmanager
async def _running(app: FastAPI, settings: Settings, keys: KeyRing | None) -> AsyncIterator[None]:
    """Give the routes their parts, and run beside them what the API does by itself."""
    client = connect_async(settings)
    images = ImageStore(settings)
    events = EventHub(client, settings)
    reaper = Reaper(connect(settings), images, celery_app(settings), settings)
    bell = Bell(settings)
    outbox = Outbox(client, settings)
    # For submits alone, so that receivers' dead name servers don't hold up their own key's.
    addresses = Addresses(allow_private=settings.webhook_allow_private)
    store = ClientStore(client, settings)
    following, held = Following(store, events), Held(settings.streams_per_key)
    readiness = Readiness(settings, store, images)
    threads = {kind: Threads(kind, 16) for kind in ("pictures", "removals", "signing")}
    answers = Turns(64, 32)  # each holds pieces of pictures, and asks S3
    lists = Turns(2, 1)  # each takes tens of milliseconds of the event loop, which has others to answer
    app.state.services = Services(
        settings,
        store,
        Kept(store.served),
        images,
        events,
        following,
        held,
        bell,
        outbox,
        addresses,
        keys,
        readiness,
        answers,
        lists,
        **threads,
    )
    tasks = [asyncio.create_task(events.run())]
    if settings.webhook_secret:
        secret = settings.webhook_secret.get_secret_value()
        signatures = Signatures(secret, keys, common=settings.webhook_common_signature)
        deliverer = Deliverer(outbox, images, signatures, Addresses(allow_private=settings.webhook_allow_private))
        tasks.append(asyncio.create_task(deliverer.run()))
    reaper.start()
    yield
    reaper.stop()
    await end(tasks)
    readiness.close()
    for kind in threads.values():
        kind.close()
    await asyncio.to_thread(bell.close)
    await client.aclose()


def _add_layers(app: FastAPI, settings: Settings, keys: KeyRing | None) -> None:
    """Add the middleware; the last one added is the outermost."""
    app.add_middleware(AtWork)
    app.add_middleware(BodyGuard)
    if keys:
        app.add_middleware(Authentication)
    else:
        app.add_middleware(HostGuard, settings=settings)
    app.add_middleware(HeadGuard)
    app.add_middleware(Rates, settings=settings)
    app.add_middleware(Identification, keys=keys)
    app.add_middleware(RoomGuard, per_address=settings.connections_per_address)
    app.add_middleware(RequestId)
    if settings.cors_origins:
        app.add_middleware(CrossOrigin, origins=settings.cors_origins)
    app.add_middleware(Head)
    app.add_middleware(BehindProxy, root_path=settings.root_path)


def _add_routes(app: FastAPI, *, keyed: bool) -> None:
    """Add the routes, each with the errors of its group."""
    # They only say so in the OpenAPI document: `Authentication` is what looks at the key. Without keys the document
    # names none, or clients that are generated from it would demand one.
    bearer = HTTPBearer(auto_error=False, description="An API key: `zimage keys create` makes one.")
    needs = [Depends(bearer)] if keyed else []
    app.include_router(
        jobs.router, dependencies=[*needs, Depends(known_parameters)], responses=problem_responses(*KEYED)
    )
    for module in (queue, sglang):
        app.include_router(module.router, dependencies=needs, responses=problem_responses(*KEYED))
    for module in (generations, models):
        app.include_router(module.router, dependencies=needs, responses=openai_error_responses(*KEYED))
    for module in (health, playground, docs):
        app.include_router(module.router, responses=problem_responses(*UNKEYED))
    app.mount("/docs", docs.assets)
