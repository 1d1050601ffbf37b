"""Clients of the service's HTTP API, for scripts and for the `zimage` command: `ZImageClient`, `AsyncZImageClient`.

They try again by themselves where that is safe: reads, and posts under the `Idempotency-Key` that they always send.
Once anything has answered a client it outlasts a restart of the service (45 s); before that, at an address that may be
wrong, it gives up after 3 s. They use the environment's proxies, but none to reach this machine's loopback.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from zimage import calls
from zimage.calls import Call
from zimage.contract import ACTIVE, Image, Job, JobPage, JobRequest
from zimage.retries import LONGEST_RETRY_AFTER, Patience, retry_after
from zimage.transports import AsyncTransport, Transport

T = TypeVar("T")

PLACE_SECONDS = 1  # between looks at a queued job: of its place in the queue no event tells
# What ends a stream early: the connection is lost, or the last line was cut off. The job is simply asked for again.
CUT = (httpx.TransportError, ValueError)


def _service(url: str, key: str | None) -> dict[str, Any]:
    key = calls.header_value("API key", (key or "").strip())  # files and shells add line ends
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return {"base_url": calls.base_url(url), "headers": headers, "timeout": calls.timeout()}


def _storage() -> dict[str, Any]:
    # Presigned URLs are on another host, which must not see the key.
    return {"timeout": calls.timeout(), "follow_redirects": True}


def _refused_for(events: httpx.Response) -> float:
    """Return the seconds to wait for before the job is asked for where its stream was refused: there are too many."""
    return 0.0 if events.is_success else min(LONGEST_RETRY_AFTER, retry_after(events))


class ZImageClient:
    """One service. Its methods raise `ServiceError` when the service refuses or can't be reached."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Connect lazily.

        Args:
            url: the service's address, with or without `/v1`.
            key: API key, if the service asks for one.

        Raises:
            ServiceError: the address or the key can't be one.
        """
        self._http = httpx.Client(transport=Transport(), **_service(url, key))
        self._storage = httpx.Client(transport=Transport(), **_storage())
        self._patience = Patience()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, as the end of a `with` does."""
        self._http.close()
        self._storage.close()

    def submit(self, request: JobRequest, idempotency_key: str | None = None) -> Job:
        """Post a job.

        Args:
            request: what to draw.
            idempotency_key: the same key with the same request again gives the same job; None: a new key. ASCII.
        """
        return self._send(self._http, calls.submit(request, idempotency_key))

    def get(self, job_id: str, wait: float = 0) -> Job:
        """Read a job, after it ended or `wait` seconds passed (60 at most)."""
        return self._send(self._http, calls.get(job_id, wait))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job: at once while queued, before its next step while running."""
        return self._send(self._http, calls.cancel(job_id))

    def delete(self, job_id: str) -> None:
        """Delete an ended job and its images."""
        self._send(self._http, calls.delete(job_id))

    def page(self, status: str | None = None, limit: int = 20, cursor: str | None = None) -> JobPage:
        """Read one page of jobs, 100 at most, newest first."""
        return self._send(self._http, calls.page(status, limit, cursor))

    def list(self, status: str | None = None, page_size: int = 100) -> Iterator[Job]:
        """Read all jobs, newest first, page by page as they are taken."""
        cursor = None
        while True:
            page = self.page(status, limit=page_size, cursor=cursor)
            yield from page["jobs"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def progress(self, job_id: str) -> Iterator[Job]:
        """Give a job every second while it is queued, then at each of its events; the last one given has ended.

        While nothing happens to it the same is given again, every 15 s at least.
        """
        job = self.get(job_id)
        while True:
            yield job
            if job["status"] == "running":
                with contextlib.suppress(*CUT), self._http.stream("GET", calls.events(job_id)) as response:
                    time.sleep(_refused_for(response))
                    for line in response.iter_lines():
                        job = calls.event(line) or job
                        if not line:
                            yield job
            if job["status"] not in ACTIVE:
                return
            job = self.get(job_id, wait=PLACE_SECONDS)

    def download(self, image: Image) -> bytes:
        """Fetch an image's PNG, and check it.

        Raises:
            ServiceError: the storage refused (`code` is `download_failed`), or the bytes are not those that the
                service reported (`checksum_mismatch`).
        """
        return self._send(self._storage, calls.download(image))

    def _send(self, http: httpx.Client, call: Call[T]) -> T:
        request = http.build_request(call.method, call.url, **call.options)
        tries = self._patience.tries(call.method)
        with calls.unreachable_told(request):
            while True:
                try:
                    response = http.send(request)
                except httpx.TransportError as error:
                    pause = tries.after_error(error)
                    if pause is None:
                        raise
                else:
                    pause = tries.after_answer(response)
                    if pause is None:
                        return call.read(response)
                time.sleep(pause)


class AsyncZImageClient:
    """`ZImageClient` for asyncio: its methods under the same names, to be awaited or iterated with `async for`."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """Connect lazily.

        Args:
            url: the service's address, with or without `/v1`.
            key: API key, if the service asks for one.

        Raises:
            ServiceError: the address or the key can't be one.
        """
        self._http = httpx.AsyncClient(transport=AsyncTransport(), **_service(url, key))
        self._storage = httpx.AsyncClient(transport=AsyncTransport(), **_storage())
        self._patience = Patience()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, as the end of an `async with` does."""
        await self._http.aclose()
        await self._storage.aclose()

    async def submit(self, request: JobRequest, idempotency_key: str | None = None) -> Job:
        """Post a job; see `ZImageClient.submit`."""
        return await self._send(self._http, calls.submit(request, idempotency_key))

    async def get(self, job_id: str, wait: float = 0) -> Job:
        """Read a job, after it ended or `wait` seconds passed (60 at most)."""
        return await self._send(self._http, calls.get(job_id, wait))

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job: at once while queued, before its next step while running."""
        return await self._send(self._http, calls.cancel(job_id))

    async def delete(self, job_id: str) -> None:
        """Delete an ended job and its images."""
        await self._send(self._http, calls.delete(job_id))

    async def page(self, status: str | None = None, limit: int = 20, cursor: str | None = None) -> JobPage:
        """Read one page of jobs, 100 at most, newest first."""
        return await self._send(self._http, calls.page(status, limit, cursor))

    async def list(self, status: str | None = None, page_size: int = 100) -> AsyncIterator[Job]:
        """Read all jobs, newest first, page by page as they are taken."""
        cursor = None
        while True:
            page = await self.page(status, limit=page_size, cursor=cursor)
            for job in page["jobs"]:
                yield job
            cursor = page["next_cursor"]
            if cursor is None:
                return

    async def progress(self, job_id: str) -> AsyncIterator[Job]:
        """Give a job until it has ended; see `ZImageClient.progress`."""
        job = await self.get(job_id)
        while True:
            yield job
            if job["status"] == "running":
                with contextlib.suppress(*CUT):
                    async with self._http.stream("GET", calls.events(job_id)) as response:
                        await asyncio.sleep(_refused_for(response))
                        async for line in response.aiter_lines():
                            job = calls.event(line) or job
                            if not line:
                                yield job
            if job["status"] not in ACTIVE:
                return
            job = await self.get(job_id, wait=PLACE_SECONDS)

    async def download(self, image: Image) -> bytes:
        """Fetch an image's PNG, and check it; see `ZImageClient.download`."""
        return await self._send(self._storage, calls.download(image))

    async def _send(self, http: httpx.AsyncClient, call: Call[T]) -> T:
        request = http.build_request(call.method, call.url, **call.options)
        tries = self._patience.tries(call.method)
        with calls.unreachable_told(request):
            while True:
                try:
                    response = await http.send(request)
                except httpx.TransportError as error:
                    pause = tries.after_error(error)
                    if pause is None:
                        raise
                else:
                    pause = tries.after_answer(response)
                    if pause is None:
                        return call.read(response)
                await asyncio.sleep(pause)
