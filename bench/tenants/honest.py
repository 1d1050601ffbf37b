"""The honest tenant: submits at a steady pace, follows each job in one of the usual ways, fetches its picture."""

import asyncio
import contextlib
import hashlib
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from PIL import Image

from bench.tenants.tenant import Notes, Tenant, paced

JOBS_PER_SECOND = 2.0
BODY = {"width": 64, "height": 64, "num_inference_steps": 2}
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 120.0  # for the jobs that are not drawn yet when the time is over
MOST = 1000  # jobs followed at once

Job = dict[str, Any]


async def honest(tenant: Tenant, seconds: float, notes: Notes) -> None:
    """Submit and follow for so long, then until all is drawn."""
    posts: list[tuple[float, float]] = []  # seconds since the begin, seconds until the answer
    refused: list[str] = []
    pictures: dict[str, str] = {}  # by job: SHA-256 of what was fetched, where it shows what was asked for
    wrong: list[str] = []
    waits: list[float] = []
    hooked: set[str] = set()
    told: set[str] = set()
    followed: set[asyncio.Task[None]] = set()
    async with tenant.client(MOST) as client, httpx.AsyncClient() as storage, receiver(tenant.address, told) as hook:

        async def submit(number: int) -> None:
            due = start + number / JOBS_PER_SECOND
            body = {"prompt": prompt(number), "seed": number, **BODY}
            if number % 4 == 0:
                body["webhook_url"] = hook
            response = await notes.ask(client, "submit", "POST", "/v1/jobs", json=body)
            posts.append((due - start, time.monotonic() - due))
            if response is None or response.status_code != 202:
                refused.append(f"{due - start:.1f} s: {response.text if response else 'no answer'}")
                return
            job_id = response.json()["id"]
            if "webhook_url" in body:
                hooked.add(job_id)
            task = asyncio.create_task(follow(job_id, number))
            followed.add(task)  # not given up with the submits

        async def follow(job_id: str, number: int) -> None:
            job = await (waited, polled, streamed)[number % 3](notes, client, job_id)
            if job["status"] != "succeeded":
                wrong.append(f"{job_id}: {job['status']}, {job['error']}")
                return
            waits.append(job["timings"]["queue"] + job["timings"]["device_wait"])
            content = (await storage.get(job["images"][0]["url"])).content
            digest = hashlib.sha256(content).hexdigest()
            if digest == job["images"][0]["sha256"] and shows(content, number):
                pictures[job_id] = digest
            else:
                wrong.append(f"{job_id}: not the picture that was asked for")

        start = time.monotonic()
        await paced(JOBS_PER_SECOND, submit, seconds, MOST)
        over = time.monotonic()
        _, late = await asyncio.wait(followed, timeout=PATIENCE_SECONDS) if followed else (set(), set())
        for task in late:
            task.cancel()
        for task in followed - late:
            task.result()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while hooked - told:
                    await asyncio.sleep(0.1)
        notes.told = {
            "posts": posts,
            "refused": refused,
            "pictures": pictures,
            "wrong": wrong,
            "not_followed_to_the_end": len(late),
            "waits": waits,
            "webhooks": len(told),
            "webhooks_missing": len(hooked - told),
            "seconds_until_all_was_drawn": time.monotonic() - over,
        }


def prompt(number: int) -> str:
    """Return the prompt of a job: another one each time, for features are kept of prompts that come again."""
    return f"a small red circle on blue, number {number}"


def shows(content: bytes, number: int) -> bool:
    """Tell whether a picture is the one of a job, as its parameters say."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        parameters = json.loads(image.info["parameters"])
        size = {"width": image.width, "height": image.height}
    expected = {"prompt": prompt(number), "seed": number, **BODY}
    return expected.items() <= {**parameters, **size}.items()


async def polled(notes: Notes, client: httpx.AsyncClient, job_id: str) -> Job:
    """Return a job once it has ended, by asking again and again."""
    while True:
        await asyncio.sleep(POLL_SECONDS)
        response = await notes.ask(client, "read", "GET", f"/v1/jobs/{job_id}")
        if response is not None and response.status_code == 200 and (job := response.json())["finished_at"]:
            return dict(job)


async def waited(notes: Notes, client: httpx.AsyncClient, job_id: str) -> Job:
    """Return a job once it has ended, by answers that wait for it."""
    while True:
        response = await notes.ask(client, "wait", "GET", f"/v1/jobs/{job_id}", headers={"Prefer": "wait=30"})
        if response is None or response.status_code != 200:
            await asyncio.sleep(POLL_SECONDS)
        elif (job := response.json())["finished_at"]:
            return dict(job)


async def streamed(notes: Notes, client: httpx.AsyncClient, job_id: str) -> Job:
    """Return a job once it has ended, by its stream of events."""
    try:
        async with client.stream("GET", f"/v1/jobs/{job_id}/events") as response:
            notes.answers[f"events: {response.status_code}"] += 1
            async for _ in response.aiter_lines():
                pass
    except httpx.TransportError as error:
        notes.answers[f"events: {type(error).__name__}"] += 1
    return await waited(notes, client, job_id)


@asynccontextmanager
async def receiver(address: str, told: set[str]) -> AsyncIterator[str]:
    """Take webhooks, note of which jobs, and give the URL for them."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            event = json.loads(await reader.readexactly(int(length.split(b":")[1])))
            told.add(event["data"]["id"])
            writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(take, address, 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://{address}:{port}/"
