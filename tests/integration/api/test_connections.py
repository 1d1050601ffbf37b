"""Clients that send endless or slow request heads, bodies and trailers, over real sockets."""

import contextlib
import gc
import json
import re
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from api.app import create_app
from api.http import connections, middleware, room, unsent
from cli.stack import Stack
from support.operating import service
from support.waiting import wait_until


@pytest.fixture
def address(servers: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """An API, in this process so that its patience can be short."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(connections, "LINGER_SECONDS", 2.0)
    monkeypatch.setattr(middleware, "BODY_SECONDS", 1.0)
    monkeypatch.setattr(unsent, "TAKE_SECONDS", 1.0)
    monkeypatch.setattr(unsent, "LOOK_SECONDS", 0.2)
    for name, value in servers.environ().items():
        monkeypatch.setenv(name, value)
    with service(servers) as running:
        app = create_app(running.settings)
        config = uvicorn.Config(
            app, http=connections.protocol(), ws="none", port=0, log_config=None, timeout_keep_alive=2
        )
        api = uvicorn.Server(config)
        thread = threading.Thread(target=api.run)
        thread.start()
        while not api.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield api.servers[0].sockets[0].getsockname()[:2]
        api.should_exit = True
        thread.join()


CHUNKED = b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"


@pytest.mark.parametrize(
    "beginning",
    [b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ", CHUNKED + b"X-Long: "],
    ids=["header", "trailer"],
)
def test_an_endless_header_is_cut_off(address: tuple[str, int], beginning: bytes) -> None:
    sent = 0
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(beginning)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            while sent < 100_000_000:
                sent += client.send(b"a" * 65536)
    assert sent < 20_000_000  # what the kernel's buffers took


def test_a_large_head_is_told_so(address: tuple[str, int]) -> None:
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as http:
        answer = http.get("/livez", headers={"X-Long": "a" * 1_000_000})
        assert (answer.status_code, "headers have more than 65536 bytes" in answer.text) == (400, True)
        assert http.get("/livez", headers={"X-Long": "a" * 32768}).status_code == 200


@pytest.mark.parametrize("head", [b"", b"GET /livez HTTP/1.1\r\nHost: 127.", CHUNKED + b"X-Slow: "])
def test_a_head_that_does_not_come_is_not_waited_for(address: tuple[str, int], head: bytes) -> None:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(head)
        assert client.recv(1024) == b""


def ask(client: socket.socket) -> None:
    """Send a request and read its whole answer, which may come in pieces."""
    client.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 ")
    while not answer.endswith(b"}"):
        answer += client.recv(65536)


def test_empty_lines_keep_no_connection_open(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as client:
        ask(client)
        client.sendall(b"\r\n")  # begins no request
        assert client.recv(1024) == b""


@pytest.mark.parametrize("used", [False, True])
def test_idle_connections_make_room(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch, used: bool) -> None:
    """So that who keeps many open for as long as they may be doesn't keep others out."""
    monkeypatch.setattr(room, "most_connections", lambda: 3)
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(5):
            clients.append(stack.enter_context(socket.create_connection(address, timeout=1.5)))
            if used:
                ask(clients[-1])
        for client in clients[:2]:
            assert client.recv(1024) == b""
        ask(clients[-1])


@pytest.mark.parametrize("begun", [b"", b'{"prompt": '])
def test_a_body_that_does_not_come_is_not_waited_for(address: tuple[str, int], begun: bytes) -> None:
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(head + begun)
        answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"body_timeout"' in answer


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
@pytest.mark.parametrize("chunked", [False, True])
def test_an_upgrade_is_ignored(address: tuple[str, int], protocol: str, chunked: bool) -> None:
    """As curl's --http2 and Java's HttpClient ask for one."""
    headers = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": protocol,
        "HTTP2-Settings": "AAMAAABkAAQAAP__",
        "Content-Type": "application/json",
    }
    body = json.dumps({"prompt": "a cat", "width": 64, "height": 64}).encode()
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}", headers=headers) as http:
        for _ in range(2):
            answer = http.post("/v1/jobs", content=(bytes([byte]) for byte in body) if chunked else body)
            assert answer.status_code == 202
            assert answer.json()["input"]["prompt"] == "a cat"
        assert len(http.get("/v1/jobs").json()["jobs"]) == 2


def reads_little(address: tuple[str, int], request: bytes) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    client.settimeout(10)
    client.connect(address)
    client.sendall(request)
    return client


def ended(client: socket.socket) -> bool:
    """Tell whether the other side has given a connection up, without reading from it."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) != bytes([1])  # TCP_ESTABLISHED


LARGE = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: 127.0.0.1\r\n%b\r\n"


@pytest.mark.parametrize("request_", [LARGE % b"", LARGE % b"Connection: close\r\n", LARGE % b"" * 3])
def test_who_takes_nothing_is_given_up_and_who_is_slow_is_not(address: tuple[str, int], request_: bytes) -> None:
    with reads_little(address, request_) as stuck, reads_little(address, request_) as slow:
        while not ended(stuck):
            assert slow.recv(20_000)
            time.sleep(0.05)
        for _ in range(20):
            assert slow.recv(20_000)


def test_where_too_much_waits_to_be_sent_those_stuck_longest_end(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unsent, "MOST_BYTES", 500_000)
    monkeypatch.setattr(unsent, "TAKE_SECONDS", 1000)
    with contextlib.ExitStack() as kept:
        clients = []
        for _ in range(12):
            clients.append(kept.enter_context(reads_little(address, LARGE % b"")))
            assert clients[-1].recv(1) == b"H"
        states = [ended(client) for client in clients]
        assert states == sorted(states, reverse=True)
        assert (states[0], states[-1]) == (True, False)
        assert httpx.get(f"http://{address[0]}:{address[1]}/openapi.json").json()["openapi"]


BODY_TO_COME = b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\nX-Forwarded-For: %b\r\n\r\n"


def test_a_client_behind_a_proxy_has_so_many_requests(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An IPv6 address is one of many that its client has."""
    monkeypatch.setattr(room, "_most_of_one", lambda _: 2)
    monkeypatch.setattr(middleware, "BODY_SECONDS", 30.0)

    def ask_as(client: str) -> int:
        headers = {"X-Forwarded-For": client}
        return httpx.get(f"http://{address[0]}:{address[1]}/v1/queue", headers=headers).status_code

    with socket.create_connection(address) as one, socket.create_connection(address) as other:
        one.sendall(BODY_TO_COME % b"2001:db8::1")
        other.sendall(BODY_TO_COME % b"2001:db8::2")
        wait_until(lambda: ask_as("2001:db8::3") == 503)
        assert [ask_as("2001:db8:0:1::1"), ask_as("203.0.113.7")] == [200, 200]
    wait_until(lambda: ask_as("2001:db8::3") == 200)


def test_a_client_has_so_many_connections_and_idle_ones_make_room(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "203.0.113.1")
    monkeypatch.setattr(room, "_most_of_one", lambda _: 2)
    address = request.getfixturevalue("address")
    monkeypatch.setattr(middleware, "BODY_SECONDS", 30.0)
    with contextlib.ExitStack() as kept:
        idle, *busy = (kept.enter_context(socket.create_connection(address, timeout=10)) for _ in range(3))
        assert idle.recv(1) == b""
        for client in busy:
            client.sendall(BODY_TO_COME % b"203.0.113.7")
        time.sleep(0.1)
        with httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as http:
            assert [http.get(path).status_code for path in ("/livez", "/v1/queue", "/livez")] == [200, 503, 200]


def test_pipelined_requests_wait_unread(address: tuple[str, int]) -> None:
    """Read, each would take kilobytes."""
    gc.collect()
    before = sum(type(thing) is RequestResponseCycle for thing in gc.get_objects())
    with reads_little(address, LARGE % b"") as client:
        client.sendall(20_000 * b"GET /livez HTTP/1.1\r\nHost: ::1\r\n\r\n")  # most of which the kernel keeps
        time.sleep(0.3)
        assert sum(type(thing) is RequestResponseCycle for thing in gc.get_objects()) - before < 50


def test_very_many_headers_are_refused(address: tuple[str, int]) -> None:
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as http:
        answer = http.get("/livez", headers=[("a", "")] * 300)
        assert (answer.status_code, answer.text) == (400, "The request has more than 256 headers.")
        assert http.get("/livez", headers=[("a", "")] * 100).status_code == 200


def test_pipelined_requests_that_ask_for_upgrades_are_all_answered(address: tuple[str, int]) -> None:
    ask = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: upgrade\r\nUpgrade: foo\r\n"
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(500 * (ask + b"\r\n") + ask.replace(b"upgrade", b"upgrade, close") + b"\r\n")
        answers = b"".join(iter(lambda: client.recv(65536), b""))
    assert answers.count(b"HTTP/1.1 200 ") == 501


def test_a_tunnel_is_refused_once_and_requests_go_on(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(b"CONNECT /v1/queue HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        client.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        answers = b"".join(iter(lambda: client.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"405", b"200"]


EARLY = {
    "no route": b"POST /v1/nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2000000\r\n\r\n",
    "no route, chunked": b"POST /v1/nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "too large": b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2000000\r\n\r\n",
}


def drip(client: socket.socket) -> None:
    for _ in range(300):
        client.sendall(b"1\r\na\r\n")
        time.sleep(0.1)


@pytest.mark.parametrize("head", EARLY.values(), ids=EARLY)
def test_who_was_answered_can_not_go_on_sending(address: tuple[str, int], head: bytes) -> None:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(head)
        answer = b"".join(iter(lambda: client.recv(65536), b""))  # to its end
        assert answer.startswith(b"HTTP/1.1 4")
        assert b"\r\nconnection: close\r\n" in answer
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            drip(client)


def test_who_sends_all_of_a_large_body_is_answered(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(EARLY["no route"])
        time.sleep(0.5)  # it is answered meanwhile
        client.sendall(2_000_000 * b"a")
        assert client.recv(65536).startswith(b"HTTP/1.1 404 ")


def posts_ended(http: httpx.Client) -> float:
    lines = http.get("/metrics").text.splitlines()
    counts = [line for line in lines if line.startswith("zimage_http_request_seconds_count") and '"POST"' in line]
    return sum(float(line.split()[-1]) for line in counts)


@pytest.mark.parametrize("framing", ["Content-Length: 100\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n2e\r\n"])
def test_a_request_that_is_cut_off_is_no_job(address: tuple[str, int], framing: str) -> None:
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{framing}"
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as http:
        before = posts_ended(http)
        with socket.create_connection(address, timeout=10) as client:
            client.sendall(head.encode() + b'{"prompt": "a cat", "width": 64, "height": 64}')
        deadline = time.monotonic() + 30
        while posts_ended(http) == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert http.get("/v1/jobs").json()["jobs"] == []


def test_trailers_are_no_headers(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(CHUNKED + b"X-Request-ID: smuggled\r\n\r\n")
        answer = client.recv(65536)
    assert answer.startswith(b"HTTP/1.1 415 ")  # it was read to its end
    assert b"smuggled" not in answer


def test_a_body_in_many_chunks_is_read_whole(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 30.0)  # a busy machine takes more than one for so many
    body = json.dumps({"prompt": "a cat", "width": 64, "height": 64, "metadata": {"note": 4000 * "x"}}).encode()
    chunks = (bytes([byte]) for byte in body)
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"http://{address[0]}:{address[1]}/v1/jobs", content=chunks, headers=headers)
    assert answer.status_code == 202


def test_a_connection_that_is_used_again_is_not_ended(address: tuple[str, int]) -> None:
    with httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as http:
        for _ in range(4):
            assert http.get("/livez").status_code == 200
            time.sleep(0.5)
        (connection,) = http._transport._pool.connections  # type: ignore[attr-defined]
        assert "Request Count: 4" in repr(connection)
