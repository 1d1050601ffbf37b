"""Delivers webhooks, as Standard Webhooks (standardwebhooks.com) has it: what is sent, to whom at once, how often.

Every API process runs a deliverer. An event is held by one of them at a time, under a lease in Redis; it is delivered
at least once, always under the same `webhook-id`.
"""

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated

import httpx
from fastapi import APIRouter, Header
from pydantic import BaseModel, ConfigDict, Field
from redis.exceptions import RedisError

from api import metrics
from api.threads import Threads
from api.views import EXAMPLE, JobBody, job_body
from api.webhooks.addresses import Addresses, PinnedTransport
from api.webhooks.lookups import AT_ONCE
from api.webhooks.signing import Signatures, UnsignedError
from jobs import __version__
from jobs.objects.images import ImageStore
from jobs.record import Attempt, Job
from jobs.store.answers import Found
from jobs.store.webhooks import Delivery, Outbox
from jobs.telemetry.logs import about

log = logging.getLogger(__name__)

TRY_SECONDS = 15.0  # for one try, from the lookup of the name to the status of the answer
CONNECT_SECONDS = 5.0  # to one address
# Between the tries: as Standard Webhooks recommends up to 10 h, then the rest of a day.
DELAYS = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 24_000.0)
JITTER = 0.1  # of a delay, either way
POLL_SECONDS = 1.0
MOST_AT_ONCE = 128  # that one process delivers
MOST_OF_ONE = AT_ONCE  # that it delivers for one owner: each looks a name up, and none is to wait for its turn there
WRITERS = 4  # threads

documented = APIRouter()


class JobEvent(BaseModel):
    """What a webhook is told: a job has ended."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"type": "job.succeeded", "timestamp": EXAMPLE["finished_at"], "data": EXAMPLE}]
        }
    )

    type: str = Field(examples=["job.succeeded", "job.failed", "job.canceled", "job.expired"])
    timestamp: datetime = Field(description="When the job ended; `webhook-timestamp` is when this try was made.")
    data: JobBody = Field(description="The job as it ended, its images' URLs signed for this try.")


@documented.post(
    "job.ended",
    status_code=204,
    responses={
        410: {"description": "Nobody wants this event: it is not sent again"},
        "default": {"description": "Not taken, redirects included: tried again for a day"},
    },
)
def job_ended(
    body: JobEvent,
    webhook_id: Annotated[str, Header(description="The event; the same at every try.")],
    webhook_timestamp: Annotated[int, Header(description="When this try was made, in Unix seconds.")],
    webhook_signature: Annotated[
        str,
        Header(
            description="`v1,` and the HMAC-SHA256 of `id.timestamp.body` in base64; where several secrets sign, "
            "several of them, separated by spaces: one that fits is enough."
        ),
    ],
) -> None:
    """Tell a job's `webhook_url` that it has ended; any 2xx within 15 s takes it.

    It is signed as [Standard Webhooks](https://www.standardwebhooks.com) has it.
    """


class Deliverer:
    """One API process's deliverer.

    Args:
        outbox: the events.
        images: what signs the images' URLs.
        signatures: what signs the events.
        addresses: what says where they may go.
        delays: seconds between the tries; after the last of them an event is given up.
    """

    def __init__(
        self,
        outbox: Outbox,
        images: ImageStore,
        signatures: Signatures,
        addresses: Addresses,
        *,
        delays: Sequence[float] = DELAYS,
    ) -> None:
        self._outbox = outbox
        self._images = images
        self._signatures = signatures
        self._addresses = addresses
        # Signing URLs is arithmetic, but credentials may have to be fetched first.
        self._writers = Threads("webhook", WRITERS)
        self._delays = delays
        self._under_way: Counter[str] = Counter()  # by owner
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Deliver until canceled; what is under way then is tried again once its lease is over."""
        # The environment's proxies and .netrc are not used: a proxy would resolve names by itself.
        timeout = httpx.Timeout(TRY_SECONDS, connect=CONNECT_SECONDS)
        transport = PinnedTransport(self._addresses)
        client = httpx.AsyncClient(transport=transport, timeout=timeout, trust_env=False, follow_redirects=False)
        with contextlib.closing(self._writers):
            async with client as http, asyncio.TaskGroup() as group:
                await self._begin_deliveries(http, group)

    async def _begin_deliveries(self, http: httpx.AsyncClient, group: asyncio.TaskGroup) -> None:
        while True:
            self._ended.clear()
            if delivery := await self._claim():
                self._under_way[delivery.owner] += 1
                group.create_task(self._deliver(http, delivery))
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_SECONDS):
                        await self._ended.wait()

    async def _claim(self) -> Delivery | None:
        # Who has enough under way is passed over: its events wait in Redis, where waiting is no try. Enough is also as
        # many as are left free: there is room for the next owner. Lookups that hang count, lest one waits for them.
        free = MOST_AT_ONCE - self._under_way.total()
        if free == 0:
            return None
        most = min(MOST_OF_ONE, free)
        busy = self._under_way + self._addresses.hanging()
        try:
            return await self._outbox.claim([owner for owner, count in busy.items() if count >= most])
        except (RedisError, OSError) as error:
            log.warning("webhooks: Redis is away (%s)", error)
            return None

    async def _deliver(self, http: httpx.AsyncClient, delivery: Delivery) -> None:
        with about(Attempt.model_validate(delivery.record)):
            await self._try(http, delivery)

    async def _try(self, http: httpx.AsyncClient, delivery: Delivery) -> None:
        status, error = None, None
        try:
            job = Job.from_record(delivery.record)
            content = await self._writers.run(self._content, job)
            async with asyncio.timeout(TRY_SECONDS):
                status = await self._send(http, delivery, str(job.input.webhook_url), content)
        except TimeoutError:
            error = f"no answer within {TRY_SECONDS:.0f} s"
        except httpx.HTTPError as failure:
            error = str(failure) or "the connection was lost"
        except UnsignedError as failure:
            error = str(failure)
        except Exception:
            log.exception("webhook %s could not be sent", delivery.event)
            error = "a fault of the service: the API's log tells more"
        try:
            await self._settle(delivery, status, error)
        except (RedisError, OSError) as failure:
            log.warning("webhook %s: Redis is away (%s); it will be sent again", delivery.event, failure)
        finally:
            self._under_way -= Counter([delivery.owner])  # which keeps no zeros
            self._ended.set()

    def _content(self, job: Job) -> str:
        data = job_body(Found(job, None), self._images)
        timestamp = job.finished_at or job.created_at
        return JobEvent(type=f"job.{job.status}", timestamp=timestamp, data=data).model_dump_json()

    async def _send(self, http: httpx.AsyncClient, delivery: Delivery, url: str, content: str) -> int:
        now = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"zimage-service/{__version__}",
            "webhook-id": delivery.event,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signatures.sign(delivery.owner, delivery.event, now, content),
        }
        owner = {"owner": delivery.owner}
        # Only the status matters: the answer's body is not read, however large it is.
        async with http.stream("POST", url, content=content, headers=headers, extensions=owner) as response:
            return response.status_code

    async def _settle(self, delivery: Delivery, status: int | None, error: str | None) -> None:
        if status is not None and 200 <= status < 300:
            outcome = "delivered"
            await self._outbox.delivered(delivery)
        else:
            error = error or f"answered {status}"
            if status == HTTPStatus.GONE or delivery.tries > len(self._delays):
                outcome = "dead"
                await self._outbox.give_up(delivery, error)
            else:
                outcome = "failed"
                delay = self._delays[delivery.tries - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # no secret
                await self._outbox.retry(delivery, error, delay)
            log.warning("webhook %s: try %d failed: %s", delivery.event, delivery.tries, error)
        metrics.webhook_deliveries_total.labels(outcome).inc()
