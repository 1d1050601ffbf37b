"""The hostile tenants: what each of them does, and how often. All go on and on, well past the limits that they meet."""

import asyncio
import contextlib
import json
import random
import secrets
import select
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx

from bench.tenants.dead_names import DEAD, LATE
from bench.tenants.tenant import Behaviour, Notes, Tenant, paced

SMALL = {"width": 64, "height": 64, "num_inference_steps": 1}
LARGEST = {  # in Redis
    **SMALL,
    "prompt": "😀" * 2000,
    "negative_prompt": "😀" * 2000,
    "guidance_scale": 2.0,
    "metadata": {f"key-{number}": "x" * 240 for number in range(16)},
}
REPLAYED = {"prompt": "words and shapes on noise", "n": 8, "size": "512x512", "num_inference_steps": 1, "seed": 1}
REPLAYS = "/v1/images/generations"
HELD_SECONDS = 120.0  # that a connection is held from which nothing is read
FOLLOWED_BEHIND = 60  # jobs of its own
CHOICE_SECONDS = 30.0  # from one job that is followed to the next
DRIBBLE_SECONDS = 2.0
TURN_SECONDS = 20.0  # of each of several floods, one after the other
CONNECTIONS = 20_000  # of a client, more than it can have open

# How often each tenant does what, in a second.
PACES: Mapping[str, Mapping[str, float]] = {
    "slow-readers": {"unread": 10, "dribbled heads": 10, "dribbled bodies": 3, "silent connections": 85},
    "floods": {"submits": 20, "submits and cancels": 8, "lists": 10, "reads": 120},
    "streams": {"streams": 15, "unread streams": 5, "waits": 10},
    "replays": {"unread replays": 5, "replays": 0.5},
    "dead-webhooks": {"dead names": 4, "names that die": 1, "silent hosts": 3, "refusing hosts": 1},
    "errors": {"refusals": 30, "connections with garbage": 2},
}

Action = Callable[[int], Awaitable[object]]


async def slow_readers(tenant: Tenant, seconds: float, notes: Notes) -> None:
    """Leave answers unread, send heads and bodies byte by byte, hold silent connections; with the key and without."""
    anonymous = Tenant(tenant.name, "", tenant.address, tenant.api_url)
    bundle, document = "/docs/swagger-ui-bundle.js", "/openapi.json"
    async with tenant.client() as client:
        for _ in range(20):  # so that there is a list of 500 KB to leave unread
            await notes.ask(client, "submit", "POST", "/v1/jobs", json=LARGEST)

    async def unread(number: int) -> None:
        asks = [anonymous.head("GET", bundle), anonymous.head("GET", document), tenant.head("GET", "/v1/jobs?limit=20")]
        await held(tenant, notes, "unread", asks[number % len(asks)])

    async def dribbled_head(number: int) -> None:
        who = (anonymous, tenant)[number % 2]
        await held(who, notes, "dribbled head", b"", who.head("GET", "/v1/queue")[:-2])

    async def dribbled_body(_: int) -> None:
        body = json.dumps(SMALL).encode()
        head = tenant.head("POST", "/v1/jobs", body)
        await held(tenant, notes, "dribbled body", head[: -len(body)], body)

    async def silent(_: int) -> None:
        await held(tenant, notes, "silent", b"")

    actions = {
        "unread": unread,
        "dribbled heads": dribbled_head,
        "dribbled bodies": dribbled_body,
        "silent connections": silent,
    }
    await at_once(tenant, actions, seconds, CONNECTIONS)


async def floods(tenant: Tenant, seconds: float, notes: Notes) -> None:
    """Submit, submit and cancel, list and read, in turn: more than may be kept, and more than may be asked."""
    async with tenant.client() as client:

        async def submit(number: int) -> None:
            await notes.ask(client, "submit", "POST", "/v1/jobs", json={"prompt": f"flood {number}", **SMALL})

        async def submit_and_cancel(_: int) -> None:
            await submit_canceled(client, notes, LARGEST)

        async def list_jobs(_: int) -> None:
            await notes.ask(client, "list", "GET", "/v1/jobs?limit=100")

        async def read(number: int) -> None:
            job = notes.accepted[number % len(notes.accepted)] if notes.accepted else "job_none"
            await notes.ask(client, "read", "GET", f"/v1/jobs/{job}")

        for turn in turns(seconds):
            await at_once(tenant, {"submits": submit}, turn)
            await at_once(tenant, {"submits and cancels": submit_and_cancel}, turn)
            await at_once(tenant, {"lists": list_jobs, "reads": read}, turn)


async def streams(tenant: Tenant, seconds: float, notes: Notes) -> None:
    """Open streams and waits, read and unread, all of one job that has others before it; then of the next one."""
    followed = ""
    async with tenant.client(CONNECTIONS) as client:

        async def choose(number: int) -> None:
            nonlocal followed
            body = {**SMALL, "prompt": f"to be followed {number}", "num_inference_steps": 8}
            await asyncio.gather(
                *(notes.ask(client, "submit", "POST", "/v1/jobs", json=body) for _ in range(FOLLOWED_BEHIND))
            )
            followed = notes.accepted[-1]

        async def stream(_: int) -> None:
            with contextlib.suppress(httpx.TransportError):
                async with client.stream("GET", f"/v1/jobs/{followed}/events") as response:
                    notes.answers[f"stream: {response.status_code}"] += 1
                    await response.aread()

        async def unread(_: int) -> None:
            await held(tenant, notes, "unread stream", tenant.head("GET", f"/v1/jobs/{followed}/events"))

        async def wait(_: int) -> None:
            await notes.ask(client, "wait", "GET", f"/v1/jobs/{followed}", headers={"Prefer": "wait=60"})

        await choose(0)
        async with asyncio.TaskGroup() as group:
            group.create_task(paced(1 / CHOICE_SECONDS, choose, seconds))
            actions = {"streams": stream, "unread streams": unread, "waits": wait}
            group.create_task(at_once(tenant, actions, seconds, CONNECTIONS))


async def replays(tenant: Tenant, seconds: float, notes: Notes) -> None:
    """Have the same large pictures sent again and again, and leave most of them unread."""
    again = {"Idempotency-Key": "again"}
    body = json.dumps(REPLAYED).encode()
    async with tenant.client() as client:
        drawn = await notes.ask(client, "first", "POST", REPLAYS, json=REPLAYED, headers=again)
        notes.told["bytes_of_an_answer"] = len(drawn.content) if drawn is not None else None

        async def unread(_: int) -> None:
            await held(tenant, notes, "unread replay", tenant.head("POST", REPLAYS, body, **again))

        async def read(_: int) -> None:
            await notes.ask(client, "replay", "POST", REPLAYS, json=REPLAYED, headers=again)

        await at_once(tenant, {"unread replays": unread, "replays": read}, seconds, CONNECTIONS)


async def dead_webhooks(tenant: Tenant, seconds: float, notes: Notes) -> None:
    """Name hosts that never resolve, that stop to, that never answer, and that answer no; end the jobs at once."""

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    async with (
        tenant.client() as client,
        await asyncio.get_running_loop().create_server(asyncio.Protocol, tenant.address, 0) as silent,
        await asyncio.start_server(refuse, tenant.address, 0) as refusing,
    ):

        def to(url: Callable[[], str]) -> Action:
            async def submit(number: int) -> None:
                body = {"prompt": f"webhook {number}", **SMALL, "webhook_url": url()}
                await submit_canceled(client, notes, body)

            return submit

        silent_port, refusing_port = (server.sockets[0].getsockname()[1] for server in (silent, refusing))
        actions = {
            "dead names": to(lambda: f"http://{secrets.token_hex(4)}{DEAD}:9/"),
            "names that die": to(lambda: f"http://{secrets.token_hex(4)}{LATE}:9/"),
            "silent hosts": to(lambda: f"http://{tenant.address}:{silent_port}/"),
            "refusing hosts": to(lambda: f"http://{tenant.address}:{refusing_port}/"),
        }
        await at_once(tenant, actions, seconds)


async def errors(tenant: Tenant, seconds: float, notes: Notes) -> None:
    """Send what can't be answered: broken bodies, long queries, no such routes, bad keys, garbage."""
    many_fields = json.dumps({f"{number:x}": 1 for number in range(6000)})
    asks: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v1/jobs", {"content": '{"prompt":'}),
        ("POST", "/v1/jobs", {"content": many_fields}),
        ("POST", "/v1/images/generations", {"content": many_fields}),
        ("POST", "/v1/jobs", {"content": "[" * 30_000 + "]" * 30_000}),
        ("POST", "/v1/jobs", {"content": json.dumps({"prompt": "\x01" * 2000})}),
        ("POST", "/v1/jobs", {"content": b"x" * 70_000}),
        ("POST", "/v1/jobs", {"content": b"\xff" * 1000, "headers": {"Content-Type": "image/png"}}),
        ("GET", "/v1/jobs?" + "&".join(f"{number:x}" for number in range(11_000)), {}),
        ("GET", "/v1/jobs?" + "&".join(f"{number:x}" for number in range(800)), {}),
        ("GET", "/v1/jobs?limit=100000&status=none&cursor=%00", {}),
        ("GET", "/v1/jobs/job_unknown/images/99", {}),
        ("GET", f"/{'no/such/route/' * 100}", {}),
        ("PATCH", "/v1/jobs", {}),
        ("DELETE", "/v1/jobs/job_unknown", {}),
        ("GET", "/v1/jobs", {"headers": {"Authorization": "Bearer zimage_wrong"}}),
        ("POST", "/v1/jobs", {"content": "{}", "headers": {"Authorization": "Basic eDp5"}}),
        ("GET", "/v1/queue", {"headers": {"Idempotency-Key": "x" * 20_000}}),
    ]
    garbage = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 20_000,
        b"GET /" + b"a" * 100_000,
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        tenant.head("GET", "/v1/queue") * 100,
    ]
    async with tenant.client() as client:

        async def refusal(number: int) -> None:
            method, path, request = asks[number % len(asks)]
            headers = {"Content-Type": "application/json"} if "content" in request else {}
            request = {**request, "headers": {**headers, **request.get("headers", {})}}
            await notes.ask(client, f"error {number % len(asks)}", method, path, **request)

        async def send_garbage(number: int) -> None:
            await held(tenant, notes, "garbage", garbage[number % len(garbage)])

        await at_once(tenant, {"refusals": refusal, "connections with garbage": send_garbage}, seconds, 1000)


async def at_once(tenant: Tenant, actions: Mapping[str, Action], seconds: float, under_way: int = 64) -> None:
    """Do all of these at the tenant's paces."""
    async with asyncio.TaskGroup() as group:
        for name, act in actions.items():
            group.create_task(paced(PACES[tenant.name][name], act, seconds, under_way))


def turns(seconds: float) -> list[float]:
    """Return the seconds of each turn, where three make a round."""
    rounds = max(1, round(seconds / (3 * TURN_SECONDS)))
    return [seconds / (3 * rounds)] * rounds


async def submit_canceled(client: httpx.AsyncClient, notes: Notes, body: Mapping[str, Any]) -> None:
    """Submit a job and cancel it."""
    response = await notes.ask(client, "submit", "POST", "/v1/jobs", json=body)
    if response is not None and response.status_code == 202:
        await notes.ask(client, "cancel", "POST", f"/v1/jobs/{response.json()['id']}/cancel")


async def held(tenant: Tenant, notes: Notes, what: str, begin: bytes, byte_by_byte: bytes = b"") -> None:
    """Hold a connection from which nothing is read, until the service ends it, but not for ever.

    Args:
        tenant: whose.
        notes: count it.
        what: it is counted as.
        begin: what is sent at once.
        byte_by_byte: what is sent afterwards, slowly.
    """
    loop = asyncio.get_running_loop()
    try:
        connection = await tenant.connect()
    except OSError as error:
        notes.answers[f"{what}: {type(error).__name__}"] += 1
        return
    try:
        async with asyncio.timeout(HELD_SECONDS):
            await loop.sock_sendall(connection, begin)
            for byte in byte_by_byte:
                await asyncio.sleep(DRIBBLE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311
                await loop.sock_sendall(connection, bytes([byte]))
            while not is_over(connection):
                await asyncio.sleep(1)
        notes.answers[f"{what}: ended by the service"] += 1
    except TimeoutError:
        notes.answers[f"{what}: held for {HELD_SECONDS:.0f} s"] += 1
    except OSError as error:
        notes.answers[f"{what}: {type(error).__name__}"] += 1
    finally:
        connection.close()


def is_over(connection: socket.socket) -> bool:
    """Tell whether the other side has closed or reset a connection; nothing is read from it."""
    events = select.poll()
    events.register(connection, select.POLLRDHUP)
    return bool(events.poll(0))


HOSTILE: Mapping[str, Behaviour] = {
    "slow-readers": slow_readers,
    "floods": floods,
    "streams": streams,
    "replays": replays,
    "dead-webhooks": dead_webhooks,
    "errors": errors,
}
