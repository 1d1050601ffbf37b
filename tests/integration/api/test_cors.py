"""Browsers' pages of other origins: whom the service lets call it, and what their scripts may send and read."""

from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.server import serve
from cli.stack import Stack
from jobs.addresses import SettingError
from jobs.keys import KeysFile
from jobs.limits import Limits
from jobs.settings import Settings

APP = "https://app.example"
ORIGINS = f"{APP}, http://localhost:3000 ,tauri://localhost"
JOB = {"prompt": "a cat", "width": 64, "height": 64}
# What a browser asks before OpenAI's client posts.
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,traceparent,x-stainless-lang,x-new",
}


def settings(servers: Stack, **more: object) -> Settings:
    common = {"redis_url": servers.redis_url, "redis_prefix": f"cors-{token_hex(4)}:", "s3_endpoint": servers.s3_url}
    return Settings(**common, **more)  # type: ignore[arg-type]


def api(servers: Stack, **more: object) -> TestClient:
    return TestClient(create_app(settings(servers, **more)), "http://127.0.0.1:8000")


@pytest.fixture(scope="module")
def http(servers: Stack) -> Iterator[TestClient]:
    with api(servers, cors_origins=ORIGINS, queue_limit=1) as client:
        yield client


@pytest.fixture(scope="module")
def keyed(servers: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    file = tmp_path_factory.mktemp("cors") / "keys.json"
    key = KeysFile(file).create("alice", Limits(rate=1))
    with api(servers, cors_origins="*", api_keys_file=file) as client:
        client.headers["Authorization"] = f"Bearer {key}"
        yield client


@pytest.mark.parametrize("origin", [APP, "http://localhost:3000", "tauri://localhost"])
def test_a_listed_page_may_ask_and_post(http: TestClient, origin: str) -> None:
    asked = http.options("/v1/images/generations", headers={"Origin": origin, **PREFLIGHT})
    assert asked.status_code == 200
    assert asked.headers["access-control-allow-origin"] == origin
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert asked.headers["access-control-allow-headers"] == PREFLIGHT["Access-Control-Request-Headers"]
    assert "access-control-allow-credentials" not in asked.headers


def test_its_script_may_read_what_clients_need(http: TestClient) -> None:
    answers = [http.post("/v1/jobs", json=JOB, headers={"Origin": APP, "Idempotency-Key": "one"}) for _ in range(2)]
    full = http.post("/v1/jobs", json=JOB, headers={"Origin": APP})
    http.post(answers[0].json()["urls"]["cancel"])
    job = http.get(answers[0].headers["location"], headers={"Origin": APP, "Prefer": "wait=1"})
    assert [answer.status_code for answer in (*answers, job, full)] == [202, 200, 200, 503]
    for answer in (*answers, job, full):
        assert answer.headers["access-control-allow-origin"] == APP
        assert "Origin" in answer.headers["vary"]
        readable = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
        own = {"access-control-allow-origin", "access-control-expose-headers", "vary"}
        safelisted = {"cache-control", "content-length", "content-type"}
        assert set(answer.headers) - own - safelisted <= readable


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/jobs", {}, 422),
        ("GET", "/v1/jobs/none", None, 404),
        ("GET", "/v1/nothing", None, 404),
        ("PUT", "/v1/jobs", None, 405),
        ("GET", "/livez", None, 200),
    ],
)
def test_errors_can_be_read_too(http: TestClient, method: str, path: str, body: object, status: int) -> None:
    answer = http.request(method, path, json=body, headers={"Origin": APP})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, APP)


@pytest.mark.parametrize("origin", ["https://evil.example", "http://app.example", f"{APP}:8443", "null", f"{APP}.evil"])
def test_others_may_not(http: TestClient, origin: str) -> None:
    asked = http.options("/v1/jobs", headers={"Origin": origin, **PREFLIGHT})
    posted = http.post("/v1/jobs", json=JOB, headers={"Origin": origin})
    assert (asked.status_code, posted.status_code) == (400, 403)
    assert posted.json()["code"] == "forbidden_origin"
    assert "ZIMAGE_CORS_ORIGINS" in posted.json()["detail"]
    for answer in (asked, posted):
        assert "access-control-allow-origin" not in answer.headers


def test_a_name_that_is_not_the_service_s_is_refused_from_listed_pages_too(http: TestClient) -> None:
    answer = http.get("/v1/jobs", headers={"Origin": APP, "Host": "evil.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden_host")


def test_the_service_s_own_page_is_served_as_ever(http: TestClient) -> None:
    assert http.get("/v1/jobs", headers={"Origin": "http://127.0.0.1:8000"}).status_code == 200


def test_where_keys_are_asked_for_all_may_be_let_in(keyed: TestClient) -> None:
    page = {"Origin": "https://any.example"}
    asked = keyed.options("/v1/jobs", headers={**page, **PREFLIGHT, "Authorization": ""})
    without = keyed.get("/v1/jobs", headers={**page, "Authorization": ""})
    answers = [keyed.post("/v1/jobs", json=JOB, headers=page) for _ in range(2)]
    assert [answer.status_code for answer in (asked, without, *answers)] == [200, 401, 202, 429]
    for answer in (asked, without, *answers):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
    assert {"RateLimit", "Retry-After"} <= set(answers[1].headers["access-control-expose-headers"].split(", "))


def test_by_default_none_may(servers: Stack) -> None:
    with api(servers) as http:
        asked = http.options("/v1/jobs", headers={"Origin": APP, **PREFLIGHT})
        assert asked.status_code == 403
        assert not [name for name in asked.headers if name.startswith("access-control-")]


def test_all_are_not_let_in_where_no_key_is_asked_for(servers: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.server.configure_logging", lambda _format: None)
    with pytest.raises(SettingError, match=r"ZIMAGE_CORS_ORIGINS=.+: name the origins, or set ZIMAGE_API_KEYS_FILE"):
        serve(settings(servers, cors_origins="*"))


def test_a_key_does_not_make_a_page_a_listed_one(tmp_path: Path, servers: Stack) -> None:
    file = tmp_path / "keys.json"
    KeysFile(file).create("alice")
    with api(servers, cors_origins=APP, api_keys_file=file) as http:
        refused = http.get("/v1/jobs", headers={"Origin": APP})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, APP)
        other = http.get("/v1/jobs", headers={"Origin": "https://evil.example"})
        assert (other.status_code, "access-control-allow-origin" in other.headers) == (401, False)
