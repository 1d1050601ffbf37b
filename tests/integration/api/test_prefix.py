"""The service below a path of a proxy's: whether the proxy takes it away or not, by setting or by header."""

from collections.abc import Iterator
from secrets import token_hex

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from cli.stack import Stack
from jobs.keys import KeysFile
from jobs.settings import Settings

JOB = {"prompt": "a cat", "width": 64, "height": 64}
PREFIX = {"X-Forwarded-Prefix": "/zimage"}
PROXY, STRANGER = ("127.0.0.1", 50000), ("10.1.2.3", 50000)


def api(servers: Stack, client: tuple[str, int], **settings: object) -> TestClient:
    common = {
        "redis_url": servers.redis_url,
        "redis_prefix": f"prefix-{token_hex(4)}:",
        "s3_endpoint": servers.s3_url,
        "s3_bucket": "zimage",
    }
    app = create_app(Settings(**common, **settings))  # type: ignore[arg-type]
    return TestClient(app, "https://localhost", client=client, follow_redirects=False)


@pytest.fixture(scope="module")
def told(servers: Stack) -> Iterator[TestClient]:
    """By a trusted proxy's header."""
    with api(servers, PROXY) as http:
        http.headers.update(PREFIX)
        yield http


@pytest.fixture(scope="module")
def set_(servers: Stack) -> Iterator[TestClient]:
    """By the setting, whatever a stranger's header says."""
    with api(servers, STRANGER, root_path="/zimage") as http:
        http.headers.update({"X-Forwarded-Prefix": "/other"})
        yield http


@pytest.mark.parametrize("path", ["", "/zimage"], ids=["taken away", "passed on"])
@pytest.mark.parametrize("by", ["told", "set_"])
def test_all_addresses_are_below_it(by: str, path: str, request: pytest.FixtureRequest) -> None:
    http: TestClient = request.getfixturevalue(by)
    answer = http.post(f"{path}/v1/jobs", json=JOB)
    urls = answer.json()["urls"]
    assert answer.status_code == 202
    assert answer.headers["location"] == urls["self"]
    assert all(url.startswith("https://localhost/zimage/v1/jobs/job_") for url in urls.values())
    assert http.get(urls["self"]).status_code == 200
    assert http.post(urls["cancel"]).json()["status"] == "canceled"

    assert http.post(f"{path}/v1/jobs/", json=JOB).headers["location"] == "https://localhost/zimage/v1/jobs"
    assert http.get(f"{path}/openapi.json").json()["servers"][0] == {"url": "/zimage"}
    assert '"root_path": "/zimage"' in http.get(f"{path}/").text
    assert "openapi.json" in http.get(f"{path}/docs").text
    assert http.get(f"{path}/docs/swagger-ui.css").status_code == 200
    nothing = http.get(f"{path}/v1/nothing").json()
    assert (nothing["code"], "https://localhost/zimage/v1" in nothing["detail"]) == ("not_found", True)
    wrong = http.post(f"{path}/images/generations", json={}).json()["error"]
    assert "base_url=https://localhost/zimage/v1" in wrong["message"]
    assert http.put(f"{path}/v1/images/generations").json()["error"]["code"] == "method_not_allowed"


def test_the_prefix_alone_leads_to_the_playground(told: TestClient) -> None:
    assert told.get("/zimage").headers["location"] == "https://localhost/zimage/"


@pytest.mark.parametrize(
    "prefix",
    [
        *(
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "evil",
            "/a/../b",
            "/a//b",
            "/.",
            "/a b",
            "/%2f",
        ),
        *("/a, /b", "/a?b", "/a#b", "/a@b", "/é", "/", "", "/v1", "/v1/more", "/docs", "/:80", '/"><script>'),
        *("/health", "/readyz/x", "/metrics", "/openapi.json", "/server_info"),
    ],
)
def test_what_can_be_no_prefix_does_nothing(told: TestClient, prefix: str) -> None:
    answer = told.get("/v1/jobs/", headers={"X-Forwarded-Prefix": prefix.encode("latin-1")})
    assert answer.headers["location"] == "https://localhost/v1/jobs"


@pytest.mark.parametrize("prefix", ["/zimage", "/zimage/", "/a/b-c_d~1.2", "/v1x"])
def test_what_can_be_a_prefix_is_one(told: TestClient, prefix: str) -> None:
    answer = told.get("/v1/jobs/", headers={"X-Forwarded-Prefix": prefix})
    assert answer.headers["location"] == f"https://localhost{prefix.rstrip('/')}/v1/jobs"


def test_the_nearest_proxy_s_word_counts(told: TestClient) -> None:
    headers = [("X-Forwarded-Prefix", "//evil.example"), ("X-Forwarded-Prefix", "/near")]
    told.headers.pop("X-Forwarded-Prefix")
    try:
        assert told.get("/v1/jobs/", headers=headers).headers["location"] == "https://localhost/near/v1/jobs"
    finally:
        told.headers.update(PREFIX)


def test_a_stranger_s_word_does_not(servers: Stack) -> None:
    with api(servers, STRANGER) as http:
        assert http.get("/v1/jobs/", headers=PREFIX).headers["location"] == "https://localhost/v1/jobs"


def test_who_is_trusted_is_what_uvicorn_s_variable_says(servers: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.0/8")
    with api(servers, STRANGER) as http:
        location = http.get("/v1/jobs/", headers={**PREFIX, "X-Forwarded-Proto": "http"}).headers["location"]
    assert location == "http://localhost/zimage/v1/jobs"


def test_it_opens_nothing_that_wants_a_key(servers: Stack, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("prefix") / "keys.json"
    key = KeysFile(file).create("alice")
    with api(servers, PROXY, api_keys_file=file) as http:
        opened = {
            (path, prefix): http.get(path, headers={"X-Forwarded-Prefix": prefix}).status_code
            for prefix in ("/zimage", "/livez", "/docs", "/v1", "//", "/metrics")
            for path in (
                "/v1/jobs",
                "/zimage/v1/jobs",
                "/livez/v1/jobs",
                "//v1/jobs",
                "/docs/../v1/jobs",
                "/v1/v1/jobs",
            )
        }
        assert set(opened.values()) == {401}, opened
        for path in ("/zimage", "/zimage/", "/zimage/livez", "/zimage/docs", "/openapi.json"):
            assert http.get(path, headers=PREFIX).status_code in (200, 307)
        assert http.get("/zimage/v1/jobs", headers={**PREFIX, "Authorization": f"Bearer {key}"}).status_code == 200
