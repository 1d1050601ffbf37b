"""One trace from client over API and queue to the worker's stages, told to a real OTLP receiver; logs carry its id."""

import itertools
import json
import os
import secrets
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.stack import Stack
from jobs.keys import KeysFile
from support.collecting import Collector, Span, collector
from support.waiting import wait_until

SMALL = {"prompt": "a secret wish", "width": 64, "height": 64, "num_inference_steps": 2}
LONG = {**SMALL, "width": 384, "height": 384, "num_inference_steps": 50}
KEY = "alice"
STAGES = ["device_wait", "text_encode", "denoise", "decode", "png", "upload"]
ENDED = {"job.succeeded", "job.failed", "job.canceled", "job.expired"}


@dataclass
class Traced:
    """A stack that exports its spans to a collector and logs in JSON."""

    stack: Stack
    collector: Collector
    http: httpx.Client

    def submit(self, **fields: Any) -> tuple[dict[str, Any], str, str]:
        """Return a job, and the trace and the span within which the client sent it."""
        trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
        answer = self.http.post(
            "/v1/jobs", json={**SMALL, **fields}, headers={"traceparent": f"00-{trace_id}-{span_id}-01"}
        )
        assert answer.status_code == 202, answer.text
        return answer.json(), trace_id, span_id

    def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        job = self.http.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=60"}).json()
        assert job["status"] not in ("queued", "running"), job
        return job

    def read(self, job: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/v1/jobs/{job['id']}").json()
        return found

    def spans(self, trace_id: str, attempts: int = 1) -> dict[str, list[Span]]:
        """Return a trace's spans by name, once the job's attempts are among them."""

        def arrived() -> bool:
            found = Counter(span.name for span in self.collector.trace(trace_id))
            return found["POST /v1/jobs"] == 1 and found["zimage.job"] == found["zimage.queue"] == attempts

        wait_until(arrived)
        by_name: dict[str, list[Span]] = {}
        for span in sorted(self.collector.trace(trace_id), key=lambda span: (span.start, span.end)):
            by_name.setdefault(span.name, []).append(span)
        return by_name

    def log(self, part: str) -> list[dict[str, Any]]:
        """Return the lines of a part's log; all of them are JSON."""
        lines = (self.stack.data_dir / "logs" / f"{part}.log").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    folder: Path = tmp_path_factory.mktemp("traced")
    key = KeysFile(folder / "keys.json").create(KEY)
    with collector() as spans:
        env = {
            "ZIMAGE_API_KEYS_FILE": str(folder / "keys.json"),
            "ZIMAGE_LEASE_SECONDS": "2",
            "ZIMAGE_LOG_FORMAT": "json",
            "OTEL_EXPORTER_OTLP_ENDPOINT": spans.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        with (
            Stack(folder / "data", env=env) as stack,
            httpx.Client(base_url=stack.api_url, headers={"Authorization": f"Bearer {key}"}, timeout=90) as http,
        ):
            yield Traced(stack, spans, http)


def test_a_job_is_one_trace(traced: Traced) -> None:
    job, trace_id, client = traced.submit(num_images=2)
    assert traced.ended(job)["status"] == "succeeded"
    spans = traced.spans(trace_id)
    assert {name: len(found) for name, found in spans.items()} == dict.fromkeys(
        ["POST /v1/jobs", "zimage.queue", "zimage.job", *STAGES], 1
    )
    (request,), (queue,), (attempt,) = spans["POST /v1/jobs"], spans["zimage.queue"], spans["zimage.job"]
    assert request.parent_id == client
    assert {queue.parent_id, attempt.parent_id} == {request.span_id}
    assert (request.service, queue.service, attempt.service) == ("zimage-api", "zimage-worker", "zimage-worker")

    assert queue.start <= queue.end == attempt.start
    stages = [spans[name][0] for name in STAGES]
    assert {stage.parent_id for stage in stages} == {attempt.span_id}
    for before, after in itertools.pairwise(stages):
        assert before.start <= before.end <= after.start + 1000  # timestamps are rounded to microseconds
    assert attempt.start <= stages[0].start
    assert stages[-1].end <= attempt.end

    assert attempt.attributes["messaging.message.id"] == job["id"]
    assert attempt.attributes["zimage.attempt"] == 1
    assert attempt.attributes["zimage.key"] == KEY
    assert attempt.attributes["zimage.outcome"] == "succeeded"
    assert attempt.error is None
    assert SMALL["prompt"] not in repr(traced.collector.spans)


def test_a_failed_job_says_so_in_its_trace(traced: Traced) -> None:
    job, trace_id, _ = traced.submit(**LONG, timeout_seconds=1)
    error = traced.ended(job)["error"]
    spans = traced.spans(trace_id)
    (attempt,) = spans["zimage.job"]
    assert attempt.parent_id == spans["POST /v1/jobs"][0].span_id
    assert attempt.error == error["message"]
    assert attempt.attributes["error.type"] == error["code"] == "deadline_exceeded"


def test_attempts_after_a_lost_worker_are_spans_of_the_same_trace(traced: Traced) -> None:
    job, trace_id, _ = traced.submit(**LONG)
    wait_until(lambda: traced.read(job)["progress"]["step"] >= 2)
    wait_until(lambda: bool(traced.collector.trace(trace_id)))  # what is told at the claim has left the worker
    (worker,) = traced.stack.pids()["workers"]
    os.kill(worker, signal.SIGKILL)
    assert traced.ended(job)["attempt"] == 2
    spans = traced.spans(trace_id, attempts=2)
    (request,) = spans["POST /v1/jobs"]
    assert {span.parent_id for span in spans["zimage.job"] + spans["zimage.queue"]} == {request.span_id}
    (first, second), waits = spans["zimage.job"], spans["zimage.queue"]
    assert [first.attributes["zimage.attempt"], second.attributes["zimage.attempt"]] == [1, 2]
    assert [first.attributes["error.type"], second.error] == ["worker_lost", None]
    assert [wait.end for wait in waits] == [first.start, second.start]
    assert waits[1].start >= first.end - 1000
    assert {spans[name][0].parent_id for name in STAGES} == {second.span_id}


def test_a_receiver_that_hangs_holds_nothing_up(traced: Traced) -> None:
    traced.collector.answering.clear()
    try:
        jobs = [traced.submit() for _ in range(5)]
        assert {traced.ended(job)["status"] for job, _, _ in jobs} == {"succeeded"}
        assert not any(traced.collector.trace(trace_id) for _, trace_id, _ in jobs)
    finally:
        traced.collector.answering.set()


def test_a_worker_that_leaves_sends_what_it_has(traced: Traced) -> None:
    job, trace_id, _ = traced.submit(**LONG)
    wait_until(lambda: traced.read(job)["progress"]["step"] >= 2)
    (worker,) = traced.stack.pids()["workers"]
    os.kill(worker, signal.SIGTERM)
    assert traced.ended(job)["attempt"] == 1
    assert traced.spans(trace_id)["zimage.job"][0].attributes["zimage.outcome"] == "succeeded"


def test_log_lines_carry_the_ids_of_what_they_are_about(traced: Traced) -> None:
    job, trace_id, _ = traced.submit()
    traced.ended(job)
    failed, failed_trace, _ = traced.submit(**LONG, timeout_seconds=1)
    traced.ended(failed)
    wait_until(lambda: any(line.get("job_id") == failed["id"] for line in traced.log("worker-1")))
    lines = [line for part in ("api", "worker-1") for line in traced.log(part)]

    accepted, ended = [line for line in lines if line.get("job_id") == job["id"]]
    assert (accepted["event"], ended["event"]) == ("job.accepted", "job.succeeded")
    assert (accepted["key"], accepted["trace_id"]) == (ended["key"], ended["trace_id"]) == (KEY, trace_id)
    assert accepted["request_id"]
    assert {name: accepted[name] for name in ("width", "height", "num_inference_steps")} == {
        "width": 64,
        "height": 64,
        "num_inference_steps": 2,
    }
    assert ended["attempt"] == 1
    assert list(ended["timings"]) == ["queue", *STAGES, "other", "total"]

    about_failed = [line for line in lines if line.get("job_id") == failed["id"]]
    assert {line["trace_id"] for line in about_failed} == {failed_trace}
    assert {line["error"] for line in about_failed if line.get("event") == "job.failed"} == {"deadline_exceeded"}


def test_each_job_has_one_line_at_its_start_and_one_at_its_end(traced: Traced) -> None:
    blocker = traced.submit(**LONG)[0]
    wait_until(lambda: traced.read(blocker)["status"] == "running")
    canceled, canceled_trace, _ = traced.submit()
    expired, expired_trace, _ = traced.submit(timeout_seconds=1)
    assert traced.ended(expired)["status"] == "expired"
    for job in (canceled, canceled, blocker):
        traced.http.post(f"/v1/jobs/{job['id']}/cancel")
    for job in (canceled, blocker, traced.submit()[0]):
        traced.ended(job)

    def events() -> dict[str, list[dict[str, Any]]]:
        by_job: dict[str, list[dict[str, Any]]] = {}
        for line in traced.log("api") + traced.log("worker-1"):
            if line.get("event") == "job.accepted" or line.get("event") in ENDED:
                by_job.setdefault(line["job_id"], []).append(line)
        return by_job

    wait_until(lambda: all(len(lines) >= 2 for lines in events().values()))
    assert all([line["event"] == "job.accepted" for line in lines] == [True, False] for lines in events().values())
    for job, trace_id, event in (
        (canceled, canceled_trace, "job.canceled"),
        (expired, expired_trace, "job.expired"),
    ):
        end = events()[job["id"]][1]
        assert (end["event"], end["key"], end["trace_id"]) == (event, KEY, trace_id)


def test_logs_hold_neither_prompts_nor_keys(traced: Traced) -> None:
    traced.ended(traced.submit()[0])
    text = json.dumps(traced.log("api") + traced.log("worker-1"))
    assert "job.accepted" in text
    assert SMALL["prompt"] not in text
    assert traced.http.headers["Authorization"].removeprefix("Bearer ") not in text
