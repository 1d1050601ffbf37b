"""Both clients' patience and their errors, against a small HTTP server that answers what a test tells it to."""

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import pytest

from zimage import AsyncZImageClient, Image, ServiceError, ZImageClient, retries

QUEUED = {"id": "job_1", "status": "queued"}


@dataclass
class Answer:
    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    hang_up: bool = False  # close the connection without an answer


class Script(ThreadingHTTPServer):
    """Gives its answers one after another, and remembers the requests."""

    def __init__(self, port: int = 0) -> None:
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Script

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.command, self.path, headers, body))
        answer = self.server.answers.pop(0)
        if answer.hang_up:
            self.close_connection = True
            return
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextmanager
def serving(port: int = 0) -> Iterator[Script]:
    with Script(port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def script() -> Iterator[Script]:
    with serving() as server:
        yield server


class Driven:
    """`AsyncZImageClient`, with its methods as `ZImageClient` has them."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self._client = AsyncZImageClient(url, key)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.run(self._client.__aenter__())
        return self

    def __exit__(self, *raised: Any) -> None:
        self._runner.run(self._client.__aexit__(*raised))
        self._runner.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def method(*args: Any, **kwargs: Any) -> Any:
            answer = getattr(self._client, name)(*args, **kwargs)
            return self._runner.run(collected(answer) if isinstance(answer, AsyncIterator) else answer)

        return method


async def collected(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


Client = ZImageClient | Driven
Connect = Callable[..., Client]


@pytest.fixture(params=[ZImageClient, Driven], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Connect:
    monkeypatch.setattr(retries, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(retries, "STRANGER_SECONDS", 0.2)
    chosen: Connect = request.param
    return chosen


@pytest.fixture
def client(script: Script, connect: Connect) -> Iterator[Client]:
    with connect(script.url, key="secret") as running:
        yield running


def test_submit_survives_lost_connections_and_a_busy_service_under_one_key(script: Script, client: Client) -> None:
    script.answers = [
        Answer(0, hang_up=True),
        Answer(503, {}, {"Retry-After": "0"}),
        Answer(429, {}, {"Retry-After": "0"}),
        Answer(202, QUEUED),
    ]
    assert client.submit({"prompt": "a cat"}) == QUEUED
    assert len({headers["idempotency-key"] for _, _, headers, _ in script.requests}) == 1
    assert {body for _, _, _, body in script.requests} == {b'{"prompt":"a cat"}'}
    assert script.requests[0][:2] == ("POST", "/v1/jobs")
    assert script.requests[0][2]["authorization"] == "Bearer secret"


def test_each_submit_has_its_own_key(script: Script, client: Client) -> None:
    script.answers = [Answer(202, QUEUED)] * 2
    client.submit({"prompt": "a cat"})
    client.submit({"prompt": "a cat"})
    first, second = (headers["idempotency-key"] for _, _, headers, _ in script.requests)
    assert first != second


def test_a_key_with_a_line_end_is_sent_without(script: Script, connect: Connect) -> None:
    script.answers = [Answer(200, QUEUED)]
    with connect(script.url, key=" zimage_abc\r\n") as client:
        client.get("job_1")
    assert script.requests[0][2]["authorization"] == "Bearer zimage_abc"


@pytest.mark.parametrize("key", ["zimage_abc\nzimage_def", "zimage_abcü", "zimage_abc\x00"])
def test_a_key_that_no_header_takes_is_refused_without_repeating_it(connect: Connect, key: str) -> None:
    with pytest.raises(ServiceError, match="the API key can't be sent") as caught:
        connect("http://127.0.0.1:1", key=key)
    assert "zimage_abc" not in str(caught.value)


@pytest.mark.parametrize("key", ["order 7\n", "bestellung-ü"])
def test_an_idempotency_key_that_no_header_takes_is_refused(script: Script, client: Client, key: str) -> None:
    with pytest.raises(ServiceError, match="the idempotency_key can't be sent"):
        client.submit({"prompt": "a cat"}, idempotency_key=key)
    assert script.requests == []


def test_a_refusal_carries_the_problem(script: Script, client: Client) -> None:
    problem = {"code": "invalid_request", "detail": "/width: too wide", "status": 422, "request_id": "req_7"}
    script.answers = [Answer(422, problem)]
    with pytest.raises(ServiceError, match=r"/width: too wide \(request req_7\)") as caught:
        client.submit({"prompt": "a cat"})
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (422, "invalid_request", "req_7")
    assert len(script.requests) == 1


def test_a_refusal_in_openai_s_shape_carries_its_advice(script: Script, client: Client) -> None:
    advice = "GET /models/v1/jobs/job_1 is not supported: OpenAI's clients need base_url=http://host/v1"
    error = {"message": advice, "type": "invalid_request_error", "param": None, "code": "not_found"}
    script.answers = [Answer(404, {"error": error}), Answer(401, {"error": {**error, "code": "invalid_api_key"}})]
    with pytest.raises(ServiceError, match="base_url=http://host/v1") as caught:
        client.get("job_1")
    assert (caught.value.status, caught.value.code) == (404, "not_found")
    with pytest.raises(ServiceError, match="name one with --key or ZIMAGE_API_KEY"):
        client.get("job_1")


@pytest.mark.parametrize("below", ["", "/", "/v1", "/V1/", "//v1//", "/v1/v1", "/v1/V1"])
def test_the_service_s_address_may_end_with_that_of_its_api(script: Script, connect: Connect, below: str) -> None:
    script.answers = [Answer(200, QUEUED)] * 2
    for prefix in ("", "/zimage"):
        with connect(f"{script.url}{prefix}{below}") as client:
            client.get("job_1")
    assert [path for _, path, _, _ in script.requests] == ["/v1/jobs/job_1", "/zimage/v1/jobs/job_1"]


@pytest.mark.parametrize(
    ("job_id", "path"), [("../queue", "..%2Fqueue"), ("job_1?x#y", "job_1%3Fx%23y"), ("ü", "%C3%BC")]
)
def test_an_id_never_names_another_path(script: Script, client: Client, job_id: str, path: str) -> None:
    script.answers = [Answer(404, {"code": "job_not_found", "detail": "no such job"})] * 3
    for method in (client.get, client.cancel, client.delete):
        with pytest.raises(ServiceError, match="no such job"):
            method(job_id)
    asked = [path for _, path, _, _ in script.requests]
    assert asked == [f"/v1/jobs/{path}", f"/v1/jobs/{path}/cancel", f"/v1/jobs/{path}"]


@pytest.mark.parametrize("job_id", ["", ".", ".."])
def test_what_can_be_no_id_is_told(script: Script, client: Client, job_id: str) -> None:
    for method in (client.get, client.cancel, client.delete):
        with pytest.raises(ServiceError, match=f"'{job_id}' is no job's id"):
            method(job_id)
    assert script.requests == []


@pytest.mark.parametrize("body", [b"<html>Sorry</html>", b"[]", b"{}", b"null", b'{"error": "no"}'])
def test_an_answer_that_is_no_problem_is_told_by_its_status(script: Script, client: Client, body: bytes) -> None:
    script.answers = [Answer(500, body)]
    with pytest.raises(ServiceError, match="answered 500 Internal Server Error") as caught:
        client.get("job_1")
    assert caught.value.code == "unexpected_answer"


@pytest.mark.parametrize("status", [502, 503, 504])
def test_what_a_proxy_says_meanwhile_is_no_answer(script: Script, client: Client, status: int) -> None:
    away = Answer(status, b"<html>Sorry</html>")
    script.answers = [away, away, Answer(200, QUEUED), away, Answer(202, QUEUED)]
    assert client.get("job_1") == QUEUED
    assert client.submit({"prompt": "a cat"}) == QUEUED


def test_a_service_that_stays_busy_is_given_up(script: Script, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "RESTART_SECONDS", 0.1)
    busy = Answer(503, {"code": "queue_full", "detail": "full"}, {"Retry-After": "0"})
    script.answers = [busy] * 1000
    with pytest.raises(ServiceError, match="full"):
        client.submit({"prompt": "a cat"})
    assert len(script.requests) > 1


def test_a_client_that_has_been_answered_outlasts_a_restart(connect: Connect) -> None:
    with serving() as first:
        first.answers = [Answer(200, QUEUED, {"Connection": "close"})]
        port = first.server_address[1]
        client = connect(first.url)
        with client:
            client.get("job_1")
            first.shutdown()
            first.server_close()
            with ThreadPoolExecutor(1) as caller:
                got = caller.submit(client.get, "job_1")
                with pytest.raises(TimeoutError):
                    got.result(1)  # it is refused all the while
                with serving(port) as second:
                    second.answers = [Answer(200, SUCCEEDED)]
                    assert got.result(30) == SUCCEEDED


def test_a_retry_after_beyond_patience_is_an_answer(script: Script, client: Client) -> None:
    script.answers = [Answer(429, {"code": "rate_limited", "detail": "later"}, {"Retry-After": "3600"})]
    with pytest.raises(ServiceError, match="later"):
        client.get("job_1")
    assert len(script.requests) == 1


def test_a_delete_that_may_have_happened_is_not_sent_again(script: Script, client: Client) -> None:
    script.answers = [Answer(0, hang_up=True)]
    with pytest.raises(ServiceError) as caught:
        client.delete("job_1")
    assert caught.value.code == "unreachable"
    assert len(script.requests) == 1


def test_a_delete_that_a_proxy_may_have_passed_on_is_not_sent_again(script: Script, client: Client) -> None:
    script.answers = [Answer(502, b"<html>Sorry</html>")]
    with pytest.raises(ServiceError, match="answered 502 Bad Gateway"):
        client.delete("job_1")
    assert len(script.requests) == 1


def test_a_delete_is_sent_again_to_a_busy_service(script: Script, client: Client) -> None:
    script.answers = [Answer(503, {}, {"Retry-After": "0"}), Answer(204, b"")]
    client.delete("job_1")
    assert [(method, path) for method, path, _, _ in script.requests] == [("DELETE", "/v1/jobs/job_1")] * 2


def test_an_unreachable_service_is_named_with_what_to_do(connect: Connect) -> None:
    with connect("http://127.0.0.1:1") as client, pytest.raises(ServiceError, match="zimage up") as caught:
        client.get("job_1")
    assert "http://127.0.0.1:1 can't be reached" in str(caught.value)
    assert caught.value.status is None


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://me:secret@localhost", "me:secret@localhost", ""])
def test_an_address_that_is_none_is_refused(connect: Connect, url: str) -> None:
    with connect(url) as client, pytest.raises(ServiceError, match="not an http:// or https:// address") as caught:
        client.get("job_1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("http://localhost:port", "http://::1:8000", "http://local\nhost", "http://localhost:0", "http://h:99999"),
        *("http://me:secret", "http://me:secret/x@localhost", "http://h?key=secret", "http://h/v1#secret"),
    ],
)
def test_an_address_that_can_not_be_read_is_told(connect: Connect, url: str) -> None:
    with pytest.raises(ServiceError, match="http://HOST:PORT with --url or ZIMAGE_URL") as caught:
        connect(url)
    assert "secret" not in str(caught.value)


def test_get_waits_as_long_as_the_service_allows(script: Script, client: Client) -> None:
    script.answers = [Answer(200, QUEUED)] * 2
    client.get("job_1")
    client.get("job_1", wait=500)
    assert "prefer" not in script.requests[0][2]
    assert script.requests[1][2]["prefer"] == "wait=60"


def running(step: int) -> dict[str, Any]:
    return {"id": "job_1", "status": "running", "progress": {"step": step, "total": 2}}


SUCCEEDED = {"id": "job_1", "status": "succeeded"}


def events(*jobs: dict[str, Any]) -> bytes:
    return b"".join(b"event: progress\ndata: %s\nid: 3\n\n" % json.dumps(job).encode() for job in jobs)


def test_progress_is_what_the_job_s_events_tell(script: Script, client: Client) -> None:
    stream = events(running(1)) + b": ping\n\n" + events(running(2), SUCCEEDED)
    script.answers = [Answer(200, QUEUED), Answer(200, QUEUED), Answer(200, running(0)), Answer(200, stream)]
    told = [QUEUED, QUEUED, running(0), running(1), running(1), running(2), SUCCEEDED]
    assert list(client.progress("job_1")) == told
    assert [path for _, path, _, _ in script.requests] == ["/v1/jobs/job_1"] * 3 + ["/v1/jobs/job_1/events"]


@pytest.mark.parametrize(
    "stream",
    [
        Answer(200, events(running(1))),
        Answer(200, events(running(1)) + b'event: progress\ndata: {"id": "job_1", "stat'),
        Answer(0, hang_up=True),
        Answer(503, {"code": "queue_unavailable", "detail": "away"}),
    ],
    ids=["ended", "cut off", "lost", "refused"],
)
def test_progress_goes_on_when_its_stream_does_not(script: Script, client: Client, stream: Answer) -> None:
    rest = Answer(200, events(running(2), SUCCEEDED))
    script.answers = [Answer(200, running(0)), stream, Answer(200, running(2)), rest]
    given = list(client.progress("job_1"))
    assert (given[0], given[-1]) == (running(0), SUCCEEDED)
    assert running(2) in given


def test_a_stream_that_is_one_too_many_is_waited_for(
    script: Script, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused: list[float] = []

    async def pause(seconds: float) -> None:
        paused.append(seconds)

    monkeypatch.setattr("time.sleep", paused.append)
    monkeypatch.setattr("asyncio.sleep", pause)
    refused = Answer(429, {"code": "too_many_streams", "detail": "too many"}, {"Retry-After": "5"})
    script.answers = [Answer(200, running(0)), refused, Answer(200, SUCCEEDED)]
    assert list(client.progress("job_1")) == [running(0), SUCCEEDED]
    assert paused == [5]


def test_progress_of_a_job_that_goes_ends_with_the_refusal(script: Script, client: Client) -> None:
    gone = Answer(410, {"code": "job_gone", "detail": "the job was deleted"})
    script.answers = [Answer(200, running(0)), Answer(200, events(running(1))), gone]
    with pytest.raises(ServiceError, match="the job was deleted"):
        list(client.progress("job_1"))


def test_a_page_where_a_job_should_be_is_told_so(script: Script, client: Client) -> None:
    script.answers = [Answer(200, b"<html>Sign in to the proxy</html>")]
    with pytest.raises(ServiceError, match="answered 200, but no JSON") as caught:
        client.get("job_1")
    assert caught.value.code == "unexpected_answer"


def test_list_follows_cursors(script: Script, client: Client) -> None:
    script.answers = [
        Answer(200, {"jobs": [{"id": "job_3"}, {"id": "job_2"}], "next_cursor": "c/1"}),
        Answer(200, {"jobs": [{"id": "job_1"}], "next_cursor": None}),
    ]
    assert [job["id"] for job in client.list("succeeded", page_size=2)] == ["job_3", "job_2", "job_1"]
    paths = [path for _, path, _, _ in script.requests]
    assert paths == ["/v1/jobs?status=succeeded&limit=2", "/v1/jobs?status=succeeded&limit=2&cursor=c%2F1"]


def image(script: Script, content: bytes) -> Image:
    digest = hashlib.sha256(content).hexdigest()
    url = f"{script.url}/bucket/0.png?X-Amz-Signature=abc"
    return {"index": 0, "seed": 1, "width": 8, "height": 8, "bytes": len(content), "sha256": digest, "url": url}


def test_downloads_never_show_the_key_to_the_storage(script: Script, client: Client) -> None:
    script.answers = [Answer(200, b"png")]
    assert client.download(image(script, b"png")) == b"png"
    assert "authorization" not in script.requests[0][2]


def test_a_download_of_other_bytes_is_refused(script: Script, client: Client) -> None:
    script.answers = [Answer(200, b"pn")]
    with pytest.raises(ServiceError) as caught:
        client.download(image(script, b"png"))
    assert caught.value.code == "checksum_mismatch"


def test_a_dead_url_is_told_without_its_signature(script: Script, client: Client) -> None:
    script.answers = [Answer(403, b"<Error/>")]
    with pytest.raises(ServiceError, match="the storage answered 403") as caught:
        client.download(image(script, b"png"))
    assert "abc" not in str(caught.value)


def test_a_client_is_closed_without_a_block_of_its_own(script: Script) -> None:
    script.answers = [Answer(200, QUEUED)]
    client = ZImageClient(script.url)
    assert client.get("job_1") == QUEUED
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.get("job_1")


async def asked_closed_and_asked_again(url: str) -> None:
    client = AsyncZImageClient(url)
    assert await client.get("job_1") == QUEUED
    await client.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await client.get("job_1")


def test_an_asynchronous_client_is_closed_without_a_block_of_its_own(script: Script) -> None:
    script.answers = [Answer(200, QUEUED)]
    asyncio.run(asked_closed_and_asked_again(script.url))
