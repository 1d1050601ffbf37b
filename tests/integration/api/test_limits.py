"""What one key, and one address without a key, may ask of an API process; and that another never notices."""

import asyncio
import contextlib
import hashlib
import resource
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from cli.stack import Stack
from jobs.keys import KeysFile
from jobs.store import scripts
from support.operating import Service, service
from support.serving_api import serving
from support.waiting import wait_until

SMALL = {"prompt": "a cat", "width": 64, "height": 64}
STREAMS = 1250


@pytest.fixture(scope="module")
def own(servers: Stack) -> Iterator[Service]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in servers.environ().items():
            patch.setenv(name, value)  # the key pair that signs the images' URLs
        with service(servers) as running:
            yield running


@pytest.fixture
def file(tmp_path: Path) -> KeysFile:
    return KeysFile(tmp_path / "keys.json")


@pytest.fixture
def limited(own: Service, tmp_path: Path) -> Callable[..., TestClient]:
    """Return what makes an API with keys and these settings."""

    def make(**settings: Any) -> TestClient:
        settings = {"api_keys_file": tmp_path / "keys.json", **settings}
        return TestClient(create_app(own.settings.model_copy(update=settings)), base_url="http://127.0.0.1")

    return make


def bearer(file: KeysFile, name: str) -> dict[str, str]:
    """Make a key and return its header."""
    return {"Authorization": f"Bearer {file.create(name)}"}


# --- event streams and waits -----------------------------------------------------------------------------------------


class Stream:
    """One event stream, over a socket of its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0

    async def until(self, told: str) -> None:
        """Read on until the job's status is told."""
        async with asyncio.timeout(60):
            await self._reader.readuntil(f'"status":"{told}"'.encode())

    def close(self) -> None:
        self._writer.close()


@contextlib.asynccontextmanager
async def streams(http: httpx.Client, job_id: str, headers: dict[str, str]) -> AsyncIterator[list[Stream]]:
    """Open as many as would take all of a process's files, and give those that were let in."""

    async def opened() -> Stream:
        reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port, limit=2**20)
        lines = [f"GET /v1/jobs/{job_id}/events HTTP/1.1", "Host: 127.0.0.1", *map(": ".join, headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        stream = Stream(reader, writer)
        stream.status = int((await reader.readline()).split()[1])
        if stream.status == 429:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert b"retry-after: " in head
            stream.close()
        return stream

    every = await asyncio.gather(*(opened() for _ in range(STREAMS)))
    assert {stream.status for stream in every} == {200, 429}
    let_in = [stream for stream in every if stream.status == 200]
    yield let_in
    for stream in let_in:
        stream.close()


@contextlib.contextmanager
def reads_counted(own: Service, job_id: str) -> Iterator[list[str]]:
    """Give a list that has one entry for each time that Redis was asked for the job, once the context has ended."""
    sha = hashlib.sha1(scripts.source("read").encode(), usedforsecurity=False).hexdigest()
    seen: list[str] = []
    end = secrets.token_hex(8)
    with own.redis.monitor() as monitor:
        yield seen
        own.redis.echo(end)
        for heard in monitor.listen():
            if end in heard["command"]:
                return
            if sha in heard["command"] and job_id in heard["command"]:
                seen.append(heard["command"])


def test_one_key_s_streams_keep_nobody_out_and_cost_one_read_a_change(
    own: Service, file: KeysFile, tmp_path: Path
) -> None:
    keys = {name: bearer(file, name) for name in ("alice", "bob")}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))  # both ends of each are here
    changed = {"api_keys_file": tmp_path / "keys.json", "refusals_per_second": 1000, "streams_per_key": 100}
    with serving(own.settings.model_copy(update=changed)) as http:
        job = http.post("/v1/jobs", json=SMALL, headers=keys["alice"]).json()["id"]
        claim = own.claim()

        async def follow() -> None:
            async with streams(http, job, keys["alice"]) as let_in:
                assert len(let_in) == 100
                await asyncio.gather(*(stream.until("running") for stream in let_in))
                await asyncio.to_thread(others_are_served)
                with reads_counted(own, job) as reads:
                    assert own.commit(claim) == "succeeded"
                    await asyncio.gather(*(stream.until("succeeded") for stream in let_in))
                assert len(reads) == 1

        def others_are_served() -> None:
            waits = {**keys["alice"], "Prefer": "wait=60"}
            refused = http.get(f"/v1/jobs/{job}", headers=waits)
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
            assert int(refused.headers["retry-after"]) >= 1
            drawn = http.post("/v1/images/generations", json={"prompt": "a cat"}, headers=keys["alice"])
            assert (drawn.status_code, drawn.json()["error"]["code"]) == (429, "too_many_streams")
            assert http.get(f"/v1/jobs/{job}", headers=keys["alice"]).json()["status"] == "running"  # it may poll
            bob_follows_a_job_of_his()

        def bob_follows_a_job_of_his() -> None:
            bob = {"headers": keys["bob"]}
            url = http.post("/v1/jobs", json=SMALL, **bob).json()["urls"]["self"]  # type: ignore[arg-type]
            with (
                ThreadPoolExecutor(1) as pool,
                http.stream("GET", f"{url}/events", **bob) as events,  # type: ignore[arg-type]
            ):
                lines = events.iter_lines()
                assert any('"status":"queued"' in line for line in lines)
                wait = pool.submit(http.get, url, headers={**keys["bob"], "Prefer": "wait=60"})
                http.post(f"{url}/cancel", **bob)  # type: ignore[arg-type]
                assert wait.result().json()["status"] == "canceled"
                assert any('"status":"canceled"' in line for line in lines)

        asyncio.run(follow())
        again = {**keys["alice"], "Prefer": "wait=1"}
        other = http.post("/v1/jobs", json=SMALL, headers=keys["alice"]).json()["urls"]["self"]
        wait_until(lambda: http.get(other, headers=again).status_code == 200)


# --- refusals --------------------------------------------------------------------------------------------------------

JSON = {"Content-Type": "application/json"}
REFUSED = [  # what is wrong with the request, and what it is answered with
    (404, "GET", "/v1/jobs/job_0", {}),
    (404, "GET", "/v1/nothing", {}),
    (405, "PUT", "/v1/jobs", {}),
    (400, "POST", "/v1/jobs", {"content": "{", "headers": JSON}),
    (413, "POST", "/v1/jobs", {"content": "a" * 70_000, "headers": JSON}),
    (415, "POST", "/v1/jobs", {"content": "{}", "headers": {"Content-Type": "text/plain"}}),
    (422, "POST", "/v1/jobs", {"json": {"promt": "a cat"}}),
    (422, "GET", "/v1/jobs?stat=1", {}),
    (400, "POST", "/v1/images/generations", {"json": {"size": "1x"}}),
    (414, "GET", f"/v1/jobs?{'a&' * 3000}", {}),
]


def test_a_key_that_is_refused_too_often_is_told_so(limited: Callable[..., TestClient], file: KeysFile) -> None:
    bob = bearer(file, "bob")
    with limited(refusals_per_second=1) as http:
        for number, (status, method, path, more) in enumerate(REFUSED):
            key = bearer(file, f"alice-{number}")
            more = {**more, "headers": {**more.get("headers", {}), **key}}
            answers = [http.request(method, path, **more).status_code for _ in range(12)]
            assert (answers[:9], answers[-1]) == ([status] * 9, 429)
            told = http.get("/v1/queue", headers=key)
            assert (told.status_code, told.json()["code"]) == (429, "too_many_refusals")
            assert told.headers["content-type"] == "application/problem+json"
            assert int(told.headers["retry-after"]) >= 1
        drawn = http.post("/v1/images/generations", json={"prompt": "a cat"}, headers=key)
        assert (drawn.status_code, drawn.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(drawn.headers["retry-after"]) >= 1
        for probe in ("/livez", "/readyz", "/metrics"):
            assert http.get(probe, headers=key).status_code == 200
        assert http.get("/v1/queue", headers=bob).status_code == 200


def test_strangers_hurt_no_valid_key_of_the_same_address(limited: Callable[..., TestClient], file: KeysFile) -> None:
    alice = bearer(file, "alice")
    with limited(refusals_per_second=1) as http:
        strange = [http.get("/v1/jobs", headers={"Authorization": f"Bearer {n}"}) for n in range(12)]
        assert [answer.status_code for answer in strange[:9]] == [401] * 9
        assert (strange[-1].status_code, strange[-1].json()["code"]) == (429, "too_many_refusals")
        assert http.get("/v1/jobs", headers=alice).status_code == 200
        assert http.post("/v1/jobs", json=SMALL, headers=alice).status_code == 202
        assert http.get("/").status_code == 200  # the page on which a key is entered


def test_a_refusal_is_small_whatever_was_wrong(limited: Callable[..., TestClient]) -> None:
    bodies: list[dict[str, Any]] = [
        {"a" * 60_000: 1},
        {f"{number}" * 700: 1 for number in range(10, 40)},
        {f"{number:x}": 1 for number in range(6000)},
        {"prompt": "x", "metadata": {f"{number:x}": 1 for number in range(6000)}},
        {"prompt": "x", "metadata": {"a" * 60_000: 1}},
        {"prompt": "x", "model": "m" * 60_000},
        {"prompt": "x", "webhook_url": f"https://{'h' * 60_000}/"},
        {"prompt": "x", "priority": "p" * 60_000},
    ]
    with limited(api_keys_file=None) as http:
        answers = [http.post(path, json=body) for path in ("/v1/jobs", "/v1/images/generations") for body in bodies]
        answers += [http.post("/v1/jobs", content="{}", headers={"Content-Encoding": "g" * 60_000})]
        assert {answer.status_code for answer in answers} <= {400, 404, 415, 422}
        assert max(len(answer.content) for answer in answers) < 16_000


# --- reads -----------------------------------------------------------------------------------------------------------


def test_reads_have_a_rate_and_a_list_counts_for_its_length(limited: Callable[..., TestClient], file: KeysFile) -> None:
    alice, bob = ({"headers": bearer(file, name)} for name in ("alice", "bob"))
    with limited(reads_per_second=4) as http:
        url = http.post("/v1/jobs", json=SMALL, **alice).json()["urls"]["self"]
        reads = [
            "/v1/jobs?limit=50",
            *(8 * [url, "/v1/queue"]),
            "/v1/jobs",
            "/v1/jobs?limit=1",
            "/v1/jobs?limit=%20100",
        ]
        assert {http.get(read, **alice).status_code for read in reads} == {200}
        for read in (url, "/v1/queue", "/v1/jobs", f"{url}/events", f"{url}/images/0"):
            refused = http.get(read, **alice)
            assert (refused.status_code, refused.json()["code"]) == (429, "too_many_reads")
            assert int(refused.headers["retry-after"]) >= 1
        assert http.get("/v1/models", **alice).json()["error"]["code"] == "too_many_reads"
        assert http.post("/v1/jobs", json=SMALL, **alice).status_code == 202
        assert http.get("/v1/jobs", **bob).status_code == 200
        assert http.get("/livez", **alice).status_code == 200


def test_without_keys_each_address_has_its_own(limited: Callable[..., TestClient]) -> None:
    with limited(api_keys_file=None, reads_per_second=1) as http:
        answers = [http.get("/v1/queue") for _ in range(12)]
        assert (answers[0].status_code, answers[-1].status_code) == (200, 429)
        with TestClient(http.app, base_url="http://127.0.0.1", client=("192.0.2.1", 50_000)) as other:
            assert other.get("/v1/queue").status_code == 200
