"""Clients with a wrong base URL: they are told the right one, in the shape that they read."""

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from jobs.settings import Settings

RIGHT = "https://pictures.localhost:8443/zimage/v1"


@pytest.fixture(scope="module")
def http() -> TestClient:
    """The API alone: where nothing is served no server is asked."""
    app = create_app(Settings(root_path="/zimage", allowed_hosts="pictures.localhost"))
    return TestClient(app, "https://pictures.localhost:8443")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", path) for path in ("/images/generations", "/v1/v1/images/generations", "/v1//images/generations")),
        *(
            ("POST", path)
            for path in ("/v1/images//generations", "/v1/images/generation", "/v1/images", "/images/edits")
        ),
        *(("POST", path) for path in ("/v1/images/generations/images/generations", "/v1/image/generations")),
        *(("POST", path) for path in ("/v1/chat/completions", "/chat/completions", "/openai/v1/images/generations")),
        *(("POST", path) for path in ("/openai/deployments/dall-e-3/images/generations", "/V1/Images/Generations")),
        *(("GET", path) for path in ("/models", "/v1/v1/models", "/v2/models", "/api/v1/models", "/models/tiny")),
        ("POST", "/responses"),
    ],
)
def test_openai_s_client_is_told_its_base_url(http: TestClient, method: str, path: str) -> None:
    for sent in (path, f"/zimage{path}"):
        answer = http.request(method, sent, json={"prompt": "a cat"})
        assert answer.status_code == 404, answer.text
        error = answer.json()["error"]
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "not_found", None)
        assert error["message"].startswith(f"{method} /zimage{path} is not supported: this service draws images")
        assert error["message"].endswith(f"POST {RIGHT}/images/generations: OpenAI's clients need base_url={RIGHT}")


@pytest.mark.parametrize(
    "path", ["/jobs", "/v1", "/v1/", "/v1/v1/jobs", "/v2/jobs/job_1/images/0", "/generate", "/queue"]
)
def test_others_are_told_where_the_api_is(http: TestClient, path: str) -> None:
    problem = http.get(path).json()
    assert (problem["status"], problem["code"]) == (404, "not_found")
    assert problem["detail"].startswith(f"nothing is served at /zimage{path}: the API is below {RIGHT}, and ")
    assert http.get(problem["detail"].split()[-4]).status_code == 200
