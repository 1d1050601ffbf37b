"""OpenAI's images API as its own client meets it: the `openai` package against the whole service."""

import asyncio
import base64
import io
import json
import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient
from openai import AsyncOpenAI, OpenAI
from openai.types import ImagesResponse
from PIL import Image
from pydantic import SecretStr

from api.app import create_app
from cli.stack import Stack
from jobs.keys import KeysFile
from jobs.limits import Limits
from jobs.record import JobError
from jobs.settings import Settings
from jobs.spec import MAX_SEED
from support.operating import Service, service
from support.receiving import SECRET, receiver
from support.root import ROOT

README = ROOT / "README.md"
ALIAS = "Tongyi-MAI/Z-Image-Turbo"
QUICK = {"num_inference_steps": 2}
SMALL: dict[str, Any] = {"prompt": "a cat", "size": "64x64", "extra_body": QUICK}


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[OpenAI]:
    with OpenAI(api_key="EMPTY", base_url=f"{stack.api_url}/v1") as client:
        yield client


@pytest.fixture(scope="module")
def http(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.api_url, timeout=90) as http:
        yield http


def mark() -> tuple[str, dict[str, Any]]:
    """Return a name and the `metadata` by which `marked` finds a request's jobs."""
    name = secrets.token_hex(8)
    return name, {"metadata": {"mark": name}}


def long(more: dict[str, Any]) -> dict[str, Any]:
    """Return a request that takes minutes."""
    return {"prompt": "a long job", "size": "512x512", "n": 2, "extra_body": {"num_inference_steps": 50, **more}}


def marked(http: httpx.Client, name: str) -> list[dict[str, Any]]:
    jobs = http.get("/v1/jobs", params={"limit": 100}).json()["jobs"]
    return [job for job in jobs if job["input"]["metadata"].get("mark") == name]


def wait_until(condition: Callable[[], object], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def pictures(response: ImagesResponse) -> list[bytes]:
    assert response.data
    return [base64.b64decode(image.b64_json or "") for image in response.data]


def size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return image.size


def run_python(code: str, base_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    exec(re.sub(r'base_url="[^"]*"', f'base_url="{base_url}"', code), {})  # noqa: S102


def test_the_readme_s_example_draws_its_picture(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = re.search(r"```python\n([^`]*from openai import OpenAI[^`]*)```", README.read_text())
    assert example
    run_python(example[1], f"{stack.api_url}/v1", tmp_path, monkeypatch)
    (picture,) = tmp_path.glob("*.png")
    assert size(picture.read_bytes()) == (128, 128)


def test_the_example_of_sglang_s_guide_runs_as_it_is(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import base64
from openai import OpenAI

client = OpenAI(api_key="EMPTY", base_url="http://localhost:3000/v1")

response = client.images.generate(
    model="Tongyi-MAI/Z-Image-Turbo",
    prompt="Young Chinese woman in red Hanfu, intricate embroidery. Impeccable makeup, red floral forehead pattern. Elaborate high bun, golden phoenix headdress, red flowers, beads. Holds round folding fan with lady, trees, bird. Soft-lit outdoor night background, silhouetted tiered pagoda, blurred colorful distant lights.",
    size="1024x1024",
    n=1,
    response_format="b64_json",
)

# Save the generated image
image_bytes = base64.b64decode(response.data[0].b64_json)
with open("output.png", "wb") as f:
    f.write(image_bytes)
"""  # noqa: E501
    run_python(code, f"{stack.api_url}/v1", tmp_path, monkeypatch)
    assert size((tmp_path / "output.png").read_bytes()) == (1024, 1024)


def test_four_images_come_in_base64_and_by_their_seeds(client: OpenAI) -> None:
    four = client.images.generate(prompt="a cat", size="64x96", n=4, extra_body={**QUICK, "seed": 7})
    assert abs(four.created - time.time()) < 600
    assert (four.size, four.output_format, four.background) == ("64x96", "png", "opaque")
    assert [size(png) for png in pictures(four)] == [(64, 96)] * 4
    assert len(set(pictures(four))) == 4

    def pixels(png: bytes) -> bytes:
        return Image.open(io.BytesIO(png)).tobytes()

    third = client.images.generate(prompt="a cat", size="64x96", extra_body={**QUICK, "seed": 9})
    assert pixels(pictures(third)[0]) == pixels(pictures(four)[2])


def test_urls_need_no_credentials(client: OpenAI) -> None:
    response = client.images.generate(**SMALL, n=2, response_format="url")
    assert response.data
    assert [image.b64_json for image in response.data] == [None, None]
    assert [size(httpx.get(image.url or "").content) for image in response.data] == [(64, 64)] * 2


def test_auto_is_the_square_that_suits_the_model(client: OpenAI) -> None:
    response = client.images.generate(prompt="a cat", size="auto", extra_body=QUICK)
    assert response.size == "128x128"


def test_the_async_client_draws_several_at_once(stack: Stack) -> None:
    async def draw() -> list[ImagesResponse]:
        async with AsyncOpenAI(api_key="EMPTY", base_url=f"{stack.api_url}/v1") as client:
            return await asyncio.gather(*(client.images.generate(**SMALL) for _ in range(3)))

    assert [size(pictures(response)[0]) for response in asyncio.run(draw())] == [(64, 64)] * 3


def test_our_own_fields_and_the_user_reach_the_job(client: OpenAI, http: httpx.Client) -> None:
    name, metadata = mark()
    fields = {
        "negative_prompt": "dogs", "num_inference_steps": 1, "guidance_scale": 1.5, "seed": 3, "priority": "high",
        "timeout_seconds": 300, "step_cache": "fast",
    }  # fmt: skip
    client.images.generate(prompt="a cat", size="96x64", user="someone", extra_body={**fields, **metadata})
    (job,) = marked(http, name)
    assert job["input"] == {
        **fields, "prompt": "a cat", "width": 96, "height": 64, "num_images": 1, "webhook_url": None,
        "metadata": {"mark": name, "user": "someone"},
    }  # fmt: skip


def test_values_that_change_nothing_are_taken(client: OpenAI) -> None:
    said = client.images.generate(
        **SMALL, model="default", background="opaque", moderation="low", output_compression=100, output_format="png",
        partial_images=0, quality="standard", stream=False,
    )  # fmt: skip
    left_out = client.images.generate(
        **{**SMALL, "extra_body": {**QUICK, "guidance_scale": None, "priority": None, "metadata": None, "width": None}},
        model=None, n=None, background=None, moderation=None, output_compression=None, output_format=None,
        partial_images=None, quality=None, response_format=None, stream=None, style=None,
    )  # fmt: skip
    assert len(pictures(said)) == len(pictures(left_out)) == 1


def test_what_the_author_of_a_request_should_know_is_told_once(client: OpenAI, http: httpx.Client) -> None:
    name, metadata = mark()
    asked = {"negative_prompt": "dogs", **QUICK, **metadata}
    answer = client.images.with_raw_response.generate(
        prompt="a cat " + "QZ7X" * 400, size="64x64", style="vivid", quality="hd", extra_body=asked
    )
    warnings: list[str] = answer.parse().warnings  # type: ignore[attr-defined]
    told = ["style has", "quality has", "the negative", "the bundled", "prompt has"]
    assert [" ".join(warning.split()[:2]) for warning in warnings] == told
    assert json.loads(f"[{answer.headers['X-Warnings']}]") == warnings
    assert marked(http, name)[0]["warnings"] == warnings[2:]  # what has no effect is no part of the job


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ""),
        ("n", 0),
        ("n", 11),
        ("size", "big"),
        ("size", "64"),
        ("size", "64x"),
        ("size", "-64x64"),
        ("size", "64x64\n"),
        ("size", "63x64"),
        ("size", "64x72"),
        ("size", "1040x64"),  # the bundled model's limit is 1024
        ("size", "99999x99999"),
        ("response_format", "png"),
        ("quality", "best"),
        ("quality", 1),
        ("style", "anime"),
        ("background", "transparent"),
        ("moderation", "high"),
        ("output_format", "webp"),
        ("output_compression", 80),
        ("output_compression", True),
        ("stream", True),
        ("stream", 0),  # Python takes it for False
        ("partial_images", 2),
        ("partial_images", False),
        ("user", 7),
        ("frame_count", 3),
        ("colour", "red"),
        ("webhook_url", "https://example.com/hook"),
        ("num_images", 2),
        ("width", 128),
        ("num_inference_steps", 51),
        ("seed", -1),
        ("metadata", {"key": 7}),
    ],
)
def test_what_can_not_be_honoured_is_refused_by_name(client: OpenAI, field: str, value: Any) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(prompt="a cat", extra_body={field: value})
    assert refused.value.code == "invalid_request"
    assert refused.value.type == "invalid_request_error"
    assert refused.value.param == field
    assert refused.value.request_id


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"size": "1040x64"}, "size", "size: width: the served model draws 64 to 1024 pixels"),
        (
            {"size": "64x72"},
            "size",
            "size: height: must be a whole number, a multiple of 16 within",
        ),
        (
            {"size": "100000x10000"},
            "size",
            "size: width: the served model draws 64 to 1024 pixels; size: height: the served model draws 64 to 1024",
        ),
        ({"size": "128x128", "width": 128}, "width", "width: a picture's sides are said in size, such as 1024x1024"),
        ({"num_images": 2}, "num_images", "num_images: the number of images is said in n"),
        ({"metadata": {"key": 7}}, "metadata", "metadata: key: Input should be a valid string"),
        ({"user": "x" * 5000}, "user", "user: becomes a pair of metadata: keys and values must be at most 4096 bytes"),
        ({"safety_identifier": "x", "metadata": {"user": "y"}}, "safety_identifier", "safety_identifier: becomes the"),
        ({"steps": 8}, "steps", "steps: no such field: use num_inference_steps"),
        (
            {"seed": -1},
            "seed",
            f"seed: must be a whole number from 0 to {MAX_SEED} ({2**53 - 10} for 10 images): for a",
        ),
        ({"seed": MAX_SEED, "n": 10}, "seed", "seed: image i is drawn from seed + i: for 10 images it is at most"),
        ({"colour": "red", "n": 0}, "n", "n: Input should be greater than or equal to 1; colour: no such field: there"),
    ],
)
def test_errors_name_what_openai_s_request_has(client: OpenAI, fields: dict[str, Any], param: str, told: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(prompt="a cat", extra_body=fields)
    assert refused.value.param == param
    assert refused.value.body["message"].startswith(told)  # type: ignore[index]


CALLS: dict[str, Callable[[OpenAI], object]] = {
    "/v1/chat/completions": lambda client: client.chat.completions.create(model="tiny", messages=[]),
    "/v1/responses": lambda client: client.responses.create(model="tiny", input="a cat"),
    "/v1/embeddings": lambda client: client.embeddings.create(model="tiny", input="a cat"),
    "/v1/images/edits": lambda client: client.images.edit(image=100_000 * b"a", prompt="a cat"),
}


@pytest.mark.parametrize("path", CALLS)
def test_what_openai_has_and_this_service_has_not_is_told_to_its_client(client: OpenAI, path: str) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        CALLS[path](client)
    assert (refused.value.code, refused.value.type) == ("not_found", "invalid_request_error")
    assert f"POST {path} is not supported: this service draws images" in str(refused.value)


def test_the_user_is_said_once(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="send one of them"):
        client.images.generate(**{**SMALL, "extra_body": {"metadata": {"user": "another"}}}, user="someone")


def test_the_served_model_goes_by_its_name_and_its_aliases(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", ALIAS]
    for name in ("tiny", ALIAS, "default"):
        assert client.models.retrieve(name).id == name
        assert client.images.generate(**SMALL, model=name).data
    for ask in (client.models.retrieve, lambda name: client.images.generate(**SMALL, model=name)):
        with pytest.raises(openai.NotFoundError) as unknown:
            ask("dall-e-3")
        assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
        assert f"there is no model dall-e-3: what is served is called tiny, {ALIAS}" in str(unknown.value)


def test_the_models_are_listed_with_a_slash_behind_too(http: httpx.Client) -> None:
    assert http.get("/v1/models/").json() == http.get("/v1/models").json()


def test_a_client_that_gives_up_cancels_its_job(client: OpenAI, http: httpx.Client) -> None:
    name, metadata = mark()
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=2, max_retries=0).images.generate(**long(metadata))
    wait_until(lambda: [job["status"] for job in marked(http, name)] == ["canceled"])


def test_a_canceled_task_cancels_its_job(stack: Stack, http: httpx.Client) -> None:
    name, metadata = mark()

    async def leave() -> None:
        async with AsyncOpenAI(api_key="EMPTY", base_url=f"{stack.api_url}/v1") as client:
            drawing = asyncio.create_task(client.images.generate(**long(metadata)))
            while not await asyncio.to_thread(marked, http, name):
                await asyncio.sleep(0.05)
            drawing.cancel()
            await asyncio.wait([drawing])

    asyncio.run(leave())
    wait_until(lambda: [job["status"] for job in marked(http, name)] == ["canceled"])


def test_a_client_with_an_idempotency_key_comes_back_for_its_job(client: OpenAI, http: httpx.Client) -> None:
    name, metadata = mark()
    fields = {
        "prompt": "a cat",
        "size": "256x256",
        "extra_body": {"num_inference_steps": 20, **metadata},
        "extra_headers": {"Idempotency-Key": name},
    }
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.3, max_retries=0).images.generate(**fields)
    assert size(pictures(client.images.generate(**fields))[0]) == (256, 256)
    otherwise = client.images.generate(**fields, style="vivid", response_format="url")  # of the answer, not of the job
    assert [image.url is not None for image in otherwise.data or ()] == [True]
    assert otherwise.warnings[0].startswith("style has no effect")  # type: ignore[attr-defined]
    plain = client.images.generate(**fields)
    assert not any(warning.startswith("style") for warning in plain.warnings)  # type: ignore[attr-defined]
    assert len(marked(http, name)) == 1
    with pytest.raises(openai.BadRequestError) as other:
        client.images.generate(**{**fields, "prompt": "a dog"})
    assert other.value.code == "idempotency_key_reused"


def test_two_at_once_with_one_idempotency_key_are_one_job(client: OpenAI, http: httpx.Client) -> None:
    name, metadata = mark()
    fields = {**SMALL, "extra_body": {**QUICK, **metadata}, "extra_headers": {"Idempotency-Key": name}}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.images.generate(**fields), range(8)))
    assert len(marked(http, name)) == 1
    assert len({pictures(answer)[0] for answer in answers}) == 1


def test_a_job_canceled_by_another_is_told_and_not_drawn_again(client: OpenAI, http: httpx.Client) -> None:
    name, metadata = mark()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.images.generate, **long(metadata))
        wait_until(lambda: marked(http, name))
        http.post(marked(http, name)[0]["urls"]["cancel"])
        with pytest.raises(openai.ConflictError) as canceled:
            answer.result()
    assert canceled.value.code == "job_canceled"
    assert len(marked(http, name)) == 1


def test_a_job_that_is_not_done_in_its_time_is_504_and_not_drawn_again(client: OpenAI, http: httpx.Client) -> None:
    name, metadata = mark()
    with pytest.raises(openai.InternalServerError) as late:
        client.images.generate(**long({**metadata, "timeout_seconds": 1}))
    assert late.value.status_code == 504
    assert late.value.code in ("deadline_exceeded", "job_expired")  # as far as it came
    assert len(marked(http, name)) == 1


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"content": "{"}, 400, "malformed_json"),
        ({"headers": {"Host": "evil.example"}}, 403, "forbidden_host"),
        ({"method": "GET"}, 405, "method_not_allowed"),
        ({"content": "x" * 70_000}, 413, "body_too_large"),
        ({"headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media_type"),
        *(({"content": body}, 400, "invalid_request") for body in ("[]", '"a cat"', "null")),
        ({"headers": {"Idempotency-Key": "a b"}}, 400, "invalid_request"),
    ],
)
def test_every_error_is_in_openai_s_shape(http: httpx.Client, request_: dict[str, Any], status: int, code: str) -> None:
    headers = {"Content-Type": "application/json", **request_.pop("headers", {})}
    asked = {"method": "POST", "url": "/v1/images/generations", "content": "{}", **request_}
    response = http.request(**asked, headers=headers)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.json()["error"]["code"] == code


def test_without_a_key_401_and_beyond_its_rate_429(servers: Stack, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = KeysFile(file).create("someone", Limits(rate=1))
    settings = Settings(
        redis_url=servers.redis_url,
        redis_prefix=f"keyed-{secrets.token_hex(4)}:",
        s3_endpoint=servers.s3_url,
        api_keys_file=file,
    )
    with TestClient(create_app(settings)) as http:
        job = {"prompt": "a cat", "width": 64, "height": 64}
        assert http.post("/v1/jobs", json=job, headers={"Authorization": f"Bearer {key}"}).status_code == 202
        client = OpenAI(api_key=key, base_url=f"{http.base_url}/v1", http_client=http, max_retries=0)
        with pytest.raises(openai.RateLimitError) as limited:
            client.images.generate(**SMALL)
        assert (limited.value.code, limited.value.type) == ("rate_limited", "rate_limit_error")
        assert int(limited.value.response.headers["retry-after"]) > 1
        assert "ratelimit" in limited.value.response.headers
        stranger = client.with_options(api_key="EMPTY")
        with pytest.raises(openai.AuthenticationError) as refused:
            stranger.images.generate(**SMALL)
        assert (refused.value.code, refused.value.type) == ("invalid_api_key", "authentication_error")


def test_aliases_are_further_names_and_images_come_as_from_openai_s_model_of_that_name(
    servers: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in servers.environ().items():
        monkeypatch.setenv(name, value)  # the key pair of the bucket
    with service(servers) as own, ThreadPoolExecutor(1) as pool:
        settings = own.settings.model_copy(update={"model_aliases": " dall-e-3, gpt-image-1,"})
        with TestClient(create_app(settings), base_url="http://127.0.0.1") as http:
            client = OpenAI(api_key="EMPTY", base_url="http://127.0.0.1/v1", http_client=http, max_retries=0)
            assert [model.id for model in client.models.list()] == ["tiny", ALIAS, "dall-e-3", "gpt-image-1"]
            drawing = pool.submit(client.images.generate, prompt="a cat", model="dall-e-3", style="natural")
            wait_until(lambda: http.get("/v1/jobs").json()["jobs"])
            claim = own.claim()
            assert (claim.job.input.width, claim.job.input.height) == (128, 128)
            own.commit(claim)
            answer = drawing.result()
    assert answer.data
    assert (answer.data[0].b64_json, answer.data[0].url is not None) == (None, True)
    assert answer.peak_memory_mb == 0  # type: ignore[attr-defined]


def cancel(own: Service, http: TestClient) -> None:
    (job,) = http.get("/v1/jobs").json()["jobs"]
    http.post(f"/v1/jobs/{job['id']}/cancel")


def fail(own: Service, _http: TestClient) -> None:
    own.worker.fail(own.claim(), JobError(code="device_error", message="the GPU is broken", retryable=True))


def time_out(own: Service, _http: TestClient) -> None:
    own.worker.fail(own.claim(), JobError(code="deadline_exceeded", message="it took too long", retryable=False))


def lose_the_images(own: Service, _http: TestClient) -> None:
    own.commit(own.claim())  # they are not in the bucket


def close(_own: Service, http: TestClient) -> None:
    assert http.portal
    http.portal.call(http.app.state.services.events.close)  # type: ignore[attr-defined]


def test_a_webhook_is_told_too(servers: Stack) -> None:
    with receiver() as listening, service(servers) as own, ThreadPoolExecutor(1) as pool:
        webhooks = {"webhook_secret": SecretStr(SECRET), "webhook_allow_private": True}
        with TestClient(create_app(own.settings.model_copy(update=webhooks)), base_url="http://127.0.0.1") as http:
            body = {"prompt": "a cat", "size": "64x64", "webhook_url": listening.url}
            waiting = pool.submit(http.post, "/v1/images/generations", json=body)
            wait_until(lambda: http.get("/v1/jobs").json()["jobs"])
            cancel(own, http)
            assert waiting.result().status_code == 409
            wait_until(lambda: listening.requests)
    assert json.loads(listening.requests[0].body)["type"] == "job.canceled"


@pytest.mark.parametrize(
    ("end", "idempotency", "status", "code", "again"),
    [
        (cancel, {}, 409, "job_canceled", "false"),
        (fail, {}, 500, "device_error", "true"),
        (fail, {"Idempotency-Key": "mine"}, 500, "device_error", "false"),  # the same failed job would be told again
        (time_out, {}, 504, "deadline_exceeded", "false"),
        (lose_the_images, {}, 503, "storage_unavailable", "false"),
        (close, {}, 503, "closing", None),
    ],
)
def test_who_waited_in_vain_is_told_what_the_rate_leaves(
    servers: Stack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[Service, TestClient], None],
    idempotency: dict[str, str],
    status: int,
    code: str,
    again: str | None,
) -> None:
    file = tmp_path / "keys.json"
    bearer = {"Authorization": f"Bearer {KeysFile(file).create('slow', Limits(rate=3))}"}
    for name, value in servers.environ().items():
        monkeypatch.setenv(name, value)  # the key pair of the bucket
    with service(servers) as own, ThreadPoolExecutor(1) as pool:
        settings = own.settings.model_copy(update={"api_keys_file": file})
        with TestClient(create_app(settings), headers=bearer) as http:
            body = {"prompt": "a cat", "size": "64x64"}
            waiting = pool.submit(http.post, "/v1/images/generations", json=body, headers=idempotency)
            wait_until(lambda: http.get("/v1/jobs").json()["jobs"])
            end(own, http)
            answer = waiting.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers.get("x-should-retry") == again
    assert answer.headers["ratelimit-policy"] == '"submits";q=3;w=60'
    assert answer.headers["ratelimit"].startswith('"submits";r=2;')


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service whose queue takes one job, and whose processes tests here may stop and kill."""
    env = {"ZIMAGE_QUEUE_LIMIT": "1"}
    with Stack(tmp_path_factory.mktemp("narrow"), workers=1, model="tiny", env=env) as running:
        yield running


def test_a_full_queue_is_503_and_the_client_comes_back_by_itself(narrow: Stack) -> None:
    (worker,) = narrow.pids()["workers"]
    statuses: list[int] = []

    def on_answer(response: Any) -> None:
        statuses.append(response.status_code)
        os.kill(worker, signal.SIGCONT)

    patient = openai.DefaultHttpxClient(event_hooks={"response": [on_answer]})
    with (
        OpenAI(api_key="EMPTY", base_url=f"{narrow.api_url}/v1", max_retries=0) as client,
        client.with_options(max_retries=10, http_client=patient) as patient_client,
    ):
        os.kill(worker, signal.SIGSTOP)  # so that it claims nothing
        job = {"prompt": "a cat", "width": 64, "height": 64, "num_inference_steps": 2}
        assert httpx.post(f"{narrow.api_url}/v1/jobs", json=job).status_code == 202

        with pytest.raises(openai.InternalServerError) as full:
            client.images.generate(**SMALL)
        assert (full.value.status_code, full.value.code, full.value.type) == (503, "queue_full", "server_error")
        assert int(full.value.response.headers["retry-after"]) >= 1

        assert size(pictures(patient_client.images.generate(**SMALL))[0]) == (64, 64)
        assert statuses[0] == 503
        assert statuses[-1] == 200


def test_an_answer_is_held_while_redis_is_away(narrow: Stack) -> None:
    fields = {"prompt": "a cat", "size": "256x256", "n": 2, "extra_body": {"num_inference_steps": 30}}
    with (
        httpx.Client(base_url=narrow.api_url) as http,
        OpenAI(api_key="EMPTY", base_url=f"{narrow.api_url}/v1", max_retries=0) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        answer = pool.submit(client.images.generate, **fields)
        wait_until(lambda: http.get("/v1/jobs?status=running").json()["jobs"])
        time.sleep(1.5)  # what was accepted is on disk by then
        killed = None
        for _ in range(
            6
        ):  # each time it stays away for longer, at last for more seconds than a waiter goes without a look
            wait_until(lambda: narrow.pids()["valkey"] not in (None, killed))  # noqa: B023  # asked at once
            killed = narrow.pids()["valkey"]
            os.kill(killed, signal.SIGKILL)
        assert [size(png) for png in pictures(answer.result())] == [(256, 256)] * 2
