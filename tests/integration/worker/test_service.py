"""The whole path over HTTP only: POST a job, poll it, fetch its PNG; and what the metrics say of it afterwards."""

import hashlib
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from cli.stack import Stack
from jobs import __version__
from support.s3_access import key_pair, s3_client


@pytest.fixture(scope="module")
def http(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=stack.api_url, timeout=90) as client:
        yield client


def draw(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Submit a job and see it to success."""
    body = {"prompt": "a cat", "width": 128, "height": 96, "num_inference_steps": 3, **fields}
    response = http.post("/v1/jobs", json=body)
    assert response.status_code == 202, response.text
    job: dict[str, Any] = http.get(response.headers["location"], headers={"Prefer": "wait=60"}).json()
    assert job["status"] == "succeeded", job
    return job


def png(image: dict[str, Any]) -> bytes:
    response = httpx.get(image["url"])
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    return response.content


def pixels(image: dict[str, Any]) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png(image))))


def test_from_post_to_png(http: httpx.Client) -> None:
    submitted = {
        "prompt": "a red fox in the snow",
        "negative_prompt": "blurry",
        "width": 96,
        "height": 128,
        "num_inference_steps": 4,
        "guidance_scale": 1.5,
        "seed": 12345,
        "num_images": 2,
        "priority": "high",
        "metadata": {"order": "17"},
    }
    job = draw(http, **submitted)

    assert {key: job["input"][key] for key in submitted} == submitted
    assert job["attempt"] == 1
    assert job["queue"] is None
    assert job["progress"] == {"step": 4, "total": 4}
    assert job["error"] is None
    assert job["warnings"] == []
    assert job["peak_vram_bytes"] == 0
    stages = ("queue", "device_wait", "text_encode", "denoise", "decode", "png", "upload", "other")
    assert tuple(job["timings"]) == (*stages, "total")
    assert sum(job["timings"][stage] for stage in stages) == pytest.approx(job["timings"]["total"], abs=1e-6)
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]

    assert [image["index"] for image in job["images"]] == [0, 1]
    assert [image["seed"] for image in job["images"]] == [12345, 12346]
    for image in job["images"]:
        content = png(image)
        assert len(content) == image["bytes"]
        assert hashlib.sha256(content).hexdigest() == image["sha256"]
        picture = Image.open(io.BytesIO(content))
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (96, 128))
        assert json.loads(picture.info["parameters"]) == {
            "prompt": "a red fox in the snow",
            "negative_prompt": "blurry",
            "width": 96,
            "height": 128,
            "num_inference_steps": 4,
            "guidance_scale": 1.5,
            "step_cache": "off",
            "seed": image["seed"],
            "steps_skipped": 0.0,
            "model": "tiny",
            "version": f"zimage-service {__version__}",
        }
        assert httpx.get(image["url"].split("?")[0]).status_code == 403


def test_a_seed_means_the_same_picture_alone_and_in_a_batch(http: httpx.Client) -> None:
    batch = draw(http, seed=7, num_images=2)["images"]
    again, next_seed = (draw(http, seed=seed)["images"][0] for seed in (7, 8))
    assert np.array_equal(pixels(batch[0]), pixels(again))
    assert np.array_equal(pixels(batch[1]), pixels(next_seed))
    assert not np.array_equal(pixels(again), pixels(next_seed))


def test_steps_that_skip_layers_are_told_of_each_image(http: httpx.Client, stack: Stack) -> None:
    asked = {"prompt": "two green stars on white", "seed": 3, "num_images": 2, "num_inference_steps": 4}
    plain, masked = draw(http, **asked), draw(http, **asked, step_cache={"mask": "1010"})
    kept = draw(http, **asked, step_cache={"mask": "1010", "protect_last": True}, guidance_scale=1.5)
    assert [image["steps_skipped"] for image in plain["images"]] == [0, 0]
    assert [image["steps_skipped"] for image in masked["images"]] == [2, 2]
    assert [image["steps_skipped"] for image in kept["images"]] == [1, 1]
    for before, image in zip(plain["images"], masked["images"], strict=True):
        told = json.loads(Image.open(io.BytesIO(png(image))).info["parameters"])
        assert told["step_cache"] == masked["input"]["step_cache"]
        assert told["step_cache"].items() > {"mask": "1010", "first": 1, "warmup": 4}.items()
        assert told["steps_skipped"] == 2
        difference = pixels(before).astype(int) - pixels(image)
        assert 0 < np.abs(difference).mean() < 20  # another picture, but nearly the same
    s3 = s3_client(stack.s3_url, *key_pair(stack))
    beside = json.load(s3.get_object(Bucket="zimage", Key=f"jobs/{masked['id']}/1/job.json")["Body"])
    assert (beside["steps_skipped"], beside["input"]["step_cache"]["mask"]) == ([2, 2], "1010")


def test_a_seed_is_drawn_where_none_is_given(http: httpx.Client) -> None:
    first, second = draw(http), draw(http)
    assert first["input"]["seed"] != second["input"]["seed"]
    repeated = draw(http, seed=first["input"]["seed"])
    assert repeated["images"][0]["sha256"] == first["images"][0]["sha256"]


def test_other_prompts_and_sizes_are_other_pictures(http: httpx.Client) -> None:
    cat, dog = (pixels(draw(http, seed=1, prompt=prompt)["images"][0]) for prompt in ("a cat", "a dog"))
    assert not np.array_equal(cat, dog)
    tall = pixels(draw(http, width=64, height=1024, num_inference_steps=1)["images"][0])
    assert tall.shape == (1024, 64, 3)


@pytest.mark.parametrize(
    "prompt",
    [
        "🦊 in the ❄️, 👩‍👩‍👧‍👦",
        "雪地里的一只红狐狸",
        "ثعلب أحمر في الثلج",
        "tab\tnewline\ncarriage return\rend",
        "'quotes\" \\back\\slash <tag> {{template}} <|im_end|>",
        "é" * 2000,
    ],
)
def test_any_text_survives_from_post_to_the_pngs_metadata(http: httpx.Client, prompt: str) -> None:
    job = draw(http, prompt=prompt, width=64, height=64, num_inference_steps=1)
    assert job["input"]["prompt"] == prompt
    picture = Image.open(io.BytesIO(png(job["images"][0])))
    assert json.loads(picture.info["parameters"])["prompt"] == prompt


def test_a_prompt_longer_than_the_model_reads_is_drawn_with_a_warning(http: httpx.Client) -> None:
    job = draw(http, prompt="QZ7X" * 450, num_inference_steps=1)
    assert len(job["warnings"]) == 1
    assert "512" in job["warnings"][0]


def test_a_negative_prompt_without_guidance_is_not_ignored_silently(http: httpx.Client) -> None:
    told = [draw(http, negative_prompt="blue", guidance_scale=scale, num_inference_steps=1) for scale in (0, 2)]
    assert [len(job["warnings"]) for job in told] == [1, 0]
    assert "guidance_scale" in told[0]["warnings"][0]


@pytest.mark.parametrize(
    ("width", "height", "warnings"),
    [(128, 128, 0), (96, 128, 0), (128, 96, 0), (64, 64, 1), (96, 96, 1), (192, 128, 1), (256, 256, 1), (272, 64, 1)],
)
def test_a_size_that_the_bundled_model_draws_badly_is_drawn_with_a_warning(
    http: httpx.Client, width: int, height: int, warnings: int
) -> None:
    told = draw(http, width=width, height=height, num_inference_steps=1)["warnings"]
    assert len(told) == warnings
    assert all("128x128, 96x128 and 128x96 only" in warning for warning in told)


def test_metrics_tell_what_happened(http: httpx.Client, stack: Stack) -> None:
    draw(http)  # the worker is up
    worker_before, api_before = (scrape(url) for url in (stack.worker_metrics_urls[0], f"{stack.api_url}/metrics"))
    job = draw(http, prompt="a picture to count", num_images=2, width=192, height=64)
    worker, api = (scrape(url) for url in (stack.worker_metrics_urls[0], f"{stack.api_url}/metrics"))

    def grown(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        after = worker if key in worker else api
        return after[key] - (worker_before | api_before).get(key, 0.0)

    assert grown("zimage_job_seconds_count", outcome="succeeded") == 1
    assert grown("zimage_job_seconds_sum", outcome="succeeded") == pytest.approx(job["timings"]["total"], abs=0.2)
    assert grown("zimage_queue_wait_seconds_count") == 1
    for long in ("600.0", "3600.0"):  # a quantile of jobs that waited for long is no 5 minutes
        assert grown("zimage_queue_wait_seconds_bucket", le=long) == 1
        assert grown("zimage_job_seconds_bucket", outcome="succeeded", le=long) == 1
    waited = job["timings"]["queue"] + job["timings"]["device_wait"]
    assert grown("zimage_queue_wait_seconds_sum") == pytest.approx(waited, abs=1e-6)
    for stage in ("device_wait", "text_encode", "denoise", "decode", "png", "upload"):
        assert grown("zimage_stage_seconds_count", stage=stage) == 1
        assert grown("zimage_stage_seconds_sum", stage=stage) == pytest.approx(job["timings"][stage], abs=1e-6)
    assert grown("zimage_images_total", size="<=0.07MP") == 2
    assert grown("zimage_key_images_total", key="anonymous") == 2
    assert grown("zimage_key_pixels_total", key="anonymous") == 2 * 192 * 64
    assert grown("zimage_prompts_total", features="encoded") == 1
    assert grown("zimage_prompts_total", features="reused") == 0
    assert grown("zimage_steps_total", layers="computed") == 2 * 3
    assert grown("zimage_steps_total", layers="skipped") == 0
    assert grown("zimage_job_attempts_total", outcome="succeeded") == 1
    on_gpu = sum(job["timings"][stage] for stage in ("text_encode", "denoise", "decode"))
    assert grown("zimage_gpu_busy_seconds_total") >= on_gpu
    assert grown("zimage_key_gpu_seconds_total", key="anonymous") == pytest.approx(
        grown("zimage_gpu_busy_seconds_total"), abs=1e-6
    )
    assert worker["zimage_vram_peak_bytes", frozenset()] == job["peak_vram_bytes"] == 0
    assert worker["zimage_vram_reserved_bytes", frozenset()] == worker["zimage_vram_total_bytes", frozenset()] == 0
    assert worker["zimage_model_load_seconds", frozenset()] > 0
    info = {"model": "tiny", "device": "cpu", "quantization": "none", "product": "none"}
    assert worker["zimage_worker_info", frozenset(info.items())] == 1

    assert grown("zimage_jobs_submitted_total", outcome="created") == 1
    assert grown("zimage_http_request_seconds_count", route="/v1/jobs", method="POST", status="202") == 1
    assert grown("zimage_http_request_seconds_count", route="/v1/jobs/{job_id}", method="GET", status="200") == 1
    assert grown("zimage_jobs", status="succeeded") == 1
    assert grown("zimage_jobs_ended_total", outcome="succeeded", code="") == 1
    assert grown("zimage_key_jobs_ended_total", key="anonymous", outcome="succeeded") == 1
    assert grown("zimage_key_work_total", key="anonymous") == 2 * 192 * 64 * job["input"]["num_inference_steps"]
    assert grown("zimage_key_wait_seconds_sum", key="anonymous") == pytest.approx(job["timings"]["queue"], abs=1e-6)
    assert api["zimage_jobs_ended_total", frozenset({("outcome", "failed"), ("code", "device_error")})] == 0
    assert api["zimage_jobs", frozenset({("status", "queued")})] == 0
    assert api["zimage_oldest_queued_seconds", frozenset()] == 0
    assert api["zimage_workers", frozenset()] == 1
    assert api["zimage_redis_memory_max_bytes", frozenset()] == 2**30
    assert 0 < api["zimage_redis_memory_used_bytes", frozenset()] < 2**30
    assert api["zimage_dead_letters", frozenset()] == 0


def test_no_series_comes_of_what_clients_say(http: httpx.Client, stack: Stack) -> None:
    def series_after(word: str, method: str, width: int) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        headers = {
            "User-Agent": word,
            "X-Request-ID": word,
            "Idempotency-Key": word,
            "Authorization": f"Bearer {word}",
            "X-Forwarded-For": word,
            "X-Forwarded-Prefix": f"/{word}",
            "Traceparent": word,
        }
        asked = {"prompt": word, "negative_prompt": word, "metadata": {word: word}, "num_inference_steps": 1}
        job = http.post("/v1/jobs", json={**asked, "width": width, "height": 64}, headers=headers).json()
        job = http.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=60", **headers}).json()
        assert job["status"] == "succeeded", job
        for path in (f"/{word}", f"/v1/{word}", f"/v1/jobs/{word}", f"/v1/jobs/{job['id']}/images/{word}", "/v1/jobs"):
            for verb in (method, "PATCH", "GET", "HEAD", "POST", "DELETE", "OPTIONS"):
                origin = {"Origin": f"https://{word}.example"}
                http.request(verb, path, params={"cursor": word, word: word}, headers=headers | origin)
                http.request(verb, path, params={"status": word}, headers=headers)
        for body in ({"model": word, "prompt": word}, {"prompt": word, "size": word}, {"prompt": word, word: word}):
            assert http.post("/v1/images/generations", json=body, headers=headers).status_code in (400, 404)
        http.get(f"/v1/models/{word}", headers=headers)
        urls = stack.worker_metrics_urls[0], f"{stack.api_url}/metrics"
        httpx.get(f"{urls[0]}/{word}", headers=headers)
        for url in urls:
            httpx.request(method, url, headers=headers)
            assert word not in httpx.get(url, headers=headers).text
        return {series for url in urls for series in scrape(url)}

    first = series_after("someword", "PROPFIND", 80)
    assert series_after("otherword", "MKCOL", 96) == first
    assert ("zimage_http_request_seconds_count", "other") in {
        (name, value) for name, labels in first for label, value in labels if label == "method"
    }


def test_gpu_time_of_a_canceled_job_is_its_key_s_too(http: httpx.Client, stack: Stack) -> None:
    def counted() -> list[float]:
        samples, of_key = scrape(stack.worker_metrics_urls[0]), frozenset({("key", "anonymous")})
        return [
            samples["zimage_gpu_busy_seconds_total", frozenset()],
            samples.get(("zimage_key_gpu_seconds_total", of_key), 0.0),
            samples.get(("zimage_key_images_total", of_key), 0.0),
        ]

    draw(http)  # the worker is up
    before = counted()
    job = http.post("/v1/jobs", json={"prompt": "a long job", "width": 512, "height": 512, "num_inference_steps": 50})
    path = job.headers["location"]
    while http.get(path).json()["progress"]["step"] < 2:
        time.sleep(0.05)
    http.post(f"{path}/cancel")
    assert http.get(path, headers={"Prefer": "wait=60"}).json()["status"] == "canceled"
    busy, gpu, images = (after - was for after, was in zip(counted(), before, strict=True))
    assert gpu == pytest.approx(busy, abs=1e-6)
    assert gpu > 0
    assert images == 0


def scrape(url: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(httpx.get(url).text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }
