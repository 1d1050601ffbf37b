"""Clients that read nothing, and an S3 that answers nothing: what they cost others, in a real API process."""

import hashlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from cli.stack import Stack, ports
from jobs.record import ImageRecord
from support.operating import Service, service
from support.waiting import wait_until

OPEN_FILES = 1000
PICTURES = 8
PICTURE_BYTES = 350_000
KEYED = {"Idempotency-Key": "same"}
ASKED = {"prompt": "a cat", "size": "64x64", "n": PICTURES}


@dataclass
class Api:
    """An API process that may open few files, its service, and the answer to `ASKED`."""

    service: Service
    process: subprocess.Popen[bytes]
    address: tuple[str, int]
    drawn: str
    answer: bytes

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    @property
    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    @property
    def memory(self) -> int:
        """Bytes in use."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024

    def unread(self, request: bytes, kept: ExitStack) -> socket.socket:
        """Send a request whose answer is not read, and of which the kernel takes little."""
        client = kept.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        client.settimeout(10)
        client.connect(self.address)
        client.sendall(request)
        return client


@pytest.fixture(scope="module")
def api(servers: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    (port,) = ports.assign(tmp_path_factory.mktemp("slow") / "ports.json", ["api"]).values()
    with service(servers) as own, ThreadPoolExecutor(1) as pool:
        command = ["sh", "-c", f'ulimit -n {OPEN_FILES}; exec "$0" -m cli.main api', sys.executable]
        env = {**os.environ, **own.environ, "ZIMAGE_PORT": str(port)}
        with subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL) as process:
            try:
                address = ("127.0.0.1", port)
                wait_until(lambda: socket.socket().connect_ex(address) == 0)
                url = f"http://127.0.0.1:{port}/v1/images/generations"
                asked = pool.submit(httpx.post, url, json=ASKED, headers=KEYED, timeout=60)
                claim = wait_until(lambda: own.worker.claim("worker-1", 0, alone=True))
                images = []
                for index in range(PICTURES):
                    png, key = os.urandom(PICTURE_BYTES), own.images.key(claim.job.id, claim.job.attempt, index)
                    own.images.put_png(key, png)
                    digest = hashlib.sha256(png).hexdigest()
                    images.append(
                        ImageRecord(index=index, seed=1, width=64, height=64, bytes=len(png), sha256=digest, key=key)
                    )
                own.worker.commit(claim, images, {}, 0, [])
                answer = asked.result()
                assert answer.status_code == 200, answer.text
                yield Api(own, process, address, claim.job.id, answer.content)
            finally:
                process.terminate()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_livez_answers_while_1050_answers_are_not_read(api: Api) -> None:
    request = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with ExitStack() as kept, httpx.Client(base_url=api.url, timeout=10) as probe:
        for count in range(1050):
            api.unread(request, kept)
            if count % 50 == 0:
                assert httpx.get(f"{api.url}/livez", timeout=10).status_code == 200
        for path in ("/livez", "/metrics", "/v1/queue"):
            assert probe.get(path).status_code == 200
        assert api.open_files < OPEN_FILES * 9 // 10


def test_where_connections_fill_the_room_the_probes_are_answered_and_others_told_to_come_back(api: Api) -> None:
    with ExitStack() as kept, httpx.Client(base_url=api.url, timeout=10) as probe:
        for count in range(1050):
            api.unread(b"GET /v1/queue HTTP/1.1\r\n", kept)
            if count % 50 == 0:  # by then those before it are accepted, and out of the kernel's short queue
                assert httpx.get(f"{api.url}/livez", timeout=10).status_code == 200
        for path in ("/livez", "/metrics"):
            assert probe.get(path).status_code == 200
        refused = probe.get("/v1/queue")
        assert (refused.status_code, refused.json()["code"]) == (503, "too_many_connections")
        assert int(refused.headers["Retry-After"]) > 0
        assert api.open_files < OPEN_FILES * 9 // 10
    wait_until(lambda: httpx.get(f"{api.url}/v1/queue").status_code == 200)


def test_a_static_file_that_is_not_read_is_one_open_file(api: Api) -> None:
    request = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    before = api.open_files
    with ExitStack() as kept:
        for _ in range(100):
            assert api.unread(request, kept).recv(1) == b"H"
        assert api.open_files - before <= 100


def replay(api: Api) -> bytes:
    body = httpx.Request("POST", api.url, json=ASKED).read()
    return (
        b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nIdempotency-Key: same\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


def readable(clients: list[socket.socket]) -> list[socket.socket]:
    return select.select(clients, [], [], 0)[0]


def test_replays_that_are_not_read_hold_little(api: Api) -> None:
    request = replay(api)
    before = api.memory
    with ExitStack() as kept:
        clients = [api.unread(request, kept) for _ in range(40)]
        wait_until(lambda: len(readable(clients)) == 32)  # as many as one key may have at once
        assert api.memory - before < 6 * len(api.answer)
        left = readable(clients)[:3]
        for client in left:
            client.close()
        waiting = [client for client in clients if client not in left]
        wait_until(lambda: len(readable(waiting)) == 32)
        assert {client.recv(12) for client in readable(waiting)} == {b"HTTP/1.1 200"}
    again = httpx.post(f"{api.url}/v1/images/generations", json=ASKED, headers=KEYED, timeout=30)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.content == api.answer


def test_an_answer_whose_picture_is_lost_is_no_whole_one(api: Api) -> None:
    lost = api.service.images.key(api.drawn, 1, PICTURES - 1)
    png = api.service.images.get_png(lost, PICTURE_BYTES)
    with ExitStack() as kept:
        client = api.unread(replay(api), kept)
        begun = client.recv(1)
        try:
            api.service.images.removal.remove([lost])
            rest = b"".join(iter(lambda: client.recv(65536), b""))
            again = httpx.post(f"{api.url}/v1/images/generations", json=ASKED, headers=KEYED, timeout=30)
        finally:
            api.service.images.put_png(lost, png)
    head, _, body = (begun + rest).partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(api.answer) in head
    assert len(body) < len(api.answer)
    assert api.answer.startswith(body)
    assert (again.status_code, again.json()["error"]["code"]) == (503, "storage_unavailable")


@contextmanager
def hanging(process: int) -> Iterator[None]:
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def test_a_job_with_a_picture_is_read_while_s3_hangs_and_many_ask_for_readiness(api: Api, servers: Stack) -> None:
    with ThreadPoolExecutor(40) as pool, hanging(servers.pids()["s3"]):
        asked = [pool.submit(httpx.get, f"{api.url}/readyz", timeout=20) for _ in range(40)]
        time.sleep(0.5)
        job = httpx.get(f"{api.url}/v1/jobs/{api.drawn}", timeout=2).json()
        assert not any(answer.done() for answer in asked)
    assert len(job["images"]) == PICTURES
    assert {answer.result().status_code for answer in asked} == {200}
