"""The HTTP contract as a client meets it: the whole stack runs, and the tests speak HTTP only.

Only of a full queue the app alone is asked, in this process: a worker would empty it.
"""

import contextlib
import gzip
import json
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from cli.stack import Stack
from jobs import __version__
from jobs.model_card import ModelCard
from jobs.settings import Settings
from jobs.spec import JobInput
from jobs.store.redis_client import connect
from jobs.store.worker import WorkerStore
from pipeline import TINY_CHECKPOINT

SMALL = {"prompt": "a cat", "width": 64, "height": 64, "num_inference_steps": 2}
SMALL_OPENAI = {"prompt": "a cat", "size": "64x64", "num_inference_steps": 2}
LONG = {"prompt": "a long job", "width": 512, "height": 512, "num_inference_steps": 50, "num_images": 2}


@pytest.fixture(scope="module")
def http(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.api_url, timeout=90) as client:
        yield client


def submit(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = http.post("/v1/jobs", json={**SMALL, **fields})
    assert response.status_code == 202, response.text
    job: dict[str, Any] = response.json()
    return job


def wait(http: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    ended: dict[str, Any] = http.get(job["urls"]["self"], headers={"Prefer": "wait=60"}).json()
    assert ended["status"] not in ("queued", "running"), ended
    return ended


def check_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["detail"]
    assert problem["request_id"] == response.headers["x-request-id"]
    return problem


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ""),
        ("prompt", "   \n "),
        ("prompt", "x" * 2001),
        ("prompt", 7),
        ("prompt", None),
        ("prompt", "\ud800"),
        ("negative_prompt", "x" * 2001),
        ("width", 63),
        ("width", 48),
        ("width", 72),
        ("width", 1040),  # the tiny model's limit is 1024
        ("width", 4096),
        ("width", "64"),
        ("width", 64.5),
        ("width", True),
        ("height", 0),
        ("height", -64),
        ("height", 10**400),
        ("num_inference_steps", 0),
        ("num_inference_steps", 51),
        ("guidance_scale", -0.1),
        ("guidance_scale", 20.1),
        ("guidance_scale", float("nan")),
        ("guidance_scale", float("inf")),
        ("seed", -1),
        ("seed", 2**53 - 7),
        ("steps", 8),
        ("seed", "7"),
        ("num_images", 0),
        ("num_images", 11),
        ("priority", "urgent"),
        ("timeout_seconds", 0),
        ("timeout_seconds", 3601),
        ("webhook_url", "https://example.com/hook"),
        ("metadata", {str(n): "" for n in range(17)}),
        ("metadata", {"key": 7}),
        ("metadata", {"key": "é" * 2047}),
        ("metadata", []),
        ("colour", "red"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(http: httpx.Client, field: str, value: Any) -> None:
    body = json.dumps({**SMALL, field: value})
    response = http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    problem = check_problem(response, 422, "invalid_request")
    assert any(error["pointer"].split("/")[1] == field for error in problem["errors"]), problem


def test_control_characters_are_refused_where_they_are(http: httpx.Client) -> None:
    texts = {"prompt": "a\x1b[1mcat", "negative_prompt": "del\x7f", "metadata": {"key\x00": "next line\x85"}}
    problem = check_problem(http.post("/v1/jobs", json=texts), 422, "invalid_request")
    assert [(error["pointer"], error["detail"].split()[4]) for error in problem["errors"]] == [
        ("/prompt", "U+001B:"),
        ("/negative_prompt", "U+007F:"),
        ("/metadata", "U+0000:"),
    ]


def test_every_mistake_is_named_at_once(http: httpx.Client) -> None:
    response = http.post("/v1/jobs", json={"prompt": "", "width": 1, "a/b~c": 1})
    problem = check_problem(response, 422, "invalid_request")
    assert {error["pointer"] for error in problem["errors"]} == {"/prompt", "/width", "/a~1b~0c"}


def test_a_side_that_is_not_named_is_the_served_model_s(http: httpx.Client) -> None:
    for sides, drawn in [({}, (128, 128)), ({"width": 96}, (96, 128)), ({"height": 96, "width": None}, (128, 96))]:
        asked = {"prompt": "a cat", "num_inference_steps": 1, **sides}
        job = http.post("/v1/jobs", json=asked).json()
        assert (job["input"]["width"], job["input"]["height"]) == drawn
        [image] = wait(http, job)["images"]
        assert (image["width"], image["height"]) == drawn


def test_what_is_known_of_a_request_is_told_at_once_and_not_twice(http: httpx.Client) -> None:
    job = submit(http, negative_prompt="dogs")
    negative, size = job["warnings"]
    assert "guidance_scale" in negative
    assert "128x128, 96x128 and 128x96 only" in size
    assert wait(http, job)["warnings"] == [negative, size]


def test_ten_images_come_from_ten_seeds(http: httpx.Client) -> None:
    ended = wait(http, submit(http, num_images=10, seed=2**53 - 10, num_inference_steps=1))
    assert [image["seed"] for image in ended["images"]] == list(range(2**53 - 10, 2**53))
    assert len({image["sha256"] for image in ended["images"]}) == 10
    refused = http.post("/v1/jobs", json={**SMALL, "num_images": 10, "seed": 2**53 - 9})
    [error] = check_problem(refused, 422, "invalid_request")["errors"]
    assert error["pointer"] == "/seed"


@pytest.mark.parametrize("value", [64.0, 64])
def test_json_knows_one_kind_of_number(http: httpx.Client, value: float) -> None:
    job = submit(http, width=value)
    assert job["input"]["width"] == 64
    assert isinstance(job["input"]["width"], int)


@pytest.mark.parametrize("body", ["{", "", "{'prompt': 'x'}", '{"prompt": "x"} trailing', "[" * 60_000, "\x00"])
def test_malformed_json_is_400(http: httpx.Client, body: str) -> None:
    response = http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    check_problem(response, 400, "malformed_json")


def test_json_that_is_not_an_object_is_told_so(http: httpx.Client) -> None:
    for body in ("[]", '["prompt"]', '"a cat"', "7", "false", "null"):
        answer = http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
        problem = check_problem(answer, 422, "invalid_request")
        assert problem["errors"] == [{"pointer": "", "detail": "must be a JSON object"}]


def test_a_body_over_64_kib_is_413_also_without_a_length(http: httpx.Client) -> None:
    body = json.dumps({**SMALL, "prompt": "x" * 70_000}).encode()
    headers = {"Content-Type": "application/json"}
    check_problem(http.post("/v1/jobs", content=body, headers=headers), 413, "body_too_large")

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    check_problem(http.post("/v1/jobs", content=chunks(), headers=headers), 413, "body_too_large")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""])
def test_another_content_type_is_415(http: httpx.Client, content_type: str) -> None:
    response = http.post("/v1/jobs", content=json.dumps(SMALL), headers={"Content-Type": content_type})
    check_problem(response, 415, "unsupported_media_type")


def test_a_compressed_body_is_told_that_it_must_not_be(http: httpx.Client) -> None:
    def submitted(body: bytes, encoding: str) -> httpx.Response:
        headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
        return http.post("/v1/jobs", content=body, headers=headers)

    body = json.dumps(SMALL).encode()
    refused = submitted(gzip.compress(body), "gzip")
    check_problem(refused, 415, "unsupported_content_encoding")
    assert "Content-Encoding is gzip" in refused.json()["detail"]
    assert submitted(body, "Identity").status_code == 202


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/jobs/job_nothing"),
        ("POST", "/v1/jobs/job_nothing/cancel"),
        ("DELETE", "/v1/jobs/job_nothing"),
        ("GET", "/v1/jobs/job_nothing/images/0"),
        ("GET", "/v1/jobs/job_nothing/events"),
    ],
)
def test_an_unknown_job_is_404(http: httpx.Client, method: str, path: str) -> None:
    check_problem(http.request(method, path), 404, "job_not_found")


def test_unknown_paths_and_methods_are_problems_too(http: httpx.Client) -> None:
    check_problem(http.get("/v2/jobs"), 404, "not_found")
    check_problem(http.options("/", extensions={"target": b"*"}), 404, "not_found")
    refused = http.put("/v1/jobs")
    check_problem(refused, 405, "method_not_allowed")
    assert refused.headers["allow"] == "GET, HEAD, POST"


@pytest.mark.parametrize(
    "path", ["/", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/v1/jobs", "/nothing"]
)
def test_head_is_answered_as_get_without_the_body(http: httpx.Client, path: str) -> None:
    head, get = http.head(path), http.get(path)
    assert (head.status_code, head.headers["content-type"]) == (get.status_code, get.headers["content-type"])
    assert head.content == b""
    assert int(head.headers["content-length"]) > 0


def test_head_of_what_follows_a_job_does_not_wait_for_it(http: httpx.Client) -> None:
    job = submit(http, **LONG)
    head = http.head(job["urls"]["events"])
    assert (head.status_code, head.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    assert http.get(job["urls"]["self"]).json()["status"] in ("queued", "running")
    http.post(job["urls"]["cancel"])
    wait(http, job)


def test_head_where_only_post_is_served_is_405(http: httpx.Client) -> None:
    refused = http.head("/v1/images/generations")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(("name", "values"), [("Host", ["localhost", "evil.example"]), ("Idempotency-Key", ["1", "2"])])
def test_what_is_said_twice_is_refused(http: httpx.Client, name: str, values: list[str]) -> None:
    connection = HTTPConnection(http.base_url.host, http.base_url.port or 80, timeout=30)
    with contextlib.closing(connection):
        connection.putrequest("GET", "/v1/jobs", skip_host=name == "Host")  # no other client sends them
        for value in values:
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        problem = json.loads(answer.read())
    assert (answer.status, problem["code"]) == (400, "repeated_header")
    assert problem["detail"] == f"{name} came more than once: send it once"


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=101",
        "limit=x",
        "status=done",
        "cursor=%25%25",
        "cursor=",
        "cursor=LTU",
        "cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5",
        "statuss=queued",
    ],
)
def test_bad_query_parameters_are_named(http: httpx.Client, query: str) -> None:
    problem = check_problem(http.get(f"/v1/jobs?{query}"), 422, "invalid_request")
    assert problem["errors"][0]["parameter"] == query.split("=")[0]


def test_the_clients_request_id_comes_back(http: httpx.Client) -> None:
    assert http.get("/livez", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert http.get("/livez", headers={"X-Request-ID": "not mine"}).headers["x-request-id"] != "not mine"
    for path in http.get("/openapi.json").json()["paths"].values():
        for operation in path.values():
            assert [item["in"] for item in operation["parameters"] if item["name"] == "X-Request-ID"] == ["header"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Host": "evil.example"},
        {"Host": "evil.example@127.0.0.1:80"},
        {"Host": "[::1"},
        {"Host": ""},
    ],
)
def test_web_pages_do_not_drive_a_service_without_keys(http: httpx.Client, headers: dict[str, str]) -> None:
    assert http.post("/v1/jobs", json=SMALL, headers=headers).status_code in (400, 403)
    assert http.get("/v1/jobs", headers=headers).status_code in (400, 403)


@pytest.fixture(scope="module")
def anonymous(servers: Stack) -> Iterator[TestClient]:
    """An API without keys that serves other machines too, as one of its clients reaches it."""
    settings = Settings(
        redis_url=servers.redis_url,
        redis_prefix=f"anonymous-{time.time_ns()}:",
        s3_endpoint=servers.s3_url,
        allow_anonymous=True,
        allowed_hosts="pictures.example, zimage-api",
    )
    with TestClient(create_app(settings), base_url="http://10.1.2.3:8000") as http:
        yield http


@pytest.mark.parametrize(
    "host", ["10.1.2.3:8000", "[fd00::1]:8000", "localhost:8000", "Pictures.example", "zimage-api", "127.0.0.1"]
)
def test_a_service_for_everyone_is_called_by_addresses_and_its_own_names(anonymous: TestClient, host: str) -> None:
    own_page = {"Host": host, "Origin": f"http://{host}"}
    assert anonymous.post("/v1/jobs", json=SMALL, headers=own_page).status_code == 202
    assert anonymous.get("/v1/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example:8000"}, "forbidden_host"),
        ({"Host": "10.1.2.3.evil.example"}, "forbidden_host"),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, "forbidden_host"),
        ({"Origin": "https://evil.example"}, "forbidden_origin"),
        ({"Origin": "http://10.1.2.3:9000"}, "forbidden_origin"),
        ({"Origin": "http://pictures.example"}, "forbidden_origin"),
        ({"Origin": "null"}, "forbidden_origin"),
    ],
)
def test_web_pages_do_not_drive_a_service_for_everyone(
    anonymous: TestClient, headers: dict[str, str], code: str
) -> None:
    problem = check_problem(anonymous.post("/v1/jobs", json=SMALL, headers=headers), 403, code)
    assert ("ZIMAGE_ALLOWED_HOSTS" in problem["detail"]) == (code == "forbidden_host")
    check_problem(anonymous.get("/v1/jobs", headers=headers), 403, code)


def test_a_submitted_job_says_where_it_is(http: httpx.Client) -> None:
    response = http.post("/v1/jobs", json=SMALL)
    job = response.json()
    assert response.headers["location"] == job["urls"]["self"]
    assert int(response.headers["retry-after"]) >= 1
    assert isinstance(job["input"]["seed"], int)
    assert http.get(response.headers["location"]).json()["id"] == job["id"]


def test_prefer_wait_holds_the_answer_until_the_job_ends(http: httpx.Client) -> None:
    job = submit(http)
    response = http.get(job["urls"]["self"], headers={"Prefer": "respond-async, wait=30"})
    assert response.json()["status"] == "succeeded"
    assert response.headers["preference-applied"] == "wait=30"
    assert "retry-after" not in response.headers


def test_prefer_wait_answers_when_its_time_is_over(http: httpx.Client) -> None:
    job = submit(http, **LONG)
    response = http.get(job["urls"]["self"], headers={"Prefer": "wait=1"})
    assert response.json()["status"] in ("queued", "running")
    assert "retry-after" in response.headers
    http.post(job["urls"]["cancel"])
    assert wait(http, job)["status"] == "canceled"


def test_an_etag_saves_the_body_until_something_changes(http: httpx.Client) -> None:
    job = submit(http)
    wait(http, job)
    first = http.get(job["urls"]["self"])
    again = http.get(job["urls"]["self"], headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["etag"] == first.headers["etag"]
    for tags, status in [('"other"', 200), (f'"other", {first.headers["etag"]}', 304), ("*", 304)]:
        assert http.get(job["urls"]["self"], headers={"If-None-Match": tags}).status_code == status


def test_the_same_idempotency_key_is_the_same_job(http: httpx.Client) -> None:
    headers = {"Idempotency-Key": f"key-{time.time_ns()}"}
    answers: list[httpx.Response] = []
    threads = [
        threading.Thread(
            target=lambda: answers.append(httpx.post(f"{http.base_url}/v1/jobs", json=SMALL, headers=headers))
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert all(answer.headers["idempotent-replayed"] == "true" for answer in answers if answer.status_code == 200)
    other = http.post("/v1/jobs", json={**SMALL, "prompt": "a dog"}, headers=headers)
    check_problem(other, 422, "idempotency_key_reused")


def test_a_queued_job_is_canceled_at_once(http: httpx.Client) -> None:
    blockers = [submit(http, **LONG) for _ in range(3)]
    job = submit(http)
    answer = http.post(job["urls"]["cancel"])
    assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    assert http.post(job["urls"]["cancel"]).status_code == 200
    for blocker in blockers:
        http.post(blocker["urls"]["cancel"])
    assert {wait(http, blocker)["status"] for blocker in blockers} == {"canceled"}


def test_a_running_job_stops_within_a_step(http: httpx.Client) -> None:
    job = submit(http, **LONG)
    while (running := http.get(job["urls"]["self"]).json())["progress"]["step"] < 2:
        assert running["status"] in ("queued", "running")
        time.sleep(0.05)
    assert not running["cancel_requested"]
    answer = http.post(job["urls"]["cancel"])
    assert answer.status_code == 202
    assert (answer.json()["status"], answer.json()["cancel_requested"]) == ("running", True)
    ended = wait(http, job)
    assert ended["status"] == "canceled"
    assert list(ended["timings"]) == ["queue", "device_wait", "text_encode", "denoise", "other", "total"]
    assert_adds_up(ended["timings"])
    assert ended["images"] == []
    # The step that was at work when the cancel came may still end, none begins after it.
    assert ended["progress"]["step"] <= answer.json()["progress"]["step"] + 1
    assert http.post(job["urls"]["cancel"]).status_code == 200


def test_a_job_is_queued_for_as_long_as_it_waits_for_the_device(http: httpx.Client) -> None:
    before = submit(http, **LONG)
    waiting = submit(http)
    while http.get(before["urls"]["self"]).json()["progress"]["step"] < 3:
        time.sleep(0.05)
    told = http.get(waiting["urls"]["self"]).json()
    assert (told["status"], told["queue"]["position"], told["started_at"]) == ("queued", 1, None)
    http.post(before["urls"]["cancel"])
    before, waiting = wait(http, before), wait(http, waiting)
    assert waiting["status"] == "succeeded"
    assert_adds_up(waiting["timings"])
    drawn_behind = sum(before["timings"][stage] for stage in ("text_encode", "denoise"))
    assert waiting["timings"]["queue"] + waiting["timings"]["device_wait"] >= 0.9 * drawn_behind


def assert_adds_up(timings: dict[str, float]) -> None:
    assert sum(timings.values()) == pytest.approx(2 * timings["total"], abs=1e-3)


def test_an_ended_job_can_not_be_canceled(http: httpx.Client) -> None:
    job = submit(http)
    wait(http, job)
    check_problem(http.post(job["urls"]["cancel"]), 409, "job_ended")


def test_deleting_removes_job_and_images(http: httpx.Client) -> None:
    job = submit(http)
    url = wait(http, job)["images"][0]["url"]
    assert httpx.get(url).status_code == 200
    assert http.delete(job["urls"]["self"]).status_code == 204
    assert httpx.get(url).status_code == 404
    check_problem(http.get(job["urls"]["self"]), 410, "job_gone")
    check_problem(http.delete(job["urls"]["self"]), 410, "job_gone")
    check_problem(http.post(job["urls"]["cancel"]), 410, "job_gone")
    assert job["id"] not in {listed["id"] for listed in http.get("/v1/jobs?limit=100").json()["jobs"]}


def test_an_active_job_can_not_be_deleted(http: httpx.Client) -> None:
    job = submit(http, **LONG)
    check_problem(http.delete(job["urls"]["self"]), 409, "job_active")
    http.post(job["urls"]["cancel"])
    wait(http, job)


def test_an_image_is_a_redirect_to_storage(http: httpx.Client) -> None:
    job = submit(http, num_images=2)
    ended = wait(http, job)
    for image in ended["images"]:
        answer = http.get(f"{job['urls']['self']}/images/{image['index']}")
        assert answer.status_code == 307
        assert len(httpx.get(answer.headers["location"]).content) == image["bytes"]
    check_problem(http.get(f"{job['urls']['self']}/images/2"), 404, "image_not_found")


def test_many_wrong_parameters_make_no_large_answer(http: httpx.Client) -> None:
    query = "&".join([f"{'y' * 200}=1", *(f"{n}=1" for n in range(500))])
    answer = http.get(f"/v1/jobs?{query}")
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 20
    assert answer.json()["errors"][0]["parameter"] == "y" * 100 + "…"
    assert answer.json()["detail"].endswith("; and 481 more")
    assert len(answer.content) < 10_000


def test_the_list_pages_newest_first(http: httpx.Client) -> None:
    ids = [submit(http)["id"] for _ in range(4)]
    first = http.get("/v1/jobs?limit=2").json()
    second = http.get("/v1/jobs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [job["id"] for job in first["jobs"] + second["jobs"]] == ids[::-1]


def test_events_tell_every_step_and_end_with_the_result(http: httpx.Client) -> None:
    job = submit(http, num_inference_steps=6, width=256, height=256)
    events = read_events(http, job["urls"]["events"])
    assert [event["data"]["status"] for event in events if event["event"] == "status"][-1] == "succeeded"
    steps = [event["data"]["progress"]["step"] for event in events]
    assert steps == sorted(steps)
    assert steps[-1] == 6
    assert events[-1]["data"]["images"]
    resumed = read_events(http, job["urls"]["events"], {"Last-Event-ID": events[0]["id"]})
    assert [event["id"] for event in resumed] == [events[-1]["id"]]
    # What makes a browser's EventSource stop: it would come back for ever.
    assert http.get(job["urls"]["events"], headers={"Last-Event-ID": events[-1]["id"]}).status_code == 204


def read_events(http: httpx.Client, url: str, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [{}]
    with http.stream("GET", url, headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if name in ("event", "id", "data"):
                events[-1][name] = json.loads(value) if name == "data" else value
            elif not line and events[-1]:
                events.append({})
    return [event for event in events if event]


def test_health_and_the_contract_are_served(http: httpx.Client) -> None:
    assert http.get("/livez").status_code == 200
    ready = http.get("/readyz").json()
    assert ready["status"] == "ok"
    assert http.get("/health").json() == ready
    contract = http.get("/openapi.json").json()
    paths = contract["paths"]
    assert "job.ended" in contract["webhooks"]
    assert {"/v1/jobs", "/v1/jobs/{job_id}", "/v1/jobs/{job_id}/cancel", "/v1/queue"} <= set(paths)
    assert {"/v1/images/generations", "/v1/models", "/v1/models/{model}"} <= set(paths)


def test_the_contract_names_no_header_that_can_not_come(http: httpx.Client) -> None:
    of_submits = {"RateLimit", "RateLimit-Policy", "Idempotent-Replayed", "X-Should-Retry"}
    named = {
        f"{method} {path}"
        for path, operations in http.get("/openapi.json").json()["paths"].items()
        for method, operation in operations.items()
        for response in operation["responses"].values()
        if of_submits & response["headers"].keys()
    }
    assert named == {"post /v1/jobs", "post /v1/images/generations"}


@pytest.mark.parametrize("path", ["/v1/model_info", "/server_info"])
def test_sglang_s_tools_are_told_a_model_that_they_find_and_may_ask_for(http: httpx.Client, path: str) -> None:
    info = http.get(path).json()
    assert info == {
        "model_path": str(TINY_CHECKPOINT), "served_model_name": "tiny", "task_type": "T2I", "version": __version__,
        "weight_version": None,
    }  # fmt: skip
    body = {**SMALL_OPENAI, "model": info["model_path"], "n": 1, "response_format": "b64_json"}
    answer = http.post("/v1/images/generations", json=body).json()
    assert (len(answer["data"]), answer["peak_memory_mb"]) == (1, 0)


def test_the_queue_tells_its_demand(http: httpx.Client) -> None:
    wait(http, submit(http))  # a worker is there
    jobs = [submit(http, **LONG) for _ in range(4)]
    overview = http.get("/v1/queue").json()
    assert overview["workers"] == 1
    assert overview["demand"] == overview["queued"] + overview["running"] == 4
    assert overview["oldest_queued_seconds"] > 0
    for job in jobs:
        http.post(job["urls"]["cancel"])
    for job in jobs:
        wait(http, job)
    assert http.get("/v1/queue").json() | {"workers": 1} == {
        "queued": 0, "running": 0, "demand": 0, "workers": 1, "oldest_queued_seconds": 0.0
    }  # fmt: skip


@pytest.fixture
def full(servers: Stack) -> Iterator[tuple[TestClient, WorkerStore]]:
    """An API without workers whose queue takes two jobs and is full, and what a worker would speak to Redis with."""
    prefix = f"full-{time.time_ns()}:"
    settings = Settings(
        redis_url=servers.redis_url, redis_prefix=prefix, s3_endpoint=servers.s3_url, model="tiny", queue_limit=2
    )
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as http, connect(settings) as client:
        for _ in range(2):
            assert http.post("/v1/jobs", json=SMALL).status_code == 202
        yield http, WorkerStore(client, settings)


@pytest.mark.parametrize(
    ("seconds_per_job", "told"),
    [(None, "later"), (7.0, "in 7 s"), (0.02, "in 1 s"), (7200.0, "in 600 s")],
    ids=["no rate is known", "measured", "quick", "slow"],
)
def test_a_full_queue_tells_when_to_come_back(
    full: tuple[TestClient, WorkerStore], seconds_per_job: float | None, told: str
) -> None:
    http, worker = full
    if seconds_per_job:
        card = ModelCard(name="tiny", min_size=64, max_size=1024, precision="float32", load_seconds=0.0)
        worker.heartbeat("worker-1", card, JobInput(**SMALL).work / seconds_per_job, [])
    refused = http.post("/v1/jobs", json=SMALL)
    check_problem(refused, 503, "queue_full")
    assert refused.json()["detail"].endswith(f": send it again {told}")
    assert refused.headers["retry-after"] == (told.split()[1] if seconds_per_job else "5")
    assert http.get("/v1/queue").json()["queued"] == 2

    assert worker.claim("worker-1", 0, alone=True)  # one leaves the queue
    assert http.post("/v1/jobs", json=SMALL).status_code == 202


def test_a_full_queue_still_answers_what_it_accepted_before(full: tuple[TestClient, WorkerStore]) -> None:
    http, worker = full
    key = {"Idempotency-Key": "key"}
    assert worker.claim("worker-1", 0, alone=True)
    accepted = http.post("/v1/jobs", json=SMALL, headers=key)
    assert accepted.status_code == 202
    again = http.post("/v1/jobs", json=SMALL, headers=key)
    assert (again.status_code, again.json()["id"]) == (200, accepted.json()["id"])
